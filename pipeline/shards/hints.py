"""Telling the kernel what will be read soon: samples that lie side by side become one long read.

Shapes: B samples, R ranges, all of one file.
"""

from __future__ import annotations

import contextlib
import os

import numpy as np

from pipeline.batch import Ids

# Headers and padding between the records of a tar are below 2 KiB, and pages of 4 KiB are read
# whole anyway; a disk needs longer for another request than for what lies in between.
GAP = 16 << 10

# Linux reads no more for one hint than the disk's readahead (read_ahead_kb: 128 where nobody
# changed it; seen: 8 of 64 MiB where it was 8192) and drops the rest of the range without a word.
PIECE = 128 << 10


def coalesced(offsets: Ids, sizes: Ids, gap: int) -> tuple[Ids, Ids]:
    """Join byte ranges that overlap, touch, or lie at most `gap` bytes apart.

    Args:
        offsets, sizes: int64 [B] first byte and number of bytes of each, in any order; ranges of
            no bytes are left out.

    Returns:
        First byte and number of bytes of each joined range, int64 [R], ascending, more than `gap`
        bytes apart.
    """
    filled = sizes > 0
    order = np.argsort(offsets[filled], kind="stable")
    starts, lengths = offsets[filled][order], sizes[filled][order]
    ends = np.maximum.accumulate(starts + lengths)  # of all up to here: a range may hold others
    first = np.ones(len(starts), np.bool_)
    first[1:] = starts[1:] > ends[:-1] + gap
    last = np.roll(first, -1)  # the one before a first, and the very last
    return starts[first], ends[last] - starts[first]


def advise(file: int, starts: Ids, lengths: Ids) -> None:
    """Ask the kernel to read ranges [R] of an open file; it does so while we do other things.

    A hint only: what is not read in time is read when it is needed, and what the file system says
    against it (some have no readahead) is not listened to.
    """
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        for piece in range(start, start + length, PIECE):
            size = min(PIECE, start + length - piece)
            with contextlib.suppress(OSError):
                os.posix_fadvise(file, piece, size, os.POSIX_FADV_WILLNEED)
