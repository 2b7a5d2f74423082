"""The mask codec: areas are exact, records are small and safe to read, salience is pinned."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.batch import MASK_GRID
from pipeline.saliency.codec import (
    NO_MASK,
    coverage,
    decode_mask,
    encode_mask,
    mask_at_pixels,
)

HALF = 0.5 * 255 * 65536


def overlap(size: int) -> np.ndarray:
    """[M, size]: how much of each pixel lies in each cell, in pixels."""
    borders = np.arange(MASK_GRID + 1) * size / MASK_GRID
    pixels = np.arange(size)
    low = np.maximum(borders[:-1, None], pixels)
    high = np.minimum(borders[1:, None], pixels + 1)
    return np.maximum(high - low, 0)


def iou(mask: np.ndarray) -> float:
    salient = mask_at_pixels(decode_mask(encode_mask(mask)), *mask.shape) > HALF
    truth = mask > 127
    return float((salient & truth).sum() / max((salient | truth).sum(), 1))


def blob(height: int, width: int) -> np.ndarray:
    """A mask with a wavy outline and a hole, foreground 255."""
    y, x = np.mgrid[0:height, 0:width]
    y, x = (y + 0.5) / height - 0.45, (x + 0.5) / width - 0.55
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    return np.where((radius < 0.3 + 0.05 * np.sin(7 * angle)) & (radius > 0.06), 255, 0).astype(
        np.uint8
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_a_cell_holds_the_area_average_to_half_a_level(height, width, seed):
    mask = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    average = overlap(height) @ mask @ overlap(width).T * MASK_GRID**2 / (height * width)
    grid = decode_mask(encode_mask(mask))
    assert grid.shape == (MASK_GRID, MASK_GRID)
    assert np.abs(grid - average).max() <= 8.5 + 1e-6


@pytest.mark.parametrize("value", [0, 255])
def test_a_constant_mask_stays_constant_at_every_pixel(value):
    grid = decode_mask(encode_mask(np.full((37, 211), value, np.uint8)))
    assert (mask_at_pixels(grid, 99, 5) == value * 65536).all()


def test_a_mask_of_the_grid_size_and_its_levels_is_stored_without_loss():
    levels = np.random.default_rng(0).integers(0, 16, (MASK_GRID, MASK_GRID), dtype=np.uint8)
    assert (decode_mask(encode_mask(levels * 17)) == levels * 17).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_salience_is_the_formula_of_the_docstring_pixel_by_pixel(height, width, seed):
    rng = np.random.default_rng(seed)
    grid = rng.integers(0, 256, (MASK_GRID, MASK_GRID), dtype=np.uint8)
    salience = mask_at_pixels(grid, height, width)
    assert salience.shape == (height, width)
    for y, x in zip(rng.integers(0, height, 20), rng.integers(0, width, 20), strict=True):
        total = 0
        p = ((2 * int(y) + 1) * MASK_GRID * 256) // (2 * height) - 128
        q = ((2 * int(x) + 1) * MASK_GRID * 256) // (2 * width) - 128
        for i, wy in ((p >> 8, 256 - (p & 255)), ((p >> 8) + 1, p & 255)):
            for j, wx in ((q >> 8, 256 - (q & 255)), ((q >> 8) + 1, q & 255)):
                row, column = min(max(i, 0), MASK_GRID - 1), min(max(j, 0), MASK_GRID - 1)
                total += int(grid[row, column]) * wy * wx
        assert salience[y, x] == total


def test_salience_turns_with_the_mask():
    mask = blob(300, 200)
    grid = decode_mask(encode_mask(mask))
    turned = decode_mask(encode_mask(mask.T.copy()))
    assert (turned == grid.T).all()
    assert (mask_at_pixels(turned, 200, 300) == mask_at_pixels(grid, 300, 200).T).all()


def test_bytes_after_a_record_do_no_harm():
    record = encode_mask(blob(120, 90))
    padded = memoryview(record + b"\xa5" * 500)
    assert (decode_mask(padded) == decode_mask(record)).all()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda record: b"", "version missing"),
        (lambda record: NO_MASK, "version 0"),
        (lambda record: b"\x07" + record[1:], "version 7"),
        (lambda record: record[:-20], "ends after"),
        (lambda record: record[:1] + b"\x00" * 50, "damaged"),
    ],
)
def test_damaged_records_are_refused(damage, message):
    with pytest.raises(ValueError, match=message):
        decode_mask(damage(encode_mask(blob(64, 64))))


@pytest.mark.parametrize(
    "mask",
    [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.float32), np.zeros((0, 4), np.uint8)],
)
def test_only_gray_bytes_are_encoded(mask):
    with pytest.raises(ValueError, match="uint8"):
        encode_mask(mask)


def test_coverage_counts_cells_that_are_mostly_foreground():
    mask = np.zeros((256, 256), np.uint8)
    mask[:, :64] = 255
    mask[:, 64:128] = 100
    assert coverage(decode_mask(encode_mask(mask))) == 0.25


@pytest.mark.parametrize(("height", "width"), [(300, 400), (128, 128), (500, 333)])
def test_an_outline_survives(height, width):
    mask = blob(height, width)
    assert iou(mask) > 0.97
    assert len(encode_mask(mask)) < 3000


@pytest.mark.real
def test_all_ecssd_masks_keep_their_outline_in_few_bytes(real_data: Path):
    masks = [
        np.array(Image.open(path).convert("L"))
        for path in sorted((real_data / "ecssd" / "masks").glob("*.png"))
    ]
    assert len(masks) == 1000
    scores = [iou(mask) for mask in masks]
    assert np.mean(scores) >= 0.97
    assert min(scores) >= 0.9
    assert np.mean([len(encode_mask(mask)) for mask in masks]) <= 3 * 1024
