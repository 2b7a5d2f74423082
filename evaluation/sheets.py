"""Views and masks of some images: as sections of a report, and as one image before training.

Sections embed PNGs of at most TILE pixels a side and 256 colours, about 15 KB each. `draw_views`
makes the image of `train.py --show-views`.

Shapes: B images, L large views, S small views, M mask grid.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, tensor

from evaluation.page import Section
from files import write_whole
from pipeline.augment.params import ViewParams, sample_view_params
from pipeline.augment.recipe import IMAGENET_MEAN, IMAGENET_STD, RGB, MultiCropRecipe
from pipeline.batch import Bools, Bytes, Ids, MultiCropBatch
from pipeline.loader import LoaderConfig, training_views
from pipeline.loader.decode import TooManyBadSamples
from pipeline.saliency.codec import decode_mask, mask_at_pixels
from pipeline.sampler import Sampler
from pipeline.shards import Shards
from pipeline.shards.described import mask_summary

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

TILE = 144  # pixels

_DIMMED = 0.28  # how much of the background is left in a mask's overlay
_EDGE = (255, 196, 0)  # colour of a mask's outline, and of a masked view's frame

# of draw_views; pixels
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_ROWS = 6
_LONGEST = 168  # the longer side of the largest tile; smaller views keep their relative size
_LEAST = 40  # the side of the smallest tile
_GAP, _MARGIN, _CAPTION, _FRAME = 10, 20, 20, 4
_TEXT, _TITLE = 13, 16
_PAPER, _INK, _QUIET, _LINE = (255, 255, 255), (31, 35, 40), (90, 96, 104), (222, 220, 214)


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


def draw_views(shards: Shards, recipe: MultiCropRecipe, *, seed: int, path: Path) -> str:
    """Draw some images, their masks and their views into one image file; an old one is replaced.

    The views are those of epoch 0 of a training with this recipe and seed; where a recipe has views
    grow over the epochs, they have their full size. Views whose background was removed are framed,
    and named where the crop has none of the foreground: a mask is of the whole image, and the crop
    comes after it. There is a column of masks if any sample has one.

    Args:
        path: ends with .png, .jpg, .jpeg or .webp.

    Returns:
        One line: what was drawn, and where it lies.

    Raises:
        ValueError: the file cannot be written, or the recipe or the shards will not do.
    """
    _check_image_path(path)
    recipe = recipe.full_size
    rows = min(_ROWS, len(shards))
    if recipe.mask_fill == "other-image" and rows > 1:
        rows -= rows % 2
    sampler = Sampler(num_samples=len(shards), global_batch_size=rows, seed=seed)
    config = LoaderConfig(threads=1)
    try:
        with training_views(
            shards, recipe=recipe, sampler=sampler, seed=seed, config=config, end_step=1
        ) as views:
            (batch,) = views
    except TooManyBadSamples as error:
        raise ValueError(str(error)) from error
    ids = batch.sample_ids
    params = sample_view_params(
        recipe,
        seed=seed,
        epoch=batch.epoch,
        sample_ids=ids,
        heights=shards.heights[ids],
        widths=shards.widths[ids],
        mask_coverage=shards.mask_coverage[ids],
    )
    masks = mask_summary(shards.manifest, recipe)
    lines = [f"{shards.path.name or shards.path}: {len(shards):,} images; {_sizes(recipe)}", masks]
    if shards.manifest.masks.num_masks and any(view.mask_probability for view in recipe.views):
        lines[1] += "; views with a frame have their background removed"
    image = _drawn(lines, _columns(shards, recipe, batch, params))
    kind = _FORMATS[path.suffix.lower()]
    options = {"quality": 85} if kind == "JPEG" else {}
    try:
        write_whole(path, lambda file: image.save(file, kind, **options))
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}") from error
    return f"{path}: {rows} of {len(shards)} images, {_sizes(recipe)}; {masks}"


def stored_images(shards: Shards, sample_ids: Ids) -> list[Tensor]:
    """Return the stored images of samples: uint8 [height, width, 3] each."""
    from PIL import Image

    return [
        torch.from_numpy(np.array(Image.open(io.BytesIO(jpeg)).convert("RGB")))
        for jpeg in shards.read(sample_ids).jpegs
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tile:
    """An image of a sheet: uint8 [h, w, 3], at the size it is drawn with, and what stands below."""

    pixels: Bytes
    caption: str = ""
    framed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Column:
    head: str
    side: int  # pixels; no tile is larger
    tiles: list[_Tile]  # from top to bottom


def _check_image_path(path: Path) -> None:
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(
            f"{path} has no ending of an image that can be written; give a name that ends with "
            ".png, .jpg or .webp"
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of an image file")
    if not path.parent.is_dir():
        raise ValueError(f"cannot write {path}: the folder {path.parent} does not exist")


def _sizes(recipe: MultiCropRecipe) -> str:
    def counted(count: int, what: str, side: int) -> str:
        return f"{count} {what}{'s' * (count != 1)} of {side} x {side}"

    text = counted(recipe.num_large, "large view", recipe.large_size)
    if recipe.num_small:
        text += " and " + counted(recipe.num_small, "small one", recipe.small_size)
    return text + " pixels"


def _columns(
    shards: Shards, recipe: MultiCropRecipe, batch: MultiCropBatch, params: ViewParams
) -> Iterator[_Column]:
    images = [_array(image) for image in stored_images(shards, batch.sample_ids)]
    keys = [shards.key(int(sample_id)) for sample_id in batch.sample_ids]
    shares = shards.mask_coverage[batch.sample_ids]
    grids = [
        decode_mask(data) if np.isfinite(share) else None
        for data, share in zip(shards.read(batch.sample_ids).masks, shares, strict=True)
    ]
    fitted = [_fitted(image, _LONGEST) for image in images]
    yield _Column(
        head="image",
        side=_LONGEST,
        tiles=[_Tile(pixels=p, caption=key) for p, key in zip(fitted, keys, strict=True)],
    )
    if shards.manifest.masks.num_masks:
        yield _Column(
            head="mask",
            side=_LONGEST,
            tiles=[
                _mask_tile(pixels, grid, share, recipe)
                for pixels, grid, share in zip(fitted, grids, map(float, shares), strict=True)
            ],
        )
    heads = [*_numbered("large", recipe.num_large), *_numbered("small", recipe.num_small)]
    views = [*batch.large, *batch.small]  # [B, 3, side, side] each
    for v, (head, size, view) in enumerate(zip(heads, recipe.sizes, views, strict=True)):
        side = max(round(_LONGEST * size / max(recipe.sizes)), _LEAST)
        tiles = []
        for row, one in enumerate(view):
            masked, caption, grid = bool(params.mask[row, v]), "", grids[row]
            if masked and grid is not None:
                foreground = _foreground(grid, images[row].shape[:2], recipe.mask_threshold)
                top, left = params.crop_top[row, v], params.crop_left[row, v]
                height, width = params.crop_height[row, v], params.crop_width[row, v]
                inside = foreground[top : top + height, left : left + width].any()
                caption = "masked" if inside else "no foreground"
            pixels = _fitted(_denormalised(one, recipe.mean, recipe.std), side)
            tiles.append(_Tile(pixels=pixels, caption=caption, framed=masked))
        yield _Column(head=head, side=side, tiles=tiles)


def _mask_tile(pixels: Bytes, grid: Bytes | None, share: float, recipe: MultiCropRecipe) -> _Tile:
    if grid is None:
        return _Tile(pixels=np.full_like(pixels, 240), caption="no mask")
    foreground = _foreground(grid, pixels.shape[:2], recipe.mask_threshold)
    used = recipe.mask_min_coverage <= share <= recipe.mask_max_coverage
    caption = f"{share:.1%} foreground" if used else f"{share:.1%}, never used"
    return _Tile(pixels=_outlined(pixels, foreground), caption=caption)


def _fitted(pixels: Bytes, side: int) -> Bytes:
    """Resize an image so that its longer side is `side`."""
    from PIL import Image

    scale = side / max(pixels.shape[:2])
    height, width = (max(round(length * scale), 1) for length in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def _drawn(lines: Sequence[str], columns: Iterator[_Column]) -> Image:
    """Return the sheet: lines of text, the heads of the columns, then rows of tiles."""
    from PIL import Image, ImageDraw

    found = list(columns)
    top = _MARGIN + (_TITLE + 8) * len(lines) + _GAP
    step = _LONGEST + _CAPTION + _GAP
    bottom = top + _CAPTION + step * len(found[0].tiles)
    width = sum(column.side + _GAP for column in found) - _GAP
    text = max(_font(_TITLE).getlength(_printable(line)) for line in lines)
    width = max(width, round(text))
    sheet = Image.new("RGB", (width + 2 * _MARGIN, bottom + _MARGIN - _GAP), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        ink = _INK if number == 0 else _QUIET
        place = (_MARGIN, _MARGIN + number * (_TITLE + 8))
        draw.text(place, _printable(line), ink, _font(_TITLE))
    left = _MARGIN
    for column in found:
        _write(draw, column.head, left, top, column.side, ink=_INK)
        for row, tile in enumerate(column.tiles):
            base = top + _CAPTION + step * row + _LONGEST  # tiles of a row end at one line
            height, width = tile.pixels.shape[:2]
            corner = (left + (column.side - width) // 2, base - height)
            sheet.paste(Image.fromarray(tile.pixels), corner)
            box = (*corner, corner[0] + width - 1, corner[1] + height - 1)
            if tile.framed:
                draw.rectangle(box, outline=_EDGE, width=_FRAME)
            else:
                draw.rectangle(box, outline=_LINE)  # white images end somewhere
            _write(draw, tile.caption, left, base + 3, column.side)
        left += column.side + _GAP
    return sheet


@cache
def _font(size: int) -> FreeTypeFont:
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _printable(text: str) -> str:
    """Escape the letters that the font lacks."""
    return text.encode("latin-1", "backslashreplace").decode("latin-1")


def _write(
    draw: ImageDraw, text: str, left: int, top: int, room: int, ink: tuple[int, int, int] = _QUIET
) -> None:
    """Write centred text; of a name that is too long, the end."""
    font, shown = _font(_TEXT), _printable(text)
    kept = len(shown)
    while kept and font.getlength(shown) > room + _GAP:
        kept -= 1
        shown = "\u2026" + _printable(text)[-kept:] if kept else ""
    draw.text((left + (room - font.getlength(shown)) / 2, top), shown, ink, font)


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
