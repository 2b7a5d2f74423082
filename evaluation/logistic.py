"""The quick linear protocol: multinomial logistic regression on features computed once.

Minimises mean cross-entropy + l2 / 2 * |W|^2 (bias free) by L-BFGS over all samples at once, for
each l2 of a grid; the one with the best accuracy on a held-out split is fitted again on everything.
The same objective as scikit-learn's LogisticRegression with C = 1 / (l2 * N). Not the paper's
protocol (see linear.py): no augmentation, so a few points lower, but minutes instead of hours.

Shapes: N samples, D feature dimensions, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from evaluation.accuracy import Accuracy, accuracy_of_scores
from evaluation.splits import check_seed, held_out_size, split_held_out

CHUNK_ROWS = 32_768  # scores held at a time: 250 MiB at 1000 classes


@dataclass(frozen=True, kw_only=True, slots=True)
class LogisticConfig:
    """Settings of the quick protocol, all of them this project's own choice.

    Raises:
        ValueError: no l2 or one that is negative or infinite, or another impossible value.
    """

    l2: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # on standardised scale
    max_iterations: int = 500
    tolerance: float = 1e-5  # largest entry of the gradient at which L-BFGS stops
    held_out_share: float = 0.1
    held_out_limit: int = 10_000
    seed: int = 0  # of the held-out split

    def __post_init__(self) -> None:
        if not self.l2 or not all(0 <= l2 < inf for l2 in self.l2):
            raise ValueError(f"l2 needs one or more finite values of 0 or more, got {self.l2}")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1, got {self.max_iterations}")
        if not 0 < self.tolerance < inf:
            raise ValueError(f"tolerance must be positive and finite, got {self.tolerance}")
        check_seed(self.seed)
        if not 0 < self.held_out_share < 1 or self.held_out_limit < 1:
            raise ValueError(
                "the held-out split needs a share between 0 and 1 and a limit of at least 1, got "
                f"{self.held_out_share} and {self.held_out_limit}"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearClassifier:
    """scores = features @ weight.T + bias."""

    weight: Tensor  # float32 [C, D]
    bias: Tensor  # float32 [C]

    def scores(self, features: Tensor) -> Tensor:
        """Return class scores [N, C] of features [N, D]."""
        return features.to(self.weight) @ self.weight.T + self.bias

    def accuracy(self, features: Tensor, labels: Tensor) -> Accuracy:
        """Return the accuracy on features [N, D] with labels int64 [N]."""
        return accuracy_of_scores(self.scores(features), labels.to(self.weight.device))


@dataclass(frozen=True, kw_only=True, slots=True)
class LogisticFit:
    """The chosen classifier, and what it was chosen from."""

    classifier: LinearClassifier
    l2: float
    held_out: tuple[tuple[float, Accuracy], ...]  # (l2, accuracy on the held-out split), or empty


def fit_with_sweep(
    features: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    config: LogisticConfig,
    device: torch.device,
    progress: Callable[[int], None] | None = None,
) -> LogisticFit:
    """Choose l2 on a held-out split, then fit all samples with it.

    Args:
        features: float32 [N, D].
        labels: int64 [N], 0..C-1.
        progress: called with 1 after each of the len(l2) + 1 fits (1 fit without a sweep).

    Raises:
        ValueError: too few samples to hold some out.
    """
    report = progress or (lambda fits: None)
    held_out: list[tuple[float, Accuracy]] = []
    if len(config.l2) > 1:
        size = held_out_size(
            len(features), share=config.held_out_share, limit=config.held_out_limit
        )
        ids = np.arange(len(features), dtype=np.int64)
        kept, rest = map(torch.from_numpy, split_held_out(ids, size=size, seed=config.seed))
        start = None
        for l2 in sorted(config.l2, reverse=True):  # strong to weak: each starts near its answer
            start = fit_logistic(
                features[kept],
                labels[kept],
                num_classes=num_classes,
                l2=l2,
                config=config,
                device=device,
                start=start,
            )
            held_out.append((l2, start.accuracy(features[rest], labels[rest])))
            report(1)
    best = max(held_out, key=lambda pair: pair[1].top1)[0] if held_out else config.l2[0]
    classifier = fit_logistic(
        features, labels, num_classes=num_classes, l2=best, config=config, device=device
    )
    report(1)
    return LogisticFit(classifier=classifier, l2=best, held_out=tuple(held_out))


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    l2: float,
    config: LogisticConfig,
    device: torch.device,
    start: LinearClassifier | None = None,
) -> LinearClassifier:
    """Fit one classifier; `l2` counts for features whose root mean square is 1 once centred.

    Centring changes nothing but the bias, and the one common scale only the meaning of l2: the
    optimum is the plain regression's, found in far fewer iterations and with a grid that suits
    every encoder.

    Only the products of matrices are float32. A loss summed in float32 differs from step to step by
    more than the steps gain, so that the line search gives up long before `config.tolerance`.
    """
    features, labels = features.to(device), labels.to(device)
    mean = features.mean(dim=0)
    scale = _root_mean_square(features, mean)
    weight, bias = _start_values(start, num_classes, mean.double(), scale)
    chunks = list(zip(features.split(CHUNK_ROWS), labels.split(CHUNK_ROWS), strict=True))
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=config.max_iterations,
        tolerance_grad=config.tolerance,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = 0.5 * l2 * weight.square().sum()
        loss.backward()
        total = loss.detach()
        for rows, targets in chunks:
            centred = (rows - mean) / scale  # of a chunk only: no second copy of all features
            scores = (centred @ weight.float().T).double() + bias
            part = cross_entropy(scores, targets, reduction="sum") / len(features)
            part.backward()
            total = total + part.detach()
        return total

    optimizer.step(closure)
    weight_raw = weight.detach() / scale
    bias_raw = bias.detach() - weight_raw @ mean.double()
    return LinearClassifier(weight=weight_raw.float(), bias=bias_raw.float())


def _root_mean_square(features: Tensor, mean: Tensor) -> float:
    total = sum((rows - mean).square().sum().item() for rows in features.split(CHUNK_ROWS))
    return float((total / features.numel()) ** 0.5) or 1.0  # constant features: nothing to scale


def _start_values(
    start: LinearClassifier | None,
    num_classes: int,
    mean: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Return float64 (weight [C, D], bias [C]) of standardised features, zero without a start."""
    if start is None:
        weight = mean.new_zeros(num_classes, len(mean))
        bias = mean.new_zeros(num_classes)
    else:
        weight = start.weight.double() * scale
        bias = start.bias.double() + start.weight.double() @ mean
    return weight.requires_grad_(), bias.requires_grad_()
