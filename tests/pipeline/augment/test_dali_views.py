"""The DALI graph gives the reference's pixels: every op, order, kernel, fill and size."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("nvidia.dali")

from pipeline.augment import dali
from pipeline.augment.dali import DaliViews
from pipeline.augment.params import COLOR, MEAN, centre_view_params, sample_view_params
from pipeline.augment.recipe import LARGE_EVEN, LARGE_ODD, SMALL, MultiCropRecipe
from pipeline.augment.reference import ReferenceViews
from tests.support import blob_mask, decoded_batch, textured_image

# Levels of 255. What is left is float32: 0.002 of the colours, 0.016 of DALI's positions in a
# picture of 777 pixels of noise.
TOLERANCE = 0.05
TABLE = 0.5  # a widened cubic comes from DALI's table; measured 0.2 in noise, before the colours

BUSY = MultiCropRecipe(
    num_large=2,
    num_small=1,
    large_size=40,
    small_size=21,
    large_even=replace(LARGE_EVEN, mask_probability=0.5, solarize_probability=0.3),
    large_odd=replace(LARGE_ODD, blur_probability=0.5, mask_probability=0.5),
    small=replace(SMALL, mask_probability=0.5),
)
ONE_VIEW = replace(BUSY, num_large=1, num_small=0)
ODD_SIZES = [(1, 1), (3, 777), (97, 61), (61, 97), (1, 9), (200, 300)]

executor_of = cache(DaliViews)  # a graph takes a second to build


def odd_batch(sizes=ODD_SIZES):
    images = [textured_image(h, w, seed=i) for i, (h, w) in enumerate(sizes)]
    return decoded_batch(images, [blob_mask(i) for i in range(len(images))])


def drawn(recipe, decoded, seed=0):
    return sample_view_params(
        recipe,
        seed=seed,
        epoch=0,
        sample_ids=decoded.sample_ids,
        heights=decoded.images.heights.numpy(),
        widths=decoded.images.widths.numpy(),
        mask_coverage=np.full(len(decoded.sample_ids), 0.3, np.float32),
    )


def neutral(decoded):
    return centre_view_params(decoded.images.heights.numpy(), decoded.images.widths.numpy())


def with_values(params, **values):
    arrays = {
        key: np.broadcast_to(
            np.asarray(value, getattr(params, key).dtype), getattr(params, key).shape
        ).copy()
        for key, value in values.items()
    }
    return replace(params, **arrays)


def levels_apart(recipe, decoded, params, executor=None):
    ours = (executor or executor_of(recipe))(decoded, params)
    expected = ReferenceViews(recipe)(decoded, params)
    scale = torch.tensor(recipe.std)[:, None, None] * 255
    apart = 0.0
    for got, want in ((ours.large, expected.large), (ours.small, expected.small)):
        assert got.shape == want.shape
        assert got.dtype == torch.float32
        if want.numel():
            apart = max(apart, float(((got - want) * scale).abs().max()))
    assert torch.equal(ours.labels, decoded.labels)
    assert np.array_equal(ours.sample_ids, decoded.sample_ids)
    return apart


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_tables(seed):
    decoded = odd_batch()
    assert levels_apart(BUSY, decoded, drawn(BUSY, decoded, seed)) <= TOLERANCE


EXTREMES = [
    {},
    {"flip": True},
    {"brightness": 1.0},
    {"brightness": -1.0},
    {"brightness": 0.4},
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
    {"mask": True, "mask_color": (0.2, 0.9, 0.5)},
]


@pytest.mark.parametrize("style", ["byol", "torchvision"])
@pytest.mark.parametrize("values", EXTREMES, ids=str)
def test_each_op_alone_and_extreme(style, values):
    recipe, decoded = replace(ONE_VIEW, jitter_style=style), odd_batch()
    params = with_values(neutral(decoded), **values)
    assert levels_apart(recipe, decoded, params) <= TOLERANCE


@pytest.mark.parametrize("style", ["byol", "torchvision"])
def test_all_orders(style):
    recipe = replace(ONE_VIEW, jitter_style=style)
    decoded = decoded_batch([textured_image(30, 40)] * 24)
    params = with_values(neutral(decoded), brightness=0.3, contrast=1.4, saturation=0.7, hue=0.1)
    params = replace(params, jitter_order=np.arange(24, dtype=np.uint8)[:, None])
    assert levels_apart(recipe, decoded, params) <= TOLERANCE


def test_flat_and_primary_colours():
    colours = [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 255), (255, 0, 255), (7, 7, 7)]
    decoded = decoded_batch([np.full((5, 6, 3), colour, np.uint8) for colour in colours])
    params = with_values(neutral(decoded), saturation=1.2, hue=0.33, contrast=1.3, brightness=-0.1)
    assert levels_apart(ONE_VIEW, decoded, params) <= TOLERANCE


@pytest.mark.parametrize(
    ("interpolation", "antialias", "tolerance"),
    [
        ("bicubic", False, TOLERANCE),
        ("bilinear", False, TOLERANCE),
        ("bicubic", True, TABLE),
        ("bilinear", True, TOLERANCE),
    ],
)
@pytest.mark.parametrize("flip", [False, True])
def test_kernels_on_noise(interpolation, antialias, tolerance, flip):
    recipe = replace(ONE_VIEW, interpolation=interpolation, antialias=antialias)
    noise = np.random.default_rng(0)
    sides = [*ODD_SIZES, (41, 41), (46, 45), (39, 40)]
    decoded = decoded_batch([noise.integers(0, 256, (*s, 3), np.uint8) for s in sides])
    whole = with_values(neutral(decoded), crop_top=0, crop_left=0, flip=flip)
    whole = replace(
        whole,
        crop_height=decoded.images.heights.numpy()[:, None],
        crop_width=decoded.images.widths.numpy()[:, None],
    )
    assert levels_apart(recipe, decoded, whole) <= tolerance


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_large_picture(interpolation):
    recipe = replace(ONE_VIEW, interpolation=interpolation)
    decoded = odd_batch([(1500, 2000)])
    params = with_values(neutral(decoded), crop_top=1, crop_left=0, flip=True)
    params = with_values(params, crop_height=1499, crop_width=2000)
    assert levels_apart(recipe, decoded, params) <= TOLERANCE


@pytest.mark.parametrize("source", [COLOR, MEAN, 1])
def test_every_fill(source):
    decoded = odd_batch()
    params = with_values(drawn(BUSY, decoded, seed=5), mask=True, mask_source=source)
    params = with_values(params, mask_color=(0.1, 0.5, 1.0))
    assert levels_apart(BUSY, decoded, params) <= TOLERANCE


@pytest.mark.parametrize("fill", ["constant", "random-gray", "image-mean", "other-image"])
def test_drawn_fills(fill):
    recipe, decoded = replace(BUSY, mask_fill=fill), odd_batch()
    executor = executor_of(BUSY)  # the fill is in the params alone
    assert levels_apart(recipe, decoded, drawn(recipe, decoded, 3), executor) <= TOLERANCE


def test_full_size_views():
    recipe = MultiCropRecipe(num_large=2, num_small=1)
    decoded = odd_batch([(375, 500), (500, 333)])
    assert levels_apart(recipe, decoded, drawn(recipe, decoded, 4)) <= TOLERANCE


def test_a_view_too_small_to_blur_is_not_blurred():
    recipe, decoded = replace(ONE_VIEW, large_size=7), odd_batch()
    params = with_values(neutral(decoded), blur_sigma=2.0)
    assert levels_apart(recipe, decoded, params) <= TOLERANCE


def test_batches_grow_and_shrink_and_views_stay():
    executor = DaliViews(BUSY, threads=2)
    small, large = odd_batch([(9, 8), (40, 50)]), odd_batch()
    first = executor(small, drawn(BUSY, small))
    kept = first.large.clone()
    for decoded in (large, small, odd_batch([(30, 20)])):
        assert levels_apart(BUSY, decoded, drawn(BUSY, decoded), executor) <= TOLERANCE
    assert torch.equal(first.large, kept)  # memory of its own, not DALI's
    executor.close()
    again = executor(small, drawn(BUSY, small))
    assert torch.equal(again.large, kept)
    assert torch.equal(again.small, first.small)


def test_threads_do_not_change_a_bit():
    decoded = odd_batch()
    params = drawn(BUSY, decoded, seed=9)
    one, four = executor_of(BUSY), DaliViews(BUSY, threads=4)
    assert torch.equal(one(decoded, params).large, four(decoded, params).large)


def test_without_dali_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(dali, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"not installed; pip install .* executor 'compiled'"):
        DaliViews(BUSY)
