"""Colour of the fused executor: Triton functions on tiles of float32 red, green, blue in 0..1.

The formulas are those of `compiled_color`: saturation without a hue, hue without sextants.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def clip(x):
    return tl.minimum(tl.maximum(x, 0.0), 1.0)


@triton.jit
def luma(r, g, b):
    return 0.2989 * r + 0.5870 * g + 0.1140 * b


@triton.jit
def jitter(r, g, b, order, first, last, brightness, saturation, hue, TORCHVISION: tl.constexpr):
    """Apply ops first..last-1 of an order, two bits each; contrast (1) has a pass of its own."""
    for k in range(first, last):
        op = (order >> (2 * k)) & 3
        if (op == 0) & (brightness != 0):
            r, g, b = _brighten(r, g, b, brightness, TORCHVISION)
        if (op == 2) & (saturation != 1):
            r, g, b = _saturate(r, g, b, saturation, TORCHVISION)
        if (op == 3) & (hue != 0):
            r, g, b = _rotate_hue(r, g, b, hue)
    return r, g, b


@triton.jit
def _brighten(r, g, b, brightness, TORCHVISION: tl.constexpr):
    if TORCHVISION:
        factor = 1 + brightness
        r, g, b = r * factor, g * factor, b * factor
    else:
        r, g, b = r + brightness, g + brightness, b + brightness
    return clip(r), clip(g), clip(b)


@triton.jit
def _saturate(r, g, b, factor, TORCHVISION: tl.constexpr):
    if TORCHVISION:
        shift = luma(r, g, b) * (1 - factor)
        r, g, b = clip(factor * r + shift), clip(factor * g + shift), clip(factor * b + shift)
    else:
        top = tl.maximum(r, tl.maximum(g, b))
        spread = top - tl.minimum(r, tl.minimum(g, b))
        room = top / tl.where(spread > 0, spread, 1.0)
        gain = tl.maximum(tl.minimum(factor, room), 0.0)
        r = tl.maximum(top - (top - r) * gain, 0.0)
        g = tl.maximum(top - (top - g) * gain, 0.0)
        b = tl.maximum(top - (top - b) * gain, 0.0)
    return r, g, b


@triton.jit
def _rotate_hue(r, g, b, delta):
    top = tl.maximum(r, tl.maximum(g, b))
    spread = top - tl.minimum(r, tl.minimum(g, b))
    inverse = 1.0 / tl.where(spread > 0, spread, 1.0)
    hue = tl.where(
        r == top,
        (g - b) * inverse,
        tl.where(g == top, (b - r) * inverse + 2, (r - g) * inverse + 4),
    )
    hue += 6 * delta + 6  # positive: hue is at least -1, the shift at least -3
    return (
        _of_hue(hue + 5, top, spread),
        _of_hue(hue + 3, top, spread),
        _of_hue(hue + 1, top, spread),
    )


@triton.jit
def _of_hue(k, top, spread):
    k = k - 6 * tl.floor(k * (1.0 / 6.0))
    return clip(top - spread * tl.maximum(tl.minimum(tl.minimum(k, 4 - k), 1.0), 0.0))


@triton.jit
def gray(r, g, b):
    value = clip(luma(r, g, b))
    return value, value, value
