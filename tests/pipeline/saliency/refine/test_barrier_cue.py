"""The barrier distance by sweeps: known answers, a plain transcription, and the scans' distance."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.saliency.compiled_scan import barrier_distance
from pipeline.saliency.refine.barrier_cue import barrier_cue, swept


def swept_of(picture: np.ndarray, rounds: int = 2) -> np.ndarray:
    return swept(torch.from_numpy(picture.astype(np.float32))[None, None], rounds)[0, 0].numpy()


def transcribed(picture: np.ndarray, rounds: int) -> np.ndarray:
    """Each side by itself, pixel by pixel; of equal ways the one whose largest value is least."""
    side = len(picture)
    known = np.full((side, side), np.inf)
    known[0] = known[-1] = known[:, 0] = known[:, -1] = 0
    high, low = picture.astype(float), picture.astype(float)
    for _ in range(rounds):
        found = []
        for dy, dx in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            d, h, b = known.copy(), high.copy(), low.copy()
            along = range(1, side - 1) if dy + dx > 0 else range(side - 2, 0, -1)
            for step in along:
                for other in range(side):
                    y, x = (step, other) if dy else (other, step)
                    top = max(h[y - dy, x - dx], picture[y, x])
                    bottom = min(b[y - dy, x - dx], picture[y, x])
                    if top - bottom < d[y, x]:
                        d[y, x], h[y, x], b[y, x] = top - bottom, top, bottom
            found.append((d, h, b))
        for y in range(side):
            for x in range(side):
                ways = [(d[y, x], h[y, x], b[y, x]) for d, h, b in found]
                known[y, x], high[y, x], low[y, x] = min(ways)
    return known


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 3]))
def test_it_is_its_definition(seed, rounds):
    """Whole numbers, which float32 adds exactly."""
    picture = np.random.default_rng(seed).integers(0, 8, (9, 9)).astype(np.float32)
    np.testing.assert_array_equal(swept_of(picture, rounds), transcribed(picture, rounds))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_turning_the_picture_turns_the_distance(seed):
    picture = np.random.default_rng(seed).normal(size=(16, 16)).astype(np.float32)
    found = swept_of(picture)
    np.testing.assert_array_equal(swept_of(np.ascontiguousarray(picture[:, ::-1]))[:, ::-1], found)
    np.testing.assert_array_equal(swept_of(np.ascontiguousarray(picture[::-1]))[::-1], found)
    np.testing.assert_array_equal(swept_of(np.ascontiguousarray(picture.T)).T, found)


def test_a_block_is_as_far_as_it_is_unlike_and_all_else_is_at_the_border():
    picture = np.zeros((64, 64))
    picture[20:40, 25:50] = -3
    np.testing.assert_array_equal(swept_of(picture), -picture)


def test_ways_turn_as_often_as_there_are_rounds_between_them():
    """A corridor with two turns into a walled court: the third round finds it."""
    picture = np.full((12, 12), 5.0)
    picture[0:5, 3] = 0  # down from the top
    picture[4, 3:8] = 0  # to the right
    picture[4:9, 7] = 0  # and down again
    assert swept_of(picture, 2)[8, 7] == 5
    assert swept_of(picture, 3)[8, 7] == 0


@pytest.mark.parametrize("seed", range(3))
def test_it_is_near_the_distance_of_the_scans(seed):
    rng = np.random.default_rng(seed)
    picture = torch.nn.functional.interpolate(
        torch.from_numpy(rng.normal(size=(1, 1, 9, 9)).astype(np.float32)), (64, 64), mode="bicubic"
    )
    scanned = barrier_distance(picture[0, 0].numpy())
    found = swept(picture)[0, 0].numpy()
    assert np.corrcoef(found.ravel(), scanned.ravel())[0, 1] > 0.9
    assert np.abs(found - scanned).mean() < 0.1 * scanned.max()


def test_the_cue_is_the_sum_of_channels_over_its_largest_whatever_the_size():
    picture = torch.zeros(2, 3, 128, 128)
    picture[0, 0, 40:80, 40:80] = 1.0
    picture[0, 1, 50:80, 40:80] = -2.0
    cue = barrier_cue(picture)
    assert cue.shape == (2, 1, 128, 128)
    assert float(cue[0, 0, 65, 60]) == pytest.approx(1)
    assert float(cue[0, 0, 45, 60]) == pytest.approx(1 / 3)
    assert float(cue[0, 0, 20, 60]) == pytest.approx(0, abs=1e-6)
    assert (cue[1] == 0).all()  # one colour
    faint = barrier_cue(0.01 * picture)
    assert float(faint[0, 0, 65, 60]) == pytest.approx(0.1)  # noise is not stretched
