"""What is the DALI executor's own: noise against its kernels, its buffers, threads, absence."""

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("nvidia.dali")

from pipeline.augment import dali
from pipeline.augment.agreement import levels
from pipeline.augment.dali import DaliViews
from pipeline.augment.reference import ReferenceViews
from tests.pipeline.augment.test_executors_agree import (
    BUSY,
    ODD_SIZES,
    ONE_LARGE,
    batch_of,
    drawn,
    whole,
    with_values,
)
from tests.support import decoded_batch


@pytest.mark.parametrize(
    ("interpolation", "antialias", "tolerance"),
    [
        ("bicubic", False, 0.05),
        ("bilinear", False, 0.05),
        ("bicubic", True, 0.5),  # DALI's table of the kernel; white noise is its worst case
        ("bilinear", True, 0.05),
    ],
)
@pytest.mark.parametrize("flip", [False, True])
def test_kernels_on_noise(interpolation, antialias, tolerance, flip):
    recipe = replace(ONE_LARGE, interpolation=interpolation, antialias=antialias)
    noise = np.random.default_rng(0)
    sides = [*ODD_SIZES, (41, 41), (46, 45), (39, 40)]
    decoded = decoded_batch([noise.integers(0, 256, (*s, 3), np.uint8) for s in sides])
    params = with_values(whole(decoded), flip=flip)
    ours, expected = (
        levels(executor(decoded, params).large, recipe)
        for executor in (DaliViews(recipe), ReferenceViews(recipe))
    )
    assert (ours - expected).abs().max() <= tolerance


def test_views_stay_when_the_pipeline_runs_again_or_is_gone():
    executor = DaliViews(BUSY, threads=2)
    small, large = batch_of([(9, 8), (40, 50)]), batch_of(ODD_SIZES)
    first = executor(small, drawn(BUSY, small))
    kept = first.large.clone()
    executor(large, drawn(BUSY, large))
    assert torch.equal(first.large, kept)  # memory of its own, not DALI's
    executor.close()
    again = executor(small, drawn(BUSY, small))
    assert torch.equal(again.large, kept)
    assert torch.equal(again.small, first.small)


def test_threads_do_not_change_a_bit():
    decoded = batch_of(ODD_SIZES)
    params = drawn(BUSY, decoded, seed=9)
    one, four = DaliViews(BUSY, threads=1), DaliViews(BUSY, threads=4)
    assert torch.equal(one(decoded, params).large, four(decoded, params).large)


def test_without_dali_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(dali, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"not installed; pip install .* executor 'compiled'"):
        DaliViews(BUSY)
