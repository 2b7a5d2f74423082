"""The specification of the views: slow, obvious code, one image and one view at a time, in float64.

Photometry follows BYOL's code to the letter (spec section 3.2, [SRC]: relicv2/utils/
augmentations.py and dataset.py): mask, crop, bicubic resize without antialias, clip, flip, the four
jitter ops in the view's own order with a clip after each, grayscale, blur with zero padding,
solarize, clip, normalise. The recipe may ask for bilinear, antialias and torchvision's jitter
instead. Every other executor is tested against this one.

Shapes: h, w source image; s side of the view; M mask grid.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.augment.params import JITTER_ORDERS, MEAN, ViewParams
from pipeline.augment.recipe import MultiCropRecipe, ViewRecipe
from pipeline.batch import Bools, Bytes, DecodedBatch, MultiCropBatch
from pipeline.saliency.codec import mask_at_pixels
from pipeline.stats import Beat, no_beat

Image = NDArray[np.float64]  # [height, width, 3], 0..1

GRAY_WEIGHTS = (0.2989, 0.5870, 0.1140)  # BYOL's; they sum to 0.9999 [SRC]
FULL_SALIENCE = 255 * 65536  # mask_at_pixels of a pixel that is foreground all over


class ReferenceViews:
    """Executor: applies params view by view with `apply_view`."""

    def __init__(self, recipe: MultiCropRecipe, *, beat: Beat = no_beat) -> None:
        self.recipe = recipe
        self._beat = beat

    def __call__(self, decoded: DecodedBatch, params: ViewParams) -> MultiCropBatch:
        recipe = self.recipe
        rows = range(len(decoded.sample_ids))
        views: list[list[NDArray[np.float32]]] = [[] for _ in recipe.views]
        for b in rows:
            self._beat(int(decoded.sample_ids[b]))
            for v, made in enumerate(views):
                made.append(apply_view(decoded, params, b, v, recipe))
        shape = (len(decoded.sample_ids), 3, recipe.small_size, recipe.small_size)
        small = [torch.from_numpy(np.stack(view)) for view in views[recipe.num_large :]]
        return MultiCropBatch(
            large=torch.from_numpy(np.stack([np.stack(v) for v in views[: recipe.num_large]])),
            small=torch.stack(small) if small else torch.empty(0, *shape),
            labels=decoded.labels.clone(),
            sample_ids=decoded.sample_ids,
            epoch=decoded.epoch,
        )

    def close(self) -> None:
        """Nothing is held."""


def apply_view(
    decoded: DecodedBatch, params: ViewParams, b: int, v: int, recipe: MultiCropRecipe
) -> NDArray[np.float32]:
    """Make view v of sample b: float32 [3, s, s], normalised."""
    view, size = recipe.views[v], recipe.sizes[v]
    image = decoded.images.image(b).numpy()
    if params.mask[b, v]:
        foreground = foreground_of(decoded.masks[b].numpy(), image, recipe.mask_threshold)
        image = np.where(foreground[..., None], image, background_of(decoded, params, b, v))
    top, left = int(params.crop_top[b, v]), int(params.crop_left[b, v])
    bottom, right = top + int(params.crop_height[b, v]), left + int(params.crop_width[b, v])
    crop = image[top:bottom, left:right] / 255.0
    out = resize(crop, size, recipe.interpolation, antialias=recipe.antialias).clip(0, 1)
    if params.flip[b, v]:
        out = out[:, ::-1]
    out = apply_jitter(out, params, b, v, style=recipe.jitter_style)
    if params.grayscale[b, v]:
        out = to_gray(out)[..., None].repeat(3, axis=2).clip(0, 1)
    if params.blur_sigma[b, v] > 0:
        out = apply_blur(out, float(params.blur_sigma[b, v]), blur_radius(size, view))
    if params.solarize[b, v]:
        out = np.where(out < view.solarize_threshold, out, 1 - out)
    out = (out.clip(0, 1) - np.array(recipe.mean)) / np.array(recipe.std)
    return np.ascontiguousarray(out.transpose(2, 0, 1), dtype=np.float32)


def foreground_of(grid: Bytes, image: Bytes, threshold: float) -> Bools:
    """Return [h, w]: where the salience of a grid over the whole image exceeds the threshold."""
    return mask_at_pixels(grid, *image.shape[:2]) > salience_limit(threshold)


def background_of(decoded: DecodedBatch, params: ViewParams, b: int, v: int) -> Bytes:
    """Return what replaces the background of image b in view v: uint8 [3], or [h, w, 3].

    Integers whatever the fill: a masked picture is a picture of 8 bits like any other.
    """
    image, source = decoded.images.image(b).numpy(), int(params.mask_source[b, v])
    if source == MEAN:
        return mean_levels(image)
    if source >= 0:
        return stretched(decoded.images.image(source).numpy(), *image.shape[:2])
    return color_levels(params.mask_color[b, v])


def salience_limit(threshold: float) -> int:
    """The integer that `mask_at_pixels` must exceed for foreground."""
    return math.floor(threshold * FULL_SALIENCE)


def color_levels(color: NDArray[np.float32]) -> Bytes:
    """Round colours in 0..1 to uint8."""
    return np.rint(np.asarray(color, np.float64) * 255).clip(0, 255).astype(np.uint8)


def mean_levels(image: Bytes) -> Bytes:
    """The mean colour of the whole image, rounded half up: uint8 [3]."""
    count = image.shape[0] * image.shape[1]
    sums = image.sum(axis=(0, 1), dtype=np.int64)
    levels: Bytes = ((2 * sums + count) // (2 * count)).astype(np.uint8)
    return levels


def stretched(image: Bytes, height: int, width: int) -> Bytes:
    """Resize to [height, width, 3] by the nearest pixel: of row y, ((2y + 1) * h) // (2 height)."""
    rows = ((2 * np.arange(height, dtype=np.int64) + 1) * image.shape[0]) // (2 * height)
    columns = ((2 * np.arange(width, dtype=np.int64) + 1) * image.shape[1]) // (2 * width)
    nearest: Bytes = image[rows[:, None], columns]
    return nearest


def resize(crop: Image, size: int, interpolation: str, *, antialias: bool) -> Image:
    """Resize to [size, size, 3]; overshoot is left to the caller.

    bicubic is TensorFlow 2's `tf.image.resize(..., BICUBIC)`: Keys' cubic with a = -0.5, half-pixel
    centres, taps outside the crop get weight zero and the rest is renormalised (tensorflow/core/
    kernels/image/resize_bicubic_op.cc). TensorFlow rounds the phase to 1/1024; we do not. With
    antialias both kernels are those of Pillow, and of torch's antialias=True, without rounding.
    """
    rows = resize_weights(crop.shape[0], size, interpolation, antialias=antialias)
    columns = resize_weights(crop.shape[1], size, interpolation, antialias=antialias)
    view: Image = np.einsum("yh,hwc,xw->yxc", rows, crop, columns, optimize=True)
    return view


def resize_weights(
    length: int, size: int, interpolation: str, *, antialias: bool
) -> NDArray[np.float64]:
    """Return [size, length]: the weight of each source pixel in each output pixel."""
    kernel, radius = KERNELS[interpolation]
    stretch = max(length / size, 1.0) if antialias else 1.0
    weights = np.zeros((size, length))
    for i in range(size):
        centre = (i + 0.5) * length / size - 0.5
        first = max(math.ceil(centre - radius * stretch), 0)
        last = min(math.floor(centre + radius * stretch), length - 1)
        for tap in range(first, last + 1):
            weights[i, tap] = kernel((centre - tap) / stretch)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def keys_cubic(x: float) -> float:
    """Keys (1981), equation 4, a = -0.5."""
    x = abs(x)
    if x <= 1:
        return (1.5 * x - 2.5) * x * x + 1
    return ((-0.5 * x + 2.5) * x - 4) * x + 2 if x < 2 else 0.0


def triangle(x: float) -> float:
    """The kernel of linear interpolation."""
    return max(1 - abs(x), 0.0)


KERNELS = {"bicubic": (keys_cubic, 2), "bilinear": (triangle, 1)}  # and how far each reaches


def to_gray(image: Image) -> NDArray[np.float64]:
    """[..., 3] RGB to luma."""
    gray: NDArray[np.float64] = image @ np.array(GRAY_WEIGHTS)
    return gray


def apply_jitter(image: Image, params: ViewParams, b: int, v: int, *, style: str) -> Image:
    """Apply the four colour ops in the order of the row, each clipped; neutral ones do nothing."""
    brightness, contrast = float(params.brightness[b, v]), float(params.contrast[b, v])
    saturation, hue = float(params.saturation[b, v]), float(params.hue[b, v])
    torchvision = style == "torchvision"
    for op in JITTER_ORDERS[params.jitter_order[b, v]]:
        if op == 0 and brightness != 0:
            image = image * (1 + brightness) if torchvision else image + brightness
        elif op == 1 and contrast != 1:
            mean = to_gray(image).mean() if torchvision else image.mean(axis=(0, 1))
            image = contrast * (image - mean) + mean
        elif op == 2 and saturation != 1:
            image = (
                _mix_with_gray(image, saturation) if torchvision else _saturate(image, saturation)
            )
        elif op == 3 and hue != 0:
            hsv = rgb_to_hsv(image)
            hsv[..., 0] = (hsv[..., 0] + hue) % 1.0
            image = hsv_to_rgb(hsv)
        image = image.clip(0, 1)
    return image


def _saturate(image: Image, factor: float) -> Image:
    hsv = rgb_to_hsv(image)
    hsv[..., 1] = (hsv[..., 1] * factor).clip(0, 1)
    return hsv_to_rgb(hsv)


def _mix_with_gray(image: Image, factor: float) -> Image:
    return factor * image + (1 - factor) * to_gray(image)[..., None]


def rgb_to_hsv(image: Image) -> Image:
    """[..., 3] RGB in 0..1 to hue (turns), saturation, value; hue 0 where there is no colour."""
    red, green, blue = np.moveaxis(image, -1, 0)
    value = image.max(axis=-1)
    spread = value - image.min(axis=-1)
    saturation = np.divide(spread, value, out=np.zeros_like(value), where=value > 0)
    safe = np.where(spread > 0, 6 * spread, 1)
    hue = np.where(
        red == value,
        (green - blue) / safe,
        np.where(green == value, (blue - red) / safe + 1 / 3, (red - green) / safe + 2 / 3),
    )
    hue = np.where(spread > 0, hue, 0)
    return np.stack([np.where(hue < 0, hue + 1, hue), saturation, value], axis=-1)


def hsv_to_rgb(hsv: Image) -> Image:
    """Inverse of `rgb_to_hsv`, by the six sextants of the hue."""
    hue, saturation, value = np.moveaxis(hsv, -1, 0)
    chroma = saturation * value
    sextant = (hue % 1.0) * 6
    second = chroma * (1 - np.abs(sextant % 2 - 1))
    zero = np.zeros_like(chroma)
    k = np.floor(sextant).astype(int)
    red = np.choose(k, [chroma, second, zero, zero, second, chroma])
    green = np.choose(k, [second, chroma, chroma, second, zero, zero])
    blue = np.choose(k, [zero, zero, second, chroma, chroma, second])
    rgb: Image = np.stack([red, green, blue], axis=-1) + (value - chroma)[..., None]
    return rgb


def blur_radius(size: int, view: ViewRecipe) -> int:
    """Taps to each side: int(size / divider / 2); 224 -> 11, 96 -> 4 [SRC]."""
    return int(size / view.blur_divider / 2)


def apply_blur(image: Image, sigma: float, radius: int) -> Image:
    """Separable Gaussian of 2 * radius + 1 taps, normalised, zeros beyond the border (SAME)."""
    offsets = np.arange(-radius, radius + 1)
    taps = np.exp(-(offsets**2) / (2 * sigma**2))
    taps /= taps.sum()
    for axis in (1, 0):
        pad = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(image, pad)
        length = image.shape[axis]
        image = sum(
            (tap * padded.take(range(k, k + length), axis=axis) for k, tap in enumerate(taps)),
            start=np.zeros_like(image),
        )
    return image
