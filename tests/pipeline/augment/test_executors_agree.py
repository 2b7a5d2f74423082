"""One body for every executor: the same params give the reference's pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.augment import make_executor
from pipeline.augment.params import ViewParams, centre_view_params, sample_view_params
from pipeline.augment.recipe import LARGE_EVEN, LARGE_ODD, SMALL, MultiCropRecipe
from pipeline.augment.reference import ReferenceViews
from tests.support import blob_mask, decoded_batch, textured_image

# Levels of 255, before normalisation. The reference is float64; float32 with four taps, two blurs
# and an HSV round trip loses a few units in the last place, 1/1000 of a level at most.
TOLERANCE = {"compiled": 0.01}

BUSY = MultiCropRecipe(
    num_large=2,
    num_small=1,
    large_size=40,
    small_size=21,
    large_even=replace(LARGE_EVEN, mask_probability=0.5, solarize_probability=0.3),
    large_odd=replace(LARGE_ODD, blur_probability=0.5, mask_probability=0.5),
    small=replace(SMALL, mask_probability=0.5),
    mask_fill=(0.2, 0.9, 0.5),
)
ODD_SIZES = [(1, 1), (3, 177), (97, 61), (61, 97), (1, 9), (200, 300)]


def levels(views, recipe):
    std = torch.tensor(recipe.std)[:, None, None]
    mean = torch.tensor(recipe.mean)[:, None, None]
    return (views * std + mean) * 255


def assert_equal_to_reference(name, recipe, decoded, params, threads=1):
    executor = make_executor(name, recipe, threads=threads)
    ours, expected = executor(decoded, params), ReferenceViews(recipe)(decoded, params)
    assert ours.large.shape == expected.large.shape
    assert ours.small.shape == expected.small.shape
    for got, want in ((ours.large, expected.large), (ours.small, expected.small)):
        if want.numel():
            difference = (levels(got, recipe) - levels(want, recipe)).abs().amax(dim=(2, 3, 4))
            assert difference.max() <= TOLERANCE[name], difference
    assert torch.equal(ours.labels, decoded.labels)
    assert np.array_equal(ours.sample_ids, decoded.sample_ids)


def drawn(recipe, decoded, seed=0, epoch=0):
    return sample_view_params(
        recipe,
        seed=seed,
        epoch=epoch,
        sample_ids=decoded.sample_ids,
        heights=decoded.images.heights.numpy(),
        widths=decoded.images.widths.numpy(),
        mask_coverage=np.full(len(decoded.sample_ids), 0.3, np.float32),
    )


def odd_batch():
    images = [textured_image(h, w, seed=i) for i, (h, w) in enumerate(ODD_SIZES)]
    return decoded_batch(images, [blob_mask(i) for i in range(len(images))])


@pytest.mark.parametrize("name", sorted(TOLERANCE))
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_tables(name, seed):
    decoded = odd_batch()
    assert_equal_to_reference(name, BUSY, decoded, drawn(BUSY, decoded, seed=seed))


@pytest.mark.parametrize("name", sorted(TOLERANCE))
def test_full_size_views(name):
    recipe = MultiCropRecipe()
    decoded = decoded_batch(
        [textured_image(375, 500, 1), textured_image(500, 333, 2)], [blob_mask(1), blob_mask(2)]
    )
    assert_equal_to_reference(name, recipe, decoded, drawn(recipe, decoded, seed=4))


def with_values(params, **values):
    shape = params.flip.shape
    arrays = {
        key: np.broadcast_to(np.asarray(value, getattr(params, key).dtype), shape).copy()
        for key, value in values.items()
    }
    return replace(params, **arrays)


NEUTRAL_RECIPE = replace(BUSY, num_large=1, num_small=0)


def neutral(decoded) -> ViewParams:
    heights, widths = decoded.images.heights.numpy(), decoded.images.widths.numpy()
    return centre_view_params(heights, widths)


SINGLE_OPS = [
    {"flip": True},
    {"brightness": 0.4},
    {"brightness": -1.0},
    {"contrast": 0.0},
    {"contrast": 3.0},
    {"saturation": 0.0},
    {"saturation": 5.0},
    {"saturation": -0.5},
    {"hue": 0.5},
    {"hue": -0.5},
    {"hue": 0.1},
    {"grayscale": True},
    {"blur_sigma": 0.1},
    {"blur_sigma": 2.0},
    {"blur_sigma": 50.0},
    {"solarize": True},
    {"mask": True},
    {},
]


@pytest.mark.parametrize("name", sorted(TOLERANCE))
@pytest.mark.parametrize("values", SINGLE_OPS, ids=str)
def test_each_op_alone_and_extreme(name, values):
    decoded = odd_batch()
    params = with_values(neutral(decoded), **values)
    assert_equal_to_reference(name, NEUTRAL_RECIPE, decoded, params)


@pytest.mark.parametrize("name", sorted(TOLERANCE))
def test_all_orders(name):
    image = textured_image(30, 40)
    decoded = decoded_batch([image] * 24)
    params = with_values(neutral(decoded), brightness=0.3, contrast=1.4, saturation=0.7, hue=0.1)
    params = replace(params, jitter_order=np.arange(24, dtype=np.uint8)[:, None])
    assert_equal_to_reference(name, NEUTRAL_RECIPE, decoded, params)


@pytest.mark.parametrize("name", sorted(TOLERANCE))
def test_flat_and_primary_colours(name):
    colours = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 255), (255, 0, 255), (7, 7, 7)]
    images = [np.full((5, 6, 3), colour, np.uint8) for colour in colours]
    decoded = decoded_batch(images)
    params = with_values(neutral(decoded), saturation=1.2, hue=0.33, contrast=1.3, brightness=-0.1)
    assert_equal_to_reference(name, NEUTRAL_RECIPE, decoded, params)


def test_threads_do_not_change_a_bit():
    decoded = odd_batch()
    params = drawn(BUSY, decoded, seed=9)
    one = make_executor("compiled", BUSY, threads=1)(decoded, params)
    four = make_executor("compiled", BUSY, threads=4)(decoded, params)
    assert torch.equal(one.large, four.large)
    assert torch.equal(one.small, four.small)


def test_a_sample_does_not_see_its_batch():
    decoded = odd_batch()
    params = drawn(BUSY, decoded, seed=9)
    whole = make_executor("compiled", BUSY)(decoded, params)
    row = 2
    image = decoded.images.image(row).numpy()
    alone = replace(
        decoded_batch([image], [decoded.masks[row].numpy()]), sample_ids=np.array([row])
    )
    single = make_executor("compiled", BUSY)(alone, drawn(BUSY, alone, seed=9))
    assert torch.equal(single.large[:, 0], whole.large[:, row])
    assert torch.equal(single.small[:, 0], whole.small[:, row])


def test_the_masked_picture_and_the_mask_share_their_geometry():
    # Geometry lock: a picture that is the mask, masked by itself, keeps its foreground everywhere.
    grid = blob_mask(3)
    decoded = odd_batch()
    images = [
        np.repeat(np.where(reference_foreground(grid, h, w), 255, 0)[..., None], 3, axis=2)
        for h, w in ODD_SIZES
    ]
    decoded = decoded_batch([image.astype(np.uint8) for image in images], [grid] * len(images))
    recipe = replace(BUSY, mask_fill=(0.0, 0.0, 0.0))
    params = with_values(drawn(recipe, decoded, seed=5), mask=True)
    unmasked = with_values(params, mask=False)
    for name in (*TOLERANCE, "reference"):
        executor = make_executor(name, recipe)
        assert torch.equal(executor(decoded, params).large, executor(decoded, unmasked).large)


def reference_foreground(grid, height, width):
    from pipeline.augment.reference import salience_limit
    from pipeline.saliency.codec import mask_at_pixels

    return mask_at_pixels(grid, height, width) > salience_limit(0.5)


def test_unknown_executors_are_named():
    with pytest.raises(ValueError, match="unknown executor 'magic'; choose one of auto, compiled"):
        make_executor("magic", BUSY)
