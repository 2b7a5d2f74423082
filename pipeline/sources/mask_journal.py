"""A file of estimated masks, which outlives a conversion that was killed or interrupted.

Each mask is appended as it arrives from a worker, before it is its turn to be written. A conversion
that is started again with the same method reads the file and makes only the masks that are not in
it.

    line        JSON: what the file is, and the method that made the masks
    entries     crc32 of the rest, sizes, SHA-256 of the picture as stored, its key, fault, mask

An entry counts for a picture of its key that is stored as the same bytes. A torn entry at the end,
which a power cut can leave, is cut off.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO

from pipeline.saliency.provenance import MaskMethod
from pipeline.sources.estimated import EstimatedMask

_WHAT = "relicv2 masks 1"
_HEAD = struct.Struct("<IHBH32s")  # crc32; bytes of key, fault, mask; SHA-256


class MaskJournal:
    """Masks on disk by the keys of their pictures; of one process."""

    def __init__(self, file: IO[bytes], places: dict[str, int]) -> None:
        self._file = file
        self._places = places  # key -> first byte of its entry

    def __len__(self) -> int:
        return len(self._places)

    def find(self, key: str) -> EstimatedMask | None:
        """Return what is known of the picture of this key."""
        place = self._places.get(key)
        if place is None:
            return None
        self._file.seek(place)
        entry = _read_entry(self._file)
        assert entry is not None
        return entry[1]

    def add(self, key: str, mask: EstimatedMask) -> None:
        """Append a mask: once this returns, it outlives the process.

        Raises:
            OSError: it cannot be written.
        """
        place = self._file.seek(0, os.SEEK_END)
        name, fault = _encoded(key), mask.fault.encode()
        head = _HEAD.pack(0, len(name), len(fault), len(mask.mask), mask.picture_sha256)
        body = head[4:] + name + fault + mask.mask
        self._file.write(struct.pack("<I", zlib.crc32(body)) + body)
        self._file.flush()
        self._places[key] = place


@contextmanager
def opened_journal(path: Path, method: MaskMethod) -> Iterator[MaskJournal]:
    """Open the journal of a conversion, new or left by an earlier one; an empty one is removed.

    Raises:
        ValueError: what is there was made by another method, or is none of ours.
        OSError: it cannot be read or written.
    """
    with path.open("a+b") as file:
        file.seek(0)
        first = file.readline()
        if first:
            _check(path, first, method)
        else:
            file.write(_header(method))
            file.flush()
        journal = MaskJournal(file, _scan(file))
        try:
            yield journal
        finally:
            if len(journal) == 0:
                path.unlink()


def _header(method: MaskMethod) -> bytes:
    return json.dumps({"what": _WHAT, "method": asdict(method)}).encode() + b"\n"


def _check(path: Path, first: bytes, method: MaskMethod) -> None:
    if first == _header(method):
        return
    try:
        header = json.loads(first)
        ours = header["what"] == _WHAT
    except (ValueError, TypeError, KeyError):
        ours = False
    if not ours:
        raise ValueError(f"{path} is in the way and not of this command's making; move it away")
    before = header["method"]
    given = before["model_sha256"] is None
    if before["name"] != method.name:
        those = f"--saliency {before['name']}" if given else "its --saliency-model"
    elif before["version"] != method.version and given:
        those = "the version of this project that began it"
    else:
        those = "those"
    raise ValueError(
        f"{path} holds masks of an unfinished conversion by {before['name']}, version "
        f"{before['version']}, of other settings than now ({method.name}, version "
        f"{method.version}); go on with {those}, or remove the file"
    )


def _scan(file: IO[bytes]) -> dict[str, int]:
    """Find the entries after the first line, and cut off what is not whole."""
    places = {}
    place = file.tell()
    while (entry := _read_entry(file)) is not None:
        places[entry[0]] = place
        place = file.tell()
    file.truncate(place)
    return places


def _read_entry(file: IO[bytes]) -> tuple[str, EstimatedMask] | None:
    """Read the entry at the file's position; None: there is no whole one."""
    head = file.read(_HEAD.size)
    if len(head) < _HEAD.size:
        return None
    checksum, name_size, fault_size, mask_size, picture_sha256 = _HEAD.unpack(head)
    rest = file.read(name_size + fault_size + mask_size)
    if zlib.crc32(head[4:] + rest) != checksum:
        return None
    fault_end = name_size + fault_size
    mask = EstimatedMask(
        picture_sha256=picture_sha256,
        mask=rest[fault_end:],
        fault=rest[name_size:fault_end].decode(),
    )
    return rest[:name_size].decode("utf-8", "surrogateescape"), mask


def _encoded(key: str) -> bytes:
    return key.encode("utf-8", "surrogateescape")
