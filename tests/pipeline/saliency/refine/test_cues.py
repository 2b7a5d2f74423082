"""What the student is told of the border, against the definition in plain numpy."""

import numpy as np
import pytest
import torch

from pipeline.saliency.refine.barrier_cue import barrier_cue
from pipeline.saliency.refine.cues import NUM_CUES, student_cues
from pipeline.saliency.refine.grid_cues import grid_cues


def drawn(height: int, width: int) -> torch.Tensor:
    pixels = np.random.default_rng(3).normal(size=(2, 3, height, width)).astype(np.float32)
    pixels[:, :, height // 3 : height // 2, width // 4 : width // 2] += 3
    return torch.from_numpy(pixels)


def transcribed(picture: np.ndarray) -> np.ndarray:
    """Distances to the sides, the least first, and to the whole: [5, h, w], pixel by pixel."""
    height, width = picture.shape[1:]
    r, g, b = picture.astype(np.float64)
    colours = np.stack([(r + g + b) / 3, r - g, (r + g) / 2 - b])
    high, wide = max(1, round(0.08 * height)), max(1, round(0.08 * width))
    regions = [colours[:, :high], colours[:, -high:], colours[:, :, :wide], colours[:, :, -wide:]]
    found = []
    for region in [*regions, colours]:
        known = region.reshape(3, -1)
        inverse = np.linalg.inv(np.cov(known, bias=True) + 0.02 * np.eye(3))
        away = colours - known.mean(axis=1)[:, None, None]
        distance = np.sqrt(np.einsum("ihw,ij,jhw->hw", away, inverse, away))
        found.append(distance / distance.max())
    return np.concatenate([np.sort(found[:4], axis=0), found[4:]])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (29, 40)])
def test_distances_are_those_of_mahalanobis(height, width):
    pictures = drawn(height, width)
    cues = student_cues(pictures).numpy()
    assert cues.shape == (2, NUM_CUES, height, width)
    for picture, found in zip(pictures.numpy(), cues, strict=True):
        np.testing.assert_allclose((found[:5] + 0.9) / 3, transcribed(picture), atol=1e-4)


def test_places_run_from_top_to_bottom_and_from_the_middle_to_the_sides():
    rows, columns = student_cues(drawn(5, 5))[0, 5:7].numpy()
    np.testing.assert_allclose(rows[:, 2], [-1, -0.5, 0, 0.5, 1])
    np.testing.assert_allclose(columns[2], [1, 0, -1, 0, 1])


def test_a_mirrored_picture_has_mirrored_cues():
    pictures = drawn(24, 31)
    apart = (student_cues(pictures.flip(3)).flip(3) - student_cues(pictures)).abs()
    assert apart[:, 7].mean() < 0.1  # scans begin in a corner
    apart[:, 7] = 0
    assert apart.max() < 1e-3


def test_one_colour_is_at_no_distance():
    assert student_cues(torch.full((1, 3, 16, 16), -2.0))[0, :5].numpy() == pytest.approx(-0.9)


def test_the_last_cues_are_the_barrier_distance_and_those_of_the_grid():
    pictures = drawn(40, 48)
    red, green, blue = pictures.unbind(1)
    colours = torch.stack([(red + green + blue) / 3, red - green, (red + green) / 2 - blue], dim=1)
    found = (student_cues(pictures)[:, 7:] + 0.9) / 3
    torch.testing.assert_close(found[:, :1], barrier_cue(colours), atol=1e-5, rtol=0)
    torch.testing.assert_close(found[:, 1:], grid_cues(colours), atol=1e-5, rtol=0)
