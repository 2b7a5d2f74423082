"""Files that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_whole(
    path: Path, write: Callable[[BinaryIO], object], *, partial: Path | None = None
) -> None:
    """Replace a file at once: a kill or a power cut leaves the old content or the new.

    Args:
        write: writes the content into the file it is given.
        partial: what the file is called, in the same folder, until it is complete and on the disk;
            PATH.partial by default. A kill leaves it behind; an error does not.

    Raises:
        OSError: it cannot be written; an older file of that name is still there.
    """
    partial = path.with_name(path.name + ".partial") if partial is None else partial
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)  # the disk may be full
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # else a power cut may take the new name back
    finally:
        os.close(folder)


def write_text_whole(path: Path, text: str) -> None:
    """Write text as UTF-8, see `write_whole`; what UTF-8 lacks (odd file names) is escaped."""
    content = text.encode("utf-8", "backslashreplace")
    write_whole(path, lambda file: file.write(content))
