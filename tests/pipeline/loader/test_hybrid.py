"""Several decoders on one batch: who decodes what, in whatever order, and what goes wrong."""

import threading
import time
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.loader.dali import DaliDecoder
from pipeline.loader.hybrid import HybridDecoder, split_by_id
from pipeline.loader.ragged import one_run, places, some_encoded, some_images
from pipeline.loader.turbojpeg import TurboJpegDecoder
from pipeline.loader.upload import UploadedDecoder
from tests.pipeline.loader.gpu_support import (
    CPU,
    STALE,
    Wrong,
    batch_of,
    cut,
    decoded,
    exact,
    off_by,
    stale_room,
)

SHARES = (
    st.lists(st.integers(0, 100), min_size=1, max_size=4)
    .filter(sum)
    .map(lambda parts: [part / sum(parts) for part in parts])
)
IDS = st.lists(st.integers(0, 2**40), min_size=1, max_size=60)


def same(left, right):
    return all(np.array_equal(a, b) for a, b in zip(left, right, strict=True))


def odd_to_second(ids):
    return ids % 2


def hybrid(*decoders, split=odd_to_second):
    return HybridDecoder(decoders, split, device=CPU)


# who decodes what


@given(IDS, SHARES, st.randoms(use_true_random=False))
def test_the_split_of_a_sample_depends_on_its_id_alone(ids, shares, random):
    ids = np.array(ids)
    chosen = split_by_id(ids, shares)
    assert ((chosen >= 0) & (chosen < len(shares))).all()
    assert all(shares[choice] > 0 for choice in chosen)
    order = list(range(len(ids)))
    random.shuffle(order)
    assert np.array_equal(split_by_id(ids[order], shares), chosen[order])
    for row, sample_id in enumerate(ids):
        assert split_by_id(np.array([sample_id]), shares) == chosen[row]


@given(st.integers(0, 2**40), st.integers(200, 3000), SHARES)
def test_any_run_of_ids_is_divided_by_the_shares(first, count, shares):
    chosen = split_by_id(np.arange(first, first + count), shares)
    counts = np.bincount(chosen, minlength=len(shares))
    assert np.abs(counts - count * np.array(shares)).max() <= 10


@given(IDS, st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_keeps_the_samples_it_had(ids, share, other):
    small, large = sorted((share, other))
    before = split_by_id(np.array(ids), [small, 1 - small])
    after = split_by_id(np.array(ids), [large, 1 - large])
    assert (after[before == 0] == 0).all()


def test_the_split_stands_for_ever():
    """Runs that go on rely on it: these were written down when it was made."""
    ids = [0, 1, 2, 3, 4, 5, 1281166, 2**33 + 7]
    chosen = split_by_id(np.array(ids), [0.3, 0.2, 0.5])
    assert chosen.tolist() == [0, 2, 0, 2, 1, 0, 0, 1]
    fractions = [i * 0x9E3779B97F4A7C15 % 2**64 / 2**64 for i in ids]
    assert chosen.tolist() == [0 if f < 0.3 else 1 if f < 0.5 else 2 for f in fractions]


@pytest.mark.parametrize("shares", [[1.0], [1.0, 0.0], [0.0, 1.0]])
def test_a_whole_share_takes_everything(shares):
    assert set(split_by_id(np.arange(1000), shares)) == {shares.index(1.0)}


# what comes out


@pytest.mark.parametrize("ids", [[1, 2, 3, 4, 5, 6], [6, 4, 2, 5, 3, 1], [2, 4, 6, 8, 10, 12]])
def test_images_come_to_their_places_whoever_decodes_them(ids):
    encoded = batch_of(6, ids=ids)
    decoder = hybrid(TurboJpegDecoder(threads=2), DaliDecoder(threads=1))
    images, failures = decoded(decoder, encoded)
    assert failures == {}
    assert same(images, exact(encoded))
    decoder.close()


def test_each_decoder_gets_the_samples_of_its_share():
    encoded = batch_of(6, ids=[10, 11, 13, 12, 15, 14])
    decoder = hybrid(Wrong(), Wrong(off_by(40)))
    images, _ = decoded(decoder, encoded)
    right = [np.array_equal(a, b) for a, b in zip(images, exact(encoded), strict=True)]
    assert right == [True, False, False, True, False, True]


def test_a_sample_has_the_same_pixels_in_any_company():
    split = partial(split_by_id, shares=[0.4, 0.6])
    decoder = hybrid(Wrong(), Wrong(off_by(2)), split=split)
    whole, _ = decoded(decoder, batch_of(8, ids=range(50, 58)))
    for rows in ([7], [3, 1], [0, 2, 4, 6], [6, 5, 4, 3, 2, 1, 0]):
        part = some_encoded(batch_of(8, ids=range(50, 58)), rows)
        assert same(decoded(decoder, part)[0], [whole[row] for row in rows])


def test_failures_of_each_are_reported_by_their_own_rows():
    encoded = cut(batch_of(7, ids=[5, 2, 9, 4, 8, 1, 3]), 1, 2, 6)
    decoder = hybrid(TurboJpegDecoder(threads=1), TurboJpegDecoder(threads=1))
    images, failures = decoded(decoder, encoded)
    assert list(failures) == [1, 2, 6]
    assert all("cannot be decoded" in reason for reason in failures.values())
    good = [0, 3, 4, 5]
    assert same([images[row] for row in good], [exact(encoded)[row] for row in good])


class Raising:
    def __init__(self, error):
        self.error = error

    def decode(self, encoded, images):
        raise self.error

    def close(self):
        """Nothing to close."""


@pytest.mark.parametrize("number", [0, 1])
def test_an_exception_of_either_is_raised_when_the_other_is_done(number):
    finished = []

    class Slow(Wrong):
        def decode(self, encoded, images):
            time.sleep(0.05)
            finished.append(len(encoded.jpegs))
            return {}

    decoders = [Slow(), Slow()]
    decoders[number] = Raising(KeyError("planted"))
    decoder = hybrid(*decoders)
    with pytest.raises(KeyError, match="planted"):
        decoder.decode(*ready())
    assert finished == [3]
    decoder.close()


def ready():
    encoded = batch_of(6, ids=range(6))
    return encoded, stale_room(encoded)


def test_after_an_exception_the_next_batch_is_decoded():
    class Once(Wrong):
        def decode(self, encoded, images):
            if not self.calls:
                self.calls += 1
                raise RuntimeError("once")
            return super().decode(encoded, images)

    decoder = hybrid(Once(), Wrong())
    with pytest.raises(RuntimeError, match="once"):
        decoder.decode(*ready())
    encoded, _ = ready()
    assert same(decoded(decoder, encoded)[0], exact(encoded))


def test_both_work_at_the_same_time():
    meeting = threading.Barrier(2, timeout=20)

    class Meets(Wrong):
        def decode(self, encoded, images):
            meeting.wait()  # nobody gets past this alone
            return super().decode(encoded, images)

    decoder = hybrid(Meets(), Meets())
    encoded, images = ready()
    assert decoder.decode(encoded, images) == {}


def test_a_share_without_samples_is_not_asked():
    class Never(Wrong):
        def decode(self, encoded, images):
            raise AssertionError("asked without samples")

    encoded = batch_of(3, ids=[2, 4, 6])
    assert same(decoded(hybrid(Wrong(), Never()), encoded)[0], exact(encoded))


def test_closing_ends_the_threads_and_both_decoders():
    before = set(threading.enumerate())  # one of an earlier test may still be ending
    first, second = Wrong(), Wrong()
    decoder = hybrid(first, second)
    decoder.decode(*ready())
    assert set(threading.enumerate()) - before
    decoder.close()
    assert (first.closed, second.closed) == (True, True)
    assert set(threading.enumerate()) <= before


# pixels that are wanted elsewhere than they are decoded


def test_a_decoder_behind_the_upload_fills_places_between_others():
    encoded = batch_of(5)
    images = stale_room(encoded)
    rows = [1, 3]
    uploaded = UploadedDecoder(TurboJpegDecoder(threads=1), CPU)
    for _ in range(2):  # its staging memory is used again
        assert uploaded.decode(some_encoded(encoded, rows), some_images(images, rows)) == {}
    for row, expected in enumerate(exact(encoded)):
        found = images.image(row).numpy()
        assert np.array_equal(found, expected) if row in rows else (found == STALE).all()


def test_behind_the_upload_images_are_decoded_into_memory_of_its_own():
    rooms = []

    class Seen(Wrong):
        def decode(self, encoded, images):
            rooms.append(images.pixels.untyped_storage().data_ptr())
            return super().decode(encoded, images)

    encoded = batch_of(3)
    images = stale_room(encoded)
    uploaded = UploadedDecoder(Seen(), CPU)
    for _ in range(2):
        uploaded.decode(encoded, images)
    assert len(set(rooms)) == 1
    assert rooms[0] != images.pixels.untyped_storage().data_ptr()


def test_the_upload_passes_failures_on():
    encoded = cut(batch_of(4), 2)
    uploaded = UploadedDecoder(TurboJpegDecoder(threads=1), CPU)
    assert list(uploaded.decode(encoded, stale_room(encoded))) == [2]


def test_places_side_by_side_are_one_run_and_others_are_not():
    images = stale_room(batch_of(5))
    assert torch.equal(one_run(images), images.pixels)
    middle = some_images(images, [1, 2])
    assert one_run(middle).data_ptr() == places(images)[1].data_ptr()
    assert len(one_run(middle)) == len(places(images)[1]) + len(places(images)[2])
    assert one_run(some_images(images, [0, 2])) is None
    assert one_run(some_images(images, [1, 0])) is None
