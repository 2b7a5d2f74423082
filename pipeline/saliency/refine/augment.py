"""Changes of photos while networks learn: mirrored, and other colours.

Shapes: B photos, s sides.
"""

from __future__ import annotations

import numpy as np

from pipeline.batch import Bytes, Floats


def mirrored(images: Bytes, which: np.ndarray) -> Bytes:
    """Return images [B, s, s, ...], left and right changed of those with which[B]."""
    turned: Bytes = images.copy()
    turned[which] = images[which][:, :, ::-1]
    return turned


def jittered(photos: Bytes, strength: float, chance: np.random.Generator) -> Bytes:
    """Return photos, uint8 [B, s, s, 3], in other brightness, contrast, colour, or in gray.

    Brightness and contrast are multiplied by 1 - strength .. 1 + strength, each channel by half as
    much; of each photo by its own. A share of strength / 2 loses its colours.
    """
    if strength == 0:
        return photos
    return np.stack([_jittered(photo, strength, chance) for photo in photos])


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
