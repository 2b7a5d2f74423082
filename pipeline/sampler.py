"""Which samples make up each global batch, and which of them are whose negatives.

Order is a function of (seed, epoch), not a state: every sample draws a 64-bit ticket and an epoch's
order is the tickets sorted. A rank takes ids[rank::world_size] of a global batch, so any world size
that divides the batch sees the same global batches.

Shapes: N samples, G global batch, B anchors, V online views, L target views, n negatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.batch import Ids
from pipeline.rng import Stream, random_words, uniform


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampler:
    """The samples of each step. Knows nothing of workers, ranks or the past.

    Every epoch shows each sample at most once; the N % G samples left over in one epoch are others
    in the next.

    Raises:
        ValueError: fewer samples than one global batch holds.
    """

    num_samples: int
    global_batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.global_batch_size < 1:
            raise ValueError(f"global_batch_size must be at least 1, got {self.global_batch_size}")
        if self.num_samples < self.global_batch_size:
            raise ValueError(
                f"{self.num_samples} samples do not fill one global batch of "
                f"{self.global_batch_size}; choose a smaller global_batch_size"
            )

    @property
    def steps_per_epoch(self) -> int:
        return self.num_samples // self.global_batch_size

    def batch(self, step: int) -> tuple[int, Ids]:
        """Return (epoch, sample ids [G]) of a step, 0-based."""
        epoch, position = divmod(step, self.steps_per_epoch)
        order = epoch_order(num_samples=self.num_samples, seed=self.seed, epoch=epoch)
        start = position * self.global_batch_size
        return epoch, order[start : start + self.global_batch_size]


@lru_cache(maxsize=2)  # this epoch and the next: 10 MB each for ImageNet, 0.4 s to make
def epoch_order(*, num_samples: int, seed: int, epoch: int) -> Ids:
    """Return the order of an epoch, a read-only permutation [N]."""
    words = random_words(
        seed=seed,
        stream=Stream.ORDER,
        epoch=epoch,
        sample_ids=np.arange(num_samples),
        num_views=1,
        num_draws=2,
    )[:, 0].astype(np.uint64)
    tickets = (words[:, 0] << np.uint64(32)) | words[:, 1]
    order = np.argsort(tickets, kind="stable").astype(np.int64)  # stable: ties by sample id
    order.setflags(write=False)
    return order


def sample_negatives(
    *,
    seed: int,
    epoch: int,
    sample_ids: Ids,
    positions: Ids,
    num_candidates: int,
    num_negatives: int,
    num_online: int,
    num_target: int,
) -> NDArray[np.int64]:
    """Draw the negatives of each anchor: int64 [V, L, B, n], positions among the candidates.

    Uniform, without replacement, never the anchor itself, one draw per anchor and pair of views;
    addressed by (epoch, sample id of the anchor, pair), so the same at any world size as long as
    `positions` and `num_candidates` mean the same batch. Existence of the subsampling: paper's
    pseudo-code (n_e) [SRC]; uniform and per anchor: [MEM-H]; per pair: [UNK], docs/provenance.md.

    Args:
        sample_ids: [B] the anchors.
        positions: [B] where each anchor stands among the candidates.
        num_candidates: size of the batch that negatives come from.

    Raises:
        ValueError: more negatives asked for than there are other candidates.
    """
    check_negatives(num_negatives, num_candidates)
    draws = uniform(
        seed=seed,
        stream=Stream.NEGATIVES,
        epoch=epoch,
        sample_ids=sample_ids,
        num_views=num_online * num_target,
        num_draws=num_negatives,
    )
    chosen = _floyd(draws, num_candidates - 1)  # [B, V * L, n] among the others
    chosen += chosen >= positions[:, None, None]  # skip the anchor's own position
    shape = (len(sample_ids), num_online, num_target, num_negatives)
    return np.ascontiguousarray(chosen.reshape(shape).transpose(1, 2, 0, 3))


def check_negatives(num_negatives: int, num_candidates: int) -> None:
    """Raise ValueError unless a batch of `num_candidates` has so many others for each anchor."""
    if not 1 <= num_negatives < num_candidates:
        raise ValueError(
            f"num_negatives={num_negatives} needs a batch of at least {num_negatives + 1}, "
            f"got {num_candidates}; lower loss.num_negatives, raise global_batch_size or set "
            "loss.negatives=global"
        )


def _floyd(draws: NDArray[np.float64], num_items: int) -> NDArray[np.int64]:
    """Turn uniform draws [..., n] into n distinct items of range(num_items) (R. Floyd's method)."""
    num_chosen = draws.shape[-1]
    chosen = np.empty(draws.shape, dtype=np.int64)
    for k in range(num_chosen):
        last = num_items - num_chosen + k
        pick = (draws[..., k] * (last + 1)).astype(np.int64)
        taken = (chosen[..., :k] == pick[..., None]).any(axis=-1)
        chosen[..., k] = np.where(taken, last, pick)
    return chosen
