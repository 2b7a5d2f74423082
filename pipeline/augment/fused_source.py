"""Source pixels of the fused executor: taps, their weights, and the background: Triton functions.

Positions are exact: the centre of output pixel i is the integer (2i + 1) * length - s over 2s, so
that its whole part and fraction come from one integer division, and no float holds a large number.

Shapes: ROWS x COLUMNS outputs of a tile, s side of the view, M mask grid.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pipeline.batch import MASK_GRID

GRID = tl.constexpr(MASK_GRID)


@triton.jit
def centres(i, length, SIZE: tl.constexpr):
    """Whole part and fraction, in source pixels, of the centres of output pixels i."""
    numerator = (2 * i + 1) * length - SIZE  # above -SIZE
    whole = (numerator + 2 * SIZE) // (2 * SIZE) - 1
    return whole, (numerator - whole * (2 * SIZE)).to(tl.float32) / (2 * SIZE)


@triton.jit
def _weight(distance, CUBIC: tl.constexpr):
    x = tl.abs(distance)
    if CUBIC:  # Keys, a = -0.5
        near = (1.5 * x - 2.5) * x * x + 1
        far = ((-0.5 * x + 2.5) * x - 4) * x + 2
        weight = tl.where(x <= 1, near, tl.where(x < 2, far, 0.0))
    else:
        weight = tl.maximum(1 - x, 0.0)
    return weight


@triton.jit
def _tap(whole, fraction, k, length, stretch, CUBIC: tl.constexpr):
    """Position of tap whole + k, held inside the crop, and its weight, zero outside."""
    position = whole + k
    weight = _weight((k - fraction) / stretch, CUBIC)
    weight = tl.where((position >= 0) & (position < length), weight, 0.0)
    return tl.minimum(tl.maximum(position, 0), length - 1), weight


@triton.jit
def four_taps(whole, fraction, length, CUBIC: tl.constexpr):
    """Four positions, held inside the crop, and their weights, which add up to one."""
    p0, w0 = _tap(whole, fraction, -1, length, 1.0, CUBIC)
    p1, w1 = _tap(whole, fraction, 0, length, 1.0, CUBIC)
    p2, w2 = _tap(whole, fraction, 1, length, 1.0, CUBIC)
    p3, w3 = _tap(whole, fraction, 2, length, 1.0, CUBIC)
    norm = 1 / (w0 + w1 + w2 + w3)
    return p0, p1, p2, p3, w0 * norm, w1 * norm, w2 * norm, w3 * norm


@triton.jit
def add_row(r, g, b, words, byte, down, a0, a1, a2, a3):
    """Add one row of taps to red, green, blue [ROWS, COLUMNS], in levels times `down` [ROWS].

    The four taps of a pixel are 12 consecutive bytes from `byte` on: four aligned words and a
    shift, where single bytes would be 12 loads. Taps outside the crop are read too, with weight
    zero: the buffer has room on both sides.
    """
    shift = ((byte & 3) * 8).to(tl.uint64)
    word = words + (byte >> 2)
    w0 = tl.load(word).to(tl.uint32, bitcast=True).to(tl.uint64)
    w1 = tl.load(word + 1).to(tl.uint32, bitcast=True).to(tl.uint64)
    w2 = tl.load(word + 2).to(tl.uint32, bitcast=True).to(tl.uint64)
    w3 = tl.load(word + 3).to(tl.uint32, bitcast=True).to(tl.uint64)
    p0 = (((w1 << 32) | w0) >> shift).to(tl.uint32)  # r0 g0 b0 r1
    p1 = (((w2 << 32) | w1) >> shift).to(tl.uint32)  # g1 b1 r2 g2
    p2 = (((w3 << 32) | w2) >> shift).to(tl.uint32)  # b2 r3 g3 b3
    a0, a1, a2, a3, down = a0[None, :], a1[None, :], a2[None, :], a3[None, :], down[:, None]
    r += down * (a0 * _byte(p0, 0) + a1 * _byte(p0, 3) + a2 * _byte(p1, 2) + a3 * _byte(p2, 1))
    g += down * (a0 * _byte(p0, 1) + a1 * _byte(p1, 0) + a2 * _byte(p1, 3) + a3 * _byte(p2, 2))
    b += down * (a0 * _byte(p0, 2) + a1 * _byte(p1, 1) + a2 * _byte(p2, 0) + a3 * _byte(p2, 3))
    return r, g, b


@triton.jit
def _byte(word, n: tl.constexpr):
    return ((word >> (8 * n)) & 255).to(tl.float32)


@triton.jit
def sample(
    image, height, width, top, left, crop_height, crop_width, y, y_fraction, x, x_fraction,
    masked, grid, limit, other, other_height, other_width, red, green, blue,
    SIZE: tl.constexpr, CUBIC: tl.constexpr, ANTIALIAS: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """Return red, green, blue [ROWS, COLUMNS] in levels, masked or antialiased, byte by byte."""
    radius: tl.constexpr = 2 if CUBIC else 1
    y_stretch, x_stretch = 1.0, 1.0
    y_count, x_count = 2 * radius, 2 * radius
    y_first = tl.zeros([ROWS], tl.int32) + (1 - radius)
    x_first = tl.zeros([COLUMNS], tl.int32) + (1 - radius)
    if ANTIALIAS:
        y_stretch = tl.maximum(crop_height.to(tl.float32) / SIZE, 1.0)
        x_stretch = tl.maximum(crop_width.to(tl.float32) / SIZE, 1.0)
        y_first = tl.ceil(y_fraction - radius * y_stretch).to(tl.int32)
        x_first = tl.ceil(x_fraction - radius * x_stretch).to(tl.int32)
        y_count = tl.ceil(2 * radius * y_stretch).to(tl.int32) + 1
        x_count = tl.ceil(2 * radius * x_stretch).to(tl.int32) + 1
    r = tl.zeros([ROWS, COLUMNS], tl.float32)
    g, b = r, r
    y_total, x_total = tl.zeros([ROWS], tl.float32), tl.zeros([COLUMNS], tl.float32)
    for j in range(x_count):
        _, across = _tap(x, x_fraction, x_first + j, crop_width, x_stretch, CUBIC)
        x_total += across
    for i in range(y_count):
        row, down = _tap(y, y_fraction, y_first + i, crop_height, y_stretch, CUBIC)
        y_total += down
        row += top
        line = image + row.to(tl.int64) * (3 * width)
        for j in range(x_count):
            column, across = _tap(x, x_fraction, x_first + j, crop_width, x_stretch, CUBIC)
            column += left
            pixel = line[:, None] + (3 * column)[None, :]
            pr = tl.load(pixel).to(tl.float32)
            pg = tl.load(pixel + 1).to(tl.float32)
            pb = tl.load(pixel + 2).to(tl.float32)
            if masked:
                foreground = _salience(grid, row, height, column, width) > limit
                br, bg, bb = _background(
                    other, other_height, other_width, row, height, column, width, red, green, blue,
                    ROWS, COLUMNS,
                )  # fmt: skip
                pr = tl.where(foreground, pr, br)
                pg = tl.where(foreground, pg, bg)
                pb = tl.where(foreground, pb, bb)
            weight = down[:, None] * across[None, :]
            r += weight * pr
            g += weight * pg
            b += weight * pb
    norm = 1 / (y_total[:, None] * x_total[None, :])
    return r * norm, g * norm, b * norm


@triton.jit
def _salience(grid, row, height, column, width):
    """`saliency.codec.mask_at_pixels` of the pixels row x column."""
    top, bottom, down = _cells(row, height)
    left, right, along = _cells(column, width)
    upper = _blend(grid, top, left, right, along)
    lower = _blend(grid, bottom, left, right, along)
    return upper * (256 - down)[:, None] + lower * down[:, None]


@triton.jit
def _cells(position, length):
    # Unsigned: (2 * 65535 + 1) * 32768, the largest JPEG's, just fits into 32 bits.
    scaled = (2 * position + 1).to(tl.uint32) * (GRID * 256)
    centre = (scaled // (2 * length).to(tl.uint32)).to(tl.int32) - 128
    first = tl.minimum(tl.maximum(centre >> 8, 0), GRID - 1)
    second = tl.minimum(tl.maximum((centre >> 8) + 1, 0), GRID - 1)
    return first, second, centre & 255


@triton.jit
def _blend(grid, row, left, right, along):
    line = grid + row * GRID
    first = tl.load(line[:, None] + left[None, :]).to(tl.int32)
    second = tl.load(line[:, None] + right[None, :]).to(tl.int32)
    return first * (256 - along)[None, :] + second * along[None, :]


@triton.jit
def _background(
    other, other_height, other_width, row, height, column, width, red, green, blue,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The other image, stretched over this one, at these pixels; without one, the levels."""
    r = tl.zeros([ROWS, COLUMNS], tl.float32) + red
    g = tl.zeros([ROWS, COLUMNS], tl.float32) + green
    b = tl.zeros([ROWS, COLUMNS], tl.float32) + blue
    if other_height > 0:
        y = ((2 * row + 1).to(tl.int64) * other_height) // (2 * height)
        x = ((2 * column + 1).to(tl.int64) * other_width) // (2 * width)
        pixel = (other + y * (3 * other_width))[:, None] + (3 * x)[None, :]
        r = tl.load(pixel).to(tl.float32)
        g = tl.load(pixel + 1).to(tl.float32)
        b = tl.load(pixel + 2).to(tl.float32)
    return r, g, b
