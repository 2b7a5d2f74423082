"""Corners that every executor has to get right: tiny and flat pictures, batches, threads, masks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.augment import make_executor
from pipeline.augment.agreement import BLURRED, TOLERANCE, levels
from pipeline.augment.recipe import LARGE_EVEN, LARGE_ODD
from pipeline.augment.reference import ReferenceViews
from tests.pipeline.augment.test_executors_agree import (
    BUSY,
    ODD_SIZES,
    ONE_LARGE,
    assert_equal_to_reference,
    batch_of,
    drawn,
    every_executor,
    executor_of,
    neutral,
    with_values,
)
from tests.support import decoded_batch, finished


@every_executor
def test_radius_and_threshold_are_those_of_each_view(name):
    even = replace(LARGE_EVEN, blur_divider=0.5, solarize_threshold=0.2)
    odd = replace(LARGE_ODD, blur_divider=30.0, blur_probability=1.0, solarize_threshold=0.9)
    recipe = replace(BUSY, large_even=even, large_odd=odd)
    decoded = batch_of([(97, 61), (61, 97)])
    params = drawn(recipe, decoded, seed=2)
    # One after the other: beside a threshold, the least difference of a blur is a large one.
    blurred, solarized = ({"solarize": False}, {"solarize": True, "blur_sigma": 0})
    assert_equal_to_reference(name, recipe, decoded, with_values(params, **blurred))
    assert_equal_to_reference(name, recipe, decoded, with_values(params, **solarized))


@every_executor
@pytest.mark.parametrize("size", [1, 7])
def test_tiny_views_and_those_too_small_to_blur(name, size):
    recipe = replace(BUSY, num_large=1, large_size=size, small_size=3)
    decoded = batch_of([(97, 61), (1, 9)])
    params = with_values(drawn(recipe, decoded, seed=6), blur_sigma=2.0)
    assert_equal_to_reference(name, recipe, decoded, params)


@every_executor
def test_flat_and_primary_colours(name):
    colours = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 255), (255, 0, 255), (7, 7, 7)]
    images = [np.full((5, 6, 3), colour, np.uint8) for colour in colours]
    decoded = decoded_batch(images)
    params = with_values(neutral(decoded), saturation=1.2, hue=0.33, contrast=1.3, brightness=-0.1)
    assert_equal_to_reference(name, replace(ONE_LARGE, large_size=16), decoded, params)


@every_executor
def test_batches_grow_and_shrink(name):
    executor = executor_of(name, BUSY)
    for num in (2, 5, 1, 5):
        decoded = batch_of(ODD_SIZES[:num])
        params = drawn(BUSY, decoded, seed=num)
        ours = finished(executor(decoded, params))
        expected = ReferenceViews(BUSY)(decoded, params)
        difference = (levels(ours.large, BUSY) - levels(expected.large, BUSY)).abs().max()
        assert difference <= max(TOLERANCE[name], BLURRED.get(name, 0)), num
    executor.close()


def test_threads_do_not_change_a_bit():
    decoded = batch_of(ODD_SIZES)
    params = drawn(BUSY, decoded, seed=9)
    one = make_executor("compiled", BUSY, threads=1)(decoded, params)
    four = make_executor("compiled", BUSY, threads=4)(decoded, params)
    assert torch.equal(one.large, four.large)
    assert torch.equal(one.small, four.small)


@every_executor
def test_a_sample_does_not_see_its_batch(name):
    decoded = batch_of(ODD_SIZES)
    params = drawn(BUSY, decoded, seed=9)
    together = executor_of(name, BUSY)(decoded, params)
    row = 2
    image = decoded.images.image(row).numpy()
    alone = replace(
        decoded_batch([image], [decoded.masks[row].numpy()]), sample_ids=np.array([row])
    )
    single = executor_of(name, BUSY)(alone, drawn(BUSY, alone, seed=9))
    assert torch.equal(single.large[:, 0], together.large[:, row])
    assert torch.equal(single.small[:, 0], together.small[:, row])


def test_unknown_executors_are_named():
    with pytest.raises(ValueError, match="unknown executor 'magic'; choose one of auto, "):
        make_executor("magic", BUSY)
