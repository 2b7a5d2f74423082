"""What the graph of `dali_graph` is fed: for each view of one size, its row of the params.

Everything that is not arithmetic on pixels happens here, in numpy and for all views at once. The
masks are made here too: salience is exact integers, for which DALI has no operator.

Shapes: B samples, V views of one size, N = V * B views in the order of the output, s side of a
view.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.augment.params import JITTER_ORDERS, ViewParams
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.augment.reference import background_of, blur_radius, foreground_of
from pipeline.batch import Bytes, DecodedBatch

Inputs = dict[str, Any]  # name -> [N, ...], or a list of N arrays
Doubles = NDArray[np.float64]

_ORDERS = np.array(JITTER_ORDERS, np.int32)
_UNMASKED = (np.zeros((1, 1, 1), np.uint8), np.zeros((1, 1, 3), np.uint8))


def view_inputs(
    recipe: MultiCropRecipe, views: range, decoded: DecodedBatch, params: ViewParams
) -> Inputs:
    """Return the inputs of the graph for these views, which are of one size."""
    columns = slice(views.start, views.stop)

    def rows(table: NDArray[Any]) -> NDArray[Any]:
        """[B, all views, ...] to [N, ...]."""
        return np.ascontiguousarray(np.moveaxis(table[:, columns], 1, 0)).reshape(
            -1, *table.shape[2:]
        )

    batch = len(decoded.sample_ids)
    radius = np.repeat([blur_radius(recipe.sizes[v], recipe.views[v]) for v in views], batch)
    threshold = np.repeat([recipe.views[v].solarize_threshold for v in views], batch)
    sigma = rows(params.blur_sigma)
    return {
        "image": [decoded.images.image(b).numpy() for b in range(batch)] * len(views),
        **_mask_inputs(recipe, views, decoded, params),
        **_crop_inputs(recipe, recipe.sizes[views.start], params, rows),
        **_jitter_inputs(params, rows),
        "grayscale": rows(params.grayscale),
        "blur": (sigma > 0) & (radius > 0),
        "sigma": sigma,
        "radius": radius.astype(np.int32),
        "solarize": rows(params.solarize),
        "threshold": threshold.astype(np.float32),
    }


def _mask_inputs(
    recipe: MultiCropRecipe, views: range, decoded: DecodedBatch, params: ViewParams
) -> Inputs:
    """`fg` and `bg` of each masked view, of its crop; both made once for an image."""
    batch = len(decoded.sample_ids)
    grounds: dict[tuple[int, ...], tuple[Bytes, Bytes]] = {}
    pairs = [_UNMASKED] * (len(views) * batch)
    for n, (v, b) in enumerate((v, b) for v in views for b in range(batch)):
        if not params.mask[b, v]:
            continue
        key = (b, int(params.mask_source[b, v]), *params.mask_color[b, v].view(np.int32).tolist())
        if key not in grounds:
            image = decoded.images.image(b).numpy()
            inside = foreground_of(decoded.masks[b].numpy(), image, recipe.mask_threshold)
            ground = np.atleast_3d(background_of(decoded, params, b, v))
            grounds[key] = (
                inside[..., None].view(np.uint8),
                ground.reshape(1, 1, 3) if ground.size == 3 else ground,
            )
        pairs[n] = _cut(grounds[key], params, b, v)
    return {
        "mask": np.ascontiguousarray(params.mask[:, views.start : views.stop].T).reshape(-1),
        "fg": [foreground for foreground, _ in pairs],
        "bg": [background for _, background in pairs],
    }


def _cut(grounds: tuple[Bytes, Bytes], params: ViewParams, b: int, v: int) -> tuple[Bytes, Bytes]:
    top, left = params.crop_top[b, v], params.crop_left[b, v]
    box = np.s_[top : top + params.crop_height[b, v], left : left + params.crop_width[b, v]]
    inside, ground = grounds
    return (
        np.ascontiguousarray(inside[box]),
        ground if ground.shape[0] == ground.shape[1] == 1 else np.ascontiguousarray(ground[box]),
    )


def _crop_inputs(recipe: MultiCropRecipe, size: int, params: ViewParams, rows: Any) -> Inputs:
    height, width = rows(params.crop_height), rows(params.crop_width)
    margin = np.stack([_margin(recipe, size, side) for side in (height, width)], axis=1)
    flip, nothing = rows(params.flip), np.zeros(len(height))
    down = (margin[:, 0], margin[:, 0] + height)
    along = (margin[:, 1], margin[:, 1] + width)
    along = (np.where(flip, along[1], along[0]), np.where(flip, along[0], along[1]))
    y_centre, y_sides = axis_weights(recipe, size, height)
    x_centre, x_sides = axis_weights(recipe, size, width)
    inputs = {
        "corner": np.stack([rows(params.crop_top), rows(params.crop_left)], axis=1),
        "sides": np.stack([height, width], axis=1),
        "margin": margin,
        "y_start": _floats(np.stack([down[0], nothing], axis=1)),
        "y_end": _floats(np.stack([down[1], width + 2 * margin[:, 1]], axis=1)),
        "x_start": _floats(np.stack([nothing, along[0]], axis=1)),
        "x_end": _floats(np.stack([nothing + size, along[1]], axis=1)),
        "y_centre": _floats(y_centre[:, :, None, None]),
        "x_centre": _floats(x_centre[:, None, :, None] / 255),
    }
    if recipe.interpolation == "bicubic":
        inputs["y_sides"] = _floats(y_sides[:, :, None, None])
        inputs["x_sides"] = _floats(x_sides[:, None, :, None] / 255)
        if recipe.antialias:
            inputs["y_shrinks"], inputs["x_shrinks"] = height > size, width > size
    return inputs


def _jitter_inputs(params: ViewParams, rows: Any) -> Inputs:
    """The op of each step and its value, [N, 4] each; a neutral op is -1."""
    ops = _ORDERS[rows(params.jitter_order)]
    table = (params.brightness, params.contrast, params.saturation, params.hue)
    values = np.take_along_axis(np.stack([rows(column) for column in table], axis=1), ops, axis=1)
    neutral = np.array([0, 1, 1, 0], np.float32)[ops]
    return {"ops": np.where(values == neutral, -1, ops).astype(np.int32), "values": values}


def _stretch(recipe: MultiCropRecipe, size: int, lengths: NDArray[np.int32]) -> Doubles:
    widened: Doubles = np.maximum(lengths / size, 1) if recipe.antialias else np.ones(len(lengths))
    return widened


def _margin(recipe: MultiCropRecipe, size: int, lengths: NDArray[np.int32]) -> NDArray[np.int32]:
    """How far the kernel reaches beyond the crop, and a pixel more for what rounding may touch."""
    reach = (2 if recipe.interpolation == "bicubic" else 1) * _stretch(recipe, size, lengths)
    return np.ceil(reach).astype(np.int32) + 1


def axis_weights(
    recipe: MultiCropRecipe, size: int, lengths: NDArray[np.int32]
) -> tuple[Doubles, Doubles]:
    """Return [N, s] twice: what `dali_graph` multiplies L, and L- + L+, with.

    Both hold the renormalisation: over the sum of the weights of the taps that lie in the crop,
    where L itself was normalised, by DALI, over all taps.
    """
    bicubic, stretch = recipe.interpolation == "bicubic", _stretch(recipe, size, lengths)
    centre = (np.arange(size) + 0.5) * (lengths[:, None] / size) - 0.5  # [N, s]
    reach = (2 if bicubic else 1) * stretch[:, None]
    taps = np.ceil(centre - reach)[..., None] + np.arange(int(2 * reach.max(initial=1)) + 1)
    weights = _kernel(np.abs(centre[..., None] - taps) / stretch[:, None, None], bicubic)
    inside = weights * ((taps >= 0) & (taps < lengths[:, None, None]))
    norm = weights.sum(axis=2) / inside.sum(axis=2)
    phase = centre - np.floor(centre)
    bend = phase * (1 - phase) / 2 * (bicubic & (stretch == 1))[:, None]
    return (1 + 2 * bend) * norm, bend * norm


def _kernel(x: Doubles, bicubic: bool) -> Doubles:
    """`reference.keys_cubic` or `reference.triangle` of x >= 0."""
    if not bicubic:
        return np.maximum(1 - x, 0)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _floats(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, np.float32)
