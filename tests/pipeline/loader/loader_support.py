"""Shards of 24 small pictures, loaders over them, and what loader tests compare."""

from dataclasses import replace

import numpy as np
import simplejpeg
import torch

from pipeline.augment.recipe import LARGE_EVEN, MultiCropRecipe
from pipeline.loader import LoaderConfig, training_views
from pipeline.saliency.codec import coverage, encode_mask
from pipeline.sampler import Sampler
from pipeline.shards.index import Sample
from pipeline.shards.memory import MemoryShards
from tests.support import blob_mask, textured_image

SIZES = [(40 + i % 7, 60 - i % 5) for i in range(24)]
RECIPE = MultiCropRecipe(
    num_large=2,
    num_small=1,
    large_size=24,
    small_size=12,
    large_even=replace(LARGE_EVEN, mask_probability=0.5),
)
CONFIG = LoaderConfig(decoder="turbojpeg", threads=1)


def jpegs():
    images = [textured_image(h, w, seed=i) for i, (h, w) in enumerate(SIZES)]
    return [simplejpeg.encode_jpeg(image, quality=90) for image in images]


def shards_of(data=None, masks=True):
    return MemoryShards(sample_list(data, masks))


def sample_list(data=None, masks=True):
    samples = []
    for i, jpeg in enumerate(data or jpegs()):
        mask = encode_mask(blob_mask(i)) if masks else b""
        samples.append(
            Sample(
                key=f"{i:03d}.jpg",
                label=i % 4,
                height=SIZES[i][0],
                width=SIZES[i][1],
                jpeg=jpeg,
                mask=mask,
                coverage=coverage(blob_mask(i)) if masks else float("nan"),
                unchanged=True,
            )
        )
    return samples


def views(
    shards=None, *, steps=5, config=CONFIG, rank=0, world_size=1, start=0, batch=8, recipe=RECIPE
):
    shards = shards or shards_of()
    return training_views(
        shards,
        recipe=recipe,
        sampler=Sampler(num_samples=len(shards), global_batch_size=batch, seed=3),
        seed=3,
        config=config,
        start_step=start,
        end_step=steps,
        rank=rank,
        world_size=world_size,
    )


def collected(loader):
    with loader:
        return list(loader)


def assert_same(left, right):
    assert len(left) == len(right)
    for a, b in zip(left, right, strict=True):
        assert np.array_equal(a.sample_ids, b.sample_ids)
        assert torch.equal(a.large, b.large)
        assert torch.equal(a.small, b.small)
        assert torch.equal(a.labels, b.labels)
        assert a.epoch == b.epoch
