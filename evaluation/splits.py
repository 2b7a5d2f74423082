"""Which labelled samples are put aside to choose a hyper-parameter on, never to report on."""

from __future__ import annotations

import numpy as np

from pipeline.batch import Ids
from pipeline.rng import Stream, random_words


def check_seed(seed: int) -> None:
    """Raise ValueError unless a seed fits the word that it has in the random numbers."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must lie in 0..2**32-1, got {seed}")


def held_out_size(num_samples: int, *, share: float, limit: int) -> int:
    """Return how many of `num_samples` are held out: a share of them, at most `limit`, at least 1.

    The defaults of the protocols, 10 % and 10,000, give the 10,000 images that the literature puts
    aside from ImageNet's training set (spec 6.1).

    Raises:
        ValueError: nothing would be left to train on.
    """
    size = max(1, min(limit, round(share * num_samples)))
    if size >= num_samples:
        raise ValueError(
            f"{num_samples} labelled samples are too few to hold {size} of them out; "
            "give more labelled images or a fixed value instead of a sweep"
        )
    return size


def split_held_out(sample_ids: Ids, *, size: int, seed: int) -> tuple[Ids, Ids]:
    """Return (kept, held out), both ascending: `size` samples chosen by chance for a seed.

    The choice is addressed by sample id, so it depends on neither order nor process.
    """
    words = random_words(
        seed=seed,
        stream=Stream.HELD_OUT,
        epoch=0,
        sample_ids=sample_ids,
        num_views=1,
        num_draws=2,
    )[:, 0].astype(np.uint64)
    tickets = (words[:, 0] << np.uint64(32)) | words[:, 1]
    chosen = np.zeros(len(sample_ids), dtype=np.bool_)
    chosen[np.argsort(tickets, kind="stable")[:size]] = True
    return np.sort(sample_ids[~chosen]), np.sort(sample_ids[chosen])
