"""Linear evaluation by the released protocol: one linear layer on a frozen encoder (spec 6.1).

Every value of `LinearConfig` is the authors' evaluation code's [SRC], the sweep and its held-out
split are the paper's way [MEM-H for BYOL; which rates ReLICv2 swept is UNK]; the released code
fixes the learning rate at 0.3 and trains on everything, which is the default here.

A sweep costs one pass over the images, not one for each rate: every rate has two heads that learn
from the same features, a `choice` head that never sees the held-out samples and a `final` head that
sees all. The rate is chosen by its choice head on the held-out split, and the test set meets that
rate's final head only.

Shapes: B images of a batch, D feature dimensions, C classes, R learning rates, N samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import cos, inf, pi

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from evaluation.accuracy import Accuracy, accuracy_of_scores
from evaluation.features import Progress, encode, frozen
from evaluation.splits import check_seed
from pipeline.batch import MultiCropBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class LinearConfig:
    """The released protocol; provenance in the module's docstring.

    Raises:
        ValueError: a value that no training can have.
    """

    learning_rates: tuple[float, ...] = (0.3,)  # for a batch of 256; more than one is a sweep
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    batch_size: int = 1024
    epochs: int = 100
    held_out_share: float = 0.1  # of the labelled training samples, used by a sweep only
    held_out_limit: int = 10_000
    seed: int = 0  # of the initial weights, the crops and the held-out split

    def __post_init__(self) -> None:
        if not self.learning_rates or not all(0 < rate < inf for rate in self.learning_rates):
            raise ValueError(
                f"learning rates must be positive and finite, got {self.learning_rates}"
            )
        if len(set(self.learning_rates)) < len(self.learning_rates):
            raise ValueError(f"learning rates must differ, got {self.learning_rates}")
        if not 0 <= self.momentum < 1 or (self.nesterov and self.momentum == 0):
            raise ValueError(f"momentum must lie in (0, 1), got {self.momentum}")
        if not 0 <= self.weight_decay < inf:
            raise ValueError(
                f"weight_decay must be finite and not negative, got {self.weight_decay}"
            )
        if min(self.batch_size, self.epochs) < 1:
            raise ValueError(
                f"batch_size and epochs must be at least 1, got {self.batch_size}, {self.epochs}"
            )
        if not 0 < self.held_out_share < 1 or self.held_out_limit < 1:
            raise ValueError(
                "the held-out split needs a share between 0 and 1 and a limit of at least 1, got "
                f"{self.held_out_share} and {self.held_out_limit}"
            )
        check_seed(self.seed)

    @property
    def sweeps(self) -> bool:
        return len(self.learning_rates) > 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Heads:
    """The linear layers of a sweep, in the order of the learning rates."""

    learning_rates: tuple[float, ...]  # [R] for a batch of 256
    final: tuple[nn.Linear, ...]  # [R] have seen every labelled sample
    choice: tuple[nn.Linear, ...]  # [R] have not seen the held-out ones; empty without a sweep


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenHead:
    """What the held-out split chose, and from what."""

    head: nn.Linear
    learning_rate: float
    held_out: tuple[tuple[float, Accuracy], ...]  # (rate, accuracy), or empty without a sweep

    @torch.no_grad()
    def scores(self, features: Tensor) -> Tensor:
        """Return class scores [N, C] of features [N, D]."""
        scores: Tensor = self.head(features.to(self.head.weight.device))
        return scores


def learning_rate_at(step: int, *, base: float, batch_size: int, num_steps: int) -> float:
    """Return base * batch_size / 256, falling to 0 as a cosine, without warm-up."""
    return base * batch_size / 256 * 0.5 * (1 + cos(pi * step / num_steps))


def train_heads(
    encoder: nn.Module,
    views: Iterable[MultiCropBatch],
    *,
    num_steps: int,
    batch_size: int,
    feature_dim: int,
    num_classes: int,
    held_out: Tensor,
    config: LinearConfig,
    device: torch.device,
    progress: Progress | None = None,
) -> Heads:
    """Train every head on the views of `num_steps` batches; the encoder is not touched.

    Args:
        views: batches whose first large view is a random crop, flipped half of the time.
        batch_size: size of those batches, which scales the learning rate; `config.batch_size`
            unless the data set is smaller.
        held_out: bool [N], by sample id; what the choice heads must not see.
        progress: called with the number of images after each batch.
    """
    encoder.to(device)
    held_out = held_out.to(device)
    heads = _make_heads(feature_dim, num_classes, config, device)
    optimizer = _make_optimizer(heads, config)
    with frozen(encoder):
        for step, batch in zip(range(num_steps), views, strict=True):
            _set_learning_rates(optimizer, step, batch_size=batch_size, num_steps=num_steps)
            features = encode(encoder, batch.large[0], device)
            labels = batch.labels.to(device)
            known = labels >= 0
            loss = _loss(heads.final, features[known], labels[known])
            if heads.choice:
                ids = torch.tensor(batch.sample_ids, device=device)  # read-only: torch wants a copy
                seen = known & ~held_out[ids]
                loss = loss + _loss(heads.choice, features[seen], labels[seen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if progress is not None:
                progress(len(labels))
    return heads


@torch.no_grad()
def choose_head(heads: Heads, features: Tensor, labels: Tensor) -> ChosenHead:
    """Return the final head whose rate's choice head is best on the held-out samples.

    Args:
        features: [N, D] of the held-out samples' centre crops; unused without a sweep.
        labels: int64 [N].
    """
    held_out = []
    for rate, head in zip(heads.learning_rates, heads.choice, strict=False):
        device = head.weight.device
        accuracy = accuracy_of_scores(head(features.to(device)), labels.to(device))
        held_out.append((rate, accuracy))
    best = max(held_out, key=lambda pair: pair[1].top1)[0] if held_out else heads.learning_rates[0]
    return ChosenHead(
        head=heads.final[heads.learning_rates.index(best)],
        learning_rate=best,
        held_out=tuple(held_out),
    )


def _loss(heads: tuple[nn.Linear, ...], features: Tensor, labels: Tensor) -> Tensor:
    """Sum over the heads of the mean cross-entropy: heads share nothing, so neither do gradients.

    Without a labelled sample the loss is 0, where a mean would be no number.
    """
    total = features.new_zeros(())
    for head in heads:
        total = total + cross_entropy(head(features), labels, reduction="sum") / max(1, len(labels))
    return total


def _make_heads(
    feature_dim: int, num_classes: int, config: LinearConfig, device: torch.device
) -> Heads:
    def bank() -> tuple[nn.Linear, ...]:
        return tuple(
            _make_linear(feature_dim, num_classes, config.seed).to(device)
            for _ in config.learning_rates
        )

    return Heads(
        learning_rates=config.learning_rates,
        final=bank(),
        choice=bank() if config.sweeps else (),
    )


def _make_linear(feature_dim: int, num_classes: int, seed: int) -> nn.Linear:
    """Initialise as haiku does: truncated normal, deviation 1 / sqrt(D); bias 0 [SRC]."""
    linear = nn.utils.skip_init(nn.Linear, feature_dim, num_classes)
    assert isinstance(linear, nn.Linear)
    deviation = feature_dim**-0.5
    nn.init.trunc_normal_(
        linear.weight,
        std=deviation,
        a=-2 * deviation,
        b=2 * deviation,
        generator=torch.Generator().manual_seed(seed),
    )
    nn.init.zeros_(linear.bias)
    return linear


def _make_optimizer(heads: Heads, config: LinearConfig) -> torch.optim.SGD:
    groups = [
        {"params": list(head.parameters()), "base": rate, "lr": 0.0}
        for bank in (heads.final, heads.choice)
        for rate, head in zip(heads.learning_rates, bank, strict=False)
    ]
    return torch.optim.SGD(
        groups,
        lr=0.0,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )


def _set_learning_rates(
    optimizer: torch.optim.SGD, step: int, *, batch_size: int, num_steps: int
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(
            step, base=group["base"], batch_size=batch_size, num_steps=num_steps
        )
