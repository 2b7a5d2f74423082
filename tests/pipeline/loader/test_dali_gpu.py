"""The decoder of GPU engines, its graph run by DALI's CPU decoder, and against fakes."""

import ctypes
import math
from contextlib import nullcontext
from importlib import metadata

import numpy as np
import pytest
import simplejpeg
import torch

from pipeline.loader import dali_gpu
from pipeline.loader.dali_gpu import DaliGpuDecoder
from pipeline.loader.dali_gpu_graph import DecodeGraph, codec_version, copy_out, why_refused
from pipeline.loader.ragged import some_encoded, some_images
from pipeline.shards.memory import MemoryShards
from tests.pipeline.loader.gpu_support import (
    CPU,
    STALE,
    batch_of,
    cut,
    decoded,
    exact,
    pictures,
    stale_room,
    with_jpeg,
)

ENGINES = ["hardware", "cuda"]


def same(left, right):
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def decoder_of(engine="cuda", **options):
    return DaliGpuDecoder(device=CPU, engine=engine, **options)


@pytest.fixture
def builds(monkeypatch):
    """The sizes of the batches that pipelines are built for."""
    sizes = []
    build = DecodeGraph._build

    def counted(graph):
        sizes.append(graph._max_batch)
        return build(graph)

    monkeypatch.setattr(DecodeGraph, "_build", counted)
    return sizes


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("threads", [1, 3])
def test_pixels_are_libjpeg_turbo_s(engine, threads):
    encoded = batch_of(7)
    images, failures = decoded(decoder_of(engine, threads=threads), encoded)
    assert failures == {}
    assert same(images, exact(encoded))


def test_batches_may_grow_and_shrink(builds):
    decoder = decoder_of()
    for count in (3, 1, 16, 17, 40, 5, 64, 33):
        encoded = batch_of(count % 13 + 1, seed=count)
        encoded = some_encoded(encoded, np.arange(count) % len(encoded.jpegs))
        images, failures = decoded(decoder, encoded)
        assert failures == {}
        assert same(images, exact(encoded))
    assert builds == [16, 32, 64]


def test_images_of_one_size_are_decoded_too():
    """DALI has another kind of list for them."""
    encoded = MemoryShards.from_images([picture[:90, :80] for picture in pictures(4)])
    encoded = encoded.read(np.arange(4))
    assert same(decoded(decoder_of(), encoded)[0], exact(encoded))


def test_places_between_others_are_filled_and_the_others_left_alone():
    encoded = batch_of(6)
    decoder, images = decoder_of(), stale_room(encoded)
    for rows in ([4], [0, 2], [5, 3]):
        part = some_encoded(encoded, rows)
        assert decoder.decode(part, some_images(images, rows)) == {}
    for row, expected in enumerate(exact(encoded)):
        found = images.image(row).numpy()
        assert (found == STALE).all() if row == 1 else np.array_equal(found, expected)


def test_earlier_images_do_not_change_when_the_next_batch_is_decoded():
    decoder, first = decoder_of(), batch_of(5, seed=1)
    images = stale_room(first)
    decoder.decode(first, images)
    for seed in range(2, 6):
        decoded(decoder, batch_of(5, seed=seed))
    assert same([images.image(row).numpy() for row in range(5)], exact(first))


@pytest.mark.parametrize("bad", [[0], [6], [2, 3], [0, 1, 5], list(range(7))])
def test_bad_images_are_named_and_the_others_decoded(bad):
    encoded = cut(batch_of(7), *bad)
    images, failures = decoded(decoder_of(), encoded)
    assert sorted(failures) == bad
    assert set(failures.values()) == {"Failed to decode sample #0 :"}  # alone, it is number 0
    good = [row for row in range(7) if row not in bad]
    assert same([images[row] for row in good], [exact(encoded)[row] for row in good])
    assert same(decoded(decoder_of(), batch_of(7))[0], exact(batch_of(7)))


def test_after_a_bad_image_the_decoder_goes_on(builds):
    decoder = decoder_of()
    decoded(decoder, cut(batch_of(4), 1))
    images, failures = decoded(decoder, batch_of(4))
    assert failures == {}
    assert same(images, exact(batch_of(4)))
    assert builds == [16] * 4  # one more after each of the runs that failed: 4, 2 and 1 images


def test_bytes_that_are_no_picture_are_named():
    encoded = with_jpeg(with_jpeg(batch_of(4), 1, b"no picture"), 3, b"")
    images, failures = decoded(decoder_of(), encoded)
    assert sorted(failures) == [1, 3]
    assert same(images[0::2], exact(encoded)[0::2])


@pytest.mark.parametrize("smaller", [True, False])
def test_an_image_of_another_size_than_its_place_is_named_and_spoils_no_other(smaller):
    side = 8 if smaller else 400
    encoded = with_jpeg(batch_of(5), 2, simplejpeg.encode_jpeg(np.zeros((side, 9, 3), np.uint8)))
    images, failures = decoded(decoder_of(), encoded)
    assert failures == {2: f"DALI makes it ({side}, 9, 3)"}
    assert (images[2] == STALE).all()
    good = [0, 1, 3, 4]
    assert same([images[row] for row in good], [exact(encoded)[row] for row in good])


def test_pictures_are_not_turned():
    """libjpeg-turbo does not look at EXIF either, and the index has the sizes as stored."""
    encoded = batch_of(1)
    turned = b"\xff\xd8" + exif_orientation(6) + bytes(encoded.jpegs[0])[2:]
    encoded = with_jpeg(encoded, 0, turned)
    images, failures = decoded(decoder_of(), encoded)
    assert failures == {}
    assert same(images, exact(encoded))


def exif_orientation(number):
    tiff = b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01"
    body = b"Exif\x00\x00" + tiff + bytes([0, number, 0, 0, 0, 0, 0, 0])
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body


@pytest.mark.parametrize("sampling", ["444", "422", "420", "440", "411"])
def test_every_usual_sampling_is_as_libjpeg_turbo_has_it(sampling):
    jpegs = [
        simplejpeg.encode_jpeg(picture, colorspace="RGB", colorsubsampling=sampling)
        for picture in pictures(3)
    ]
    encoded = batch_of(3)
    for row, jpeg in enumerate(jpegs):
        encoded = with_jpeg(encoded, row, jpeg)
    assert same(decoded(decoder_of(), encoded)[0], exact(encoded))


def test_the_watchdog_hears_of_each_run():
    heard = []
    decoder = decoder_of(beat=heard.append)
    decoded(decoder, batch_of(4, ids=[9, 8, 7, 6]))
    assert heard == [9]
    decoded(decoder, cut(batch_of(4, ids=[9, 8, 7, 6]), 2))
    assert heard[1:] == [9, 9, 7, 7, 6]


def test_an_error_that_is_not_dali_s_is_no_bad_image(monkeypatch):
    def broken(*_):
        raise RuntimeError("copy failed")

    monkeypatch.setattr(dali_gpu, "copy_out", broken)
    with pytest.raises(RuntimeError, match="copy failed"):
        decoded(decoder_of(), batch_of(4))


def test_closing_drops_the_pipeline():
    decoder = decoder_of()
    decoded(decoder, batch_of(2))
    decoder.close()
    assert decoder._graph._pipeline is None


def test_reasons_are_the_line_that_says_something():
    long = "Critical error in pipeline:\nError in MIXED operator `x`,\n\nencountered:\n\nFailed to "
    assert why_refused(RuntimeError(long + "decode sample #0 : \nmore")) == (
        "Failed to decode sample #0 :"
    )
    assert why_refused(RuntimeError("out of memory\nand more")) == "out of memory"
    assert why_refused(KeyError()) == "KeyError"


def test_the_version_is_that_of_the_installed_package():
    names = ("nvidia-nvimgcodec-cu13", "nvidia-nvimgcodec-cu12")
    installed = next(d for d in metadata.distributions() if d.metadata["Name"] in names)
    assert installed.version.startswith(codec_version() + ".")


# The engine that does not wait: it writes at once, while copies out of the same memory are queued.


class LateStream:
    """Does what was queued on it only when somebody waits."""

    handle = 1

    def __init__(self):
        self.queued = []

    def current(self):
        return nullcontext()

    def wait(self):
        for work in self.queued:
            work()
        self.queued.clear()


class Reused:
    """DALI's list of images in one piece of memory that the next run writes to at once."""

    def __init__(self, memory, images):
        self.memory, self.images = memory, images

    def shape(self):
        return [image.shape for image in self.images]


class EagerGraph:
    def __init__(self):
        self.memory = np.zeros(10_000_000, np.uint8)

    def run(self, jpegs):
        images = [simplejpeg.decode_jpeg(jpeg) for jpeg in jpegs]
        flat = np.concatenate([image.ravel() for image in images])
        self.memory[: len(flat)] = flat
        return Reused(self.memory[: len(flat)], images)


def late_decoder(monkeypatch):
    decoder = decoder_of()
    decoder._graph, decoder._stream = EagerGraph(), LateStream()

    def queue_copy(images, target, stream):
        assert stream == 1
        decoder._stream.queued.append(lambda: target.copy_(torch.from_numpy(images.memory)))

    def queue_places(targets, sources):
        pairs = list(zip(targets, sources, strict=True))
        decoder._stream.queued.append(lambda: [a.copy_(b) for a, b in pairs])

    monkeypatch.setattr(dali_gpu, "copy_out", queue_copy)
    monkeypatch.setattr(torch, "_foreach_copy_", queue_places)
    return decoder


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [0, 2, 3], [3, 1]])
def test_memory_is_given_back_only_when_copies_are_done(monkeypatch, rows):
    decoder = late_decoder(monkeypatch)
    batches = [batch_of(4, seed=seed) for seed in (1, 20, 40)]
    rooms = [stale_room(batch) for batch in batches]
    for batch, room in zip(batches, rooms, strict=True):
        decoder.decode(some_encoded(batch, rows), some_images(room, rows))
    for batch, room in zip(batches, rooms, strict=True):
        found = [room.image(row).numpy() for row in rows]
        assert same(found, [exact(batch)[row] for row in rows])


def test_without_waiting_that_test_would_fail(monkeypatch):
    decoder = late_decoder(monkeypatch)
    wait, decoder._stream.wait = decoder._stream.wait, lambda: None
    first, second = batch_of(4, seed=1), batch_of(4, seed=20)
    room = stale_room(first)
    decoder.decode(first, room)
    decoder.decode(second, stale_room(second))
    wait()
    assert not same([room.image(row).numpy() for row in range(4)], exact(first))


def test_a_list_of_any_sizes_is_copied_one_image_after_another():
    encoded = batch_of(5)
    images = DecodeGraph(device=CPU, engine="cuda", threads=1).run(encoded.jpegs)
    total = sum(math.prod(shape) for shape in images.shape())
    target = torch.full((total + 8,), STALE, dtype=torch.uint8)
    copy_out(images, target[:total], None)
    flat = np.concatenate([image.ravel() for image in exact(encoded)])
    assert np.array_equal(target[:total].numpy(), flat)
    assert (target[total:] == STALE).all()


def test_on_a_gpu_it_is_queued_as_one_launch_on_our_stream():
    calls = []

    class GpuList:
        def copy_to_external(self, address, stream, **options):
            calls.append((address.value, stream.value, options))

    target = torch.zeros(4, dtype=torch.uint8)
    copy_out(GpuList(), target, 1234)
    assert calls == [
        (
            ctypes.c_void_p(target.data_ptr()).value,
            1234,
            {"non_blocking": True, "use_copy_kernel": True},
        )
    ]


def test_the_names_that_a_gpu_list_takes_are_dali_s():
    """What cannot be called without a GPU: its documented signature."""
    from nvidia.dali import backend

    text = backend.TensorListGPU.copy_to_external.__doc__
    for name in (
        "ptr: object",
        "cuda_stream: object",
        "non_blocking: bool",
        "use_copy_kernel: bool",
    ):
        assert name in text
    assert "shape" in dir(backend.TensorListGPU)
