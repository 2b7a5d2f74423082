"""The protocols from shards to a result: which samples, which views, which classifier.

kNN and the quick linear protocol see centre crops, the released one trains on random crops and
tests on centre crops (spec 6.1 [SRC]). Samples without a label take no part.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluation.accuracy import Accuracy, accuracy_of_scores, standard_error
from evaluation.knn import (
    KnnConfig,
    knn_accuracy,
    leave_one_out_accuracy,
    nearest_neighbours,
)
from evaluation.linear import LinearConfig, choose_head, train_heads
from evaluation.logistic import LogisticConfig, fit_with_sweep
from evaluation.results import (
    MOST_CONFUSIONS,
    DataSummary,
    EvaluationResult,
    accuracy_columns,
    top1_columns,
)
from evaluation.splits import held_out_size, split_held_out
from evaluation.subject import (
    Features,
    Subject,
    class_names,
    labelled,
    labelled_features,
    quoted,
)
from pipeline.augment.recipe import crop_and_flip_recipe
from pipeline.batch import Ids
from pipeline.loader import training_views
from pipeline.rng import Stream
from pipeline.sampler import Sampler
from pipeline.shards import Shards

_NUM_QUERIES, _NUM_NEIGHBOURS = 8, 5  # of the report's sheet of nearest neighbours


def evaluate_knn(subject: Subject, config: KnnConfig) -> EvaluationResult:
    """Classify the test samples by their nearest training samples.

    Raises:
        ValueError: fewer than k labelled samples.
    """
    began = time.perf_counter()
    num_neighbours = len(labelled(subject.train)) - (subject.test is None)
    config.usable_k(num_neighbours)  # refused before any image is decoded
    bank = labelled_features(subject, subject.train, "training images")
    if subject.test is None:
        queries = bank
        rows = leave_one_out_accuracy(
            bank.features, bank.labels, config=config, device=subject.device
        )
    else:
        queries = labelled_features(subject, subject.test, "test images")
        rows = knn_accuracy(
            bank.features,
            bank.labels,
            queries.features,
            queries.labels,
            config=config,
            device=subject.device,
        )
    (headline,) = (row for row in rows if row.k == config.k)
    return _result(
        subject,
        protocol="knn",
        accuracy=headline.weighted,
        settings=asdict(config),
        chosen={"k": config.k},
        table=[
            {
                "k": row.k,
                **accuracy_columns(row.weighted),
                **top1_columns(row.unweighted, "unweighted_"),
            }
            for row in rows
        ],
        notes=bank.notes if queries is bank else bank.notes + queries.notes,
        began=began,
        test_labels=queries.labels,
        predicted=headline.predicted,
        neighbours=_neighbours(bank, queries),
    )


def evaluate_quick(subject: Subject, config: LogisticConfig) -> EvaluationResult:
    """Fit a logistic regression on features of centre crops.

    Raises:
        ValueError: too few samples to hold some out.
    """
    began = time.perf_counter()
    assert subject.test is not None, "a linear protocol needs test shards"
    train = labelled_features(subject, subject.train, "training images")
    num_fits = len(config.l2) + (len(config.l2) > 1)
    with subject.track("logistic regressions", num_fits) as progress:
        fit = fit_with_sweep(
            train.features,
            train.labels,
            num_classes=subject.num_classes,
            config=config,
            device=subject.device,
            progress=progress,
        )
    test = labelled_features(subject, subject.test, "test images")
    scores = fit.classifier.scores(test.features).cpu()
    return _result(
        subject,
        protocol="linear-quick",
        accuracy=accuracy_of_scores(scores, test.labels),
        settings=asdict(config),
        chosen={"l2": fit.l2},
        table=_sweep("l2", fit.held_out),
        notes=train.notes + test.notes,
        began=began,
        test_labels=test.labels,
        predicted=scores.argmax(dim=1),
    )


def evaluate_released(subject: Subject, config: LinearConfig) -> EvaluationResult:
    """Train a linear layer by the released protocol.

    A batch larger than the training set becomes the training set, and the learning rate follows.

    Raises:
        ValueError: too few samples to hold some out for a sweep.
    """
    began = time.perf_counter()
    assert subject.test is not None, "a linear protocol needs test shards"
    train = subject.train
    batch_size = min(config.batch_size, len(train))
    sampler = Sampler(num_samples=len(train), global_batch_size=batch_size, seed=config.seed)
    num_steps = config.epochs * sampler.steps_per_epoch
    held_out_ids = _held_out_ids(train, config)
    held_out = torch.zeros(len(train), dtype=torch.bool)
    held_out[torch.from_numpy(held_out_ids)] = True
    loader = training_views(
        train,
        recipe=crop_and_flip_recipe(subject.size),
        sampler=sampler,
        seed=config.seed,
        config=subject.loader,
        end_step=num_steps,
        stream=Stream.EVALUATION,
        device=subject.device,
    )
    with (
        loader as views,
        subject.track(f"{config.epochs} epochs", num_steps * batch_size) as progress,
    ):
        heads = train_heads(
            subject.encoder,
            views,
            num_steps=num_steps,
            batch_size=batch_size,
            feature_dim=subject.feature_dim,
            num_classes=subject.num_classes,
            held_out=held_out,
            config=config,
            device=subject.device,
            progress=progress,
        )
        notes = _batch_notes(config, batch_size) + views.bad_samples
    rest, rest_labels = torch.empty(0, 0), torch.empty(0, dtype=torch.int64)
    if config.sweeps:
        left_out = labelled_features(subject, train, "held-out images", held_out_ids)
        rest, rest_labels = left_out.features, left_out.labels
        notes += left_out.notes
    chosen = choose_head(heads, rest, rest_labels)
    test = labelled_features(subject, subject.test, "test images")
    scores = chosen.scores(test.features).cpu()
    return _result(
        subject,
        protocol="linear-released",
        accuracy=accuracy_of_scores(scores, test.labels),
        settings=asdict(config),
        chosen={"learning_rate": chosen.learning_rate},
        table=_sweep("learning_rate", chosen.held_out),
        notes=notes + test.notes,
        began=began,
        test_labels=test.labels,
        predicted=scores.argmax(dim=1),
    )


def _held_out_ids(train: Shards, config: LinearConfig) -> Ids:
    """Return the samples that the choice of a sweep is made on; none without a sweep."""
    if not config.sweeps:
        return np.empty(0, np.int64)
    ids = labelled(train)
    size = held_out_size(len(ids), share=config.held_out_share, limit=config.held_out_limit)
    return split_held_out(ids, size=size, seed=config.seed)[1]


def _batch_notes(config: LinearConfig, batch_size: int) -> list[str]:
    if batch_size == config.batch_size:
        return []
    return [
        f"The batch of {config.batch_size} is reduced to the {batch_size} training images; the "
        "learning rate follows it."
    ]


def _sweep(name: str, held_out: Sequence[tuple[float, Accuracy]]) -> list[dict[str, Any]]:
    return [
        {name: value, **accuracy_columns(accuracy, "held_out_")} for value, accuracy in held_out
    ]


def _result(
    subject: Subject,
    *,
    protocol: str,
    accuracy: Accuracy,
    settings: dict[str, Any],
    chosen: dict[str, Any],
    table: list[dict[str, Any]],
    notes: list[str],
    began: float,
    test_labels: Tensor,
    predicted: Tensor,
    neighbours: Sequence[dict[str, Any]] = (),
) -> EvaluationResult:
    counts = torch.bincount(test_labels)
    names = class_names(subject.train)
    train, test = subject.train, subject.test
    return EvaluationResult(
        protocol=protocol,
        checkpoint=subject.checkpoint,
        step=subject.step,
        untrained=subject.untrained,
        view_size=subject.size,
        train=_summary(train),
        test=None if test is None else _summary(test),
        chance=100 * int(counts.max()) / len(test_labels),
        **accuracy_columns(accuracy),
        settings=settings,
        chosen=chosen,
        table=table,
        notes=[*_class_notes(subject), *notes],
        classes=_classes(test_labels, predicted, names),
        confusions=_confusions(test_labels, predicted, names),
        neighbours=neighbours,
        seconds=time.perf_counter() - began,
        device=_device_name(subject.device),
    )


def _class_notes(subject: Subject) -> list[str]:
    absent = subject.classes_not_tested
    if not absent:
        return []
    return [
        f"{len(absent):,} of the {len(class_names(subject.train)):,} classes have no test image: "
        f"{quoted(absent)}."
    ]


def _classes(labels: Tensor, predicted: Tensor, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return name, test samples and accuracy of each class that has test samples, by label."""
    rows = []
    for label in labels.unique().tolist():
        hits = predicted[labels == label] == label
        top1 = 100 * hits.double().mean().item()
        error = standard_error(top1, len(hits))
        row = {"name": names[label], "samples": len(hits)}
        rows.append({**row, "top1": top1, "top1_standard_error": error})
    return rows


def _confusions(
    labels: Tensor, predicted: Tensor, names: Mapping[int, str]
) -> list[dict[str, Any]]:
    """Return the pairs of classes that were confused, the most frequent first."""
    wrong = labels != predicted
    pairs = torch.stack([labels[wrong], predicted[wrong]], dim=1)
    kinds, counts = pairs.unique(dim=0, return_counts=True)
    order = counts.argsort(descending=True, stable=True)[:MOST_CONFUSIONS]
    return [
        # a classifier may answer with a class that has a label and no training image
        {"name": names[own], "taken_for": names.get(other, str(other)), "samples": count}
        for (own, other), count in zip(kinds[order].tolist(), counts[order].tolist(), strict=True)
    ]


def _neighbours(bank: Features, queries: Features) -> list[dict[str, Any]]:
    """Return ids of the nearest training samples of a few test samples, spread over all of them."""
    count = min(_NUM_QUERIES, len(queries.ids))
    shown = np.linspace(0, len(queries.ids) - 1, count).round().astype(int).tolist()
    nearest = nearest_neighbours(
        bank.features,
        queries.features[shown],
        k=_NUM_NEIGHBOURS,
        own=shown if queries is bank else None,
    )
    return [
        {"id": int(queries.ids[place]), "nearest": bank.ids[rows].tolist()}
        for place, rows in zip(shown, nearest, strict=True)
    ]


def _summary(shards: Shards) -> DataSummary:
    return DataSummary(
        shards=str(shards.path),
        samples=len(labelled(shards)),
        classes=len(class_names(shards)),
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
