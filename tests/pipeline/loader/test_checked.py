"""A decoder that is wrong in whatever way is found out, or made good, before pixels are used."""

from dataclasses import replace

import numpy as np
import pytest
import simplejpeg
import torch

from pipeline.loader.checked import CheckedDecoder, WrongPixels, decode_exactly, plain_rows
from tests.pipeline.loader.gpu_support import (
    CPU,
    STALE,
    Stale,
    Wrong,
    batch_of,
    cut,
    decoded,
    exact,
    off_by,
    skipped,
    stale_room,
    swapped,
    with_jpeg,
)


def checked(decoder):
    return CheckedDecoder(decoder, name="tested", device=CPU)


def same(left, right):
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def test_a_right_decoder_passes_with_its_own_pixels():
    encoded = batch_of()
    images, failures = decoded(checked(Wrong(off_by(1))), encoded)
    assert failures == {}
    assert same(images, [np.clip(i.astype(int) + 1, 0, 255) for i in exact(encoded)])


@pytest.mark.parametrize(
    ("wrong", "finding"),
    [
        (swapped, "is off by|are off by"),
        (off_by(3), "brightness is off by 3.0 levels of 255"),
        (off_by(-3), "brightness is off by 3.0 levels of 255"),
    ],
)
def test_what_is_wrong_with_every_image_is_found_in_the_first_batch(wrong, finding):
    message = (
        f"tested JPEG decoder gives another picture than libjpeg-turbo for sample 7: .*{finding}"
    )
    with pytest.raises(WrongPixels, match=message) as error:
        decoded(checked(Wrong(wrong)), batch_of(3, ids=[7, 8, 9]))
    assert str(error.value).endswith("; start again with --set loader.decoder=turbojpeg")


def test_what_is_wrong_with_one_place_is_found_when_its_turn_comes():
    def wrong_there(image, row, _):
        if row == 2:
            off_by(9)(image)

    decoder, encoded = checked(Wrong(wrong_there)), batch_of(4, ids=[3, 5, 7, 9])
    decoded(decoder, encoded)
    decoded(decoder, encoded)
    with pytest.raises(WrongPixels, match="for sample 7"):
        decoded(decoder, encoded)


def test_every_place_has_its_turn():
    """All images are wrong but the one whose turn it is: in ten batches nobody notices."""
    encoded = batch_of(5)
    decoder = checked(Wrong(lambda image, row, call: off_by(9)(image) if row != call % 5 else None))
    for _ in range(10):
        images, _failures = decoded(decoder, encoded)
    assert [np.array_equal(*pair) for pair in zip(images, exact(encoded), strict=True)] == [
        False,
        False,
        False,
        False,
        True,
    ]


def test_stale_pixels_of_the_batch_before_are_found():
    decoder = checked(Stale())
    decoded(decoder, batch_of(4, seed=1))
    with pytest.raises(WrongPixels, match="another picture"):
        decoded(decoder, batch_of(4, seed=50))


@pytest.mark.parametrize("row", [0, 3, 5])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_image_that_was_skipped_is_decoded_after_all(row, level):
    def spoil(image, at, _):
        if at == row:
            image[...] = level

    encoded = batch_of()
    decoder = checked(Wrong(spoil))
    for _ in range(7):  # also when it would be its turn to be compared
        images, failures = decoded(decoder, encoded)
        assert failures == {}
        assert same(images, exact(encoded))


def test_an_image_that_is_really_of_one_colour_is_kept():
    encoded = batch_of(3)
    height, width = int(encoded.heights[1]), int(encoded.widths[1])
    plain = np.full((height, width, 3), 77, np.uint8)
    encoded = with_jpeg(encoded, 1, simplejpeg.encode_jpeg(plain, quality=95))
    images, failures = decoded(checked(Wrong(off_by(1))), encoded)
    assert failures == {}
    assert np.array_equal(images[1], exact(encoded)[1] + 1)  # its own pixels


def test_what_it_refuses_is_decoded_on_the_cpu_and_only_bad_samples_are_bad():
    encoded = cut(batch_of(6), 4)
    images, failures = decoded(checked(Wrong(refuse=(1, 4))), encoded)
    assert list(failures) == [4]
    assert "its JPEG cannot be decoded" in failures[4]
    good = [0, 1, 2, 3, 5]
    assert same([images[row] for row in good], [exact(encoded)[row] for row in good])
    assert (images[4] == STALE).any()


def test_a_size_that_is_not_the_index_s_is_told_as_on_the_cpu():
    encoded = batch_of(3)
    encoded = with_jpeg(encoded, 1, simplejpeg.encode_jpeg(np.zeros((9, 8, 3), np.uint8)))
    _, failures = decoded(checked(Wrong()), encoded)
    assert failures[1].startswith("its JPEG is 8x9, the index says")


def test_damage_that_only_the_gpu_forgives_is_no_difference():
    """libjpeg-turbo has no picture to compare with."""

    class Forgiving(Wrong):
        def decode(self, encoded, images):
            super().decode(encoded, images)
            images.pixels.add_(torch.arange(len(images.pixels)).to(torch.uint8))
            return {}

    encoded = cut(batch_of(1), 0)
    assert decoded(checked(Forgiving()), encoded)[1] == {}


@pytest.mark.parametrize("way", ["refuses", "skips"])
def test_a_decoder_that_misses_everything_stops_the_run(way):
    encoded = batch_of(8)
    if way == "refuses":
        decoder, reason = checked(Wrong(refuse=range(8))), "refused"
    else:
        decoder, reason = checked(Wrong(lambda image, *_: image.fill(0))), "one colour"
    for _ in range(3):
        images, failures = decoded(decoder, encoded)
        assert (failures, same(images, exact(encoded))) == ({}, True)
    message = f"tested JPEG decoder has missed 32 good images in a row, .* because: .*{reason}"
    with pytest.raises(WrongPixels, match=message):
        decoded(decoder, encoded)


def test_one_good_image_shows_that_it_lives():
    decoder = checked(Wrong(skipped(0)))
    single = batch_of(1)
    for _ in range(20):
        decoded(decoder, single)
    decoded(decoder, batch_of(2))
    for _ in range(20):
        decoded(decoder, single)


def test_bad_samples_do_not_count_against_it():
    decoder, encoded = checked(Wrong(refuse=range(8))), cut(batch_of(8), *range(8))
    for _ in range(6):
        assert len(decoded(decoder, encoded)[1]) == 8


def test_plain_rows_are_those_of_one_colour():
    images = stale_room(batch_of(5))
    for row in range(5):
        image = images.image(row)
        image.copy_(torch.arange(image.numel()).view(image.shape).to(torch.uint8))
    images.image(1).fill_(0)
    images.image(3)[..., 0] = 10
    images.image(3)[..., 1] = 20
    images.image(3)[..., 2] = 30
    assert plain_rows(images) == [1, 3]
    tiny = replace(images, heights=torch.ones(5, dtype=torch.int32), widths=images.heights * 0 + 1)
    assert plain_rows(tiny) == [0, 1, 2, 3, 4]  # a single pixel is of one colour


def test_decoding_exactly_leaves_the_batch_alone():
    encoded = batch_of(3)
    images = stale_room(encoded)
    pixels, reason = decode_exactly(encoded, images, 2)
    assert reason == ""
    assert np.array_equal(pixels.numpy(), exact(encoded)[2])
    assert (images.pixels == STALE).all()


def test_closing_closes_what_it_stands_before():
    inner = Wrong()
    checked(inner).close()
    assert inner.closed
