"""A folder of pictures: one folder per class, or flat."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.sources import is_image_name
from pipeline.sources.record import Record, Source, sort_label_names


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderOrigin:
    """Pictures that are files below a folder."""

    root: str

    def read(self, record: Record) -> tuple[bytes, bytes | None]:
        with open(os.path.join(self.root, record.key), "rb") as file:
            return file.read(), None


def list_folder(root: Path) -> Source:
    """List the pictures below a folder; the first part of a relative name is the label.

    Pictures that lie in the folder itself are unlabelled. Links are followed, hidden files are not
    seen as pictures.

    Raises:
        ValueError: a folder cannot be listed.
    """
    origin = FolderOrigin(root=str(root))
    records, num_ignored = [], 0
    labels: dict[str, str] = {}  # one string for all records of a class
    for key, size in walk(root):
        if not is_image_name(key):
            num_ignored += 1
            continue
        first, slash, _ = key.partition("/")
        label = labels.setdefault(first, first) if slash else None
        records.append(Record(key=key, label_name=label, origin=origin, offset=0, size=size))
    records.sort(key=lambda record: record.key)
    return Source(
        records=records,
        label_names=sort_label_names(set(labels)),
        description=_describe(len(records), len(labels), num_ignored),
        num_ignored=num_ignored,
    )


def walk(root: Path) -> Iterator[tuple[str, int]]:
    """Yield the relative name, with /, and the size of every file below a folder."""
    seen = set()
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            status = os.stat(root / folder)
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            raise ValueError(f"{root / folder}: cannot be listed: {error.strerror}") from error
        if (status.st_dev, status.st_ino) in seen:
            continue  # a link back up
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            if entry.is_dir():
                waiting.append(f"{folder}{entry.name}/")
            elif entry.is_file():
                yield folder + entry.name, entry.stat().st_size


def _describe(num_pictures: int, num_labels: int, num_ignored: int) -> str:
    classes = f"{num_labels} class folders" if num_labels else "no class folders"
    others = f", {num_ignored} other files ignored" if num_ignored else ""
    return f"folder of {num_pictures} pictures, {classes}{others}"
