"""The compiled executor's pass over one sample: each view through the stages of the other files.

A view lives in a planar [3, s, s] scratch, where colour and blur work in place; `finish` writes it
out.

Shapes: B samples, V views (L large, S small), s side of a view.
"""

from __future__ import annotations

import numpy as np

from pipeline.augment.compiled_blur import blur
from pipeline.augment.compiled_color import finish, gray, jitter
from pipeline.augment.compiled_jit import compiled
from pipeline.augment.compiled_mask import mean_levels
from pipeline.augment.compiled_resize import resize
from pipeline.augment.params import MEAN


@compiled
def make_views(
    b, images, masks, geometry, color, background, style, output, large, small, view_buffer,
    blur_buffer,
):  # fmt: skip
    """Make all views of sample b, params as CompiledViews lays them out."""
    crops, flips = geometry
    factors, orders, grays, sigmas, solarizes = color
    masked, sources, colors, limit = background
    cubic, antialias, torchvision = style
    radii, thresholds, mean, scale = output
    image = _image(images, b)
    for v in range(flips.shape[1]):
        out = large[v, b] if v < large.shape[0] else small[v - large.shape[0], b]
        size = out.shape[1]
        view = view_buffer[: 3 * size * size].reshape(3, size, size)
        source = sources[b, v]
        fill = mean_levels(image.reshape(-1)) if masked[b, v] and source == MEAN else colors[b, v]
        other = _image(images, source) if source >= 0 else image[:0]
        crop = (crops[0, b, v], crops[1, b, v], crops[2, b, v], crops[3, b, v])
        resize(
            image, crop, flips[b, v], cubic, antialias, masked[b, v], masks[b], limit, fill, other,
            view,
        )  # fmt: skip
        for k in range(4):
            op = orders[b, v, k]
            jitter(view, op, factors[op, b, v], torchvision)
        if grays[b, v]:
            gray(view)
        if sigmas[b, v] > 0:
            blur(view, blur_buffer, sigmas[b, v], radii[v])
        finish(view, solarizes[b, v], thresholds[v], mean, scale, out)


@compiled
def _image(images, row):
    pixels, offsets, heights, widths = images
    height, width = np.int64(heights[row]), np.int64(widths[row])
    return pixels[offsets[row] : offsets[row] + height * width * 3].reshape(height, width, 3)
