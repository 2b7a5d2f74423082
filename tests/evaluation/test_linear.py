from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evaluation.accuracy import accuracy_of_scores
from evaluation.linear import (
    Heads,
    LinearConfig,
    choose_head,
    learning_rate_at,
    train_heads,
)
from pipeline.batch import MultiCropBatch

CPU = torch.device("cpu")
DIM, CLASSES = 12, 3


class Pixels(nn.Module):
    """An encoder whose feature is the image itself: [B, 3, 2, 2] -> [B, 12]."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) * self.scale


def batch(ids: list[int], labels: list[int] | None = None) -> MultiCropBatch:
    """Images whose class shows in one pixel."""
    images = torch.stack(
        [torch.randn(DIM, generator=torch.Generator().manual_seed(i)) for i in ids]
    )
    classes = torch.tensor([i % CLASSES for i in ids] if labels is None else labels)
    images[torch.arange(len(ids)), classes.clamp_min(0)] += 3.0
    return MultiCropBatch(
        large=images.view(1, len(ids), 3, 2, 2),
        small=torch.empty(0, len(ids), 3, 2, 2),
        labels=classes,
        sample_ids=np.array(ids, dtype=np.int64),
        epoch=0,
    )


def train(
    views: list[MultiCropBatch], config: LinearConfig, *, held_out: list[int] | None = None
) -> Heads:
    mask = torch.zeros(1000, dtype=torch.bool)
    mask[held_out or []] = True
    return train_heads(
        Pixels(),
        views,
        num_steps=len(views),
        batch_size=config.batch_size,
        feature_dim=DIM,
        num_classes=CLASSES,
        held_out=mask,
        config=config,
        device=CPU,
    )


def steps(count: int) -> list[MultiCropBatch]:
    return [batch(list(range(8 * step, 8 * step + 8))) for step in range(count)]


def test_defaults_are_the_released_protocol() -> None:
    config = LinearConfig()
    assert config.learning_rates == (0.3,)
    assert (config.momentum, config.nesterov, config.weight_decay) == (0.9, True, 0.0)
    assert (config.batch_size, config.epochs) == (1024, 100)
    first = learning_rate_at(0, base=0.3, batch_size=1024, num_steps=100)
    assert first == pytest.approx(1.2)  # no warm-up
    assert learning_rate_at(50, base=0.3, batch_size=1024, num_steps=100) == pytest.approx(0.6)
    assert learning_rate_at(100, base=0.3, batch_size=1024, num_steps=100) == pytest.approx(0)


def test_training_is_nesterov_momentum_on_softmax_cross_entropy() -> None:
    """Against the update written out by hand in float64, started from the trained head's seed."""
    config = LinearConfig(learning_rates=(0.4,), batch_size=8, weight_decay=0.01)
    views = steps(5)
    (trained,) = train(views, config).final
    deviation = DIM**-0.5
    weight = nn.init.trunc_normal_(
        torch.empty(CLASSES, DIM),
        std=deviation,
        a=-2 * deviation,
        b=2 * deviation,
        generator=torch.Generator().manual_seed(0),
    ).double()
    bias = torch.zeros(CLASSES, dtype=torch.float64)
    speed = [torch.zeros_like(weight), torch.zeros_like(bias)]
    for step, view in enumerate(views):
        features = view.large[0].flatten(1).double()
        wrong = (features @ weight.T + bias).softmax(1)
        wrong[torch.arange(8), view.labels] -= 1
        gradients = [wrong.T @ features / 8 + 0.01 * weight, wrong.mean(0) + 0.01 * bias]
        rate = 0.4 * 8 / 256 * 0.5 * (1 + np.cos(np.pi * step / 5))
        for value, gradient, momentum in zip((weight, bias), gradients, speed, strict=True):
            momentum.mul_(0.9).add_(gradient)
            value.sub_(rate * (gradient + 0.9 * momentum))
    torch.testing.assert_close(trained.weight.double(), weight, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(trained.bias.double(), bias, atol=1e-5, rtol=1e-5)


def test_each_rate_of_a_bank_trains_as_it_would_alone() -> None:
    views = steps(6)
    bank = train(views, LinearConfig(learning_rates=(0.1, 1.0), batch_size=8), held_out=[3, 9])
    for index, rate in enumerate((0.1, 1.0)):
        alone = train(views, LinearConfig(learning_rates=(rate,), batch_size=8))
        assert torch.equal(bank.final[index].weight, alone.final[0].weight)


def test_choice_heads_never_see_the_held_out_samples() -> None:
    config = LinearConfig(learning_rates=(0.1, 1.0), batch_size=8)
    honest = train(steps(4), config, held_out=[2, 3, 17])
    views = steps(4)
    for view in views:
        for row, sample_id in enumerate(view.sample_ids):
            if sample_id in (2, 3, 17):
                view.large[0, row] = 1e3  # would be seen in every weight
    poisoned = train(views, config, held_out=[2, 3, 17])
    for ours, theirs in zip(honest.choice, poisoned.choice, strict=True):
        assert torch.equal(ours.weight, theirs.weight)
    assert not torch.equal(honest.final[0].weight, poisoned.final[0].weight)


def test_unlabelled_samples_teach_nothing() -> None:
    config = LinearConfig(batch_size=8)
    labelled = train([batch([0, 1, 2, 3])], config)
    mixed = train([batch([0, 50, 1, 51, 2, 3], [0, -1, 1, -1, 2, 0])], config)
    torch.testing.assert_close(labelled.final[0].weight, mixed.final[0].weight)
    (none,) = train([batch([4, 5], [-1, -1])], config).final
    assert torch.equal(none.bias, torch.zeros(CLASSES))


def test_held_out_split_chooses_the_rate_and_all_samples_train_its_head() -> None:
    views = steps(40)
    config = LinearConfig(learning_rates=(1e-6, 8.0), batch_size=8)
    heads = train(views, config, held_out=list(range(100, 130)))
    rest = batch(list(range(100, 130)))
    chosen = choose_head(heads, rest.large[0].flatten(1), rest.labels)
    assert chosen.learning_rate == 8.0
    assert chosen.head is heads.final[1]
    assert dict(chosen.held_out)[8.0].top1 > dict(chosen.held_out)[1e-6].top1
    test = batch(list(range(900, 999)))
    scores = chosen.scores(test.large[0].flatten(1))
    assert accuracy_of_scores(scores, test.labels).top1 > 85


def test_without_a_sweep_nothing_is_held_out() -> None:
    heads = train(steps(2), LinearConfig(batch_size=8))
    assert heads.choice == ()
    chosen = choose_head(heads, torch.empty(0, DIM), torch.empty(0, dtype=torch.int64))
    assert chosen.learning_rate == 0.3
    assert chosen.held_out == ()


def test_encoder_stays_as_it_was() -> None:
    encoder = Pixels().train()
    train_heads(
        encoder,
        steps(3),
        num_steps=3,
        batch_size=8,
        feature_dim=DIM,
        num_classes=CLASSES,
        held_out=torch.zeros(1000, dtype=torch.bool),
        config=LinearConfig(),
        device=CPU,
    )
    assert encoder.scale.item() == 1.0
    assert encoder.scale.grad is None
    assert encoder.training


def test_views_that_end_early_are_noticed() -> None:
    def short() -> Iterator[MultiCropBatch]:
        yield batch([0, 1])

    with pytest.raises(ValueError, match="shorter"):
        train_heads(
            Pixels(),
            short(),
            num_steps=2,
            batch_size=2,
            feature_dim=DIM,
            num_classes=CLASSES,
            held_out=torch.zeros(1000, dtype=torch.bool),
            config=LinearConfig(),
            device=CPU,
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rates": ()},
        {"learning_rates": (0.1, -1.0)},
        {"learning_rates": (0.1, 0.1)},
        {"learning_rates": (float("nan"),)},
        {"learning_rates": (0.1, float("nan"))},
        {"learning_rates": (float("inf"),)},
        {"seed": -1},
        {"seed": 2**32},
        {"momentum": 1.0},
        {"momentum": 0.0},
        {"weight_decay": -1.0},
        {"weight_decay": float("nan")},
        {"epochs": 0},
        {"held_out_share": 0.0},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must|needs"):
        LinearConfig(**wrong)  # type: ignore[arg-type]
