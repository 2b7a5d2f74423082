"""Top-1 and top-5 accuracy of class scores and its standard error; ties are decided once.

Shapes: Q queries, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Share of queries whose label is the best, or among the five best, in percent: 0..100."""

    top1: float
    top5: float
    samples: int  # queries, Q


def standard_error(share: float, samples: int) -> float:
    """Return the standard error of a share in percent, 0..100, of so many independent samples."""
    p = share / 100
    return 100 * sqrt(max(0.0, p * (1 - p)) / samples)  # a rounded p may exceed 1


def error_of_difference(first: float, second: float, samples: tuple[int, int]) -> float:
    """Return the standard error of the difference of two shares, in percent, if they were equal.

    Args:
        first, second: shares in percent, 0..100, of samples[0] and samples[1] samples. They are
            taken as independent: where both are of the same samples, that is on the safe side.
    """
    pooled = (first * samples[0] + second * samples[1]) / sum(samples)
    return standard_error(pooled, 1) * sqrt(1 / samples[0] + 1 / samples[1])


def label_ranks(scores: Tensor, labels: Tensor) -> Tensor:
    """Return how many classes stand before the label of each query: int64 [Q], 0 is a hit.

    Equal scores are ordered by class, as argmax does. A label whose score is not a number ranks
    last: a diverged classifier must not score.

    Args:
        scores: [Q, C], larger is better.
        labels: int64 [Q], 0..C-1.
    """
    own = scores.gather(1, labels[:, None])  # [Q, 1]
    classes = torch.arange(scores.shape[1], device=scores.device)
    before = (scores > own) | ((scores == own) & (classes < labels[:, None]))
    return torch.where(own[:, 0].isnan(), scores.shape[1], before.sum(dim=1))


def accuracy_of_ranks(ranks: Tensor) -> Accuracy:
    """Return the accuracy of `label_ranks`, int64 [Q]; Q must not be 0."""
    assert len(ranks) > 0, "accuracy of no queries"
    return Accuracy(top1=_percent(ranks < 1), top5=_percent(ranks < 5), samples=len(ranks))


def accuracy_of_scores(scores: Tensor, labels: Tensor) -> Accuracy:
    """Return the accuracy of class scores [Q, C] for labels int64 [Q]."""
    return accuracy_of_ranks(label_ranks(scores, labels))


def _percent(hits: Tensor) -> float:
    return 100 * hits.double().mean().item()
