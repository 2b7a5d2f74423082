"""The three passes of the fused executor, and the mean of an image: Triton kernels.

    resample   source pixels -> crop, resize, flip, jitter up to contrast; sums for its mean
    recolor    contrast, the rest of the jitter, gray             (views with contrast only)
    blur       both directions, as products with banded matrices  (blurred views only)

A view is written out by the last pass that it needs; between passes it lies in `scratch` as 16-bit
fractions of 1 (a step is 1/257 of a level). One launch of each serves all images and views of a
size: a program works on a part of one view, and ends at once where there is nothing to do.

Shapes: B samples, V views of this size, s side of a view, M mask grid.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pipeline.augment import params
from pipeline.augment.fused_color import clip, gray, jitter, luma
from pipeline.augment.fused_source import GRID, add_row, centres, four_taps, sample
from pipeline.augment.fused_table import Word

WORDS = tl.constexpr(len(Word))
TOP, LEFT = tl.constexpr(Word.TOP.value), tl.constexpr(Word.LEFT.value)
HEIGHT, WIDTH = tl.constexpr(Word.HEIGHT.value), tl.constexpr(Word.WIDTH.value)
FLIP, ORDER = tl.constexpr(Word.FLIP.value), tl.constexpr(Word.ORDER.value)
SPLIT, GRAY = tl.constexpr(Word.SPLIT.value), tl.constexpr(Word.GRAY.value)
SOLARIZE, MASK = tl.constexpr(Word.SOLARIZE.value), tl.constexpr(Word.MASK.value)
SOURCE, COLOR = tl.constexpr(Word.SOURCE.value), tl.constexpr(Word.COLOR.value)
BRIGHTNESS, CONTRAST = tl.constexpr(Word.BRIGHTNESS.value), tl.constexpr(Word.CONTRAST.value)
SATURATION, HUE = tl.constexpr(Word.SATURATION.value), tl.constexpr(Word.HUE.value)
SIGMA = tl.constexpr(Word.SIGMA.value)
MEAN = tl.constexpr(params.MEAN)
FULL = tl.constexpr(65535.0)


@triton.jit
def add_levels(pixels, offsets, heights, widths, sums, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr):
    """Add up the levels of each channel of each image, int64 [B, 3]; PROGRAMS share an image."""
    b, part = tl.program_id(0) // PROGRAMS, tl.program_id(0) % PROGRAMS
    count = tl.load(heights + b).to(tl.int64) * tl.load(widths + b)
    image = pixels + tl.load(offsets + b)
    red, green, blue = tl.zeros([1], tl.int64), tl.zeros([1], tl.int64), tl.zeros([1], tl.int64)
    for start in range(part * BLOCK, count, PROGRAMS * BLOCK):
        pixel = start + tl.arange(0, BLOCK).to(tl.int64)
        here = pixel < count
        red += tl.sum(tl.load(image + 3 * pixel, mask=here, other=0).to(tl.int32))
        green += tl.sum(tl.load(image + 3 * pixel + 1, mask=here, other=0).to(tl.int32))
        blue += tl.sum(tl.load(image + 3 * pixel + 2, mask=here, other=0).to(tl.int32))
    # Integers: the order in which programs add does not show.
    channel = tl.arange(0, 1)
    tl.atomic_add(sums + 3 * b + channel, red)
    tl.atomic_add(sums + 3 * b + 1 + channel, green)
    tl.atomic_add(sums + 3 * b + 2 + channel, blue)


# A batch of another size, the last of an epoch or of a set, must not compile anything anew.
@triton.jit(do_not_specialize=["batch", "limit"])
def resample(
    words, pixels, offsets, heights, widths, grids, level_sums, table, table_floats, thresholds,
    scratch, sums, out, limit, mean_r, mean_g, mean_b, scale_r, scale_g, scale_b, batch,
    FIRST: tl.constexpr, VIEWS: tl.constexpr, ALL_VIEWS: tl.constexpr, SIZE: tl.constexpr,
    STRIPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, CUBIC: tl.constexpr,
    ANTIALIAS: tl.constexpr, TORCHVISION: tl.constexpr, IMAGE_MEAN: tl.constexpr,
):  # fmt: skip
    """Mask, crop, resize, flip, and the jitter before contrast; one program a strip of ROWS."""
    view, strip = tl.program_id(0) // STRIPS, tl.program_id(0) % STRIPS
    b, v = view // VIEWS, view % VIEWS
    entry = (b * ALL_VIEWS + FIRST + v) * WORDS
    row, floats = table + entry, table_floats + entry
    height, width, offset = tl.load(heights + b), tl.load(widths + b), tl.load(offsets + b)
    top, left, flip = tl.load(row + TOP), tl.load(row + LEFT), tl.load(row + FLIP) != 0
    crop_height, crop_width = tl.load(row + HEIGHT), tl.load(row + WIDTH)
    order, split = tl.load(row + ORDER), tl.load(row + SPLIT)
    brightness, saturation = tl.load(floats + BRIGHTNESS), tl.load(floats + SATURATION)
    hue, sigma = tl.load(floats + HUE), tl.load(floats + SIGMA)
    grayed, solarized = tl.load(row + GRAY), tl.load(row + SOLARIZE)
    threshold = tl.load(thresholds + FIRST + v)

    masked = tl.load(row + MASK) != 0
    source = tl.load(row + SOURCE)
    other_row = tl.maximum(source, 0)
    other_height = tl.where(source >= 0, tl.load(heights + other_row), 0)
    other_width, other = tl.load(widths + other_row), pixels + tl.load(offsets + other_row)
    red, green, blue = _levels(row, level_sums + 3 * b, height, width, source, IMAGE_MEAN)

    i = strip * ROWS + tl.arange(0, ROWS)
    y, y_fraction = centres(tl.minimum(i, SIZE - 1), crop_height, SIZE)
    y0, y1, y2, y3, d0, d1, d2, d3 = four_taps(y, y_fraction, crop_height, CUBIC)
    start, pitch = words + offset // 4, 3 * width
    total_r = tl.zeros([ROWS, COLUMNS], tl.float32)
    total_g, total_b = total_r, total_r
    for first in range(0, SIZE, COLUMNS):
        j = first + tl.arange(0, COLUMNS)
        here = (i < SIZE)[:, None] & (j < SIZE)[None, :]
        column = tl.minimum(j, SIZE - 1)
        column = tl.where(flip, SIZE - 1 - column, column)
        x, x_fraction = centres(column, crop_width, SIZE)
        if masked or ANTIALIAS:
            r, g, bl = sample(
                pixels + offset, height, width, top, left, crop_height, crop_width, y, y_fraction,
                x, x_fraction, masked, grids + b.to(tl.int64) * (GRID * GRID), limit, other,
                other_height, other_width, red, green, blue, SIZE, CUBIC, ANTIALIAS, ROWS, COLUMNS,
            )  # fmt: skip
        else:
            _, _, _, _, a0, a1, a2, a3 = four_taps(x, x_fraction, crop_width, CUBIC)
            byte = ((offset % 4).to(tl.int32) + 3 * (left + x - 1))[None, :]
            r = tl.zeros([ROWS, COLUMNS], tl.float32)
            g, bl = r, r
            byte0 = ((top + y0) * pitch)[:, None] + byte
            byte1 = ((top + y1) * pitch)[:, None] + byte
            byte2 = ((top + y2) * pitch)[:, None] + byte
            byte3 = ((top + y3) * pitch)[:, None] + byte
            r, g, bl = add_row(r, g, bl, start, byte0, d0, a0, a1, a2, a3)
            r, g, bl = add_row(r, g, bl, start, byte1, d1, a0, a1, a2, a3)
            r, g, bl = add_row(r, g, bl, start, byte2, d2, a0, a1, a2, a3)
            r, g, bl = add_row(r, g, bl, start, byte3, d3, a0, a1, a2, a3)
        r, g, bl = clip(r * (1 / 255.0)), clip(g * (1 / 255.0)), clip(bl * (1 / 255.0))
        r, g, bl = jitter(r, g, bl, order, 0, split, brightness, saturation, hue, TORCHVISION)
        pixel = i[:, None] * SIZE + j[None, :]
        if split < 4:
            total_r += tl.where(here, r, 0.0)
            total_g += tl.where(here, g, 0.0)
            total_b += tl.where(here, bl, 0.0)
            _keep(scratch, view, pixel, here, r, g, bl, SIZE)
        else:
            _pass_on(
                scratch, out, view, v * batch + b, pixel, here, r, g, bl, grayed, sigma, solarized,
                threshold, mean_r, mean_g, mean_b, scale_r, scale_g, scale_b, SIZE,
            )  # fmt: skip
    if split < 4:
        part = sums + tl.program_id(0).to(tl.int64) * 3
        tl.store(part, tl.sum(total_r))
        tl.store(part + 1, tl.sum(total_g))
        tl.store(part + 2, tl.sum(total_b))


@triton.jit(do_not_specialize=["batch"])
def recolor(
    table, table_floats, thresholds, scratch, sums, out, mean_r, mean_g, mean_b, scale_r, scale_g,
    scale_b, batch,
    FIRST: tl.constexpr, VIEWS: tl.constexpr, ALL_VIEWS: tl.constexpr, SIZE: tl.constexpr,
    PARTS: tl.constexpr, PARTS_POWER: tl.constexpr, TORCHVISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Contrast, the jitter behind it, and gray; one program a run of BLOCK pixels."""
    blocks: tl.constexpr = (SIZE * SIZE + BLOCK - 1) // BLOCK
    view, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    b, v = view // VIEWS, view % VIEWS
    entry = (b * ALL_VIEWS + FIRST + v) * WORDS
    row, floats = table + entry, table_floats + entry
    split = tl.load(row + SPLIT)
    if split == 4:
        return
    part = tl.arange(0, PARTS_POWER)
    first = sums + (view.to(tl.int64) * PARTS + part) * 3
    red = tl.sum(tl.load(first, mask=part < PARTS, other=0.0)) / (SIZE * SIZE)
    green = tl.sum(tl.load(first + 1, mask=part < PARTS, other=0.0)) / (SIZE * SIZE)
    blue = tl.sum(tl.load(first + 2, mask=part < PARTS, other=0.0)) / (SIZE * SIZE)
    if TORCHVISION:  # the mean of the gray picture is the gray of the means
        red = luma(red, green, blue)
        green, blue = red, red

    pixel = block * BLOCK + tl.arange(0, BLOCK)
    here = pixel < SIZE * SIZE
    place = scratch + view.to(tl.int64) * (3 * SIZE * SIZE) + pixel
    factor = tl.load(floats + CONTRAST)
    rest = 1 - factor
    r = clip(factor * _fraction(place, here) + rest * red)
    g = clip(factor * _fraction(place + SIZE * SIZE, here) + rest * green)
    bl = clip(factor * _fraction(place + 2 * SIZE * SIZE, here) + rest * blue)
    r, g, bl = jitter(
        r, g, bl, tl.load(row + ORDER), split + 1, 4, tl.load(floats + BRIGHTNESS),
        tl.load(floats + SATURATION), tl.load(floats + HUE), TORCHVISION,
    )  # fmt: skip
    _pass_on(
        scratch, out, view, v * batch + b, pixel, here, r, g, bl, tl.load(row + GRAY),
        tl.load(floats + SIGMA), tl.load(row + SOLARIZE), tl.load(thresholds + FIRST + v), mean_r,
        mean_g, mean_b, scale_r, scale_g, scale_b, SIZE,
    )  # fmt: skip


@triton.jit(do_not_specialize=["batch"])
def blur(
    table, table_floats, thresholds, radii, scratch, out, mean_r, mean_g, mean_b, scale_r, scale_g,
    scale_b, batch,
    FIRST: tl.constexpr, VIEWS: tl.constexpr, ALL_VIEWS: tl.constexpr, SIZE: tl.constexpr,
    TILES: tl.constexpr, T: tl.constexpr, RADIUS: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Gaussian with each view's own sigma, zeros outside; one program a tile of T x T.

    out = W' X W, where column j of W holds the taps around j: blocks of T x T around the tile go
    through the tensor cores in float16, whose weights are added up as rounded, and X less 1/2,
    which halves its rounding: about 0.1 of a level in all. TF32 three times over would be exact,
    and took seven times as many instructions.
    """
    view, tile = tl.program_id(0) // (TILES * TILES), tl.program_id(0) % (TILES * TILES)
    b, v = view // VIEWS, view % VIEWS
    entry = (b * ALL_VIEWS + FIRST + v) * WORDS
    sigma = tl.load(table_floats + entry + SIGMA)
    if sigma <= 0:
        return
    radius = tl.load(radii + FIRST + v)
    # the square of a sigma far below a pixel, which leaves one tap anyway, may be no float32
    sharpness = -0.5 / tl.maximum(sigma * sigma, 1e-6)
    total = tl.sum(_taps(tl.arange(0, TAPS) - RADIUS, radius, sharpness).to(tl.float32))
    norm = 1 / (total * total)

    i = tile // TILES * T + tl.arange(0, T)
    j = tile % TILES * T + tl.arange(0, T)
    here = (i < SIZE)[:, None] & (j < SIZE)[None, :]
    solarized, threshold = tl.load(table + entry + SOLARIZE), tl.load(thresholds + FIRST + v)
    place = out + (v * batch + b).to(tl.int64) * (3 * SIZE * SIZE)
    place += 3 * (i[:, None] * SIZE + j[None, :])
    plane = scratch + view.to(tl.int64) * (3 * SIZE * SIZE)
    blocks: tl.constexpr = (T + 2 * RADIUS + T - 1) // T
    for c in tl.static_range(3):
        x = tl.zeros([T, T], tl.float32)
        if blocks <= 3:  # as a rule: unrolled, so that taps are made once for all blocks
            for n in tl.static_range(blocks):
                x = _add_blocks(x, plane, i, j, n, radius, sharpness, SIZE, T, RADIUS, blocks)
        else:
            for n in range(blocks):
                x = _add_blocks(x, plane, i, j, n, radius, sharpness, SIZE, T, RADIUS, blocks)
        mean, scale = mean_r, scale_r
        if c == 1:
            mean, scale = mean_g, scale_g
        if c == 2:
            mean, scale = mean_b, scale_b
        x = x * norm + 0.5
        _write_channel(place + c, here, x, solarized, threshold, mean, scale)
        plane += SIZE * SIZE


@triton.jit
def _add_blocks(
    x, plane, i, j, n, radius, sharpness, SIZE: tl.constexpr, T: tl.constexpr,
    RADIUS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Add what the n-th row of blocks around the tile contributes."""
    y = i - RADIUS + n * T
    rows = tl.zeros([T, T], tl.float32)
    if BLOCKS <= 3:
        for m in tl.static_range(BLOCKS):
            rows = _add_block(rows, plane, y, j, m, radius, sharpness, SIZE, T, RADIUS)
    else:
        for m in range(BLOCKS):
            rows = _add_block(rows, plane, y, j, m, radius, sharpness, SIZE, T, RADIUS)
    near = tl.arange(0, T)
    taps = _taps(near[None, :] - near[:, None] + (n * T - RADIUS), radius, sharpness)
    return tl.dot(taps, rows.to(tl.float16), x)


@triton.jit
def _add_block(
    rows, plane, y, j, m, radius, sharpness, SIZE: tl.constexpr, T: tl.constexpr,
    RADIUS: tl.constexpr,
):  # fmt: skip
    x = j - RADIUS + m * T
    here = ((y >= 0) & (y < SIZE))[:, None] & ((x >= 0) & (x < SIZE))[None, :]
    block = _fraction(plane + y[:, None] * SIZE + x[None, :], here) - 0.5
    near = tl.arange(0, T)
    taps = _taps(near[:, None] - near[None, :] + (m * T - RADIUS), radius, sharpness)
    return tl.dot(block.to(tl.float16), taps, rows)


@triton.jit
def _levels(row, level_sums, height, width, source, IMAGE_MEAN: tl.constexpr):
    """The colour that replaces the background, in levels."""
    color = tl.load(row + COLOR)
    red, green, blue = color & 255, (color >> 8) & 255, (color >> 16) & 255
    if IMAGE_MEAN:  # noqa: SIM102 - decided when the kernel is compiled, the other when it runs
        if source == MEAN:
            count = height.to(tl.int64) * width
            red = ((2 * tl.load(level_sums) + count) // (2 * count)).to(tl.int32)
            green = ((2 * tl.load(level_sums + 1) + count) // (2 * count)).to(tl.int32)
            blue = ((2 * tl.load(level_sums + 2) + count) // (2 * count)).to(tl.int32)
    return red, green, blue


@triton.jit
def _taps(distance, radius, sharpness):
    """float16: the weights at these distances, 1 at distance 0."""
    square = (distance * distance).to(tl.float32)
    near = tl.abs(distance) <= radius
    return tl.where(near, tl.exp(sharpness * square), 0.0).to(tl.float16)


@triton.jit
def _fraction(place, here):
    return tl.load(place, mask=here, other=0).to(tl.float32) * (1 / FULL)


@triton.jit
def _keep(scratch, view, pixel, here, r, g, b, SIZE: tl.constexpr):
    place = scratch + view.to(tl.int64) * (3 * SIZE * SIZE) + pixel
    tl.store(place, (r * FULL + 0.5).to(tl.uint16), mask=here)
    tl.store(place + SIZE * SIZE, (g * FULL + 0.5).to(tl.uint16), mask=here)
    tl.store(place + 2 * SIZE * SIZE, (b * FULL + 0.5).to(tl.uint16), mask=here)


@triton.jit
def _pass_on(
    scratch, out, view, row, pixel, here, r, g, b, grayed, sigma, solarized, threshold, mean_r,
    mean_g, mean_b, scale_r, scale_g, scale_b, SIZE: tl.constexpr,
):  # fmt: skip
    """After the jitter: gray; then to the blur, or out."""
    if grayed != 0:
        r, g, b = gray(r, g, b)
    if sigma > 0:
        _keep(scratch, view, pixel, here, r, g, b, SIZE)
    else:
        _write(
            out, row, pixel, here, r, g, b, solarized, threshold, mean_r, mean_g, mean_b, scale_r,
            scale_g, scale_b, SIZE,
        )  # fmt: skip


@triton.jit
def _write(
    out, row, pixel, here, r, g, b, solarized, threshold, mean_r, mean_g, mean_b, scale_r, scale_g,
    scale_b, SIZE: tl.constexpr,
):  # fmt: skip
    """Solarize, normalise and store to out [V, B, s, s, 3]."""
    place = out + row.to(tl.int64) * (3 * SIZE * SIZE) + 3 * pixel
    _write_channel(place, here, r, solarized, threshold, mean_r, scale_r)
    _write_channel(place + 1, here, g, solarized, threshold, mean_g, scale_g)
    _write_channel(place + 2, here, b, solarized, threshold, mean_b, scale_b)


@triton.jit
def _write_channel(place, here, x, solarized, threshold, mean, scale):
    if solarized != 0:
        x = tl.where(x >= threshold, 1 - x, x)
    tl.store(place, (clip(x) - mean) * scale, mask=here)
