"""A dense CRF over two classes: nearby pixels, and pixels of like colour, get like masks.

Krähenbühl and Koltun: Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials,
2011. All pairs of pixels are connected, by a kernel of their distance and by one of distance and
colour; mean-field updates need no more than filtering with these kernels. The first is filtered
exactly, as a product over rows and columns, the second by a lattice (compiled_lattice.py).

Shapes: H/W sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.batch import Bytes, Floats

_LEAST = 1e-6  # probabilities nearer to 0 or 1 than this are taken for it


@dataclass(frozen=True, kw_only=True, slots=True)
class CrfConfig:
    """The defaults are those of DeepUSPS's code, Par_CRF.py [SRC]; `side` is its input size.

    Deviations in pixels are of a picture of `side` pixels, and shrink with smaller ones.

    Raises:
        ValueError: a value out of range.
    """

    iterations: int = 5
    near_sigma: float = 3.0  # pixels, of the kernel of distance alone
    near_weight: float = 3.0
    colour_sigma_xy: float = 80.0  # pixels, of the kernel of distance and colour
    colour_sigma_rgb: float = 13.0  # levels of 0..255
    colour_weight: float = 10.0
    side: int = 432

    def __post_init__(self) -> None:
        for name in ("iterations", "side"):
            if getattr(self, name) < 1:
                raise ValueError(f"crf.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("near_sigma", "colour_sigma_xy"):
            if not getattr(self, name) > 0:
                raise ValueError(f"crf.{name} must be above 0 pixels, got {getattr(self, name)}")
        for name in ("near_weight", "colour_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"crf.{name} must not be negative, got {getattr(self, name)}")
        if not self.colour_sigma_rgb >= 3:  # else keys of the lattice overflow
            raise ValueError(
                f"crf.colour_sigma_rgb must be at least 3 levels, got {self.colour_sigma_rgb}"
            )


def refine_by_crf(image: Bytes, salient: Floats, config: CrfConfig) -> Floats:
    """Return the marginals after mean-field inference, float32 [H, W] in 0..1.

    The unary term is minus the log of the given probability; kernels, Potts compatibilities and
    the symmetric normalisation of kernels are those of the authors' implementation.

    Args:
        image: uint8 [H, W, 3], RGB.
        salient: float32 [H, W], probability of salient, 0..1.
    """
    from pipeline.saliency.compiled_lattice import build_lattice, filter_lattice

    shrink = max(salient.shape) / config.side
    rows, columns = (
        _gaussians(length, max(config.near_sigma * shrink, 1e-3)) for length in salient.shape
    )
    lattice = build_lattice(_features(image, config, shrink))

    def near(values: Floats) -> Floats:
        filtered: Floats = (rows @ values @ columns).astype(np.float32)
        return filtered

    def alike(values: Floats) -> Floats:
        filtered: Floats = filter_lattice(*lattice, values.reshape(-1))
        return filtered.reshape(values.shape)

    ones = np.ones_like(salient)
    near_norm, alike_norm = (1 / np.sqrt(kernel(ones) + 1e-20) for kernel in (near, alike))
    # With two classes, the messages for one less those for the other are K q - K (1 - q).
    known = salient.clip(_LEAST, 1 - _LEAST)
    unary = np.log(known) - np.log1p(-known)
    q = known
    for _ in range(config.iterations):
        lean = 2 * q - 1
        by_distance = config.near_weight * near_norm * near(near_norm * lean)
        by_colour = config.colour_weight * alike_norm * alike(alike_norm * lean)
        q = _sigmoid(unary + by_distance + by_colour)
    return q


def _features(image: Bytes, config: CrfConfig, shrink: float) -> Floats:
    """Place and colour of each pixel, float32 [H * W, 5], in units of the kernel's deviations."""
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / np.float32(
        config.colour_sigma_xy * shrink
    )
    colour = image.astype(np.float32) / np.float32(config.colour_sigma_rgb)
    return np.concatenate([x[..., None], y[..., None], colour], axis=2).reshape(-1, 5)


def _gaussians(length: int, sigma: float) -> Floats:
    """The kernel between the positions of a line, float32 [length, length]."""
    position = np.arange(length, dtype=np.float64)
    distance = (position[:, None] - position[None, :]) / sigma
    return np.exp(-0.5 * distance**2).astype(np.float32)


def _sigmoid(logit: Floats) -> Floats:
    with np.errstate(over="ignore"):  # exp(large) is infinity, and 1 / infinity is right
        result: NDArray[np.float32] = (1 / (1 + np.exp(-logit))).astype(np.float32)
    return result
