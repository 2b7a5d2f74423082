"""The reference against other people's code where they agree, and BYOL's formulas where not."""

import colorsys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from pipeline.augment import reference
from pipeline.augment.params import COLOR, JITTER_ORDERS, ViewParams
from pipeline.augment.recipe import LARGE_EVEN, MultiCropRecipe
from pipeline.augment.reference import (
    apply_blur,
    apply_jitter,
    apply_view,
    blur_radius,
    hsv_to_rgb,
    resize,
    resize_weights,
    rgb_to_hsv,
)
from tests.support import blob_mask, decoded_batch, textured_image


def params_of(**values):
    """Neutral params of one view, with some values set."""
    neutral = {
        "crop_top": 0,
        "crop_left": 0,
        "crop_height": 8,
        "crop_width": 8,
        "flip": False,
        "brightness": 0.0,
        "contrast": 1.0,
        "saturation": 1.0,
        "hue": 0.0,
        "jitter_order": 0,
        "grayscale": False,
        "blur_sigma": 0.0,
        "solarize": False,
        "mask": False,
        "mask_source": COLOR,
    } | values
    color = neutral.pop("mask_color", (0.5, 0.5, 0.5))
    arrays = {name: np.array([[value]]) for name, value in neutral.items()}
    return ViewParams(**arrays, mask_color=np.array([[color]], np.float32))


ONE_VIEW = MultiCropRecipe(num_large=1, num_small=0, large_size=16, mean=(0, 0, 0), std=(1, 1, 1))
FULL = np.full((128, 128), 255, np.uint8)


def view_of(image, recipe=ONE_VIEW, grid=FULL, **values):
    values = {"crop_height": image.shape[0], "crop_width": image.shape[1]} | values
    return apply_view(decoded_batch([image], [grid]), params_of(**values), 0, 0, recipe)


def bicubic(image, size):
    return resize(image, size, "bicubic", antialias=False)


def bicubic_weights(length, size):
    return resize_weights(length, size, "bicubic", antialias=False)


def test_upsampling_equals_pillows_bicubic():
    # Pillow's cubic is Keys with a = -0.5 too; it antialiases only when it shrinks, and it
    # renormalises at the border as TensorFlow does. It clips between its two passes, so the picture
    # keeps off black and white.
    image = (textured_image(24, 24) * 0.4 + 70).astype(np.uint8)
    ours = bicubic(image / 255.0, 60).clip(0, 1) * 255
    pillow = np.asarray(Image.fromarray(image).resize((60, 60), Image.Resampling.BICUBIC))
    assert np.abs(ours - pillow).max() < 1.2  # it rounds to 8 bits in each pass


def test_shrinking_does_not_antialias():
    stripes = np.zeros((64, 64, 3))
    stripes[:, ::2] = 1.0
    # Half-pixel centres of a factor 4 fall between the same two columns each time.
    weights = bicubic_weights(64, 16)
    assert (np.count_nonzero(weights, axis=1) <= 4).all()
    columns = bicubic(stripes, 16)[8, :, 0]
    assert np.ptp(columns) < 1e-12


def test_weights_are_torchs_cubic_with_another_constant():
    # torch uses a = -0.75 and clamps at the border: compare the kernel through a = -0.5 inside.
    impulse = torch.zeros(1, 1, 1, 21)
    impulse[..., 10] = 1
    torch_075 = torch.nn.functional.interpolate(
        impulse, size=(1, 84), mode="bicubic", align_corners=False
    )[0, 0, 0].numpy()
    ours = bicubic_weights(21, 84)[:, 10]
    centre = (np.arange(84) + 0.5) / 4 - 0.5 - 10
    x = np.abs(centre)
    difference = np.where(x <= 1, -0.25 * (x**3 - x**2), -0.25 * (x**3 - 5 * x**2 + 8 * x - 4))
    assert np.abs(torch_075 - ours - np.where(x < 2, difference, 0)).max() < 1e-6


@pytest.mark.parametrize("length", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("size", [1, 4, 16, 50])
def test_weights_sum_to_one(length, size):
    weights = bicubic_weights(length, size)
    assert np.allclose(weights.sum(axis=1), 1)
    constant = bicubic(np.full((length, length, 3), 0.3), size)
    assert np.allclose(constant, 0.3)


def test_same_size_is_the_identity():
    image = textured_image(16, 16)
    assert np.abs(view_of(image) - image.transpose(2, 0, 1) / 255).max() < 1e-6


def test_hsv_equals_the_standard_librarys():
    rng = np.random.default_rng(0)
    pixels = np.concatenate([rng.random((200, 3)), np.repeat(rng.random((20, 1)), 3, axis=1)])
    pixels = np.concatenate([pixels, [[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 1], [1, 0, 1]]])
    expected = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in pixels])
    assert np.abs(rgb_to_hsv(pixels) - expected).max() < 1e-12
    assert np.abs(hsv_to_rgb(rgb_to_hsv(pixels)) - pixels).max() < 1e-12
    back = np.array([colorsys.hsv_to_rgb(*hsv) for hsv in expected])
    assert np.abs(hsv_to_rgb(expected) - back).max() < 1e-12


def jittered(image, **values):
    return apply_jitter(image, params_of(**values), 0, 0, style="byol")


def test_brightness_is_added():
    image = textured_image(8, 8) / 255
    assert np.allclose(jittered(image, brightness=0.25), (image + 0.25).clip(0, 1))


def test_contrast_turns_about_the_mean_of_each_channel():
    image = textured_image(8, 8) / 255 * 0.5 + 0.2
    image[..., 2] *= 0.3
    out = jittered(image, contrast=0.6)
    assert np.allclose(out.mean(axis=(0, 1)), image.mean(axis=(0, 1)))
    assert np.allclose(out.std(axis=(0, 1)), 0.6 * image.std(axis=(0, 1)))


def test_saturation_and_hue_are_those_of_hsv():
    image = textured_image(6, 6) / 255
    for values, change in (
        ({"saturation": 1.2}, lambda h, s, v: (h, min(s * 1.2, 1), v)),
        ({"hue": -0.07}, lambda h, s, v: ((h - 0.07) % 1, s, v)),
    ):
        out = jittered(image, **values)
        for pixel, got in zip(image.reshape(-1, 3), out.reshape(-1, 3), strict=True):
            expected = colorsys.hsv_to_rgb(*change(*colorsys.rgb_to_hsv(*pixel)))
            assert np.abs(got - expected).max() < 1e-12


def test_every_order_runs_its_ops_in_turn():
    image = textured_image(8, 8) / 255
    values = {"brightness": 0.3, "contrast": 1.4, "saturation": 1.2, "hue": 0.1}
    names = ("brightness", "contrast", "saturation", "hue")
    results = []
    for row, order in enumerate(JITTER_ORDERS):
        expected = image
        for op in order:
            expected = jittered(expected, **{names[op]: values[names[op]]})
        got = jittered(image, jitter_order=row, **values)
        assert np.allclose(got, expected)
        results.append(got)
    distinct = {result.round(9).tobytes() for result in results}
    # Hue and saturation commute exactly; everything else shows its order.
    assert len(distinct) >= 12


def test_blur_equals_a_truncated_gaussian_with_zeros_outside():
    image = textured_image(30, 30) / 255
    for sigma, radius in ((0.1, 4), (1.3, 4), (2.0, 11)):
        expected = np.stack(
            [
                ndimage.gaussian_filter(
                    image[..., c], sigma, mode="constant", radius=radius, cval=0.0
                )
                for c in range(3)
            ],
            axis=-1,
        )
        assert np.abs(apply_blur(image, sigma, radius) - expected).max() < 1e-12


@pytest.mark.parametrize(("size", "radius"), [(224, 11), (96, 4), (48, 2), (16, 0)])
def test_blur_radius_follows_the_view_size(size, radius):
    assert blur_radius(size, LARGE_EVEN) == radius


def test_solarize_turns_what_is_not_below_the_threshold():
    image = textured_image(16, 16)
    out = view_of(image, solarize=True)
    expected = np.where(image / 255 < 0.5, image / 255, 1 - image / 255).transpose(2, 0, 1)
    assert np.abs(out - expected).max() < 1e-6


def test_grayscale_has_byols_weights():
    image = textured_image(16, 16)
    out = view_of(image, grayscale=True)
    gray = image @ np.array([0.2989, 0.5870, 0.1140]) / 255
    assert np.abs(out - gray[None]).max() < 1e-6


def test_flip_mirrors_the_view():
    image = textured_image(20, 30)
    assert np.array_equal(view_of(image, flip=True), view_of(image)[:, :, ::-1])


def test_the_crop_sees_nothing_of_its_surroundings():
    image = textured_image(40, 40)
    crop = {"crop_top": 10, "crop_left": 12, "crop_height": 9, "crop_width": 17}
    inside = view_of(image, **crop)
    changed = image.copy()
    changed[:10], changed[19:], changed[:, :12], changed[:, 29:] = 0, 255, 0, 255
    assert np.array_equal(view_of(changed, **crop), inside)


def masked_picture(image, grid, color):
    """The whole picture with its background replaced: a view of its own size is the picture."""
    recipe = replace(ONE_VIEW, large_size=image.shape[0])
    out = view_of(image, recipe=recipe, grid=grid, mask=True, mask_color=color)
    return np.rint(out.transpose(1, 2, 0) * 255).astype(np.uint8)


def test_a_masked_view_differs_only_where_the_background_reaches():
    image, grid = textured_image(64, 64), blob_mask(1)
    masked = masked_picture(image, grid, (0.2, 0.4, 0.6))
    changed = (masked != image).any(axis=-1)
    centres = (np.arange(64) * 2 + 1).clip(0, 127)
    nearest = grid[centres][:, centres] / 255
    assert not changed[nearest > 0.6].any()
    assert (masked[nearest < 0.4] == (51, 102, 153)).all()


def test_the_mask_is_applied_before_the_crop_is_resampled():
    # Mask first: the fill bleeds into the foreground across the edge by the resampling kernel.
    image = np.full((32, 32, 3), 255, np.uint8)
    grid = np.zeros((128, 128), np.uint8)
    grid[:, :64] = 255
    out = view_of(image, grid=grid, mask=True, mask_color=(0, 0, 0), crop_height=32, crop_width=32)
    before = masked_picture(image, grid, (0, 0, 0))
    assert (before[:, :15] == 255).all()
    assert (before[:, 17:] == 0).all()
    expected = bicubic(before / 255.0, 16).clip(0, 1).transpose(2, 0, 1)
    assert np.abs(out - expected).max() < 1e-6


def test_the_ops_come_in_byols_order():
    image = textured_image(16, 16)
    steps = {"grayscale": True, "blur_sigma": 1.0, "solarize": True, "brightness": 0.2}
    recipe = replace(ONE_VIEW, large_even=replace(LARGE_EVEN, blur_divider=2.0))
    out = view_of(image, recipe=recipe, **steps)
    expected = (image / 255 + 0.2).clip(0, 1)
    expected = (expected @ np.array(reference.GRAY_WEIGHTS))[..., None].repeat(3, axis=2)
    expected = apply_blur(expected, 1.0, 4)
    expected = np.where(expected < 0.5, expected, 1 - expected)
    assert np.abs(out - expected.transpose(2, 0, 1)).max() < 1e-6


def test_normalisation_comes_last():
    recipe = replace(ONE_VIEW, mean=(0.1, 0.2, 0.3), std=(0.5, 0.4, 0.2))
    image = textured_image(16, 16)
    plain = view_of(image)
    mean, std = np.array(recipe.mean)[:, None, None], np.array(recipe.std)[:, None, None]
    assert np.abs(view_of(image, recipe=recipe) - (plain - mean) / std).max() < 1e-6
