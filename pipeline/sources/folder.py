"""A folder of pictures: one folder per class, or flat."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.sources import is_image_name
from pipeline.sources.record import Record, Source, mask_name, sort_label_names


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderOrigin:
    """Pictures that are files below a folder."""

    root: str

    def read(self, record: Record) -> tuple[bytes, bytes | None]:
        with open(os.path.join(self.root, record.key), "rb") as file:
            return file.read(), None


def list_folder(root: Path, *, masks: Path | None = None) -> Source:
    """List the pictures below a folder; the first part of a relative name is the label.

    Pictures that lie in the folder itself are unlabelled. Links are followed, hidden files are not
    seen as pictures. Nor are masks: files below `masks`, if that lies in the folder, and files that
    are the mask of another picture.

    Raises:
        ValueError: a folder cannot be listed.
    """
    origin = FolderOrigin(root=str(root))
    files = list(walk(root, leave_out=masks))
    pictures = [(key, size) for key, size in files if is_image_name(key)]
    num_ignored, num_masks = len(files) - len(pictures), 0
    if masks is not None:
        used = _masks_among([key for key, _ in pictures], root, masks)
        pictures = [(key, size) for key, size in pictures if key not in used]
        num_masks = len(used)
    records = []
    labels: dict[str, str] = {}  # one string for all records of a class
    for key, size in pictures:
        first, slash, _ = key.partition("/")
        label = labels.setdefault(first, first) if slash else None
        records.append(Record(key=key, label_name=label, origin=origin, offset=0, size=size))
    records.sort(key=lambda record: record.key)
    return Source(
        records=records,
        label_names=sort_label_names(set(labels)),
        description=_describe(len(records), len(labels), num_ignored, num_masks),
        num_ignored=num_ignored,
    )


def walk(root: Path, *, leave_out: Path | None = None) -> Iterator[tuple[str, int]]:
    """Yield the relative name, with /, and the size of every file below a folder.

    Args:
        leave_out: a folder below it that is not entered, by whatever name or link it is met.
    """
    seen = set()
    if leave_out is not None and leave_out.is_dir() and not leave_out.samefile(root):
        seen.add(_identity(leave_out))
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        try:
            identity = _identity(root / folder)
            entries = sorted(os.scandir(root / folder), key=lambda entry: entry.name)
        except OSError as error:
            raise ValueError(f"{root / folder}: cannot be listed: {error.strerror}") from error
        if identity in seen:
            continue  # a link back up
        seen.add(identity)
        for entry in entries:
            if entry.is_dir():
                waiting.append(f"{folder}{entry.name}/")
            elif entry.is_file():
                yield folder + entry.name, entry.stat().st_size


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _masks_among(keys: Sequence[str], root: Path, masks: Path) -> set[str]:
    """Those of the pictures' keys that name the mask of another one.

    That can be where the masks lie beside the pictures, or the pictures below the masks.
    """
    place, folder = Path(os.path.realpath(root)), Path(os.path.realpath(masks))
    if not place.is_relative_to(folder):
        return set()
    parts = place.relative_to(folder).parts
    prefix = "".join(f"{part}/" for part in parts)
    names = ((key, mask_name(key)) for key in keys)
    used = {
        name.removeprefix(prefix)
        for key, name in names
        if name.startswith(prefix) and name.removeprefix(prefix) != key
    }
    return used.intersection(keys)


def _describe(num_pictures: int, num_labels: int, num_ignored: int, num_masks: int) -> str:
    classes = f"{num_labels} class folders" if num_labels else "no class folders"
    others = f", {num_ignored} other files ignored" if num_ignored else ""
    masks = f", {num_masks} masks of other pictures left out" if num_masks else ""
    return f"folder of {num_pictures} pictures, {classes}{others}{masks}"
