"""Weighted k-nearest-neighbour classification of features: no training, no hyper-parameter to tune.

The classifier of InstDisc (Wu et al. 2018) and DINO: cosine similarity s to every feature of a
labelled bank; the k nearest vote for their class with weight exp(s / temperature). The spec names
no kNN protocol of ReLICv2's own; k = 20 and temperature 0.07 are DINO's defaults.

Shapes: N bank samples, Q queries, R queries of a chunk, D feature dimensions, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf

import torch
from torch import Tensor
from torch.nn.functional import normalize

from evaluation.accuracy import Accuracy, accuracy_of_ranks, label_ranks

CHUNK_ELEMENTS = 2**26  # similarities held at a time: 256 MiB, 52 queries against ImageNet


@dataclass(frozen=True, kw_only=True, slots=True)
class KnnConfig:
    """How neighbours vote.

    Raises:
        ValueError: a k below 1, or a temperature that is not positive.
    """

    k: int = 20  # of the headline accuracy
    more_k: tuple[int, ...] = (10, 100, 200)  # also in the table, where the bank is large enough
    temperature: float = 0.07

    def __post_init__(self) -> None:
        if min((self.k, *self.more_k)) < 1:
            raise ValueError(f"k must be at least 1, got {self.k} and {self.more_k}")
        if not 0 < self.temperature < inf:
            raise ValueError(f"temperature must be positive and finite, got {self.temperature}")

    def usable_k(self, num_neighbours: int) -> tuple[int, ...]:
        """Return every k that a bank of this size allows, ascending.

        Raises:
            ValueError: the headline k is not among them.
        """
        if self.k > num_neighbours:
            raise ValueError(
                f"k={self.k} neighbours need as many labelled samples, there are {num_neighbours}; "
                "give a smaller k or more samples"
            )
        return tuple(k for k in sorted({self.k, *self.more_k}) if k <= num_neighbours)


@dataclass(frozen=True, kw_only=True, slots=True)
class KnnAccuracy:
    """One line of the table."""

    k: int
    weighted: Accuracy  # votes exp(s / temperature)
    unweighted: Accuracy  # one vote each
    predicted: Tensor = field(compare=False, repr=False)  # int64 [Q], by the weighted votes


def knn_accuracy(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    query_labels: Tensor,
    *,
    config: KnnConfig,
    device: torch.device,
) -> tuple[KnnAccuracy, ...]:
    """Classify the queries by their neighbours in the bank; one result for each usable k.

    Args:
        bank: [N, D], need not be normalised.
        bank_labels: int64 [N], 0 or more.
        queries: [Q, D].
        query_labels: int64 [Q].

    Raises:
        ValueError: fewer than k bank samples, no queries, or an unlabelled sample.
    """
    _check_labels(bank_labels, query_labels)
    ks = config.usable_k(len(bank))
    votes = _Votes(bank_labels, query_labels, config.temperature, device)
    bank = normalize(bank.to(device).float())
    rows = max(1, CHUNK_ELEMENTS // len(bank))
    for start in range(0, len(queries), rows):
        chunk = normalize(queries[start : start + rows].to(device).float())
        nearest = (chunk @ bank.T).topk(ks[-1], dim=1)  # sorted: the first k are the k nearest
        votes.count(start, nearest.values, nearest.indices, ks)
    return votes.table(ks)


def leave_one_out_accuracy(
    features: Tensor, labels: Tensor, *, config: KnnConfig, device: torch.device
) -> tuple[KnnAccuracy, ...]:
    """Classify each sample by its neighbours among all others, for data without a test set.

    Args:
        features: [N, D].
        labels: int64 [N], 0 or more.

    Raises:
        ValueError: fewer than k + 1 samples, or an unlabelled one.
    """
    _check_labels(labels, labels)
    ks = config.usable_k(len(features) - 1)
    votes = _Votes(labels, labels, config.temperature, device)
    bank = normalize(features.to(device).float())
    rows = max(1, CHUNK_ELEMENTS // len(bank))
    for start in range(0, len(bank), rows):
        similarity = bank[start : start + rows] @ bank.T
        similarity.diagonal(offset=start).fill_(-torch.inf)  # nobody is its own neighbour
        nearest = similarity.topk(ks[-1], dim=1)
        votes.count(start, nearest.values, nearest.indices, ks)
    return votes.table(ks)


def nearest_neighbours(
    bank: Tensor, queries: Tensor, *, k: int, own: Sequence[int] | None = None
) -> list[list[int]]:
    """Return the k nearest of the bank, the nearest first, of each of a few queries.

    Args:
        bank: [N, D]; queries: [Q, D].
        own: the place of each query in the bank, which is left out; None: it is not in it.
    """
    similarity = normalize(queries.float()) @ normalize(bank.float()).T
    if own is not None:
        similarity[range(len(own)), own] = -torch.inf
    nearest: list[list[int]] = similarity.topk(
        min(k, len(bank) - (own is not None))
    ).indices.tolist()
    return nearest


class _Votes:
    """Collects the rank of each query's label, for every k, weighted and not."""

    def __init__(
        self, bank_labels: Tensor, query_labels: Tensor, temperature: float, device: torch.device
    ) -> None:
        self.bank_labels = bank_labels.to(device)
        self.query_labels = query_labels.to(device)
        self.temperature = temperature
        self.num_classes = int(max(bank_labels.max(), query_labels.max())) + 1
        self.ranks: dict[tuple[int, bool], list[Tensor]] = {}
        self.predicted: dict[int, list[Tensor]] = {}

    def count(
        self, start: int, similarity: Tensor, neighbours: Tensor, ks: tuple[int, ...]
    ) -> None:
        """Let the neighbours [R, k] of queries start .. start + R vote."""
        labels = self.query_labels[start : start + len(neighbours)]
        classes = self.bank_labels[neighbours]  # [R, k]
        # exp((s - 1) / t) is exp(s / t) up to a factor that no ranking sees, and cannot overflow.
        weights = torch.exp((similarity.double() - 1) / self.temperature)
        for weighted, votes in ((True, weights), (False, torch.ones_like(weights))):
            for k in ks:
                scores = votes.new_zeros(len(labels), self.num_classes)
                scores.scatter_add_(1, classes[:, :k], votes[:, :k])
                voted = (classes[:, :k] == labels[:, None]).any(dim=1)
                # without a neighbour of its class, a query is no hit at any rank
                ranks = torch.where(voted, label_ranks(scores, labels), self.num_classes + 5)
                self.ranks.setdefault((k, weighted), []).append(ranks)
                if weighted:
                    self.predicted.setdefault(k, []).append(scores.argmax(dim=1))

    def table(self, ks: tuple[int, ...]) -> tuple[KnnAccuracy, ...]:
        return tuple(
            KnnAccuracy(
                k=k,
                weighted=accuracy_of_ranks(torch.cat(self.ranks[k, True])),
                unweighted=accuracy_of_ranks(torch.cat(self.ranks[k, False])),
                predicted=torch.cat(self.predicted[k]).cpu(),
            )
            for k in ks
        )


def _check_labels(bank_labels: Tensor, query_labels: Tensor) -> None:
    if len(query_labels) == 0:
        raise ValueError("there are no queries to classify")
    if len(bank_labels) == 0:
        raise ValueError("there are no labelled samples to find neighbours among")
    lowest = int(min(bank_labels.min(), query_labels.min()))
    if lowest < 0:
        raise ValueError(f"kNN needs labels of 0 or more, got {lowest}; leave unlabelled ones out")
