"""Shapes, textures and noise of the generated pictures, as functions of coordinates.

Object coordinates u and v are such that an object reaches to about 1 from its centre. Arrays are
float32 [H, W] throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Plane = NDArray[np.floating[Any]]

_EDGE = 5.0  # steepness of the borders inside a texture
_NOISE_SIDE = 160


def disc(u: Plane, v: Plane) -> Plane:
    """Distance to the outline, negative inside; so for all shapes."""
    return np.hypot(u, v) - 0.92


def square(u: Plane, v: Plane) -> Plane:
    return np.maximum(np.abs(u), np.abs(v)) - 0.8


def star(u: Plane, v: Plane) -> Plane:
    """Five points: the outline's radius runs up and down in straight lines."""
    turn = np.arctan2(v, u) * np.float32(5 / (2 * np.pi))
    height = 2 * np.abs(turn - np.rint(turn))  # 0 at a tip, 1 between two
    distance: Plane = np.hypot(u, v) - (1.1 - 0.62 * np.sqrt(height))
    return distance * 0.6


def cross(u: Plane, v: Plane) -> Plane:
    along, across = np.abs(u), np.abs(v)
    upright = np.maximum(along - 1.0, across - 0.42)
    return np.minimum(upright, np.maximum(across - 1.0, along - 0.42))


def triangle(u: Plane, v: Plane) -> Plane:
    slope = np.float32(np.sqrt(3) / 2)
    return np.maximum(np.abs(u) * slope + v * np.float32(0.5), -v) - 0.58


def stripes(rng: Generator, u: Plane, v: Plane) -> Plane:
    """How much of the bright colour there is, 0..1; so for all textures."""
    return _steep(np.sin(_frequency(rng, 2.2) * u + _phase(rng)))


def checks(rng: Generator, u: Plane, v: Plane) -> Plane:
    frequency = _frequency(rng, 1.5)
    return _steep(2 * np.sin(frequency * u + _phase(rng)) * np.sin(frequency * v + _phase(rng)))


def dots(rng: Generator, u: Plane, v: Plane) -> Plane:
    frequency = _frequency(rng, 2.0)
    return _steep(np.cos(frequency * u + _phase(rng)) + np.cos(frequency * v + _phase(rng)) - 0.7)


def rings(rng: Generator, u: Plane, v: Plane) -> Plane:
    return _steep(np.sin(_frequency(rng, 2.6) * np.hypot(u, v) + _phase(rng)))


def bricks(rng: Generator, u: Plane, v: Plane) -> Plane:
    """Bright bricks between dark joints, every other row shifted by half a brick."""
    frequency = _frequency(rng, 2.4) / np.float32(2 * np.pi)
    y = v * frequency + _phase(rng)
    row = np.floor(y)
    x = u * frequency * np.float32(0.55) + 0.5 * (row % 2) + _phase(rng)
    joint = np.minimum(0.5 - np.abs(y - row - 0.5), (0.5 - np.abs(x - np.floor(x) - 0.5)) * 1.8)
    return clip((joint - 0.08) * 12)


def grain(
    rng: Generator, height: int, width: int, *, slope: float, stretch: float, angle: float
) -> Plane:
    """Noise whose amplitude falls as 1 / f ** slope, of mean 0 and variance 1, [H, W]."""
    fy, fx = _frequencies()
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    frequency = np.hypot(cos * fx + sin * fy, (cos * fy - sin * fx) * np.float32(stretch))
    frequency[0, 0] = np.inf  # no constant part
    phases = rng.random(fy.shape[:1] + fx.shape[1:], dtype=np.float32) * np.float32(2 * np.pi)
    spectrum = np.exp(1j * phases) * frequency ** np.float32(-slope)
    noise: Plane = np.fft.irfft2(spectrum, s=(_NOISE_SIDE, _NOISE_SIDE))[:height, :width]
    noise = noise.astype(np.float32) - np.float32(noise.mean())
    unit: Plane = noise / noise.std()
    return unit


def hsv_to_rgb(hue: float, saturation: float, value: float) -> Plane:
    """One colour, float32 [3] in 0..1; hue wraps, the others are clipped."""
    turns = (hue * 6 + np.array([5.0, 3.0, 1.0])) % 6
    ramp = clip(np.minimum(turns, 4 - turns))
    colour: Plane = min(max(value, 0.0), 1.0) * (1 - min(max(saturation, 0.0), 1.0) * ramp)
    return colour.astype(np.float32)


def clip(values: Plane) -> Plane:
    """Clip to 0..1."""
    clipped: Plane = np.clip(values, 0, 1)
    return clipped


SHAPES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "disc": disc,
    "square": square,
    "star": star,
    "cross": cross,
    "triangle": triangle,
}
TEXTURES: dict[str, Callable[[Generator, Plane, Plane], Plane]] = {
    "stripes": stripes,
    "checks": checks,
    "dots": dots,
    "rings": rings,
    "bricks": bricks,
}


@lru_cache(maxsize=1)
def _frequencies() -> tuple[Plane, Plane]:
    fy = np.fft.fftfreq(_NOISE_SIDE).astype(np.float32)[:, None]
    return fy, np.fft.rfftfreq(_NOISE_SIDE).astype(np.float32)[None, :]


def _frequency(rng: Generator, periods: float) -> np.float32:
    """Radians per unit for about so many periods from the centre to the rim."""
    return np.float32(2 * np.pi * periods * rng.uniform(0.85, 1.2))


def _phase(rng: Generator) -> np.float32:
    return np.float32(rng.uniform(0, 2 * np.pi))


def _steep(wave: Plane) -> Plane:
    return clip(0.5 + np.float32(_EDGE / 2) * wave)
