"""What a source is: its pictures, listed before any of them is read.

A record is small and can be pickled: a million of them are held at once, and each travels to the
process that reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One picture of a source."""

    key: str  # its relative name, with /
    label_name: str | None  # None: unlabelled
    origin: Origin  # shared by the records of a source
    offset: int  # first byte in an archive; number of a generated picture
    size: int  # bytes; of a generated picture, the most it can have
    mask: str | None = None  # path of its mask, if that is a file

    def read(self) -> tuple[bytes, bytes | None]:
        """Return the picture and its mask (encoded, as stored; None: it has none).

        Raises:
            OSError: one of them cannot be read.
        """
        picture, mask = self.origin.read(self)
        if self.mask is not None:
            with open(self.mask, "rb") as file:
                mask = file.read()
        return picture, mask


class Origin(Protocol):
    """Where records of one kind get their bytes."""

    def read(self, record: Record) -> tuple[bytes, bytes | None]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """All pictures of a source, in the order of their keys."""

    records: Sequence[Record]
    label_names: tuple[str, ...]  # sorted; a label is a position in here
    description: str
    num_ignored: int  # files that are no pictures
    has_masks: bool = False  # the source brings its own


def mask_name(key: str) -> str:
    """The relative name of a picture's mask: a/b.png for a/b.jpg."""
    folder, slash, base = key.rpartition("/")
    return f"{folder}{slash}{base.rpartition('.')[0]}.png"


def sort_label_names(names: set[str]) -> tuple[str, ...]:
    """Sort as numbers if all are numbers, else as text."""
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))
