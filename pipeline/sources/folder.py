"""A folder of pictures: one folder per class, or flat."""

from __future__ import annotations

import errno
import heapq
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    mask_name,
    name_of_path,
    path_of_name,
    sort_label_names,
    top_folder,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderOrigin:
    """Pictures that are files below a folder."""

    root: str

    def read(self, record: Record) -> tuple[bytes, bytes | None]:
        with open(os.path.join(os.fsencode(self.root), path_of_name(record.key)), "rb") as file:
            return file.read(), None


def list_folder(
    root: Path, *, masks: Path | None = None, first_folder_is_class: bool = False
) -> Source:
    """List the pictures below a folder; the first folder of a relative name is the label.

    A folder that holds all images and all class folders is stepped over (`top_folder`), unless
    `first_folder_is_class`. Pictures beside the class folders are unlabelled. Hidden files and
    folders hold no pictures. Nor are masks pictures: files below `masks`, if that lies in the
    folder, and files that are the mask of another picture.

    Raises:
        ValueError: a folder cannot be read.
    """
    origin = FolderOrigin(root=str(root))
    ignored = IgnoredEntries()
    folders: list[str] = []
    pictures = []
    for key, size in walk(root, leave_out=masks, ignored=ignored, folders=folders):
        if is_image_name(key):
            pictures.append((key, size))
        else:
            ignored.add(key, OTHER)
    num_masks = 0
    if masks is not None:
        used = _masks_among([key for key, _ in pictures], root, masks)
        pictures = [(key, size) for key, size in pictures if key not in used]
        num_masks = len(used)
    pictures.sort()
    keys = [key for key, _ in pictures]
    top = "" if first_folder_is_class else top_folder(keys)
    records = [
        Record(key=key, label_name=label, origin=origin, offset=0, size=size)
        for (key, size), label in zip(pictures, class_names(keys, top), strict=True)
    ]
    labels = {record.label_name for record in records if record.label_name is not None}
    for folder in folders_without_images(folders, top, labels):
        ignored.add(folder, NO_IMAGES)
    return Source(
        records=records,
        label_names=sort_label_names(labels),
        description=_describe(len(records), len(labels), top, num_masks)
        + describe_ignored(ignored.listed()),
        ignored=ignored.listed(),
        top=top,
    )


def walk(
    root: Path,
    *,
    leave_out: Path | None = None,
    ignored: IgnoredEntries | None = None,
    folders: list[str] | None = None,
) -> Iterator[tuple[str, int]]:
    """Yield the relative name, with /, and the size in bytes of every file below a folder.

    Links are followed. Each folder is entered once, by its own name if that lies below `root`, else
    by the link with the fewest folders in its name, then the first as text: the order in which the
    file system lists names does not matter.

    Args:
        leave_out: a folder below it that is not entered, by whatever name or link it is met.
        ignored: where to count what is neither yielded nor entered.
        folders: where to add the relative names, with a / at the end, of the folders entered.

    Raises:
        ValueError: a folder cannot be listed, or a file in it not looked at.
    """
    ignored = IgnoredEntries() if ignored is None else ignored
    start = os.fsencode(root)
    seen: dict[tuple[int, int], str] = {}  # folder -> why it is not entered (again)
    if leave_out is not None and leave_out.is_dir() and not leave_out.samefile(root):
        seen[_identity(os.stat(leave_out))] = "folder of masks"
    waiting = [""]
    links: list[tuple[int, str]] = []  # to folders, with their depth; a heap
    while waiting or links:
        is_link = not waiting
        folder = waiting.pop() if waiting else heapq.heappop(links)[1]
        path = os.path.join(start, path_of_name(folder))
        try:
            identity = _identity(os.stat(path))
            if identity in seen or (is_link and _leads_up(path)):
                ignored.add(folder, ABOVE if is_link and _leads_up(path) else seen[identity])
                continue
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            if not is_link:
                raise ValueError(f"{root / folder}: cannot be listed: {error.strerror}") from error
            ignored.add(folder, _why_unreadable(error))
            continue
        seen[identity] = SECOND_NAME
        if folders is not None and folder:
            folders.append(folder)
        for entry in entries:
            name = folder + name_of_path(entry.name)
            if hidden_part(name):
                is_folder = entry.is_dir(follow_symlinks=False)
                ignored.add(f"{name}/" if is_folder else name, HIDDEN)
                continue
            try:
                status = entry.stat()
            except OSError as error:
                if not entry.is_symlink() and error.errno != errno.ENOENT:
                    raise ValueError(f"{root / name}: cannot be read: {error.strerror}") from error
                ignored.add(name, _why_unreadable(error) if entry.is_symlink() else "vanished")
                continue
            if stat.S_ISREG(status.st_mode):
                yield name, status.st_size
            elif not stat.S_ISDIR(status.st_mode):
                ignored.add(name, SPECIAL)
            elif entry.is_symlink():
                heapq.heappush(links, (name.count("/"), f"{name}/"))
            else:
                waiting.append(f"{name}/")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _leads_up(link: bytes) -> bool:
    """Whether a link leads to a folder that it lies in, at whatever distance."""
    place = os.path.realpath(os.path.dirname(link.rstrip(b"/")))
    target = os.path.realpath(link)
    return os.path.commonpath([place, target]) == target


def _why_unreadable(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NO_TARGET
    if error.errno == errno.ELOOP:
        return CIRCLE
    return f"link to what cannot be read ({os.strerror(error.errno or 0).lower()})"


def _masks_among(keys: Sequence[str], root: Path, masks: Path) -> set[str]:
    """Those of the pictures' keys that name the mask of another one.

    That can be where the masks lie beside the pictures, or the pictures below the masks.
    """
    place, folder = Path(os.path.realpath(root)), Path(os.path.realpath(masks))
    if not place.is_relative_to(folder):
        return set()
    parts = place.relative_to(folder).parts
    prefix = "".join(f"{name_of_path(part)}/" for part in parts)
    names = ((key, mask_name(key)) for key in keys)
    used = {
        name.removeprefix(prefix)
        for key, name in names
        if name.startswith(prefix) and name.removeprefix(prefix) != key
    }
    return used.intersection(keys)


def _describe(num_pictures: int, num_labels: int, top: str, num_masks: int) -> str:
    classes = f"{num_labels} class folders" if num_labels else "no class folders"
    masks = f", {num_masks} masks of other pictures left out" if num_masks else ""
    return f"folder of {num_pictures} pictures, {classes}{describe_top(top)}{masks}"
