"""Random numbers by address: Philox 4x32-10 over arrays, and the named streams of a seed.

Nothing is consumed and nothing is added up: every number is a pure function of
(seed, stream, epoch, sample id, view, draw), each in a word of its own, so that neither the number
of processes nor the order of work nor a restart can change it.

Philox is the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2,
3" (SC 2011); tests hold it to the known-answer vectors published with it.

Shapes: B samples, V views, D draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from pipeline.batch import Ids

Words = NDArray[np.uint32]

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


class Stream(IntEnum):
    """What a seed is used for: the second key word. Append only: the number is part of the data."""

    VIEWS = 0
    ORDER = 1
    NEGATIVES = 2
    EVALUATION = 3
    HELD_OUT = 4
    BLOCKS = 5


def philox(counter: Sequence[Words], key: tuple[int, int]) -> tuple[Words, ...]:
    """Return the four output words of Philox 4x32-10 for arrays of counters under one key.

    Args:
        counter: four uint32 arrays of one shape (or broadcastable).
        key: two words below 2**32.
    """
    words = [np.asarray(word, dtype=np.uint64) for word in np.broadcast_arrays(*counter)]
    key0, key1 = key
    for _ in range(10):
        product0 = words[0] * _MULTIPLIERS[0]
        product1 = words[2] * _MULTIPLIERS[1]
        words = [
            (product1 >> _SHIFT) ^ words[1] ^ np.uint64(key0),
            product1 & _LOW,
            (product0 >> _SHIFT) ^ words[3] ^ np.uint64(key1),
            product0 & _LOW,
        ]
        key0 = (key0 + _WEYL[0]) & 0xFFFFFFFF
        key1 = (key1 + _WEYL[1]) & 0xFFFFFFFF
    return tuple(word.astype(np.uint32) for word in words)


def random_words(
    *, seed: int, stream: Stream, epoch: int, sample_ids: Ids, num_views: int, num_draws: int
) -> Words:
    """Return uint32 [B, V, D]: draw d of view v of each sample in this epoch.

    Counter words: (draw // 4, view, sample id, epoch); key words: (seed, stream).

    Raises:
        ValueError: seed, epoch or a sample id does not fit its 32-bit word.
    """
    _check_word("seed", seed)
    _check_word("epoch", epoch)
    ids = np.asarray(sample_ids, dtype=np.int64)
    if ids.size and (ids.min() < 0 or ids.max() >= 2**32):
        raise ValueError(f"sample ids must lie in 0..2**32-1, got {ids.min()}..{ids.max()}")
    num_blocks = -(-num_draws // 4)
    block = np.arange(num_blocks, dtype=np.uint32)[None, None, :]
    view = np.arange(num_views, dtype=np.uint32)[None, :, None]
    sample = ids.astype(np.uint32)[:, None, None]
    counter = np.broadcast_arrays(block, view, sample, np.full((1, 1, 1), epoch, dtype=np.uint32))
    words = np.stack(philox(counter, (seed, int(stream))), axis=-1)  # [B, V, blocks, 4]
    return words.reshape(len(ids), num_views, num_blocks * 4)[:, :, :num_draws]


def uniform(
    *, seed: int, stream: Stream, epoch: int, sample_ids: Ids, num_views: int, num_draws: int
) -> NDArray[np.float64]:
    """Return float64 [B, V, D] in [0, 1): `random_words` / 2**32."""
    words = random_words(
        seed=seed,
        stream=stream,
        epoch=epoch,
        sample_ids=sample_ids,
        num_views=num_views,
        num_draws=num_draws,
    )
    return words * np.float64(2.0**-32)


def _check_word(name: str, value: int) -> None:
    if not 0 <= value < 2**32:
        raise ValueError(f"{name} must lie in 0..2**32-1, got {value}")
