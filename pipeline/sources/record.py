"""What a source is: its pictures, listed before any of them is read, and what is left out.

A record is small and can be pickled: a million of them are held at once, and each travels to the
process that reads it.

Names are text whatever the locale says: UTF-8, with surrogates for bytes that are not
(`name_of_path`). So keys, labels and their order are the same on every machine.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.shards.described import named
from pipeline.shards.manifest import Ignored

_NAMES_KEPT = 5  # of the entries that are ignored for one reason
_CLASSES_SHOWN = 5

HIDDEN = "hidden or kept by the system"
OTHER = "not named like an image"
SPECIAL = "neither a file nor a folder"
NO_TARGET = "link to nothing"
CIRCLE = "link that leads in a circle"
ABOVE = "link to a folder that it lies in"
SECOND_NAME = "second name of a folder that is listed"
NO_IMAGES = "folder without images"

# beside all names with a leading dot; in lower case
_SYSTEM_NAMES = {
    *("__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found"),
    *("system volume information", "desktop.ini", "ehthumbs.db", "thumbs.db"),
}


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
            with open(path_of_name(self.mask), "rb") as file:
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
    ignored: tuple[Ignored, ...] = ()  # entries that are no pictures
    top: str = ""  # "photos/": the classes are the folders in it, not the first of each key
    labels_given: bool = False  # labels are given beside the images, not by folders
    has_masks: bool = False  # the source brings its own


class IgnoredEntries:
    """Counts entries that are not converted, by reason, and keeps the first names of each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._names: dict[str, list[str]] = {}

    def add(self, name: str, reason: str) -> None:
        """Count one entry; `name` is relative to the source and ends in / if it is a folder."""
        self._counts[reason] += 1
        names = self._names.setdefault(reason, [])
        if len(names) < _NAMES_KEPT:
            names.append(name)

    def listed(self) -> tuple[Ignored, ...]:
        """What was counted, sorted by reason."""
        return tuple(
            Ignored(reason=reason, count=count, names=tuple(self._names[reason]))
            for reason, count in sorted(self._counts.items())
        )


def name_of_path(path: str | bytes | Path) -> str:
    """The name of a path in every locale: its bytes as UTF-8, surrogates for what is not."""
    return os.fsencode(path).decode("utf-8", "surrogateescape")


def path_of_name(name: str) -> bytes:
    """The path that has this name, see `name_of_path`."""
    return name.encode("utf-8", "surrogateescape")


def mask_name(key: str) -> str:
    """The relative name of a picture's mask: a/b.png for a/b.jpg."""
    folder, slash, base = key.rpartition("/")
    return f"{folder}{slash}{base.rpartition('.')[0]}.png"


def hidden_part(name: str) -> str:
    """The first part of a relative name that is hidden, with what is before it; "" if none is.

    Hidden are names with a leading dot, and what systems keep for themselves. It ends in / if it is
    a folder: "a/.cache/" of "a/.cache/b/c.jpg".
    """
    if "/." not in f"/{name}" and _SYSTEM_NAMES.isdisjoint(name.lower().split("/")):
        return ""  # the usual case, quickly
    end = 0
    for part in name.split("/"):
        end += len(part) + 1
        if part.startswith(".") or part.lower() in _SYSTEM_NAMES:
            return name[:end]
    return ""


def top_folder(names: Sequence[str]) -> str:
    """The folder that holds all images and the class folders: "photos/", "photos/2024/" or "".

    It is the deepest folder that holds everything, unless that looks like a class itself: images
    lie in it, and at most one folder with images. The name of a split (`train/`) is no class.
    """
    if not names:
        return ""
    top = _common_folder(os.path.dirname(min(names)), os.path.dirname(max(names)))
    below = (name[len(top) :].partition("/") for name in names)
    folders = {first for first, slash, _ in below if slash}
    above, slash, last = top.rstrip("/").rpartition("/")
    return above + slash if len(folders) < 2 and split_kind(last) is None else top


def _common_folder(one: str, other: str) -> str:
    """The deepest folder that is, or holds, both folders, with a / at its end; "" if none does."""
    common = os.path.commonpath([one, other])
    return f"{common}/" if common else ""


def class_names(names: Sequence[str], top: str) -> list[str | None]:
    """The class of each relative name: its first folder below `top`; None: it lies in `top`."""
    interned: dict[str, str] = {}  # one string for all images of a class
    classes: list[str | None] = []
    for name in names:
        first, slash, _ = name[len(top) :].partition("/")
        classes.append(interned.setdefault(first, first) if slash else None)
    return classes


def folders_without_images(
    folders: Iterable[str], top: str, labels: Collection[str]
) -> Sequence[str]:
    """Those folders, at the level of class folders or beside `top`, in which no image lies, sorted.

    Args:
        folders: relative names, each with a / at its end.
    """
    empty = set()
    for folder in folders:
        common = _common_folder(top, folder)
        first = folder[len(common) :].partition("/")[0]
        if first and not (common == top and first in labels):
            empty.add(f"{common}{first}/")
    return sorted(empty)


_TEST_SPLITS = (
    *("val", "valid", "validation", "dev", "eval", "evaluation"),
    *("test", "testing", "tst"),
)


def split_kind(name: str) -> str | None:
    """ "train" or "test" if a folder of this name holds a split, not a class, else None."""
    stem = name.lower().rstrip("0123456789").rstrip("-_ ")
    for ending in ("set", "data", "images", "split"):
        stem = stem.removesuffix(ending).rstrip("-_ ")
    if stem in ("train", "training", "trn"):
        return "train"
    return "test" if stem in _TEST_SPLITS else None


def sort_label_names(names: set[str]) -> tuple[str, ...]:
    """Sort as numbers if all are numbers, else as text; equal numbers (1, 01) as text."""
    if all(name.isdecimal() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def describe_ignored(ignored: Sequence[Ignored]) -> str:
    """Such as ", 3 entries ignored (2 link to nothing: a/b, a/c)"; "" if there are none."""
    if not ignored:
        return ""
    reasons = "; ".join(f"{entry.count} {entry.reason}: {named(entry)}" for entry in ignored)
    return f", {sum(entry.count for entry in ignored)} entries ignored ({reasons})"


def describe_top(top: str) -> str:
    """What a description says of a top folder that is not taken for a class."""
    return f", all in {top} which is taken for no class" if top else ""


def describe_classes(source: Source) -> str:
    """The first classes with their numbers of images, in one line."""
    counts = Counter(record.label_name for record in source.records)
    if not source.label_names:
        return f"no classes: {counts[None]} images without a label"
    shown = ", ".join(f"{name} ({counts[name]})" for name in source.label_names[:_CLASSES_SHOWN])
    more = len(source.label_names) - _CLASSES_SHOWN
    others = f" and {more} more" if more > 0 else ""
    unlabelled = f"; {counts[None]} images without a label" if counts[None] else ""
    return f"classes, with their images: {shown}{others}{unlabelled}"
