"""Hints to the kernel: ranges joined as a loop over bytes would join them, in pieces it honours."""

import errno
import os
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.shards import open_shards
from pipeline.shards.hints import PIECE, advise, coalesced

ranges = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 30)), max_size=20)


def joined(pairs, gap):
    offsets, sizes = np.array(pairs, np.int64).reshape(-1, 2).T
    starts, lengths = coalesced(offsets, sizes, gap)
    assert starts.dtype == lengths.dtype == np.int64
    return list(zip(starts.tolist(), lengths.tolist(), strict=True))


@given(pairs=ranges, gap=st.integers(0, 12))
def test_joined_ranges_cover_the_bytes_and_the_short_gaps_between_them(pairs, gap):
    asked = {byte for start, size in pairs for byte in range(start, start + size)}
    expected = set(asked)
    ordered = sorted(asked)
    for before, after in pairwise(ordered):
        if after - before - 1 <= gap:
            expected |= set(range(before, after))
    found = joined(pairs, gap)
    covered = [byte for start, size in found for byte in range(start, start + size)]
    assert covered == sorted(expected)
    for (start, size), (after, _) in pairwise(found):
        assert after - (start + size) > gap


def test_known_ranges():
    assert joined([(100, 10), (0, 20), (50, 50), (300, 5), (290, 1)], 0) == [
        (0, 20),
        (50, 60),
        (290, 1),
        (300, 5),
    ]
    assert joined([(0, 100), (10, 5), (104, 6)], 4) == [(0, 110)]  # one holds another
    assert joined([(7, 0)], 4) == joined([], 4) == []


def test_the_samples_of_either_format_are_one_range(written, samples):
    """Headers and padding of a tar are read through; the mask of a sample lies at its JPEG."""
    rows = open_shards(written).index.rows
    offsets = np.concatenate([rows["jpeg_offset"], rows["mask_offset"]]).astype(np.int64)
    sizes = np.concatenate([rows["jpeg_size"], rows["mask_size"]]).astype(np.int64)
    starts, lengths = coalesced(offsets, sizes, gap=16 << 10)
    assert starts.tolist() == [rows["jpeg_offset"].min()]
    assert lengths[0] >= sum(len(s.jpeg) + len(s.mask) for s in samples)


def test_long_ranges_are_asked_for_in_pieces(monkeypatch):
    asked = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *words: asked.append(words))
    advise(5, np.array([10, 10 * PIECE]), np.array([2 * PIECE + 1, 3]))
    assert asked == [
        (5, 10, PIECE, os.POSIX_FADV_WILLNEED),
        (5, 10 + PIECE, PIECE, os.POSIX_FADV_WILLNEED),
        (5, 10 + 2 * PIECE, 1, os.POSIX_FADV_WILLNEED),
        (5, 10 * PIECE, 3, os.POSIX_FADV_WILLNEED),
    ]


def test_a_hint_to_a_real_file_is_accepted_beyond_its_end(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(bytes(3 * PIECE))
    with path.open("rb") as file:
        advise(file.fileno(), np.array([0]), np.array([4 * PIECE]))
        assert file.read(1) == b"\0"


def test_a_file_system_that_refuses_hints_does_not_end_the_run(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EINVAL, "no readahead here")

    monkeypatch.setattr(os, "posix_fadvise", refuse)
    with (tmp_path / "file").open("wb") as file:
        advise(file.fileno(), np.array([0]), np.array([1000]))
