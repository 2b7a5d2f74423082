"""The cue of the barrier distance: known answers, the scans it is made of, threads."""

import numpy as np
import pytest
import torch

from pipeline.saliency.compiled_scan import barrier_distance
from pipeline.saliency.refine.barrier_cue import barrier_cue


def smooth_pictures(count: int, side: int = 64) -> torch.Tensor:
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.normal(size=(count, 3, 9, 9)).astype(np.float32))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")


def test_it_is_the_sum_of_channels_over_its_largest_whatever_the_size():
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


def test_it_is_scanned_of_means_of_nine_pixels():
    pictures = smooth_pictures(2)
    for picture, cue in zip(pictures.numpy(), barrier_cue(pictures)[:, 0].numpy(), strict=True):
        total = np.zeros((64, 64))
        for channel in picture:
            means = np.empty((64, 64), np.float32)
            for y in range(64):
                for x in range(64):
                    means[y, x] = channel[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].mean()
            total += barrier_distance(means)
        wanted = total / total.max()
        # a rounding may make another of two equal ways the better one
        assert np.abs(cue - wanted).mean() < 2e-3


def test_threads_do_not_change_it():
    pictures, threads = smooth_pictures(7), torch.get_num_threads()
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            found.append(barrier_cue(pictures))
        finally:
            torch.set_num_threads(threads)
    assert torch.equal(*found)
    assert torch.equal(barrier_cue(pictures[2:3]), found[0][2:3])  # nor does what is beside it
