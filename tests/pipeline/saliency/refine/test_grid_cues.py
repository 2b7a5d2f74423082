"""Manifold ranking and the absorbing chain on a grid, against their definitions in plain numpy."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.saliency.refine.grid_cues import grid_cues

CELLS = 16


def scene(seed: int, side: int = 64) -> np.ndarray:
    """A blob of one colour on another, with noise: float32 [3, side, side]."""
    rng = np.random.default_rng(seed)
    picture = rng.normal(scale=0.2, size=(3, side, side)).astype(np.float32)
    y, x = np.ogrid[:side, :side]
    inside = ((y - side * 0.55) / (side * 0.2)) ** 2 + ((x - side * 0.45) / (side * 0.25)) ** 2 < 1
    return picture + inside * rng.normal(scale=2, size=(3, 1, 1)).astype(np.float32)


def stretched(values: np.ndarray) -> np.ndarray:
    return (values - values.min()) / (values.max() - values.min())


def transcribed(picture: np.ndarray) -> np.ndarray:
    """The three maps of the cells, [3, 16, 16]: each pair of cells looked at by itself."""
    step = picture.shape[1] // CELLS
    cells = [(y, x) for y in range(CELLS) for x in range(CELLS)]
    colours = {
        (y, x): picture[:, y * step :, x * step :][:, :step, :step].astype(float).mean(axis=(1, 2))
        for y, x in cells
    }
    sides = [
        [y == 0 for y, _ in cells],
        [y == CELLS - 1 for y, _ in cells],
        [x == 0 for _, x in cells],
        [x == CELLS - 1 for _, x in cells],
    ]
    border = np.any(sides, axis=0)
    count = len(cells)
    weights, absorbed = np.zeros((count, count)), np.zeros(count)
    for i, a in enumerate(cells):
        for j, b in enumerate(cells):
            affinity = max(np.exp(-np.linalg.norm(colours[a] - colours[b]) / 0.25), 1e-4)
            near = max(abs(a[0] - b[0]), abs(a[1] - b[1])) <= 2
            if i != j and not (near or (border[i] and border[j])):
                continue
            if i != j:
                weights[i, j] = affinity
            if border[j]:  # its double
                absorbed[i] += affinity
    degree = weights.sum(axis=1)
    ranks = np.linalg.inv(np.diag(degree) - 0.99 * weights)
    np.fill_diagonal(ranks, 0)
    unlike = np.ones(count)
    for side in sides:
        unlike *= 1 - stretched(ranks @ np.array(side, float))
    unlike = stretched(unlike)
    like = stretched(ranks @ (unlike >= unlike.mean()).astype(float))
    # a step of the chain: to what is linked, or to a double, in proportion to affinity
    steps = weights / (degree + absorbed)[:, None]
    fundamental = np.linalg.inv(np.eye(count) - steps)
    time = stretched(fundamental.sum(axis=1))
    return np.stack([unlike, like, time]).reshape(3, CELLS, CELLS)


def black_on_white(places: list[tuple[int, int, int, int]]) -> np.ndarray:
    """Rectangles that nothing but the least affinity ties to what is around them."""
    picture = np.full((3, 64, 64), 2.4, np.float32)
    for top, left, bottom, right in places:
        picture[:, top:bottom, left:right] = -2.1
    return picture


@pytest.mark.parametrize(
    "picture",
    [
        scene(0),
        scene(1),
        black_on_white([(20, 16, 48, 40)]),
        black_on_white([(8, 8, 24, 32), (36, 20, 60, 28), (40, 44, 52, 52)]),
    ],
)
def test_they_are_their_definitions(picture):
    found = grid_cues(torch.from_numpy(picture)[None])[0].numpy()
    assert found.shape == (3, 64, 64)
    for cue, cells in zip(found, transcribed(picture), strict=True):
        wanted = cv2.resize(cells, (64, 64), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(cue, wanted, atol=2e-3)


@pytest.mark.parametrize("seed", range(4))
def test_an_object_in_the_middle_stands_out_in_each(seed):
    found = grid_cues(torch.from_numpy(scene(seed))[None])[0]
    for cue in found:
        assert cue[30:40, 26:34].mean() > 0.6
        assert cue[:8].mean() < 0.25


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_mirrored_pictures_have_mirrored_cues_whoever_is_beside_them(seed):
    pictures = torch.from_numpy(np.stack([scene(seed), scene(seed + 1)]))
    found = grid_cues(pictures)
    torch.testing.assert_close(grid_cues(pictures.flip(3)).flip(3), found, atol=2e-3, rtol=0)
    torch.testing.assert_close(grid_cues(pictures[1:]), found[1:], atol=2e-3, rtol=0)
    assert found.min() >= 0
    assert found.max() <= 1


def test_cells_that_are_like_nothing_are_not_cut_off():
    """Affinities of exp(-400) are 0 in float32: a matrix of such rows has no factor."""
    pictures = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 16, 16)) * 100).float()
    assert torch.isfinite(grid_cues(pictures)).all()


@pytest.mark.parametrize("level", [-2.0, 0.0, 2.0])
def test_nothing_stands_out_of_one_colour_and_noise_is_not_stretched(level):
    flat = torch.full((2, 3, 64, 64), level)
    assert (grid_cues(flat) == 0).all()
    noise = flat + 0.01 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(0))
    assert grid_cues(noise).max() < 0.2
