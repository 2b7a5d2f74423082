"""The DALI graph that makes views of one size: one view per sample of DALI's batch.

All it does was decided before: its inputs are the pictures and, for each view, what `dali_inputs`
lays out. Where DALI's own operator computes something else than `reference`, the formula is
composed of operators that compute the right thing:

- DALI's resize repeats the border. Here the crop is padded with zeros, which gives taps outside it
  weight zero, and the sums of the weights inside renormalise.
- DALI's cubic reads a table with linear steps: a quarter of a level wrong in noise. Here it is
  three linear resizes, which are exact: with L the linear interpolation at phase t and L-, L+ the
  same a pixel before and after, Keys' cubic (a = -1/2) is (1 + 2 c) L - c (L- + L+) with
  c = t (1 - t) / 2. Only a cubic widened by antialias has no such form and comes from the table.
- DALI's hue and saturation rotate and scale in a linear space; here they are those of HSV.
- DALI's gaussian blur reflects at the border; here it sees zeros.

nvidia.dali is imported where the graph is built. Its `if` on a value of the graph runs a branch for
the samples it is true for; the conditions on `style` are decided when the graph is built.

Shapes: N views, s side of a view, h/w of the crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.augment.reference import GRAY_WEIGHTS

Node = Any  # DALI's DataNode
TINY = 1e-20  # instead of a spread of zero: what is multiplied by its inverse is zero then


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphStyle:
    """What is the same for all views of a graph."""

    size: int  # s, pixels
    bicubic: bool
    antialias: bool
    torchvision: bool  # style of the jitter
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def build_views_pipeline(style: GraphStyle, *, batch_size: int, threads: int) -> Any:
    """Return a DALI pipeline from external inputs to float32 [3, s, s], normalised."""
    from nvidia.dali import pipeline_def

    # prefetch_queue_depth 1: inputs are lent, not copied, so a run must end before they do
    @pipeline_def(
        batch_size=batch_size,
        num_threads=threads,
        device_id=None,
        prefetch_queue_depth=1,
        enable_conditionals=True,
    )
    def views() -> Any:
        return make_view(style)

    pipeline = views()
    pipeline.build()
    return pipeline


def make_view(style: GraphStyle) -> Node:
    """The whole graph: float32 [3, s, s], normalised."""
    view = resized(style)
    view = jittered(view, style)
    view = grayed(view)
    view = blurred(view, style.size)
    return finished(view, style)


def resized(style: GraphStyle) -> Node:
    """Mask, crop, resize and flip: [3, s, s] in 0..1."""
    from nvidia.dali import fn

    corner, sides, margin = (_vector(name, "INT32") for name in ("corner", "sides", "margin"))
    crop = fn.slice(_picture("image"), start=corner, shape=sides, axes=(0, 1))
    crop = masked(crop)
    crop = fn.slice(
        crop,
        start=-margin,
        shape=sides + 2 * margin,
        axes=(0, 1),
        out_of_bounds_policy="pad",
        fill_values=0,
    )
    view = resampled(resampled(crop, style, axis=0), style, axis=1)
    view = fn.transpose(view, perm=(2, 0, 1), output_layout="CHW")
    return clipped(view)


def masked(crop: Node) -> Node:
    """Replace the background of those crops that are to be masked."""
    from nvidia.dali import fn, types

    mask, foreground, background = _scalar("mask", "BOOL"), _picture("fg"), _picture("bg")
    if mask:
        crop = fn.cast(crop * foreground + background * (1 - foreground), dtype=types.UINT8)
    return crop


def resampled(image: Node, style: GraphStyle, *, axis: int) -> Node:
    """Resize one axis to s; a flipped view's region runs from its end to its start."""
    name = "xy"[axis == 0]
    start, end = _vector(f"{name}_start", "FLOAT"), _vector(f"{name}_end", "FLOAT")
    centre, sides = _weights(f"{name}_centre"), _weights(f"{name}_sides")
    if not style.bicubic:
        return _resize(image, style, axis, start, end) * centre
    if not style.antialias:
        return _exact_cubic(image, style, axis, start, end, centre, sides)
    shrinks = _scalar(f"{name}_shrinks", "BOOL")
    if shrinks:
        line = _resize(image, style, axis, start, end, cubic=True) * centre
    else:
        line = _exact_cubic(image, style, axis, start, end, centre, sides)
    return line


def _exact_cubic(
    image: Node, style: GraphStyle, axis: int, start: Node, end: Node, centre: Node, sides: Node
) -> Node:
    from nvidia.dali import types

    step = types.Constant(np.eye(2, dtype=np.float32)[axis])
    at = _resize(image, style, axis, start, end)
    before = _resize(image, style, axis, start - step, end - step)
    after = _resize(image, style, axis, start + step, end + step)
    return at * centre - (before + after) * sides


def _resize(
    image: Node, style: GraphStyle, axis: int, start: Node, end: Node, *, cubic: bool = False
) -> Node:
    from nvidia.dali import fn, types

    return fn.resize(
        image,
        size=(style.size, 0) if axis == 0 else (0, style.size),
        mode="stretch",  # 0: as it is
        roi_start=start,
        roi_end=end,
        interp_type=types.INTERP_CUBIC if cubic else types.INTERP_LINEAR,
        antialias=style.antialias,
        dtype=types.FLOAT,
    )


def jittered(view: Node, style: GraphStyle) -> Node:
    """The four colour ops in the order of the view; op -1 does nothing."""
    ops, values = _vector("ops", "INT32"), _vector("values", "FLOAT")
    for step in range(4):
        op, value = ops[step], values[step]
        if op == 0:
            view = brightened(view, value, style)
        elif op == 1:
            view = contrasted(view, value, style)
        elif op == 2:
            view = saturated(view, value, style)
        elif op == 3:
            view = hue_rotated(view, value)
    return view


def brightened(view: Node, value: Node, style: GraphStyle) -> Node:

    return clipped(view * (1 + value) if style.torchvision else view + value)


def contrasted(view: Node, factor: Node, style: GraphStyle) -> Node:
    from nvidia.dali import fn

    mean = fn.reductions.mean(view, axes=(1, 2), keep_dims=True)
    if style.torchvision:  # the mean of the gray picture is the gray of the means
        mean = luma(mean)
    return clipped(view * factor + mean * (1 - factor))


def saturated(view: Node, factor: Node, style: GraphStyle) -> Node:
    """HSV saturation times `factor`, at most 1: value and hue stay, channels move along v - x."""
    from nvidia.dali import math

    if style.torchvision:
        return clipped(view * factor + luma(view) * (1 - factor))
    top, spread = top_and_spread(view)
    # s' / s = min(factor, 1 / s); a factor below zero leaves no saturation
    gain = math.max(math.min(top / math.max(spread, TINY), factor), 0.0)
    return clipped(top - (top - view) * gain)


def hue_rotated(view: Node, turns: Node) -> Node:
    """Add to the HSV hue, the sextants without branches.

    Each channel is v - chroma * (1 - clamp(|k - 3| - 1)) with k = (6 hue + n) mod 6 and n = 0, 4, 2
    for red, green, blue.
    """
    from nvidia.dali import math

    red, green, blue = view[0:1], view[1:2], view[2:3]
    top, spread = top_and_spread(view)
    inverse = 1 / math.max(spread, TINY)
    from_red = red == top
    from_green = (green == top) & (red != top)
    from_blue = (green != top) & (red != top)
    hue = from_red * (green - blue) + from_green * (blue - red) + from_blue * (red - green)
    hue = hue * inverse + from_green * 2.0 + from_blue * 4.0 + turns * 6
    k = hue + _channels((0, 4, 2))
    k = k - math.floor(k * (1 / 6)) * 6
    share = clipped(math.abs(k - 3) - 1)
    return clipped(top - spread + spread * share)


def clipped(view: Node) -> Node:
    """DALI's own `clamp` takes four times as long."""
    from nvidia.dali import math

    return math.min(math.max(view, 0.0), 1.0)


def top_and_spread(view: Node) -> tuple[Node, Node]:
    """HSV value and chroma: [1, s, s] each."""
    from nvidia.dali import math

    red, green, blue = view[0:1], view[1:2], view[2:3]
    top = math.max(red, math.max(green, blue))
    return top, top - math.min(red, math.min(green, blue))


def luma(view: Node) -> Node:
    """[3, ...] RGB to [1, ...]."""
    red, green, blue = (view[c : c + 1] * GRAY_WEIGHTS[c] for c in range(3))
    return red + green + blue


def grayed(view: Node) -> Node:
    gray = _scalar("grayscale", "BOOL")
    if gray:
        view = luma(view) + _channels((0, 0, 0))
    return view


def blurred(view: Node, size: int) -> Node:
    """Gaussian with zeros beyond the border: DALI's, of a view with a margin that is cut off."""
    from nvidia.dali import fn

    blur, sigma = _scalar("blur", "BOOL"), _scalar("sigma", "FLOAT")
    radius = _scalar("radius", "INT32")
    if blur:
        corner = fn.stack(radius, radius)
        view = fn.slice(
            view,
            start=-corner,
            shape=size + 2 * corner,
            axes=(1, 2),
            out_of_bounds_policy="pad",
            fill_values=0,
        )
        view = fn.gaussian_blur(view, sigma=sigma, window_size=2 * radius + 1)
        view = fn.slice(view, start=corner, shape=(size, size), axes=(1, 2))
    return view


def finished(view: Node, style: GraphStyle) -> Node:
    """Solarize and normalise."""
    from nvidia.dali import fn, types

    solarize, threshold = _scalar("solarize", "BOOL"), _scalar("threshold", "FLOAT")
    if solarize:
        bright = view >= threshold
        view = view + bright * (1 - 2 * view)
    return fn.crop_mirror_normalize(
        view, mean=style.mean, std=style.std, dtype=types.FLOAT, output_layout="CHW"
    )


def _channels(values: Any) -> Node:
    from nvidia.dali import types

    return types.Constant(np.asarray(values, np.float32).reshape(3, 1, 1))


def _picture(name: str) -> Node:
    return _input(name, "UINT8", ndim=3, layout="HWC")


def _weights(name: str) -> Node:
    return _input(name, "FLOAT", ndim=3, layout="HWC")


def _vector(name: str, dtype: str) -> Node:
    return _input(name, dtype, ndim=1)


def _scalar(name: str, dtype: str) -> Node:
    return _input(name, dtype, ndim=0)


def _input(name: str, dtype: str, **shape: Any) -> Node:
    from nvidia.dali import fn, types

    return fn.external_source(name=name, dtype=getattr(types, dtype), no_copy=True, **shape)
