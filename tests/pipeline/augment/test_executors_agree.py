"""One body for every executor: the same params give the reference's pixels."""

import importlib.util
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.augment import make_executor
from pipeline.augment.agreement import TOLERANCE, disagreement, tolerances
from pipeline.augment.params import ViewParams, centre_view_params, sample_view_params
from pipeline.augment.recipe import LARGE_EVEN, LARGE_ODD, SMALL, MultiCropRecipe
from pipeline.augment.reference import ReferenceViews
from tests.support import blob_mask, decoded_batch, finished, textured_image

BUSY = MultiCropRecipe(
    num_large=2,
    num_small=1,
    large_size=31,
    small_size=21,
    large_even=replace(LARGE_EVEN, mask_probability=0.5, solarize_probability=0.3),
    large_odd=replace(LARGE_ODD, blur_probability=0.5, mask_probability=0.5),
    small=replace(SMALL, mask_probability=0.5),
    mask_color=(0.2, 0.9, 0.5),
)
ONE_LARGE = replace(BUSY, num_large=1, num_small=0)
ODD_SIZES = [(1, 1), (3, 777), (97, 61), (61, 97), (1, 9), (200, 300)]


def installed(package):
    return pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} is not installed"
    )


PACKAGES = {"compiled": "numba", "dali": "nvidia.dali", "fused": "triton"}
NATIVE = [pytest.mark.gpu] if torch.cuda.is_available() else []  # fused is not interpreted there
every_executor = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[installed(PACKAGES[name]), *(NATIVE if name == "fused" else [])])
        for name in TOLERANCE
    ],
)


def executor_of(name, recipe):
    """The executor, on the GPU where it is made for one; else Triton's interpreter stands in."""
    if name == "fused" and not torch.cuda.is_available():
        from pipeline.augment.fused import FusedViews  # choose_executor would refuse the device

        return FusedViews(recipe, device=torch.device("cpu"), crop_tile=(64, 64))
    return make_executor(name, recipe, device=torch.device("cuda" if name == "fused" else "cpu"))


def assert_equal_to_reference(name, recipe, decoded, params):
    executor = executor_of(name, recipe)
    ours = finished(executor(decoded, params))
    expected = ReferenceViews(recipe)(decoded, params)
    assert ours.large.shape == expected.large.shape
    assert ours.small.shape == expected.small.shape
    assert not disagreement(ours, expected, tolerances(name, recipe, params), recipe)
    assert torch.equal(ours.labels.cpu(), decoded.labels)
    assert np.array_equal(ours.sample_ids, decoded.sample_ids)
    executor.close()


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


def batch_of(sizes):
    images = [textured_image(h, w, seed=i) for i, (h, w) in enumerate(sizes)]
    return decoded_batch(images, [blob_mask(i) for i in range(len(images))])


def with_values(params, **values):
    shape = params.flip.shape
    arrays = {
        key: np.broadcast_to(np.asarray(value, getattr(params, key).dtype), shape).copy()
        for key, value in values.items()
    }
    return replace(params, **arrays)


def neutral(decoded) -> ViewParams:
    """One view: the centre of each image, and nothing else."""
    return centre_view_params(decoded.images.heights.numpy(), decoded.images.widths.numpy())


def whole(decoded) -> ViewParams:
    """One view: each image from edge to edge."""
    heights, widths = decoded.images.heights.numpy(), decoded.images.widths.numpy()
    zeros = np.zeros((len(heights), 1), np.int32)
    return replace(
        neutral(decoded),
        crop_top=zeros,
        crop_left=zeros,
        crop_height=heights[:, None],
        crop_width=widths[:, None],
    )


@every_executor
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_random_tables(name, seed):
    decoded = batch_of(ODD_SIZES)
    assert_equal_to_reference(name, BUSY, decoded, drawn(BUSY, decoded, seed=seed))


@every_executor
@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**32 - 1),
    interpolation=st.sampled_from(["bicubic", "bilinear"]),
    antialias=st.booleans(),
    jitter_style=st.sampled_from(["byol", "torchvision"]),
    mask_fill=st.sampled_from(["constant", "random-gray", "image-mean", "other-image"]),
)
def test_random_tables_of_random_recipes(name, seed, **options):
    recipe = replace(BUSY, **options)
    decoded = batch_of([(1, 1), (3, 77), (97, 61), (60, 80)])
    assert_equal_to_reference(name, recipe, decoded, drawn(recipe, decoded, seed=seed))


@every_executor
def test_full_size_views(name):
    recipe = MultiCropRecipe()
    decoded = batch_of([(375, 500)])
    assert_equal_to_reference(name, recipe, decoded, drawn(recipe, decoded, seed=4))


@every_executor
def test_a_large_photo(name):
    decoded = batch_of([(3000, 4000)])
    assert_equal_to_reference(name, BUSY, decoded, drawn(BUSY, decoded, seed=3))
    assert_equal_to_reference(name, ONE_LARGE, decoded, with_values(whole(decoded), mask=True))


@every_executor
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("antialias", [False, True])
def test_geometry_of_whole_images(name, interpolation, antialias):
    recipe = replace(ONE_LARGE, interpolation=interpolation, antialias=antialias)
    decoded = batch_of([(1, 1), (3, 177), (97, 61), (30, 32), (31, 31)])
    for flip in (False, True):
        params = with_values(whole(decoded), flip=flip)
        assert_equal_to_reference(name, recipe, decoded, params)


SINGLE_OPS = [
    {"flip": True},
    {"brightness": 0.4},
    {"brightness": -1.0},
    {"contrast": 0.0},
    {"contrast": 3.0},
    {"saturation": 0.0},
    {"saturation": 5.0},
    {"hue": 0.5},
    {"hue": -0.5},
    {"hue": 0.1},
    {"grayscale": True},
    {"blur_sigma": 1e-20},
    {"blur_sigma": 0.1},
    {"blur_sigma": 2.0},
    {"blur_sigma": 50.0},
    {"solarize": True},
    {"mask": True},
    {},
]


@every_executor
@pytest.mark.parametrize("style", ["byol", "torchvision"])
@pytest.mark.parametrize("values", SINGLE_OPS, ids=str)
def test_each_op_alone_and_extreme(name, style, values):
    decoded = batch_of([(1, 1), (97, 61), (200, 300)])
    params = with_values(neutral(decoded), **values)
    assert_equal_to_reference(name, replace(ONE_LARGE, jitter_style=style), decoded, params)


@every_executor
@pytest.mark.parametrize("values", [{"saturation": -0.5}, {"contrast": -1.0}], ids=str)
def test_negative_factors_that_only_byols_range_allows(name, values):
    decoded = batch_of([(97, 61)])
    params = with_values(neutral(decoded), **values)
    assert_equal_to_reference(name, ONE_LARGE, decoded, params)


@every_executor
@pytest.mark.parametrize("style", ["byol", "torchvision"])
def test_all_orders(name, style):
    recipe = replace(ONE_LARGE, large_size=16, jitter_style=style)
    decoded = decoded_batch([textured_image(30, 40)] * 24)
    params = with_values(neutral(decoded), brightness=0.3, contrast=1.4, saturation=0.7, hue=0.1)
    params = replace(params, jitter_order=np.arange(24, dtype=np.uint8)[:, None])
    assert_equal_to_reference(name, recipe, decoded, params)


@every_executor
@pytest.mark.parametrize(
    ("style", "antialias"), [("byol", False), ("torchvision", False), ("torchvision", True)]
)
def test_strong_colours_in_all_orders(name, style, antialias):
    recipe = replace(ONE_LARGE, large_size=16, jitter_style=style, antialias=antialias)
    decoded = decoded_batch([textured_image(30, 40)] * 24)
    params = with_values(whole(decoded), brightness=0.3, contrast=3.0, saturation=5.0, hue=0.4)
    params = replace(params, jitter_order=np.arange(24, dtype=np.uint8)[:, None])
    assert_equal_to_reference(name, recipe, decoded, params)


@every_executor
@pytest.mark.parametrize("fill", ["constant", "random-gray", "image-mean", "other-image"])
def test_all_fills(name, fill):
    recipe = replace(BUSY, mask_fill=fill)
    decoded = batch_of([(97, 61), (30, 300), (1, 1), (64, 64)])
    params = with_values(drawn(recipe, decoded, seed=5), mask=True, blur_sigma=0)
    assert_equal_to_reference(name, recipe, decoded, params)
