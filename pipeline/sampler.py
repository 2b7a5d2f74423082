"""Which samples make up each global batch, and which of them are whose negatives.

Order is a function of (seed, epoch), not a state (pipeline/order.py). A rank takes
ids[rank::world_size] of a global batch, so any world size that divides the batch sees the same
global batches.

Shapes: N samples, G global batch, B anchors, V online views, L target views, n negatives.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.batch import Ids
from pipeline.order import OrderConfig, Window, epoch_order, make_window, windowed_epoch
from pipeline.rng import Stream, uniform


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampler:
    """The samples of each step. Knows nothing of workers, ranks or the past.

    Every epoch shows each sample at most once; the N % G samples left over in one epoch are others
    in the next.

    Raises:
        ValueError: fewer samples than one global batch holds, or a window too small for two.
    """

    num_samples: int
    global_batch_size: int
    seed: int
    window: Window | None = None  # None: each epoch is shuffled as a whole

    def __post_init__(self) -> None:
        if self.global_batch_size < 1:
            raise ValueError(f"global_batch_size must be at least 1, got {self.global_batch_size}")
        if self.num_samples < self.global_batch_size:
            raise ValueError(
                f"{self.num_samples} samples do not fill one global batch of "
                f"{self.global_batch_size}; choose a smaller global_batch_size"
            )
        if self.window is not None:
            _check_window(self.window, self.num_samples, self.global_batch_size)

    @property
    def steps_per_epoch(self) -> int:
        return self.num_samples // self.global_batch_size

    def batch(self, step: int) -> tuple[int, Ids]:
        """Return (epoch, sample ids [G]) of a step, 0-based."""
        epoch, position = divmod(step, self.steps_per_epoch)
        start = position * self.global_batch_size
        return epoch, self._order(epoch)[start : start + self.global_batch_size]

    def _order(self, epoch: int) -> Ids:
        if self.window is None:
            return epoch_order(num_samples=self.num_samples, seed=self.seed, epoch=epoch)
        return windowed_epoch(self.window, seed=self.seed, epoch=epoch).order


def make_sampler(
    stored_bytes: Ids, *, global_batch_size: int, seed: int, order: OrderConfig
) -> Sampler:
    """The sampler of samples of these stored sizes [N], in the order that is asked for.

    Raises:
        ValueError: too few samples for a batch, a window too small for two batches or blocks.
    """
    return Sampler(
        num_samples=len(stored_bytes),
        global_batch_size=global_batch_size,
        seed=seed,
        window=make_window(stored_bytes, order),
    )


def _check_window(window: Window, num_samples: int, global_batch_size: int) -> None:
    """Raise ValueError for a window of other samples, or one that does not mix two batches."""
    if window.num_samples != num_samples:
        raise ValueError(f"a window over {window.num_samples} samples for {num_samples} samples")
    held = int(window.num_bytes / window.total_bytes * num_samples)
    if held < 2 * global_batch_size:
        raise ValueError(
            f"order.window_gigabytes={window.num_bytes / 1e9:g} holds about {held} samples, less "
            f"than two global batches of {global_batch_size}; raise it, or set 0 to shuffle all "
            "samples"
        )


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
