"""Tar archives, read in place: flat, with class folders, in WebDataset layout, or tars in a tar.

Only headers are read when listing; a record keeps the offset of its bytes in the outer file, also
if it lies in an inner tar, so ImageNet's training archive is never unpacked. An inner tar counts as
a folder. Links to members of the same tar are followed, as if it had been unpacked.
"""

from __future__ import annotations

import heapq
import os
import posixpath
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pipeline.sources import is_image_name
from pipeline.sources.record import (
    ABOVE,
    CIRCLE,
    HIDDEN,
    NO_IMAGES,
    NO_TARGET,
    OTHER,
    SECOND_NAME,
    SPECIAL,
    IgnoredEntries,
    Record,
    Source,
    class_names,
    describe_ignored,
    describe_top,
    folders_without_images,
    hidden_part,
    sort_label_names,
    top_folder,
)

_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz", b"(\xb5": "zstd", b"PK": "zip"}
_LABEL_ROOM = 1024  # bytes that a .cls file may have
_MOST_LINKS = 40  # that are followed one after another, as Linux does
_OUTSIDE = "link out of the archive"
_REPLACED = "replaced by a later member of its name"
_SCANNED = 1 << 20  # bytes read at once where an archive should have ended


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveOrigin:
    """Pictures that are ranges of bytes of one file."""

    path: str

    def read(self, record: Record) -> tuple[bytes, bytes | None]:
        with open(self.path, "rb") as file:
            return os.pread(file.fileno(), record.size, record.offset), None


class _Extent(NamedTuple):
    """Bytes of the outer file."""

    offset: int
    size: int


@dataclass(slots=True)
class _Tree:
    """What unpacking an archive would make. Names are relative, without a / at the end."""

    files: dict[str, _Extent] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)  # name -> name; ../ if it leads outside
    folders: set[str] = field(default_factory=set)

    def has(self, name: str) -> bool:
        return name in self.files or name in self.links


def list_archive(path: Path, *, first_folder_is_class: bool = False) -> Source:
    """List the pictures of a tar archive.

    Where there are `.cls` members (WebDataset), they hold the labels: of the pictures of the same
    name up to its last dot, else of the same sample, which is the name up to the first dot after
    the last slash. Else the label is the first folder of the name, as in a folder, and a top folder
    that holds everything is stepped over, unless `first_folder_is_class`. Of members of the same
    name the last counts, as when unpacking.

    Raises:
        ValueError: it is no tar archive, or a compressed or damaged one.
    """
    _check_uncompressed(path)
    ignored = IgnoredEntries()
    with path.open("rb") as file:
        files, folders = _unpacked(path, file, ignored)
        names = sorted(name for name in files if is_image_name(name))
        others = [name for name in files if not is_image_name(name)]
        given = _read_labels(file, names, others, files, ignored)
    top = "" if first_folder_is_class or given is not None else top_folder(names)
    labels = class_names(names, top) if given is None else given
    origin = ArchiveOrigin(path=str(path))
    records = [
        Record(
            key=name,
            label_name=label,
            origin=origin,
            offset=files[name].offset,
            size=files[name].size,
        )
        for name, label in zip(names, labels, strict=True)
    ]
    known = {label for label in labels if label is not None}
    if given is None:
        folders.update(name[: name.rfind("/") + 1] for name in others)
        for folder in folders_without_images(folders, top, known):
            ignored.add(folder, NO_IMAGES)
    return Source(
        records=records,
        label_names=sort_label_names(known),
        description=f"tar archive of {len(records)} pictures, {len(known)} classes"
        f"{_several(names, given is not None)}{describe_top(top)}"
        f"{describe_ignored(ignored.listed())}",
        ignored=ignored.listed(),
        top=top,
        labels_given=given is not None,
    )


def _read_labels(
    file: BinaryIO,
    names: list[str],
    others: list[str],
    files: dict[str, _Extent],
    ignored: IgnoredEntries,
) -> list[str | None] | None:
    """Labels of the named pictures by the .cls among the other files; None: no .cls fits one."""
    classes = {name[:-4]: name for name in others if name.lower().endswith(".cls")}
    wanted = [
        classes.get(name.rpartition(".")[0]) or classes.get(_sample_key(name)) for name in names
    ]
    used = set(wanted) - {None}
    interned: dict[str, str] = {}  # one string for all images of a class
    texts: dict[str | None, str | None] = {None: None}
    for name in others:
        if name not in used:
            ignored.add(name, OTHER)
        elif files[name].size > _LABEL_ROOM:
            ignored.add(name, f"label of more than {_LABEL_ROOM} bytes")
            texts[name] = None
        else:
            content = os.pread(file.fileno(), files[name].size, files[name].offset)
            text = content.decode("utf-8", "surrogateescape").strip()
            texts[name] = None if text in ("", "-1") else interned.setdefault(text, text)
    return [texts[name] for name in wanted] if used else None


def _several(names: list[str], in_samples: bool) -> str:
    """Say that WebDataset samples have more than one image, and that each of them is taken."""
    counts = Counter(map(_sample_key, names)) if in_samples else Counter()
    several = [key for key, count in counts.items() if count > 1]
    if not several:
        return ""
    first = ", ".join(name for name in names if _sample_key(name) == several[0])
    return f", {len(several)} samples have several images and each is taken, such as {first}"


def _sample_key(name: str) -> str:
    """The part of a name that the files of a WebDataset sample share."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _unpacked(
    path: Path, file: BinaryIO, ignored: IgnoredEntries
) -> tuple[dict[str, _Extent], set[str]]:
    """All files of an archive and of the archives in it, and the names of folders, with a /."""
    files: dict[str, _Extent] = {}
    folders: set[str] = set()
    for prefix, tree in _trees(path, file, ignored):
        below = [f"{name}/" for name in tree.folders]
        for part in {hidden_part(name): None for name in (*tree.files, *sorted(below))}:
            if part:  # counted once, whatever a hidden folder holds
                ignored.add(prefix + part, HIDDEN)
                below.append(part[: part[:-1].rfind("/") + 1])
        folders.update(prefix + name for name in below if not hidden_part(name))
        for name, extent in tree.files.items():
            if hidden_part(name):
                continue
            if prefix + name in files:
                ignored.add(prefix + name, _REPLACED)
            files[prefix + name] = extent
    return files, folders


def _trees(path: Path, file: BinaryIO, ignored: IgnoredEntries) -> Iterator[tuple[str, _Tree]]:
    """Yield the archive without the archives in it, then these, each with the folder it stands for.

    An archive in an archive in an archive is a file like others.
    """
    outer = _read_tree(path, file, _Extent(0, path.stat().st_size), "", ignored)
    inner = {
        name: outer.files.pop(name)
        for name in list(outer.files)
        if name.lower().endswith(".tar") and not hidden_part(name)
    }
    yield "", outer
    for name, extent in inner.items():
        prefix = f"{name[:-4]}/"
        if not extent.size:
            ignored.add(name, "archive of 0 bytes")
            continue
        try:
            tree = _read_tree(path, file, extent, prefix, ignored)
        except ValueError as error:
            why = str(error).removeprefix(f"{path}: ")
            raise ValueError(f"{path}: {name} in it: {why}") from error
        yield prefix, tree


def _read_tree(
    path: Path, file: BinaryIO, extent: _Extent, prefix: str, ignored: IgnoredEntries
) -> _Tree:
    """Read one archive and follow its links, so that its tree has none."""
    tree = _Tree()
    for info in _members(path, file, extent, prefix, ignored):
        name = _clean(info.name)
        if info.isdir():
            tree.folders.add(name)
        elif not name or info.issparse() or not (info.isreg() or info.islnk() or info.issym()):
            ignored.add(prefix + (name or info.name), "sparse file" if info.issparse() else SPECIAL)
        else:
            _enter(tree, name, info, prefix, ignored)
    tree.folders.discard("")
    _follow_links(tree, prefix, ignored)
    return tree


def _enter(
    tree: _Tree, name: str, info: tarfile.TarInfo, prefix: str, ignored: IgnoredEntries
) -> None:
    """Put a file or a link into a tree, in place of what had the same name."""
    extent = _Extent(info.offset_data, info.size)
    target = ""
    if info.issym():
        folder = "" if info.linkname.startswith("/") else posixpath.dirname(name)
        target = posixpath.normpath(posixpath.join(folder, info.linkname.lstrip("/")))
    elif info.islnk():
        target = _clean(info.linkname)
        if target == name:
            return  # to itself: unpacking leaves what is there
        if target in tree.files:  # what has that name now, whatever comes later
            extent, target = tree.files[target], ""
        else:
            target = tree.links.get(target, target)
    if tree.has(name):
        ignored.add(prefix + name, _REPLACED)
        tree.files.pop(name, None)
        tree.links.pop(name, None)
    if target:
        tree.links[name] = target
    else:
        tree.files[name] = extent


def _follow_links(tree: _Tree, prefix: str, ignored: IgnoredEntries) -> None:
    """Put files in the place of links to files, and count all other links."""
    if not tree.links:
        return
    folders = {".", *tree.folders}
    for name in (*tree.files, *tree.links):
        while name := posixpath.dirname(name):
            folders.add(name)
    listed: set[str] = set()  # hidden folders, by the links that lead to them
    waiting = [(name.count("/"), name) for name in tree.links]
    heapq.heapify(waiting)  # as walk() of folders
    while waiting:
        name = heapq.heappop(waiting)[1]
        if hidden_part(name):
            tree.files[name] = _Extent(0, 0)  # counted with all that is hidden
            continue
        target, reason = _resolve(tree, folders, name)
        place, _ = _resolve(tree, folders, posixpath.dirname(name))
        if target in tree.files:
            tree.files[name] = tree.files[target]
        elif target not in folders:
            ignored.add(prefix + name, reason)
        elif target == "." or f"{place}/".startswith(f"{target}/"):
            ignored.add(f"{prefix}{name}/", ABOVE)
        elif not hidden_part(f"{target}/x") or _lies_in(target, listed):
            ignored.add(f"{prefix}{name}/", SECOND_NAME)
        else:
            for one in sorted({*tree.files, *tree.links}):
                if _lies_in(one, {target}) and not _lies_in(one, listed):
                    alias = name + one[len(target) :]
                    if one in tree.links:
                        tree.links[alias] = one
                        heapq.heappush(waiting, (alias.count("/"), alias))
                    else:
                        tree.files[alias] = tree.files[one]
            for one in sorted(listed):
                if _lies_in(one, {target}):
                    ignored.add(f"{prefix}{name}{one[len(target) :]}/", SECOND_NAME)
            tree.folders.add(name)
            listed.add(target)


def _lies_in(name: str, folders: set[str]) -> bool:
    return any(f"{name}/".startswith(f"{folder}/") for folder in folders)


def _resolve(tree: _Tree, folders: set[str], name: str) -> tuple[str, str]:
    """What a link leads to, and why that is nothing if it is neither a file nor a folder."""
    for _ in range(_MOST_LINKS):
        parts = name.split("/")
        heads = ("/".join(parts[: end + 1]) for end in range(len(parts)))
        link = next((head for head in heads if head in tree.links), None)
        if link is None:
            outside = name == ".." or name.startswith("../")
            return name, _OUTSIDE if outside else NO_TARGET
        name = posixpath.normpath(tree.links[link] + name[len(link) :])
    return "", CIRCLE


def _clean(name: str) -> str:
    """A member's name as a relative one: without /, ./ or ../ before it, and // or a/../ in it."""
    name = posixpath.normpath(name.lstrip("/"))
    while name.startswith("../"):
        name = name[3:]
    return "" if name in ("", ".", "..") else name


def _members(
    path: Path, file: BinaryIO, extent: _Extent, prefix: str, ignored: IgnoredEntries
) -> Iterator[tarfile.TarInfo]:
    """Yield the members of the archive that lies in these bytes of a file.

    Archives that were joined (`cat a.tar b.tar`) are one.
    """
    start: int | None = extent.offset
    end = extent.offset + extent.size
    while start is not None:
        file.seek(start)
        try:
            with tarfile.open(
                fileobj=file, mode="r:", encoding="utf-8", errors="surrogateescape"
            ) as archive:
                while (info := archive.next()) is not None and info.offset < end:
                    is_whole = info.issparse() or info.offset_data + info.size <= end
                    if info.isreg() and not is_whole:
                        raise ValueError(
                            f"{path}: ends in the middle of {info.name}; copy it again"
                        )
                    yield info
                    # or tarfile keeps every header it ever read
                    archive.members = []  # type: ignore[attr-defined]
                stopped = archive.offset
        except tarfile.TarError as error:
            raise ValueError(f"{path}: not a tar archive, or a damaged one: {error}") from error
        if stopped == start != extent.offset:
            ignored.add(f"{prefix}byte {start}", "after the end of the archive")
            return
        last = os.pread(file.fileno(), tarfile.BLOCKSIZE, stopped) if stopped < end else b""
        if last.strip(b"\0"):  # neither the end of the archive nor of the file: tarfile gave up
            raise ValueError(f"{path}: damaged at byte {stopped}; copy it again")
        start = _next_block(file, stopped, end)


def _next_block(file: BinaryIO, start: int, end: int) -> int | None:
    """The first block of these bytes that is not all zeros; None: there is none."""
    for offset in range(start, end, _SCANNED):
        data = os.pread(file.fileno(), min(_SCANNED, end - offset), offset)
        if rest := data.lstrip(b"\0"):
            first = offset + len(data) - len(rest)
            return first - (first - start) % tarfile.BLOCKSIZE
    return None


def _check_uncompressed(path: Path) -> None:
    with path.open("rb") as file:
        kind = _COMPRESSED.get(file.read(2))
    if kind is not None:
        raise ValueError(
            f"{path}: {kind} has no random access; unpack it, and give the tar or the folder"
        )
