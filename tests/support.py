"""Small things that several tests need: transcriptions on plain integers, batches made by hand."""

import numpy as np
import torch

from pipeline.batch import MASK_GRID, DecodedBatch, RaggedImages


def scalar_philox(counter, key):
    """Philox 4x32-10 on Python integers, from the figure of Salmon et al."""
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 % 2**32, (p0 >> 32) ^ c[3] ^ k1, p0 % 2**32]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return tuple(c)


def decoded_batch(images, masks=None, epoch=0):
    """Make a DecodedBatch of uint8 [h, w, 3] arrays; masks are uint8 [M, M] or full."""
    sizes = np.array([image.size for image in images])
    grids = masks or [np.full((MASK_GRID, MASK_GRID), 255, np.uint8)] * len(images)
    return DecodedBatch(
        images=RaggedImages(
            pixels=torch.from_numpy(np.concatenate([image.ravel() for image in images])),
            offsets=torch.from_numpy(np.cumsum(sizes) - sizes),
            heights=torch.tensor([image.shape[0] for image in images], dtype=torch.int32),
            widths=torch.tensor([image.shape[1] for image in images], dtype=torch.int32),
        ),
        masks=torch.from_numpy(np.stack(grids)),
        labels=torch.arange(len(images)),
        sample_ids=np.arange(len(images)),
        epoch=epoch,
    )


def finished(batch):
    """Wait for the views of an executor: on a GPU it returns before they are made."""
    if batch.ready is not None:
        batch.ready.synchronize()
    return batch


def textured_image(height, width, seed=0):
    """A picture with coarse blocks and fine noise, full range, as photos have both."""
    rng = np.random.default_rng(seed)
    blocks = rng.normal(128, 70, (-(-height // 8), -(-width // 8), 3))
    coarse = blocks.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    return np.clip(coarse + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)


def blob_mask(seed=0):
    """A soft elliptical mask grid."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:MASK_GRID, 0:MASK_GRID] / MASK_GRID
    cy, cx, a, b = rng.uniform(0.3, 0.7, 4)
    inside = 1.2 - np.hypot((y - cy) / a, (x - cx) / b) * 1.4
    return (np.clip(inside, 0, 1) * 255).astype(np.uint8)
