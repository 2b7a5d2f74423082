"""Bare calls of libjpeg-turbo in a loop: what a decoding stage is measured against.

JPEGs lie in memory, room for the pixels is there, settings are exact (slow DCT, smooth upsampling).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bench.harness import Built, Unavailable
from pipeline.batch import Bytes

WHAT_SIMPLEJPEG = "simplejpeg.decode_jpeg in a loop, into room that is there"
WHAT_DEBIAN = "tjDecompress2 of the system's libturbojpeg.so.0 in a loop, by ctypes, one handle"

_RGB, _EXACT_DCT = 0, 4096  # turbojpeg.h: TJPF_RGB, TJFLAG_ACCURATEDCT

Picture = tuple[bytes, int, int]  # JPEG, height, width
Decode = Callable[[bytes, Bytes], object]  # JPEG, room uint8 [h, w, 3]


def make_simplejpeg(pictures: Sequence[Picture], *, threads: int) -> Built:
    """By the library that simplejpeg brings along."""
    import simplejpeg

    def decode(jpeg: bytes, room: Bytes) -> None:
        simplejpeg.decode_jpeg(jpeg, buffer=room)

    return _looped(pictures, [decode] * threads)


def make_debian(pictures: Sequence[Picture], *, threads: int) -> Built:
    """By the system's library.

    Raises:
        Unavailable: it is not installed.
    """
    return _looped(pictures, [_by_ctypes() for _ in range(threads)])


def _by_ctypes() -> Decode:
    """A decoder with a handle of its own. ctypes lets go of the GIL during the call."""
    try:
        library = ctypes.CDLL("libturbojpeg.so.0")
    except OSError as error:
        raise Unavailable("not installed: libturbojpeg.so.0 (Debian: libturbojpeg0)") from error
    library.tjInitDecompress.restype = ctypes.c_void_p
    library.tjGetErrorStr2.restype = ctypes.c_char_p
    library.tjGetErrorStr2.argtypes = [ctypes.c_void_p]
    call = library.tjDecompress2
    call.argtypes = [
        *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_void_p),
        *[ctypes.c_int] * 5,
    ]
    handle = library.tjInitDecompress()

    def decode(jpeg: bytes, room: Bytes) -> None:
        height, width, _ = room.shape
        if call(handle, jpeg, len(jpeg), room.ctypes.data, width, 0, height, _RGB, _EXACT_DCT):
            raise ValueError(library.tjGetErrorStr2(handle).decode())

    return decode


def _looped(pictures: Sequence[Picture], decoders: Sequence[Decode]) -> Built:
    """Each decoder has a thread, room for one picture, and every n-th picture."""
    count = len(decoders)
    largest = max(3 * height * width for _, height, width in pictures)
    rooms = [np.empty(largest, np.uint8) for _ in decoders]

    def share(number: int) -> None:
        decode, room = decoders[number], rooms[number]
        for jpeg, height, width in pictures[number::count]:
            decode(jpeg, room[: 3 * height * width].reshape(height, width, 3))

    if count == 1:
        return Built(run=lambda: share(0))
    pool = ThreadPoolExecutor(count)
    return Built(run=lambda: list(pool.map(share, range(count))), close=pool.shutdown)
