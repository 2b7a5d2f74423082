"""How far a decoder may stray from libjpeg-turbo's exact settings and still be trusted.

Decoders may round differently, and may interpolate halved chroma differently or not at all: that
moves single values at the edges of colours by 80 levels. It does not reach the brightness (luma) of
a pixel, which is why that is held closely, and colours loosely. What goes wrong when a decoder is
wrong (an image skipped, half of it stale, channels swapped, a range scaled) moves brightness
somewhere, or the colours everywhere.

The limits lie above what libjpeg-turbo itself does at its roughest setting (fast DCT, as FFCV, and
no interpolation): on 1,327 photos it reached 0.8, 3.7, 11.0 and 22 levels. At these limits, three
levels too bright are found in 99.9 % of the photos, a strip of 5 % that is missing in 99 %, swapped
channels in 93 % (docs/feeding-gpu-decode.md).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.batch import Bytes

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of R, G, B, as JPEG has it
_TILES = 8  # along each side
_SMALLEST_TILE = 16  # pixels: a unit of the chroma planes is no measure of its own


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How two pictures differ, in levels of 255; each number is >= 0."""

    brightness: float  # of the mean luma: a range that is scaled or shifted
    detail: float  # of luma, mean absolute, in the worst of 8 x 8 tiles: a part that is wrong
    color: float  # of R, G and B, mean absolute: channels swapped, chroma lost
    largest: float  # of luma, of a single pixel: a block that is missing

    def beyond(self, limit: Difference) -> str:
        """Say what is further off than `limit` allows, or ''."""
        for name in ("brightness", "detail", "color", "largest"):
            found, allowed = getattr(self, name), getattr(limit, name)
            if not found <= allowed:
                return f"{_NAMES[name]} by {found:.1f} levels of 255 ({allowed:.0f} allowed)"
        return ""


TOLERANCE = Difference(brightness=1.0, detail=6.0, color=24.0, largest=128.0)
_NAMES = {
    "brightness": "brightness is off",
    "detail": "brightness of a part is off",
    "color": "colours are off",
    "largest": "brightness of a pixel is off",
}


def difference(pixels: Bytes, expected: Bytes) -> Difference:
    """Compare two pictures of one size, uint8 [H, W, 3]."""
    off = pixels.astype(np.float32) - expected
    luma = off @ _LUMA
    return Difference(
        brightness=abs(float(luma.mean(dtype=np.float64))),
        detail=float(_tile_means(np.abs(luma)).max()),
        color=float(np.abs(off).mean(dtype=np.float64)),
        largest=float(np.abs(luma).max()),
    )


def _tile_means(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Means of [H, W] over up to 8 x 8 tiles of at least 16 pixels a side."""
    starts, sizes = [], []
    for side in values.shape:
        count = max(1, min(_TILES, side // _SMALLEST_TILE))
        borders = np.arange(count + 1) * side // count
        starts.append(borders[:-1])
        sizes.append(np.diff(borders))
    rows = np.add.reduceat(values.astype(np.float64), starts[0], axis=0)
    sums = np.add.reduceat(rows, starts[1], axis=1)
    return np.asarray(sums / np.outer(*sizes))
