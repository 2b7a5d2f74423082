"""The recipe's options, in the reference, against torch, torchvision and Pillow."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.augment.params import COLOR, JITTER_ORDERS, MEAN, sample_view_params
from pipeline.augment.recipe import LARGE_EVEN, MultiCropRecipe
from pipeline.augment.reference import (
    apply_jitter,
    background_of,
    mean_levels,
    resize,
    stretched,
)
from tests.support import blob_mask, decoded_batch, textured_image

RECIPE = MultiCropRecipe(num_large=2, num_small=1, large_size=20, small_size=10)


def drawn(recipe, num=4, seed=0, **changes):
    return sample_view_params(
        recipe,
        seed=seed,
        epoch=0,
        sample_ids=np.arange(num) if "ids" not in changes else np.asarray(changes["ids"]),
        heights=np.full(num, 40, np.int32),
        widths=np.full(num, 50, np.int32),
        mask_coverage=np.full(num, 0.3, np.float32),
    )


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("height", "width", "size"), [(61, 97, 16), (7, 5, 20), (100, 8, 30)])
def test_antialias_is_that_of_torch(mode, height, width, size):
    image = textured_image(height, width) / 255
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(image.transpose(2, 0, 1))[None],
        size=(size, size),
        mode=mode,
        antialias=True,
        align_corners=False,
    )[0].numpy()
    ours = resize(image, size, mode, antialias=True).transpose(2, 0, 1)
    assert np.abs(ours - theirs).max() < 1e-12


def test_antialias_is_that_of_pillow():
    image = (textured_image(90, 75) * 0.4 + 70).astype(np.uint8)  # off black and white, see below
    for mode, filter_ in (
        ("bicubic", Image.Resampling.BICUBIC),
        ("bilinear", Image.Resampling.BILINEAR),
    ):
        pillow = np.asarray(Image.fromarray(image).resize((20, 20), filter_))
        ours = resize(image / 255, 20, mode, antialias=True) * 255
        assert np.abs(ours - pillow).max() < 1.2  # it rounds to 8 bits, and clips, in each pass


@pytest.mark.parametrize(("height", "width", "size"), [(61, 97, 16), (7, 5, 20), (1, 1, 4)])
def test_bilinear_without_antialias_is_that_of_torch(height, width, size):
    image = textured_image(height, width) / 255
    theirs = torch.nn.functional.interpolate(
        torch.from_numpy(image.transpose(2, 0, 1))[None],
        size=(size, size),
        mode="bilinear",
        align_corners=False,
    )[0].numpy()
    ours = resize(image, size, "bilinear", antialias=False).transpose(2, 0, 1)
    assert np.abs(ours - theirs).max() < 1e-12


def test_antialias_changes_nothing_where_a_crop_is_enlarged():
    image = textured_image(9, 14) / 255
    for mode in ("bicubic", "bilinear"):
        plain = resize(image, 20, mode, antialias=False)
        assert np.array_equal(plain, resize(image, 20, mode, antialias=True))


def test_torchvisions_jitter_is_torchvisions():
    from torchvision_cpu import import_torchvision

    import_torchvision()
    from torchvision.transforms.v2 import functional

    image = textured_image(12, 15) / 255
    tensor = torch.from_numpy(image.transpose(2, 0, 1))
    steps = (
        lambda x: functional.adjust_brightness(x, 1.3),
        lambda x: functional.adjust_contrast(x, 0.7),
        lambda x: functional.adjust_saturation(x, 1.6),
        lambda x: functional.adjust_hue(x, -0.08),
    )
    values = {"brightness": 0.3, "contrast": 0.7, "saturation": 1.6, "hue": -0.08}
    params = drawn(replace(RECIPE, num_large=1, num_small=0), num=1)
    params = replace(params, **{name: np.array([[value]]) for name, value in values.items()})
    for row, order in enumerate(JITTER_ORDERS):
        theirs = tensor
        for op in order:
            theirs = steps[op](theirs)
        params = replace(params, jitter_order=np.array([[row]]))
        ours = apply_jitter(image, params, 0, 0, style="torchvision")
        assert np.abs(ours.transpose(2, 0, 1) - theirs.numpy()).max() < 1e-6, order


def test_torchvisions_factors_are_never_negative():
    wild = replace(LARGE_EVEN, brightness=3.0, contrast=3.0, saturation=3.0, jitter_probability=1.0)
    recipe = replace(RECIPE, large_even=wild, large_odd=wild, jitter_style="torchvision")
    params = drawn(recipe, num=200)
    factors = np.stack([1 + params.brightness, params.contrast, params.saturation])[:, :, :2]
    assert factors.min() >= 0
    assert factors.min() < 0.1
    assert 3.8 < factors.max() <= 4
    byol = drawn(replace(recipe, jitter_style="byol"), num=200)
    assert byol.contrast[:, :2].min() < -1.5


def test_both_styles_draw_the_same_values_in_the_usual_range():
    ours, theirs = (drawn(replace(RECIPE, jitter_style=s)) for s in ("byol", "torchvision"))
    for name in ("brightness", "contrast", "saturation", "hue", "jitter_order"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name))


def test_random_gray_is_one_level_for_all_views_of_an_image():
    params = drawn(replace(RECIPE, mask_fill="random-gray"), num=500)
    assert (params.mask_color == params.mask_color[:, :1, :1]).all()
    levels = params.mask_color[:, 0, 0]
    assert len(np.unique(levels)) > 490
    assert abs(levels.mean() - 0.5) < 0.05
    assert (params.mask_source == COLOR).all()


def test_image_mean_is_rounded_half_up():
    assert mean_levels(np.array([[[0, 1, 255], [1, 2, 255]]], np.uint8)).tolist() == [1, 2, 255]
    image = textured_image(31, 17)
    params = drawn(replace(RECIPE, mask_fill="image-mean"), num=1)
    assert (params.mask_source == MEAN).all()
    levels = background_of(decoded_batch([image]), params, 0, 0)
    assert np.abs(levels - image.mean(axis=(0, 1))).max() <= 0.5


@given(
    old=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    new=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_another_image_is_stretched_to_the_nearest_pixel(old, new):
    image = textured_image(*old)
    ours = stretched(image, *new)
    assert ours.shape == (*new, 3)
    for y in range(new[0]):
        for x in (0, new[1] // 2, new[1] - 1):
            row, column = (y + 0.5) * old[0] / new[0], (x + 0.5) * old[1] / new[1]
            assert np.array_equal(ours[y, x], image[int(row + 1e-9), int(column + 1e-9)])


def test_another_image_of_the_batch_becomes_the_background():
    images = [textured_image(30, 40, seed) for seed in range(4)]
    params = drawn(replace(RECIPE, mask_fill="other-image"))
    assert params.mask_source[:, 0].tolist() == [2, 3, 0, 1]
    decoded = decoded_batch(images, [blob_mask(seed) for seed in range(4)])
    assert np.array_equal(background_of(decoded, params, 1, 0), images[3])


@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_the_other_image_does_not_depend_on_the_world_size(world_size):
    ids = np.random.default_rng(0).permutation(12)
    recipe = replace(RECIPE, mask_fill="other-image")
    whole = drawn(recipe, num=12, ids=ids)
    partner = {int(ids[row]): int(ids[whole.mask_source[row, 0]]) for row in range(12)}
    for rank in range(world_size):
        mine = ids[rank::world_size]
        params = drawn(recipe, num=len(mine), ids=mine)
        for row, sample_id in enumerate(mine):
            assert mine[params.mask_source[row, 0]] == partner[int(sample_id)] != sample_id


def test_the_other_image_needs_an_even_batch():
    with pytest.raises(ValueError, match="even number of images per process, got 3"):
        drawn(replace(RECIPE, mask_fill="other-image"), num=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"interpolation": "lanczos"}, "unknown interpolation 'lanczos'; choose one of bicubic, b"),
        ({"jitter_style": "simclr"}, "unknown jitter_style 'simclr'; choose one of byol, torch"),
        ({"mask_fill": "black"}, "unknown mask_fill 'black'; choose one of constant, random-gray"),
        ({"mask_color": (0.0, 1.2, 0.0)}, r"mask_color must be RGB in 0..1, got \(0.0, 1.2, 0.0\)"),
    ],
)
def test_unknown_options_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        MultiCropRecipe(**changes)
