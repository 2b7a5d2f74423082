"""The protocols from shards to a result: which samples, which views, which classifier.

kNN and the quick linear protocol see centre crops, the released one trains on random crops and
tests on centre crops (spec 6.1 [SRC]). Samples without a label take no part.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluation.accuracy import Accuracy
from evaluation.knn import KnnConfig, knn_accuracy, leave_one_out_accuracy
from evaluation.linear import LinearConfig, choose_head, train_heads
from evaluation.logistic import LogisticConfig, fit_with_sweep
from evaluation.results import DataSummary, EvaluationResult
from evaluation.splits import held_out_size, split_held_out
from evaluation.subject import Subject, labelled, labelled_features
from pipeline.augment.recipe import crop_and_flip_recipe
from pipeline.batch import Ids
from pipeline.loader import training_views
from pipeline.rng import Stream
from pipeline.sampler import Sampler
from pipeline.shards import Shards


def evaluate_knn(subject: Subject, config: KnnConfig) -> EvaluationResult:
    """Classify the test samples by their nearest training samples.

    Raises:
        ValueError: fewer than k labelled samples.
    """
    began = time.perf_counter()
    num_neighbours = len(labelled(subject.train)) - (subject.test is None)
    config.usable_k(num_neighbours)  # refused before any image is decoded
    bank, bank_labels, notes = labelled_features(subject, subject.train, "training images")
    if subject.test is None:
        rows = leave_one_out_accuracy(bank, bank_labels, config=config, device=subject.device)
        test_labels = bank_labels
    else:
        queries, test_labels, more = labelled_features(subject, subject.test, "test images")
        notes += more
        rows = knn_accuracy(
            bank, bank_labels, queries, test_labels, config=config, device=subject.device
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
                **asdict(row.weighted),
                "unweighted_top1": row.unweighted.top1,
            }
            for row in rows
        ],
        notes=notes,
        began=began,
        test_labels=test_labels,
    )


def evaluate_quick(subject: Subject, config: LogisticConfig) -> EvaluationResult:
    """Fit a logistic regression on features of centre crops.

    Raises:
        ValueError: too few samples to hold some out.
    """
    began = time.perf_counter()
    assert subject.test is not None, "a linear protocol needs test shards"
    features, labels, notes = labelled_features(subject, subject.train, "training images")
    num_fits = len(config.l2) + (len(config.l2) > 1)
    with subject.track("logistic regressions", num_fits) as progress:
        fit = fit_with_sweep(
            features,
            labels,
            num_classes=subject.num_classes,
            config=config,
            device=subject.device,
            progress=progress,
        )
    tests, test_labels, more = labelled_features(subject, subject.test, "test images")
    return _result(
        subject,
        protocol="linear-quick",
        accuracy=fit.classifier.accuracy(tests, test_labels),
        settings=asdict(config),
        chosen={"l2": fit.l2},
        table=_sweep("l2", fit.held_out),
        notes=notes + more,
        began=began,
        test_labels=test_labels,
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
        rest, rest_labels, more = labelled_features(subject, train, "held-out images", held_out_ids)
        notes += more
    chosen = choose_head(heads, rest, rest_labels)
    tests, test_labels, more = labelled_features(subject, subject.test, "test images")
    return _result(
        subject,
        protocol="linear-released",
        accuracy=chosen.accuracy(tests, test_labels),
        settings=asdict(config),
        chosen={"learning_rate": chosen.learning_rate},
        table=_sweep("learning_rate", chosen.held_out),
        notes=notes + more,
        began=began,
        test_labels=test_labels,
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
        {name: value, "held_out_top1": accuracy.top1, "held_out_top5": accuracy.top5}
        for value, accuracy in held_out
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
) -> EvaluationResult:
    counts = torch.bincount(test_labels)
    train, test = subject.train, subject.test
    return EvaluationResult(
        protocol=protocol,
        checkpoint=subject.checkpoint,
        step=subject.step,
        untrained=subject.untrained,
        view_size=subject.size,
        train=_summary(train, subject.num_classes),
        test=None if test is None else _summary(test, subject.num_classes),
        chance=100 * int(counts.max()) / len(test_labels),
        top1=accuracy.top1,
        top5=accuracy.top5,
        settings=settings,
        chosen=chosen,
        table=table,
        notes=notes,
        seconds=time.perf_counter() - began,
        device=_device_name(subject.device),
    )


def _summary(shards: Shards, num_classes: int) -> DataSummary:
    return DataSummary(shards=str(shards.path), samples=len(labelled(shards)), classes=num_classes)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
