from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from evaluation.features import extract_features
from evaluation.knn import KnnConfig, knn_accuracy
from evaluation.linear import LinearConfig
from evaluation.logistic import LogisticConfig
from evaluation.protocols import evaluate_knn, evaluate_quick, evaluate_released
from evaluation.subject import Subject
from pipeline.loader import LoaderConfig, evaluation_views
from pipeline.shards.memory import MemoryShards

CPU = torch.device("cpu")
NAMES = ("red", "green", "blue")
PLAIN = LoaderConfig(decoder="turbojpeg", executor="reference", threads=1)


class MeanColour(nn.Module):
    """Features are the mean colour, through a BatchNorm that must stay in evaluation mode."""

    feature_dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(images.mean(dim=(2, 3)))


def pictures(
    count: int, seed: int, *, names: tuple[str, ...] = NAMES, unlabelled: int = 0
) -> MemoryShards:
    """Noise whose class is the strongest channel by a little."""
    rng = np.random.default_rng(seed)
    labels = [i % 3 for i in range(count)]
    images = []
    for label in labels:
        tint = rng.normal(0, 25, 3) + 30 * np.eye(3)[label]
        noise = rng.normal(128, 40, (20, 24, 3)) + tint
        images.append(noise.clip(0, 255).astype(np.uint8))
    labels = [-1] * unlabelled + labels[unlabelled:]
    return MemoryShards.from_images(images, labels=labels, label_names=names)


def subject(**changes: Any) -> Subject:
    settings: dict[str, Any] = {
        "encoder": MeanColour(),
        "checkpoint": "a.pt",
        "train": pictures(90, 1),
        "test": pictures(45, 2),
        "size": 8,
        "device": CPU,
        "batch_size": 16,
        "loader": PLAIN,
    }
    return Subject(**{**settings, **changes})


QUICK = LogisticConfig(l2=(1e-1, 1e-4))
RELEASED = LinearConfig(
    batch_size=30,
    epochs=12,
    learning_rates=(1e-4, 3.0),
    held_out_share=0.4,  # a tenth would be 9 images, too few to tell the rates apart
)


def test_knn_is_the_classifier_on_the_features_of_centre_crops() -> None:
    one = subject()
    result = evaluate_knn(one, KnnConfig(k=5, more_k=(10, 1000)))
    sides = []
    for shards in (one.train, one.test):
        with evaluation_views(shards, size=8, batch_size=45, config=PLAIN) as views:
            sides += extract_features(MeanColour(), views, CPU)
    rows = knn_accuracy(*sides, config=KnnConfig(k=5, more_k=(10,)), device=CPU)
    assert [row["k"] for row in result.table] == [5, 10]
    assert result.top1 == rows[0].weighted.top1
    assert result.table[1]["unweighted_top1"] == rows[1].unweighted.top1
    assert 50 < result.top1 < 100
    assert result.chance == pytest.approx(100 / 3)
    assert (result.train.samples, result.test.samples, result.train.classes) == (90, 45, 3)
    assert result.file_name == "evaluation-knn.json"


def test_knn_without_test_shards_leaves_one_out() -> None:
    result = evaluate_knn(subject(test=None), KnnConfig(k=5, more_k=()))
    assert result.test is None
    assert 50 < result.top1 < 100


def test_too_large_a_k_is_refused_before_anything_is_decoded() -> None:
    def forbidden(stage: str, total: int) -> Any:
        raise AssertionError(stage)

    one = subject(test=None, track=forbidden)
    with pytest.raises(ValueError, match="there are 89"):
        evaluate_knn(one, KnnConfig(k=90))


def test_quick_and_released_protocols_learn_the_classes() -> None:
    quick = evaluate_quick(subject(), QUICK)
    released = evaluate_released(subject(), RELEASED)
    assert quick.top1 > 60
    assert released.top1 > 60
    assert abs(quick.top1 - released.top1) < 15
    assert quick.chosen["l2"] in QUICK.l2
    assert released.chosen == {"learning_rate": 3.0}
    assert [row["learning_rate"] for row in released.table] == [1e-4, 3.0]
    assert (quick.file_name, released.file_name) == (
        "evaluation-linear-quick.json",
        "evaluation-linear-released.json",
    )


def test_choice_is_not_made_on_the_test_set() -> None:
    """A test set whose labels are wrong changes the accuracy and nothing of the choice."""
    wrong = pictures(45, 2)
    wrong.labels[:] = (wrong.labels + 1) % 3
    honest = evaluate_released(subject(), RELEASED)
    fooled = evaluate_released(subject(test=wrong), RELEASED)
    assert fooled.table == honest.table
    assert fooled.chosen == honest.chosen
    assert fooled.top1 < 40 < honest.top1


def test_same_seed_gives_the_same_result_and_another_seed_another_split() -> None:
    tables = [
        evaluate_released(subject(), replace(RELEASED, epochs=3, seed=seed)).table
        for seed in (1, 1, 2)
    ]
    assert tables[0] == tables[1]
    assert tables[0] != tables[2]


def test_a_batch_larger_than_the_data_is_reduced_and_noted() -> None:
    config = LinearConfig(epochs=2)
    result = evaluate_released(subject(), config)
    assert result.notes == [
        "The batch of 1024 is reduced to the 90 training images; the learning rate follows it."
    ]
    same = evaluate_released(subject(), replace(config, batch_size=90))
    assert result.top1 == same.top1
    assert same.notes == []


def test_unlabelled_samples_take_no_part() -> None:
    train = pictures(90, 1, unlabelled=30)
    result = evaluate_knn(subject(train=train), KnnConfig(k=5, more_k=(60, 61)))
    assert result.train.samples == 60
    assert [row["k"] for row in result.table] == [5, 60]
    assert evaluate_quick(subject(train=train), QUICK).train.samples == 60
    assert evaluate_released(subject(train=train), RELEASED).top1 > 50


def test_progress_is_told_for_every_stage() -> None:
    from contextlib import contextmanager

    seen: dict[str, tuple[int, list[int]]] = {}

    @contextmanager
    def track(stage: str, total: int) -> Any:
        seen[stage] = (total, [])
        yield seen[stage][1].append

    evaluate_quick(subject(track=track), QUICK)
    evaluate_released(subject(track=track), RELEASED)
    assert list(seen) == [
        "training images",
        "logistic regressions",
        "test images",
        "12 epochs",
        "held-out images",
    ]
    assert all(sum(done) == total for total, done in seen.values())


def test_shards_without_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="memory has no labels"):
        subject(train=pictures(9, 1, unlabelled=9))


def relabelled(shards: MemoryShards, order: tuple[str, ...]) -> MemoryShards:
    """The same images, with the classes in another order."""
    names = shards.manifest.label_names
    shards.labels[:] = [order.index(names[label]) for label in shards.labels]
    shards.manifest = replace(shards.manifest, label_names=order)
    return shards


@pytest.mark.parametrize("order", [("blue", "red", "green"), ("azure", "blue", "green", "red")])
def test_classes_are_matched_by_name_in_any_order(order: tuple[str, ...]) -> None:
    """A class without an image (azure) may stand among them."""
    config = KnnConfig(k=5, more_k=())
    same, other = subject(), subject(test=relabelled(pictures(45, 2), order))
    for evaluate in (
        lambda one: evaluate_knn(one, config),
        lambda one: evaluate_quick(one, QUICK),
        lambda one: evaluate_released(one, replace(RELEASED, epochs=2)),
    ):
        first, second = evaluate(same), evaluate(other)
        assert (second.top1, second.table) == (first.top1, first.table)
        assert second.classes == first.classes
        assert second.confusions == first.confusions
        assert second.notes == first.notes


def test_a_part_of_the_classes_is_measured_and_the_missing_ones_are_named() -> None:
    whole, part = pictures(45, 2), relabelled(pictures(45, 2), ("blue", "green", "red"))
    part.labels[part.labels == 1] = -1  # no green image
    result = evaluate_knn(subject(test=part), KnnConfig(k=5, more_k=()))
    every = evaluate_knn(subject(test=whole), KnnConfig(k=5, more_k=()))
    assert result.classes == [row for row in every.classes if row["name"] != "green"]
    assert result.notes == ["1 of the 3 classes have no test image: 'green'."]
    assert (result.train.classes, result.test.classes) == (3, 2)
    assert result.chance == 50.0


def test_classes_that_training_lacks_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"classes that memory has none of \('lime'\); leave"):
        subject(test=pictures(9, 1, names=("red", "lime", "blue")))
    train = pictures(90, 1)
    train.labels[train.labels == 2] = -1  # the name alone is no training image
    with pytest.raises(ValueError, match=r"none of \('blue'\)"):
        subject(train=train)
    nameless = pictures(9, 1, names=())
    with pytest.raises(ValueError, match=r"none of \('0', '1', '2'\)"):
        subject(test=nameless)
    subject(train=pictures(90, 1, names=()), test=nameless)  # the same numbers


def test_classes_and_confusions_are_those_of_the_answers() -> None:
    one = subject()
    result = evaluate_knn(one, KnnConfig(k=5, more_k=()))
    wrong = sum(row["samples"] for row in result.confusions)
    assert result.top1 == pytest.approx(100 * (45 - wrong) / 45)
    assert [row["samples"] for row in result.classes] == [15, 15, 15]
    for row in result.classes:
        missed = sum(c["samples"] for c in result.confusions if c["name"] == row["name"])
        assert row["top1"] == pytest.approx(100 * (15 - missed) / 15)
    counts = [row["samples"] for row in result.confusions]
    assert counts == sorted(counts, reverse=True)


def test_neighbours_are_the_nearest_of_the_features() -> None:
    alone = evaluate_knn(subject(test=None), KnnConfig(k=1, more_k=()))
    assert len(alone.neighbours) == 8
    assert all(row["id"] not in row["nearest"] for row in alone.neighbours)
    twin = evaluate_knn(subject(test=pictures(90, 1)), KnnConfig(k=1, more_k=()))
    assert [row["nearest"][0] for row in twin.neighbours] == [row["id"] for row in twin.neighbours]
    assert [row["id"] for row in twin.neighbours] == [0, 13, 25, 38, 51, 64, 76, 89]


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="must be positive, got 0"):
        subject(size=0)
