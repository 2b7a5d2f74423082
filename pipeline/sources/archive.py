"""Tar archives, read in place: flat, with class folders, in WebDataset layout, or tars in a tar.

Only headers are read when listing; a record keeps the offset of its bytes in the outer file, also
if it lies in an inner tar, so ImageNet's training archive is never unpacked.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from pipeline.sources import is_image_name
from pipeline.sources.record import Record, Source, sort_label_names

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd", b"PK": "zip"}
_LABEL_ROOM = 64  # bytes of a .cls file that are read


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveOrigin:
    """Pictures that are ranges of bytes of one file."""

    path: str

    def read(self, record: Record) -> tuple[bytes, bytes | None]:
        with open(self.path, "rb") as file:
            return os.pread(file.fileno(), record.size, record.offset), None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Member:
    name: str
    offset: int
    size: int


def list_archive(path: Path) -> Source:
    """List the pictures of a tar archive.

    The label of a picture is the name of the inner tar that holds it (n01440764.tar), else the
    content of a `.cls` file of the same name (WebDataset), else the first part of its name. Of
    members of the same name the last counts, as when unpacking.

    Raises:
        ValueError: it is no tar archive, or a compressed one.
    """
    _check_uncompressed(path)
    origin = ArchiveOrigin(path=str(path))
    records: dict[str, Record] = {}
    classes: dict[str, str] = {}  # name without its ending -> content of its .cls
    num_ignored = 0
    with path.open("rb") as file:
        for label, member in _pictures_and_more(path, file):
            if is_image_name(member.name):
                records[member.name] = Record(
                    key=member.name,
                    label_name=label,
                    origin=origin,
                    offset=member.offset,
                    size=member.size,
                )
            elif member.name.endswith(".cls"):
                content = os.pread(file.fileno(), min(member.size, _LABEL_ROOM), member.offset)
                classes[_stem(member.name)] = content.decode("utf-8", "replace").strip()
            else:
                num_ignored += 1
    labelled = [_with_class(record, classes) for record in records.values()]
    labelled.sort(key=lambda record: record.key)
    names = {record.label_name for record in labelled if record.label_name is not None}
    return Source(
        records=labelled,
        label_names=sort_label_names(names),
        description=f"tar archive of {len(labelled)} pictures, {len(names)} classes",
        num_ignored=num_ignored,
    )


def _pictures_and_more(path: Path, file: BinaryIO) -> Iterator[tuple[str | None, _Member]]:
    """Yield (label, member) for the files of an archive and of the archives in it."""
    for member in _members(path, file, 0, path.stat().st_size):
        if not member.name.endswith(".tar"):
            first, slash, _ = member.name.partition("/")
            yield (first if slash else None), member
            continue
        label = Path(member.name).stem
        for inner in _members(path, file, member.offset, member.offset + member.size):
            yield label, replace(inner, name=f"{label}/{inner.name}")


def _members(path: Path, file: BinaryIO, start: int, end: int) -> Iterator[_Member]:
    """Yield the plain files of the archive that lies in these bytes of a file."""
    file.seek(start)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (info := archive.next()) is not None and info.offset < end:
                if info.isreg() and not info.issparse():
                    if info.offset_data + info.size > end:
                        raise ValueError(
                            f"{path}: ends in the middle of {info.name}; copy it again"
                        )
                    name = info.name.removeprefix("./")
                    yield _Member(name=name, offset=info.offset_data, size=info.size)
                # or tarfile keeps every header it ever read
                archive.members = []  # type: ignore[attr-defined]
            last = os.pread(file.fileno(), tarfile.BLOCKSIZE, archive.offset)
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not a tar archive, or a damaged one: {error}") from error
    if last.strip(b"\0"):  # neither the end of the archive nor of the file: tarfile gave up
        raise ValueError(f"{path}: damaged at byte {archive.offset}; copy it again")


def _check_uncompressed(path: Path) -> None:
    with path.open("rb") as file:
        kind = _COMPRESSED.get(file.read(2))
    if kind is not None:
        raise ValueError(
            f"{path}: {kind} has no random access; unpack it, and give the tar or the folder"
        )


def _with_class(record: Record, classes: dict[str, str]) -> Record:
    name = classes.get(_stem(record.key))
    if name is None:
        return record
    return replace(record, label_name=None if name in ("", "-1") else name)


def _stem(name: str) -> str:
    """A member's name without its ending, which in WebDataset begins at the first dot."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]
