"""Colour of the compiled executor: numba, float32, in place on a planar view [3, s, s].

BYOL's jitter and torchvision's, the four ops each clipped to 0..1, then gray and the last pass.
"""

from __future__ import annotations

import numpy as np

from pipeline.augment.compiled_jit import compiled


@compiled
def jitter(view, op, value, torchvision):
    """Apply op 0 brightness, 1 contrast, 2 saturation or 3 hue; a neutral value does nothing."""
    if op == 0 and value != 0:
        if torchvision:
            _scale_and_shift(view.reshape(-1), np.float32(1) + value, np.float32(0))
        else:
            _scale_and_shift(view.reshape(-1), np.float32(1), value)
    elif op == 1 and value != 1:
        _contrast(view, value, torchvision)
    elif op == 2 and value != 1:
        if torchvision:
            _mix_with_gray(view, value)
        else:
            _saturate(view, value)
    elif op == 3 and value != 0:
        _rotate_hue(view, value)


@compiled
def _scale_and_shift(flat, scale, shift):
    for i in range(flat.shape[0]):
        flat[i] = min(max(scale * flat[i] + shift, np.float32(0)), np.float32(1))


@compiled
def _contrast(view, factor, torchvision):
    means = np.empty(3, np.float64)
    for c in range(3):
        means[c] = view[c].mean()
    if torchvision:  # the mean of the gray picture is the gray of the means
        means[:] = 0.2989 * means[0] + 0.5870 * means[1] + 0.1140 * means[2]
    for c in range(3):
        shift = np.float32(means[c]) * (np.float32(1) - factor)
        _scale_and_shift(view[c].reshape(-1), factor, shift)


@compiled
def _luma(r, g, b):
    return np.float32(0.2989) * r + np.float32(0.5870) * g + np.float32(0.1140) * b


@compiled
def _mix_with_gray(view, factor):
    red, green, blue = view[0].reshape(-1), view[1].reshape(-1), view[2].reshape(-1)
    zero, one = np.float32(0), np.float32(1)
    for i in range(red.shape[0]):
        shift = _luma(red[i], green[i], blue[i]) * (one - factor)
        red[i] = min(max(factor * red[i] + shift, zero), one)
        green[i] = min(max(factor * green[i] + shift, zero), one)
        blue[i] = min(max(factor * blue[i] + shift, zero), one)


@compiled
def _saturate(view, factor):
    """Scale HSV saturation: hue and value kept, so each channel moves along value - channel.

    With s' = min(s * factor, 1) and x = v - s * v * d (d the channel's distance from the top, 0..1)
    the new channel is v - (v - x) * s' / s: no hue needed.
    """
    red, green, blue = view[0].reshape(-1), view[1].reshape(-1), view[2].reshape(-1)
    zero = np.float32(0)
    for i in range(red.shape[0]):
        r, g, b = red[i], green[i], blue[i]
        top = max(r, max(g, b))
        spread = top - min(r, min(g, b))
        # s'/s = min(factor, 1/s) = min(factor, top / spread)
        gain = max(min(factor, top / spread), zero) if spread > zero else zero
        red[i] = max(top - (top - r) * gain, zero)
        green[i] = max(top - (top - g) * gain, zero)
        blue[i] = max(top - (top - b) * gain, zero)


@compiled
def _rotate_hue(view, delta):
    """Add `delta` turns to the HSV hue of every pixel.

    The channels of a hue are v - chroma * max(0, min(k, 4 - k, 1)), k = (n + 6 hue) mod 6 and
    n = 5, 3, 1 for red, green, blue: the sextants without branches.
    """
    red, green, blue = view[0].reshape(-1), view[1].reshape(-1), view[2].reshape(-1)
    zero, one, six = np.float32(0), np.float32(1), np.float32(6)
    shift = np.float32(6) * delta
    for i in range(red.shape[0]):
        r, g, b = red[i], green[i], blue[i]
        top = max(r, max(g, b))
        spread = top - min(r, min(g, b))
        inverse = one / spread if spread > zero else zero
        if r == top:
            hue = (g - b) * inverse
        elif g == top:
            hue = (b - r) * inverse + np.float32(2)
        else:
            hue = (r - g) * inverse + np.float32(4)
        hue += shift + six  # positive: hue is at least -1, the shift at least -3 (|delta| <= 1/2)
        for n in range(3):
            k = hue + np.float32(5 - 2 * n)
            k = k - six * np.floor(k / six)
            value = top - spread * max(zero, min(min(k, np.float32(4) - k), one))
            value = min(max(value, zero), one)
            if n == 0:
                red[i] = value
            elif n == 1:
                green[i] = value
            else:
                blue[i] = value


@compiled
def gray(view):
    red, green, blue = view[0].reshape(-1), view[1].reshape(-1), view[2].reshape(-1)
    for i in range(red.shape[0]):
        value = min(max(_luma(red[i], green[i], blue[i]), np.float32(0)), np.float32(1))
        red[i] = value
        green[i] = value
        blue[i] = value


@compiled
def finish(view, solarize, threshold, mean, scale, out):
    """Solarize, normalise and write out."""
    zero, one = np.float32(0), np.float32(1)
    for c in range(3):
        source, target = view[c].reshape(-1), out[c].reshape(-1)
        for i in range(source.shape[0]):
            value = source[i]
            if solarize and value >= threshold:
                value = one - value
            target[i] = (min(max(value, zero), one) - mean[c]) * scale[c]
