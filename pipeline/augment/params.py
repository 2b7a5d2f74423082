"""What was drawn for each view: all chance ends here, before any pixel is touched.

Draw numbers are part of the stream: append to `Draw`, never reorder (a golden file pins them).

Shapes: B samples, V views.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from pipeline.augment.recipe import MultiCropRecipe, ViewRecipe
from pipeline.batch import Bools, Bytes, Floats, Ids, Ints
from pipeline.rng import Stream, uniform


class Draw(IntEnum):
    """The random draws of a view. Append only."""

    CROP_AREA = 0
    CROP_ASPECT = 1
    CROP_TOP = 2
    CROP_LEFT = 3
    FLIP = 4
    JITTER = 5
    JITTER_ORDER = 6
    BRIGHTNESS = 7
    CONTRAST = 8
    SATURATION = 9
    HUE = 10
    GRAYSCALE = 11
    BLUR = 12
    BLUR_SIGMA = 13
    SOLARIZE = 14
    MASK = 15
    MASK_GRAY = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewParams:
    """What to do to each view: every array is read-only, [B, V]; column v follows recipe v.

    A transform that was not drawn holds its neutral value (brightness 0, contrast and saturation 1,
    hue 0, sigma 0, False), so that an executor applies rows and asks nothing; shapes never depend
    on chance. An executor may skip a neutral op: the meaning of neutral is "unchanged, exactly".
    """

    crop_top: Ints  # pixels of the stored image
    crop_left: Ints
    crop_height: Ints
    crop_width: Ints
    flip: Bools
    brightness: Floats  # added; in torchvision's style a factor of 1 + this
    contrast: Floats  # factor
    saturation: Floats  # factor
    hue: Floats  # turns
    jitter_order: Bytes  # 0..23: index into JITTER_ORDERS
    grayscale: Bools
    blur_sigma: Floats  # pixels of the view; 0: no blur
    solarize: Bools
    mask: Bools  # replace the background
    mask_color: Floats  # [B, V, 3], 0..1
    # COLOR: mask_color; MEAN: the image's own mean; r >= 0: the image of row r of the batch
    mask_source: Ints


COLOR, MEAN = -1, -2  # values of ViewParams.mask_source

# All orders of (0 brightness, 1 contrast, 2 saturation, 3 hue), lexicographic: the row is the
# Lehmer code, as a table so that executors need no arithmetic.
JITTER_ORDERS: tuple[tuple[int, int, int, int], ...] = tuple(
    (a, b, c, 6 - a - b - c)
    for a in range(4)
    for b in range(4)
    for c in range(4)
    if len({a, b, c}) == 3
)


def sample_view_params(
    recipe: MultiCropRecipe,
    *,
    seed: int,
    epoch: int,
    sample_ids: Ids,
    heights: Ints,
    widths: Ints,
    mask_coverage: Floats,
    stream: Stream = Stream.VIEWS,
) -> ViewParams:
    """Draw the params of every view of every sample.

    The fill `other-image` takes the row half a batch away: rank k of W processes holds the
    positions k, k + W, .. of the global batch, so that for an even local batch the partner is the
    same sample at every world size.

    Crops follow BYOL's `_decode_and_random_crop` (spec 3.2, [SRC]): area and log-uniform aspect,
    sides rounded, then clamped to the image; no retries. Views of images whose mask is missing
    (coverage NaN) or degenerate stay unmasked.

    Args:
        sample_ids, heights, widths: [B]; sizes in pixels.
        mask_coverage: [B] share of the image that the mask covers; NaN: no mask.

    Raises:
        ValueError: the fill `other-image` with an odd number of samples.
    """
    draws = uniform(
        seed=seed,
        stream=stream,
        epoch=epoch,
        sample_ids=sample_ids,
        num_views=recipe.num_views,
        num_draws=len(Draw),
    )
    views = recipe.views
    height, width = heights[:, None].astype(np.int64), widths[:, None].astype(np.int64)
    crop_height, crop_width = _crop_sides(draws, views, height, width)
    jitter = draws[..., Draw.JITTER] < _per_view(views, "jitter_probability")
    blur = draws[..., Draw.BLUR] < _per_view(views, "blur_probability")
    sigma = _between(draws[..., Draw.BLUR_SIGMA], *_ranges(views, "blur_sigma"))
    with np.errstate(invalid="ignore"):  # NaN compares false: no mask, no masked view
        usable = (mask_coverage >= recipe.mask_min_coverage) & (
            mask_coverage <= recipe.mask_max_coverage
        )
    masked = draws[..., Draw.MASK] < _per_view(views, "mask_probability")
    color, source = _mask_background(recipe, draws)
    # A negative factor would be a negative picture: torchvision cuts the range at 0, BYOL does not.
    least = -1.0 if recipe.jitter_style == "torchvision" else -np.inf

    def centred(draw: Draw, name: str, neutral: float) -> NDArray[np.float64]:
        high = _per_view(views, name)
        low = -high if draw is Draw.HUE else np.maximum(-high, least)
        delta = (high + low) / 2 + (2 * draws[..., draw] - 1) * (high - low) / 2
        return np.where(jitter, neutral + delta, neutral)

    return _frozen(
        ViewParams(
            crop_top=_floor_int(draws[..., Draw.CROP_TOP] * (height - crop_height + 1)),
            crop_left=_floor_int(draws[..., Draw.CROP_LEFT] * (width - crop_width + 1)),
            crop_height=crop_height.astype(np.int32),
            crop_width=crop_width.astype(np.int32),
            flip=draws[..., Draw.FLIP] < _per_view(views, "flip_probability"),
            brightness=centred(Draw.BRIGHTNESS, "brightness", 0).astype(np.float32),
            contrast=centred(Draw.CONTRAST, "contrast", 1).astype(np.float32),
            saturation=centred(Draw.SATURATION, "saturation", 1).astype(np.float32),
            hue=centred(Draw.HUE, "hue", 0).astype(np.float32),
            jitter_order=np.where(jitter, draws[..., Draw.JITTER_ORDER] * 24, 0).astype(np.uint8),
            grayscale=draws[..., Draw.GRAYSCALE] < _per_view(views, "grayscale_probability"),
            blur_sigma=np.where(blur, sigma, 0).astype(np.float32),
            solarize=draws[..., Draw.SOLARIZE] < _per_view(views, "solarize_probability"),
            mask=masked & usable[:, None],
            mask_color=color,
            mask_source=source,
        )
    )


def centre_view_params(heights: Ints, widths: Ints, *, num_views: int = 1) -> ViewParams:
    """Params of evaluation: the central square of side int(224/256 * min(H, W)), nothing else.

    Spec 6.1 [SRC]: the crop comes first, at (side - crop + 1) // 2, then the bicubic resize.
    """
    shape = (len(heights), num_views)
    height = np.broadcast_to(heights[:, None].astype(np.int64), shape)
    width = np.broadcast_to(widths[:, None].astype(np.int64), shape)
    side = np.maximum(np.floor(224 / 256 * np.minimum(height, width)), 1).astype(np.int32)
    zeros, ones = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    false = np.zeros(shape, np.bool_)
    return _frozen(
        ViewParams(
            crop_top=((height - side + 1) // 2).astype(np.int32),
            crop_left=((width - side + 1) // 2).astype(np.int32),
            crop_height=side,
            crop_width=side.copy(),
            flip=false,
            brightness=zeros,
            contrast=ones,
            saturation=ones.copy(),
            hue=zeros.copy(),
            jitter_order=np.zeros(shape, np.uint8),
            grayscale=false.copy(),
            blur_sigma=zeros.copy(),
            solarize=false.copy(),
            mask=false.copy(),
            mask_color=np.zeros((*shape, 3), np.float32),
            mask_source=np.full(shape, COLOR, np.int32),
        )
    )


def check_local_batch(recipe: MultiCropRecipe, batch_size: int) -> None:
    """Raise ValueError unless each image has another one to take its background from."""
    if recipe.mask_fill == "other-image" and batch_size % 2:
        raise ValueError(
            f"mask_fill=other-image needs an even number of images per process, got {batch_size}; "
            "choose another global batch"
        )


def _mask_background(recipe: MultiCropRecipe, draws: NDArray[np.float64]) -> tuple[Floats, Ints]:
    """Return mask_color [B, V, 3] and mask_source [B, V]: one choice for all views of an image."""
    batch, num_views = draws.shape[:2]
    color = np.broadcast_to(np.asarray(recipe.mask_color, np.float32), (batch, num_views, 3))
    source: NDArray[np.int64] = np.full(batch, COLOR)
    if recipe.mask_fill == "random-gray":
        gray = draws[:, 0, Draw.MASK_GRAY].astype(np.float32)
        color = np.broadcast_to(gray[:, None, None], (batch, num_views, 3))
    elif recipe.mask_fill == "image-mean":
        source = np.full(batch, MEAN)
    elif recipe.mask_fill == "other-image":
        check_local_batch(recipe, batch)
        source = (np.arange(batch) + batch // 2) % batch
    return color.copy(), np.repeat(source[:, None], num_views, axis=1).astype(np.int32)


def _crop_sides(
    draws: NDArray[np.float64],
    views: tuple[ViewRecipe, ...],
    height: NDArray[np.int64],
    width: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    area = _between(draws[..., Draw.CROP_AREA], *_ranges(views, "area")) * (height * width)
    low, high = _ranges(views, "aspect")
    aspect = np.exp(_between(draws[..., Draw.CROP_ASPECT], np.log(low), np.log(high)))
    crop_height = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    crop_width = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    # A side of 0 can only be rounded to in images of a few pixels; BYOL's code would fail there.
    return np.clip(crop_height, 1, height), np.clip(crop_width, 1, width)


def _per_view(views: tuple[ViewRecipe, ...], name: str) -> NDArray[np.float64]:
    return np.array([getattr(view, name) for view in views])


def _ranges(
    views: tuple[ViewRecipe, ...], name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    pairs = np.array([getattr(view, name) for view in views])
    return pairs[:, 0], pairs[:, 1]


def _between(
    draw: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64]:
    return low + draw * (high - low)


def _floor_int(values: NDArray[np.float64]) -> Ints:
    return np.floor(values).astype(np.int32)


def _frozen(params: ViewParams) -> ViewParams:
    for item in fields(params):
        getattr(params, item.name).setflags(write=False)
    return params
