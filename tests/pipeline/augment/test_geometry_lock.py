"""Geometry lock: the mask that an executor uses is the mask, moved as it moves an image.

Two ways to the same picture of 8 bits: its foreground painted in one colour and its background in
another, before the executor sees it and unmasked; or one colour all over, and the executor replaces
the background by the other. If the executor's mask lies where the image lies, both give the same
views, whatever else the params ask for. One pixel off, and whole levels differ.
"""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.augment import reference
from pipeline.augment.agreement import TOLERANCE, levels, tolerances
from pipeline.augment.reference import salience_limit
from pipeline.batch import MASK_GRID
from pipeline.saliency.codec import mask_at_pixels
from tests.pipeline.augment.test_executors_agree import (
    BUSY,
    ODD_SIZES,
    ONE_LARGE,
    drawn,
    executor_of,
    installed,
    whole,
    with_values,
)
from tests.support import decoded_batch, finished

PACKAGES = {"reference": "numpy", "compiled": "numba", "dali": "nvidia.dali", "fused": "triton"}
with_reference = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=installed(package)) for name, package in PACKAGES.items()]
)
SHIFTS = [(1, 0), (-1, 0), (0, 1), (0, -1)]


def ragged_grid(seed):
    """A mask of many edges at all angles: smoothed noise, of all levels."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 1, (17, 17))
    at = np.linspace(0, 16, MASK_GRID)
    rows = np.stack([np.interp(at, np.arange(17), column) for column in coarse.T], axis=1)
    grid = np.stack([np.interp(at, np.arange(17), row) for row in rows])
    return (128 + 90 * grid).clip(0, 255).astype(np.uint8)


def two_ways(grids, sizes, recipe, front, back):
    """Return the painted pictures, and those of one colour, with the masks that go with them."""
    limit = salience_limit(recipe.mask_threshold)
    inside = [mask_at_pixels(grid, *size) > limit for grid, size in zip(grids, sizes, strict=True)]
    painted = [np.where(there[..., None], front, back).astype(np.uint8) for there in inside]
    plain = [np.broadcast_to(front, (*size, 3)).astype(np.uint8) for size in sizes]
    return painted, decoded_batch(plain, grids)


def excess(name, recipe, painted, masked, params):
    """By how much the two ways differ beyond the executor's bound, in levels: above 0 is a fault.

    params: of the batch `masked`; whether views are masked is set here.
    """
    executor = executor_of(name, recipe)
    unmasked = decoded_batch(painted)
    one = finished(executor(unmasked, with_values(params, mask=False)))
    other = finished(executor(masked, with_values(params, mask=True)))
    executor.close()
    bound = np.zeros_like(params.flip.T, float)
    if name in TOLERANCE:
        bound = tolerances(name, recipe, params)
    worst = -np.inf
    for ours, theirs, limits in zip(
        (one.large, one.small),
        (other.large, other.small),
        np.split(bound, [recipe.num_large]),
        strict=True,
    ):
        if ours.numel():
            apart = (levels(ours, recipe) - levels(theirs, recipe)).abs().amax(dim=(2, 3, 4))
            worst = max(worst, float((apart.numpy() - limits).max()))
    return worst


@with_reference
@settings(max_examples=5)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.tuples(st.integers(1, 150), st.integers(1, 150)), min_size=1, max_size=4),
    threshold=st.sampled_from([0.2, 0.5, 0.8]),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    antialias=st.booleans(),
)
def test_random_params(name, seed, sizes, threshold, interpolation, antialias):
    rng = np.random.default_rng(seed)
    front, back = rng.integers(0, 256, (2, 3))
    recipe = replace(
        BUSY,
        mask_threshold=threshold,
        mask_color=tuple((back / 255).tolist()),
        interpolation=interpolation,
        antialias=antialias,
    )
    grids = [ragged_grid(seed + number) for number in range(len(sizes))]
    painted, masked = two_ways(grids, sizes, recipe, front, back)
    params = drawn(recipe, masked, seed=seed)
    assert excess(name, recipe, painted, masked, params) <= 0


@with_reference
def test_odd_sizes_and_a_large_photo(name):
    sizes = [*ODD_SIZES, (1200, 1600)]
    recipe = replace(BUSY, mask_color=(0.0, 0.0, 0.0))
    grids = [ragged_grid(number) for number in range(len(sizes))]
    painted, masked = two_ways(grids, sizes, recipe, np.full(3, 255), np.zeros(3))
    params = drawn(recipe, masked, seed=6)
    assert excess(name, recipe, painted, masked, params) <= 0


@with_reference
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", SHIFTS, ids=str)
def test_a_shift_of_one_pixel_would_be_seen(name, flip, shift):
    # The picture is shifted against the mask: to the views it is the same as the reverse.
    recipe = replace(ONE_LARGE, mask_color=(0.0, 0.0, 0.0))
    sizes = [(97, 61), (40, 50)]
    grids = [ragged_grid(number) for number in range(2)]
    painted, masked = two_ways(grids, sizes, recipe, np.full(3, 255), np.zeros(3))
    params = with_values(whole(masked), flip=flip)
    assert excess(name, recipe, painted, masked, params) <= 0
    shifted = [np.roll(picture, shift, axis=(0, 1)) for picture in painted]
    assert excess(name, recipe, shifted, masked, params) > 100


@pytest.mark.parametrize(
    "name", ["reference", pytest.param("dali", marks=installed("nvidia.dali"))]
)
@pytest.mark.parametrize("shift", SHIFTS, ids=str)
def test_a_shift_planted_in_an_executor_is_seen(name, shift, monkeypatch):
    recipe = replace(ONE_LARGE, mask_color=(0.0, 0.0, 0.0))
    painted, masked = two_ways([ragged_grid(0)], [(97, 61)], recipe, np.full(3, 255), np.zeros(3))

    def shifted(grid, height, width):
        return np.roll(mask_at_pixels(grid, height, width), shift, axis=(0, 1))

    monkeypatch.setattr(reference, "mask_at_pixels", shifted)  # dali takes its masks from there
    assert excess(name, recipe, painted, masked, whole(masked)) > 100
