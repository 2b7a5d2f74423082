"""The three passes of the fused executor, and the mean of an image: Triton kernels.

    resample   source pixels -> crop, resize, flip, jitter up to contrast; sums for its mean
    recolor    contrast, the rest of the jitter, gray             (views with contrast only)
    blur       both directions at once, as products with banded matrices   (blurred views only)

A view is written out by the last pass that it needs; between passes it lies in `scratch` as 16-bit
fractions of 1 (a step is 1/257 of a level). One launch of each serves all images and views of a
size: a program works on one tile of one view, and views without work end at once.

Shapes: B samples, V views of this size, s side of a view, M mask grid.
"""

from __future__ import annotations

import triton
import triton.language as tl

from pipeline.augment import params
from pipeline.augment.fused_color import clip, gray, jitter, luma
from pipeline.augment.fused_source import GRID, centres, sample, sample_words
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


@triton.jit
def resample(
    words, pixels, offsets, heights, widths, grids, level_sums, table, table_floats, thresholds,
    scratch, sums, out, limit, mean_r, mean_g, mean_b, scale_r, scale_g, scale_b, batch,
    FIRST: tl.constexpr, VIEWS: tl.constexpr, ALL_VIEWS: tl.constexpr, SIZE: tl.constexpr,
    TILES: tl.constexpr, T: tl.constexpr, CUBIC: tl.constexpr, ANTIALIAS: tl.constexpr,
    TORCHVISION: tl.constexpr, IMAGE_MEAN: tl.constexpr,
):  # fmt: skip
    """Mask, crop, resize, flip, and the jitter before contrast; one program a tile of T x T."""
    view, tile = tl.program_id(0) // (TILES * TILES), tl.program_id(0) % (TILES * TILES)
    b, v = view // VIEWS, view % VIEWS
    entry = (b * ALL_VIEWS + FIRST + v) * WORDS
    row, floats = table + entry, table_floats + entry

    i = tile // TILES * T + tl.arange(0, T)
    j = tile % TILES * T + tl.arange(0, T)
    here = (i < SIZE)[:, None] & (j < SIZE)[None, :]
    crop_height, crop_width = tl.load(row + HEIGHT), tl.load(row + WIDTH)
    y, y_fraction = centres(tl.minimum(i, SIZE - 1), crop_height, SIZE)
    column = tl.minimum(j, SIZE - 1)
    column = tl.where(tl.load(row + FLIP) != 0, SIZE - 1 - column, column)
    x, x_fraction = centres(column, crop_width, SIZE)

    top, left = tl.load(row + TOP), tl.load(row + LEFT)
    height, width, offset = tl.load(heights + b), tl.load(widths + b), tl.load(offsets + b)
    masked = tl.load(row + MASK) != 0
    if masked or ANTIALIAS:
        source = tl.load(row + SOURCE)
        other_row = tl.maximum(source, 0)
        other_height = tl.where(source >= 0, tl.load(heights + other_row), 0)
        red, green, blue = _levels(row, level_sums + 3 * b, height, width, source, IMAGE_MEAN)
        r, g, bl = sample(
            pixels + offset, height, width, top, left, crop_height, crop_width, y, y_fraction, x,
            x_fraction, masked, grids + b.to(tl.int64) * (GRID * GRID), limit,
            pixels + tl.load(offsets + other_row), other_height, tl.load(widths + other_row), red,
            green, blue, SIZE, CUBIC, ANTIALIAS, T,
        )  # fmt: skip
    else:
        r, g, bl = sample_words(
            words, offset, width, top, left, crop_height, crop_width, y, y_fraction, x, x_fraction,
            CUBIC, T,
        )  # fmt: skip
    r, g, bl = clip(r * (1 / 255.0)), clip(g * (1 / 255.0)), clip(bl * (1 / 255.0))

    split = tl.load(row + SPLIT)
    r, g, bl = jitter(
        r, g, bl, tl.load(row + ORDER), 0, split, tl.load(floats + BRIGHTNESS),
        tl.load(floats + SATURATION), tl.load(floats + HUE), TORCHVISION,
    )  # fmt: skip
    pixel = i[:, None] * SIZE + j[None, :]
    if split < 4:
        part = sums + tl.program_id(0).to(tl.int64) * 3
        tl.store(part, tl.sum(tl.where(here, r, 0.0)))
        tl.store(part + 1, tl.sum(tl.where(here, g, 0.0)))
        tl.store(part + 2, tl.sum(tl.where(here, bl, 0.0)))
        _keep(scratch, view, pixel, here, r, g, bl, SIZE)
    else:
        if tl.load(row + GRAY) != 0:
            r, g, bl = gray(r, g, bl)
        if tl.load(floats + SIGMA) > 0:
            _keep(scratch, view, pixel, here, r, g, bl, SIZE)
        else:
            _write(
                out, v * batch + b, pixel, here, r, g, bl, tl.load(row + SOLARIZE),
                tl.load(thresholds + FIRST + v), mean_r, mean_g, mean_b, scale_r, scale_g, scale_b,
                SIZE,
            )  # fmt: skip


@triton.jit
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
    if tl.load(row + GRAY) != 0:
        r, g, bl = gray(r, g, bl)
    if tl.load(floats + SIGMA) > 0:
        _keep(scratch, view, pixel, here, r, g, bl, SIZE)
    else:
        _write(
            out, v * batch + b, pixel, here, r, g, bl, tl.load(row + SOLARIZE),
            tl.load(thresholds + FIRST + v), mean_r, mean_g, mean_b, scale_r, scale_g, scale_b,
            SIZE,
        )  # fmt: skip


@triton.jit
def blur(
    table, table_floats, thresholds, radii, scratch, out, mean_r, mean_g, mean_b, scale_r, scale_g,
    scale_b, batch,
    FIRST: tl.constexpr, VIEWS: tl.constexpr, ALL_VIEWS: tl.constexpr, SIZE: tl.constexpr,
    TILES: tl.constexpr, T: tl.constexpr, TAPS: tl.constexpr,
):  # fmt: skip
    """Gaussian with each view's own sigma, zeros outside; one program a tile of T x T.

    out = W_y X W_x, where W holds a row of taps for each output: T x T blocks of X around the
    tile go through the tensor cores, as three TF32 products each (relative error about 2^-21).
    """
    view, tile = tl.program_id(0) // (TILES * TILES), tl.program_id(0) % (TILES * TILES)
    b, v = view // VIEWS, view % VIEWS
    entry = (b * ALL_VIEWS + FIRST + v) * WORDS
    sigma = tl.load(table_floats + entry + SIGMA)
    if sigma <= 0:
        return
    radius = tl.load(radii + FIRST + v)
    sharpness = -0.5 / (sigma * sigma)
    tap = tl.arange(0, TAPS) - radius
    total = tl.sum(tl.where(tap <= radius, tl.exp(sharpness * (tap * tap).to(tl.float32)), 0.0))

    i = tile // TILES * T + tl.arange(0, T)
    j = tile % TILES * T + tl.arange(0, T)
    here = (i < SIZE)[:, None] & (j < SIZE)[None, :]
    norm = 1 / (total * total)
    solarized, threshold = tl.load(table + entry + SOLARIZE), tl.load(thresholds + FIRST + v)
    for c in range(3):  # one after another: together they would not fit into the registers
        plane = scratch + (3 * view + c).to(tl.int64) * (SIZE * SIZE)
        x = _blurred(plane, i, j, radius, sharpness, SIZE, T) * norm
        mean = tl.where(c == 0, mean_r, tl.where(c == 1, mean_g, mean_b))
        scale = tl.where(c == 0, scale_r, tl.where(c == 1, scale_g, scale_b))
        place = out + (v * batch + b).to(tl.int64) * (3 * SIZE * SIZE)
        _write_channel(
            place + 3 * (i[:, None] * SIZE + j[None, :]) + c, here, x, solarized, threshold, mean,
            scale,
        )  # fmt: skip


@triton.jit
def _blurred(plane, i, j, radius, sharpness, SIZE: tl.constexpr, T: tl.constexpr):
    result = tl.zeros([T, T], tl.float32)
    for down in range(0, T + 2 * radius, T):
        y = i - radius + down
        rows = tl.zeros([T, T], tl.float32)
        for across in range(0, T + 2 * radius, T):
            x = j - radius + across
            here = ((y >= 0) & (y < SIZE))[:, None] & ((x >= 0) & (x < SIZE))[None, :]
            block = _fraction(plane + y[:, None] * SIZE + x[None, :], here)
            taps = _taps(x[:, None] - j[None, :], radius, sharpness)
            rows = tl.dot(block, taps, rows, input_precision="tf32x3")
        taps = _taps(y[None, :] - i[:, None], radius, sharpness)
        result = tl.dot(taps, rows, result, input_precision="tf32x3")
    return result


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
    square = (distance * distance).to(tl.float32)
    return tl.where(tl.abs(distance) <= radius, tl.exp(sharpness * square), 0.0)


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
