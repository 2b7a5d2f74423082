"""Shards in memory from arrays of pixels."""

import numpy as np
import pytest
import simplejpeg

from pipeline.saliency.codec import decode_mask, encode_mask
from pipeline.shards.memory import MemoryShards
from tests.support import textured_image


def test_images_and_masks_are_encoded_as_shards_hold_them():
    images = [textured_image(40, 60, seed=1), textured_image(33, 20, seed=2)]
    mask = np.zeros((80, 120), np.uint8)
    mask[:, :60] = 255
    shards = MemoryShards.from_images(
        images, masks=[None, mask], labels=[1, 0], label_names=["a", "b"], quality=100
    )
    encoded = shards.read(np.array([1, 0]))
    assert encoded.labels.tolist() == [0, 1]
    assert [len(record) > 0 for record in encoded.masks] == [True, False]
    assert (decode_mask(encoded.masks[0]) == decode_mask(encode_mask(mask))).all()
    for jpeg, image in zip(encoded.jpegs, reversed(images), strict=True):
        assert simplejpeg.decode_jpeg(jpeg).shape == image.shape
        gray = simplejpeg.decode_jpeg(jpeg, colorspace="GRAY")[:, :, 0].astype(float)
        assert np.abs(gray - image @ [0.299, 0.587, 0.114]).mean() < 8
    stored = [len(j) + len(m) for j, m in zip(encoded.jpegs, encoded.masks, strict=True)]
    assert shards.stored_bytes[[1, 0]].tolist() == stored
    assert np.isnan(shards.mask_coverage[0])
    assert shards.mask_coverage[1] == 0.5
    assert shards.manifest.label_names == ("a", "b")
    shards.close()


def test_pictures_alone_are_unlabelled_and_unmasked():
    shards = MemoryShards.from_images([textured_image(16, 16)] * 3)
    assert shards.labels.tolist() == [-1] * 3
    assert np.isnan(shards.mask_coverage).all()
    assert shards.manifest.num_samples == len(shards) == 3


def test_no_pictures_are_no_shards():
    with pytest.raises(ValueError, match="at least one"):
        MemoryShards([])
