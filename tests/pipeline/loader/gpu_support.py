"""Batches of encoded pictures, room for them, and decoders that are wrong on purpose."""

from dataclasses import replace

import numpy as np
import torch

from pipeline.loader.ragged import room_for
from pipeline.loader.turbojpeg import TurboJpegDecoder
from pipeline.shards.memory import MemoryShards
from tests.support import textured_image

CPU = torch.device("cpu")
STALE = 0x55


def pictures(count, seed=0):
    """Pictures of different sizes, no side a multiple of another's."""
    return [textured_image(97 + 7 * i, 141 - 5 * i, seed=seed + i) for i in range(count)]


def batch_of(count=6, *, ids=None, seed=0):
    """An EncodedBatch of `count` pictures that stand for the samples `ids`."""
    encoded = MemoryShards.from_images(pictures(count, seed)).read(np.arange(count))
    return replace(encoded, sample_ids=np.arange(count) if ids is None else np.asarray(ids))


def with_jpeg(encoded, row, jpeg):
    jpegs = list(encoded.jpegs)
    jpegs[row] = memoryview(jpeg)
    return replace(encoded, jpegs=tuple(jpegs))


def cut(encoded, *rows):
    """The same with some JPEGs cut off in the middle."""
    for row in rows:
        data = bytes(encoded.jpegs[row])
        encoded = with_jpeg(encoded, row, data[: len(data) // 2])
    return encoded


def stale_room(encoded):
    images = room_for(encoded, CPU)
    images.pixels.fill_(STALE)
    return images


def decoded(decoder, encoded):
    """The images of a batch as arrays, and the failures."""
    images = stale_room(encoded)
    failures = decoder.decode(encoded, images)
    return [images.image(row).numpy().copy() for row in range(len(encoded.jpegs))], failures


def exact(encoded):
    return decoded(TurboJpegDecoder(threads=1), encoded)[0]


class Wrong:
    """libjpeg-turbo, spoilt: `spoil(image, row, call)` changes an image, uint8 [H, W, 3], in place.

    `refuse` are rows that it says it cannot decode, and leaves alone.
    """

    device = CPU

    def __init__(self, spoil=None, refuse=()):
        self._decoder = TurboJpegDecoder(threads=1)
        self._spoil, self._refuse = spoil, refuse
        self.calls = 0
        self.closed = False

    def decode(self, encoded, images):
        before = images.pixels.clone()
        failures = self._decoder.decode(encoded, images)
        for row in self._refuse:
            images.image(row).copy_(_same_place(before, images, row))
            failures[row] = "refused"
        if self._spoil is not None:
            for row in range(len(encoded.jpegs)):
                self._spoil(images.image(row).numpy(), row, self.calls)
        self.calls += 1
        return failures

    def close(self):
        self.closed = True


def _same_place(pixels, images, row):
    return replace(images, pixels=pixels).image(row)


def skipped(row_to_skip):
    """Says that it decoded a row, and left it black."""

    def spoil(image, row, _):
        if row == row_to_skip:
            image[...] = 0

    return spoil


def swapped(image, *_):
    image[...] = image[..., ::-1].copy()


def off_by(levels):
    def spoil(image, *_):
        image[...] = np.clip(image.astype(int) + levels, 0, 255)

    return spoil


class Stale(Wrong):
    """Gives what it decoded in the call before, where that had the same size."""

    def __init__(self):
        super().__init__(self._old)
        self._last = {}

    def _old(self, image, row, call):
        old, self._last[row] = self._last.get(row), image.copy()
        if old is not None and old.shape == image.shape:
            image[...] = old
