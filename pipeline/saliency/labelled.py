"""Pictures with true masks, to measure estimates by: DIR/images/NAME.jpg and DIR/masks/NAME.png."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipeline.batch import Bytes
from pipeline.saliency.arrays import Flags

_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """One picture and its mask, as files."""

    image: Path
    mask: Path


def list_labelled(folder: Path, *, limit: int | None = None) -> list[Labelled]:
    """List the pictures of a folder with their masks, by name; with `limit` so many, spread evenly.

    Raises:
        ValueError: there is no such folder, it holds no pictures, or a mask is missing.
    """
    images, masks = folder / "images", folder / "masks"
    for one in (images, masks):
        if not one.is_dir():
            raise ValueError(f"{one}: no such folder; --data needs images/ and masks/")
    by_stem = {path.stem: path for path in _pictures(masks)}
    pictures = _pictures(images)
    if not pictures:
        raise ValueError(f"{images}: no pictures ({', '.join(_ENDINGS)})")
    for path in pictures:
        if path.stem not in by_stem:
            raise ValueError(f"{path}: no mask {path.stem}.png in {masks}")
    count = min(limit or len(pictures), len(pictures))
    chosen = [pictures[i * len(pictures) // count] for i in range(count)]
    return [Labelled(image=path, mask=by_stem[path.stem]) for path in chosen]


def read_labelled(one: Labelled) -> tuple[Bytes, Flags]:
    """Return the picture, uint8 [H, W, 3] RGB, and its mask, bool [H, W].

    Raises:
        ValueError: either cannot be decoded, or their sizes differ.
        OSError: either cannot be read.
    """
    image = cv2.cvtColor(_decode(one.image, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    mask = _decode(one.mask, cv2.IMREAD_GRAYSCALE)
    if mask.shape != image.shape[:2]:
        (height, width), (mask_height, mask_width) = image.shape[:2], mask.shape
        raise ValueError(
            f"{one.mask}: {mask_width} x {mask_height} pixels, but {one.image.name} has "
            f"{width} x {height}"
        )
    truth: Flags = mask > 127
    return image, truth


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _ENDINGS)


def _decode(path: Path, flags: int) -> Bytes:
    data = np.frombuffer(path.read_bytes(), np.uint8)
    pixels: Bytes | None = cv2.imdecode(data, flags) if data.size else None
    if pixels is None:
        raise ValueError(f"{path}: cannot be decoded as a picture")
    return pixels
