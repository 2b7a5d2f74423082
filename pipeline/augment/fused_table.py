"""Params as the kernels of the fused executor read them: a row of 32-bit words for each view.

Floats lie in the same table by their bits: kernels get it twice, as int32 and as float32.

Shapes: B samples, V views.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from pipeline.augment.params import JITTER_ORDERS, ViewParams
from pipeline.augment.reference import color_levels


class Word(IntEnum):
    """The words of a view; from BRIGHTNESS on they are float32."""

    TOP = 0
    LEFT = 1
    HEIGHT = 2
    WIDTH = 3
    FLIP = 4
    ORDER = 5  # the four jitter ops, two bits each, the first lowest
    SPLIT = 6  # how many of them come before contrast; 4: there is no contrast
    GRAY = 7
    SOLARIZE = 8
    MASK = 9
    SOURCE = 10  # mask_source
    COLOR = 11  # mask_color in levels: red | green << 8 | blue << 16
    BRIGHTNESS = 12
    CONTRAST = 13
    SATURATION = 14
    HUE = 15
    SIGMA = 16


_CONTRAST_OP = 1
_ORDER_BITS = np.array([sum(op << 2 * k for k, op in enumerate(o)) for o in JITTER_ORDERS])
_CONTRAST_AT = np.array([order.index(_CONTRAST_OP) for order in JITTER_ORDERS])


def params_table(params: ViewParams) -> NDArray[np.int32]:
    """Return int32 [B, V, len(Word)]."""
    table = np.empty((*params.flip.shape, len(Word)), np.int32)
    split = np.where(params.contrast != 1, _CONTRAST_AT[params.jitter_order], 4)
    red, green, blue = np.moveaxis(color_levels(params.mask_color).astype(np.int32), -1, 0)
    integers = {
        Word.TOP: params.crop_top,
        Word.LEFT: params.crop_left,
        Word.HEIGHT: params.crop_height,
        Word.WIDTH: params.crop_width,
        Word.FLIP: params.flip,
        Word.ORDER: _ORDER_BITS[params.jitter_order],
        Word.SPLIT: split,
        Word.GRAY: params.grayscale,
        Word.SOLARIZE: params.solarize,
        Word.MASK: params.mask,
        Word.SOURCE: params.mask_source,
        Word.COLOR: red | green << 8 | blue << 16,
    }
    floats = {
        Word.BRIGHTNESS: params.brightness,
        Word.CONTRAST: params.contrast,
        Word.SATURATION: params.saturation,
        Word.HUE: params.hue,
        Word.SIGMA: params.blur_sigma,
    }
    for word, values in integers.items():
        table[..., word] = values
    for word, values in floats.items():
        table[..., word] = np.asarray(values, np.float32).view(np.int32)
    return table
