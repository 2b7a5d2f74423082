"""Pictures for the tests of saliency methods, and scenes made of them."""

import numpy as np

from pipeline.saliency.superpixels import SceneSettings, make_scene

TINY = SceneSettings(longer_side=48, superpixels=30)


def disc_picture(height=120, width=160, *, radius=0.25, centre=(0.5, 0.5), seed=0):
    """A bright orange disc on blue-green ground, both with grain; and its mask.

    Args:
        radius: in shares of the shorter side.
        centre: (y, x) in shares of the sides.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    away = np.hypot(y - centre[0] * height, x - centre[1] * width)
    mask = away < radius * min(height, width)
    image = np.where(mask[..., None], (230, 150, 40), (50, 90, 100)).astype(np.float64)
    image += 12 * np.sin(y / 5)[..., None] + rng.normal(0, 10, (height, width, 1))
    return image.clip(0, 255).round().astype(np.uint8), mask


def tiny_scene(seed=0):
    """Some 30 superpixels of a disc: small enough for double loops in Python."""
    image, _ = disc_picture(36, 48, seed=seed)
    return make_scene(image, TINY)
