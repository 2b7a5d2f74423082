"""Changes of photos while networks learn: parts of them, mirrored, and in other colours.

Shapes: B photos, s sides.
"""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.batch import Bytes, Floats


def mirrored(images: Bytes, which: np.ndarray) -> Bytes:
    """Return images [B, s, s, ...], left and right changed of those with which[B]."""
    turned: Bytes = images.copy()
    turned[which] = images[which][:, :, ::-1]
    return turned


def cropped(
    photos: Bytes, maps: Bytes, least: float, chance: np.random.Generator
) -> tuple[Bytes, Bytes]:
    """Return a part of each photo [B, s, s, 3] and of its maps [B, s, s, M], half of them mirrored.

    A part is a square of `least` to 1 of the side, anywhere, stretched back to the whole side: what
    a network learns has the size of what it will see.
    """
    side = photos.shape[1]
    pairs = [_part(photo, own, least, chance) for photo, own in zip(photos, maps, strict=True)]
    which = chance.random(len(photos)) < 0.5
    parts, parts_of_maps = (
        np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_LINEAR) for one in images])
        for images in zip(*pairs, strict=True)
    )
    # of a single map cv2 drops the axis
    return mirrored(parts, which), mirrored(parts_of_maps.reshape(maps.shape), which)


def jittered(photos: Bytes, strength: float, chance: np.random.Generator) -> Bytes:
    """Return photos, uint8 [B, s, s, 3], in other brightness, contrast, colour, or in gray.

    Brightness and contrast are multiplied by 1 - strength .. 1 + strength, each channel by half as
    much; of each photo by its own. A share of strength / 2 loses its colours.
    """
    if strength == 0:
        return photos
    return np.stack([_jittered(photo, strength, chance) for photo in photos])


def _part(
    photo: Bytes, maps: Bytes, least: float, chance: np.random.Generator
) -> tuple[Bytes, Bytes]:
    side = len(photo)
    length = round(side * chance.uniform(least, 1))
    top, left = chance.integers(0, side - length + 1, 2)
    rows, columns = slice(top, top + length), slice(left, left + length)
    return photo[rows, columns], maps[rows, columns]


def _jittered(photo: Bytes, strength: float, chance: np.random.Generator) -> Bytes:
    half = strength / 2
    gains = chance.uniform(1 - strength, 1 + strength) * chance.uniform(1 - half, 1 + half, 3)
    changed: Floats = photo.astype(np.float32) * gains.astype(np.float32)
    mean = changed.mean()
    changed = (changed - mean) * np.float32(chance.uniform(1 - strength, 1 + strength)) + mean
    if chance.random() < half:
        changed = np.broadcast_to(changed.mean(axis=2, keepdims=True), changed.shape)
    levels: Bytes = changed.clip(0, 255).astype(np.uint8)
    return levels
