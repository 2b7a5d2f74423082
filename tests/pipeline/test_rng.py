"""Philox against the published vectors, and the independence of its words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rng import Stream, philox, random_words, uniform
from tests.support import scalar_philox

# Random123's kat_vectors for philox4x32-10: counter, key, output.
KNOWN_ANSWERS = [
    (
        (0x00000000, 0x00000000, 0x00000000, 0x00000000),
        (0x00000000, 0x00000000),
        (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter, key, expected):
    words = philox(tuple(np.array([word], np.uint32) for word in counter), key)
    assert tuple(int(word[0]) for word in words) == expected


def test_streams_are_numbered_for_ever():
    names = ["VIEWS", "ORDER", "NEGATIVES", "EVALUATION", "HELD_OUT", "BLOCKS"]
    assert [(stream.name, int(stream)) for stream in Stream] == [
        (name, number) for number, name in enumerate(names)
    ]


word = st.integers(0, 2**32 - 1)


@given(counter=st.tuples(word, word, word, word), key=st.tuples(word, word))
def test_arrays_equal_scalars(counter, key):
    words = philox(tuple(np.array([w], np.uint32) for w in counter), key)
    assert tuple(int(w[0]) for w in words) == scalar_philox(counter, key)


@given(seed=word, epoch=word, sample=word, view=st.integers(0, 6), draw=st.integers(0, 18))
def test_a_draw_is_addressed_by_its_words(seed, epoch, sample, view, draw):
    words = random_words(
        seed=seed,
        stream=Stream.NEGATIVES,
        epoch=epoch,
        sample_ids=np.array([sample]),
        num_views=view + 1,
        num_draws=draw + 1,
    )
    expected = scalar_philox((draw // 4, view, sample, epoch), (seed, int(Stream.NEGATIVES)))
    assert int(words[0, view, draw]) == expected[draw % 4]


def draws(seed=1, stream=Stream.VIEWS, epoch=0, ids=(0, 1, 2)):
    return uniform(
        seed=seed,
        stream=stream,
        epoch=epoch,
        sample_ids=np.array(ids),
        num_views=6,
        num_draws=16,
    )


def test_identifiers_are_never_added_up():
    base = draws(seed=7, epoch=2, ids=(5,))
    for other in (
        draws(seed=8, epoch=1, ids=(5,)),
        draws(seed=7, epoch=1, ids=(6,)),
        draws(seed=8, epoch=2, ids=(4,)),
        draws(seed=7, epoch=2, ids=(5,), stream=Stream.ORDER),
    ):
        assert not np.any(base == other)


def test_a_sample_draws_the_same_in_any_company():
    together = draws(ids=(4, 9, 2, 7))
    assert np.array_equal(together[2:3], draws(ids=(2,)))


def test_uniform_draws_fill_the_unit_interval_evenly():
    values = draws(ids=range(4000)).ravel()
    counts, _ = np.histogram(values, bins=16, range=(0, 1))
    expected = values.size / 16
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 44  # 15 degrees of freedom: p = 1e-4
    assert values.min() >= 0
    assert values.max() < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed must lie in"),
        ({"seed": 2**32}, "seed must lie in"),
        ({"epoch": 2**32}, "epoch must lie in"),
        ({"ids": (0, 2**32)}, "sample ids must lie in"),
        ({"ids": (-1,)}, "sample ids must lie in"),
    ],
)
def test_what_does_not_fit_its_word_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        draws(**arguments)
