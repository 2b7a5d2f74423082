"""Sections of pictures: the views of some images, and the masks over some images.

Pictures are embedded as PNGs of at most TILE pixels a side and 256 colours, about 15 KB each.

Shapes: B images, L large views, S small views, M mask grid.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, tensor

from evaluation.page import Section
from pipeline.augment.recipe import IMAGENET_MEAN, IMAGENET_STD, RGB
from pipeline.batch import Bools, Bytes, MultiCropBatch
from pipeline.saliency.codec import mask_at_pixels

TILE = 144  # pixels

_DIMMED = 0.28  # how much of the background is left in a mask's overlay
_EDGE = (255, 196, 0)  # colour of a mask's outline


def views_section(
    batch: MultiCropBatch,
    *,
    originals: Sequence[Tensor],
    mean: RGB = IMAGENET_MEAN,
    std: RGB = IMAGENET_STD,
    names: Sequence[str] = (),
) -> Section:
    """Show each image and its views: one row for each of `originals`, which begin the batch.

    Args:
        batch: normalised views, large [L, B, 3, H, W] and small [S, B, 3, h, w].
        originals: uint8 [height, width, 3], at most B of them.
        mean, std: what the views were normalised with.
        names: captions of the rows; none: no captions.
    """
    assert 0 < len(originals) <= batch.large.shape[1], "more originals than the batch has images"
    large, small = batch.large.shape[0], batch.small.shape[0]
    heads = ["original", *_numbered("large", large), *_numbered("small", small)]
    cells = [f'<div class="head">{head}</div>' for head in heads]
    for row, original in enumerate(originals):
        if names:
            cells.append(f'<div class="name">{escape(names[row])}</div>')
        cells.append(_image(_array(original), f"original {row + 1}"))
        views = [*batch.large[:, row], *batch.small[:, row]]
        for head, view in zip(heads[1:], views, strict=True):
            cells.append(_image(_denormalised(view, mean, std), f"{head} of image {row + 1}"))
    sides = f"{batch.large.shape[-1]} x {batch.large.shape[-1]}"
    if small:
        sides += f" and {batch.small.shape[-1]} x {batch.small.shape[-1]}"
    return Section(
        key="views",
        title="Views",
        lead=f"What the networks see: {large} large and {small} small views of each image, {sides} "
        "pixels, drawn at one size here.",
        body=_sheet(cells, columns=len(heads)),
    )


def masks_section(
    images: Sequence[Tensor],
    masks: Sequence[Tensor],
    *,
    names: Sequence[str] = (),
    threshold: float = 0.5,
    fill: RGB = IMAGENET_MEAN,
) -> Section:
    """Show for each image: the image, its mask as an outline, and the image without background.

    Args:
        images: uint8 [height, width, 3].
        masks: uint8 [M, M], 0..255, a grid over the whole image.
        threshold: salience above it is foreground, 0..1.
        fill: what replaces the background, RGB in 0..1.
    """
    assert 0 < len(images) == len(masks), "one mask for each image"
    cards = []
    for row, (image, grid) in enumerate(zip(images, masks, strict=True)):
        pixels = _thumbnail(_array(image))
        foreground = _foreground(_array(grid), pixels.shape[:2], threshold)
        name = names[row] if names else f"image {row + 1}"
        share = f"{100 * float((_array(grid) > 255 * threshold).mean()):.0f} % salient"
        cells = [
            f'<div class="name">{escape(name)} &middot; {share}</div>',
            _image(pixels, f"{name}: image"),
            _image(_outlined(pixels, foreground), f"{name}: mask"),
            _image(_without_background(pixels, foreground, fill), f"{name}: masked"),
        ]
        cards.append(_sheet(cells, columns=3))
    return Section(
        key="masks",
        title="Masks",
        lead="Each image, its stored mask as an outline with the background dimmed, and the image "
        "with its background replaced as in a masked view.",
        body=f'<div class="triplets">{"".join(cards)}</div>',
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """An image with the name of its class."""

    image: Tensor  # uint8 [height, width, 3]
    name: str


def neighbours_sheet(rows: Sequence[tuple[Labelled, Sequence[Labelled]]]) -> Section:
    """Show for each test image those training images whose features are nearest to its own.

    Args:
        rows: a test image and its neighbours, the nearest first; as many in each row.
    """
    assert rows, "no rows"
    columns = 1 + len(rows[0][1])
    cells = ['<div class="head">test image</div>']
    cells += [f'<div class="head">{name}</div>' for name in _numbered("nearest", columns - 1)]
    for query, nearest in rows:
        cells += [_image(_array(one.image), one.name) for one in (query, *nearest)]
        cells.append(f'<div class="caption">{escape(query.name)}</div>')
        cells += [
            f'<div class="caption {"hit" if one.name == query.name else "miss"}">'
            f"{escape(one.name)}</div>"
            for one in nearest
        ]
    return Section(
        key="neighbours",
        title="Nearest neighbours",
        lead="Some test images, one in every so many, and the training images whose features have "
        "the highest cosine similarity to theirs, with their classes.",
        body=_sheet(cells, columns=columns),
    )


def _numbered(name: str, count: int) -> list[str]:
    return [f"{name} {i + 1}" for i in range(count)]


def _sheet(cells: Sequence[str], *, columns: int) -> str:
    return f'<div class="card sheet" style="--columns: {columns}">{"".join(cells)}</div>'


def _array(image: Tensor) -> Bytes:
    return np.asarray(image.cpu().numpy(), dtype=np.uint8)


def _denormalised(view: Tensor, mean: RGB, std: RGB) -> Bytes:
    """Return a normalised view [3, H, W] as uint8 [H, W, 3]."""
    pixels = view.float().cpu() * tensor(std)[:, None, None] + tensor(mean)[:, None, None]
    return _array((pixels.clamp(0, 1) * 255).round().byte().permute(1, 2, 0))


def _foreground(grid: Bytes, size: tuple[int, ...], threshold: float) -> Bools:
    height, width = size
    return mask_at_pixels(grid, height, width) > 255 * 65536 * threshold  # its fixed point


def _outlined(pixels: Bytes, foreground: Bools) -> Bytes:
    shown = np.where(foreground[..., None], pixels, pixels * _DIMMED)
    inner = foreground.copy()
    for axis in (0, 1):
        for shift in (-1, 1):
            inner &= np.roll(foreground, shift, axis)
    shown[foreground & ~inner] = _EDGE
    return shown.astype(np.uint8)


def _without_background(pixels: Bytes, foreground: Bools, fill: RGB) -> Bytes:
    colour: NDArray[np.float64] = np.rint(np.array(fill) * 255)
    return np.where(foreground[..., None], pixels, colour).astype(np.uint8)


def _thumbnail(pixels: Bytes) -> Bytes:
    """Return an image with at most TILE pixels a side; smaller ones stay as they are."""
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _image(pixels: Bytes, text: str) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(_thumbnail(pixels)).quantize(256).save(file, "PNG", optimize=True)
    data = b64encode(file.getvalue()).decode("ascii")
    return f'<img alt="{escape(text, quote=True)}" src="data:image/png;base64,{data}">'
