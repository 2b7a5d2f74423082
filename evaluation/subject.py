"""What a protocol works on: an encoder, labelled shards, and how their images are fed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from evaluation.features import Progress, extract_features
from pipeline.batch import Ids
from pipeline.loader import LoaderConfig, evaluation_views
from pipeline.shards import Shards

# What is being done and of how many images (or fits) -> called with how many are done.
Track = Callable[[str, int], AbstractContextManager[Progress]]


@contextmanager
def untracked(stage: str, total: int) -> Iterator[Progress]:
    """Show nothing."""
    yield lambda done: None


@dataclass(frozen=True, kw_only=True, slots=True)
class Subject:
    """What is evaluated, on what, and how its images are fed.

    Labels of `test` are matched to those of `train` by the name of the class.

    Raises:
        ValueError: no labels, or `test` has images of a class that `train` has none of.
    """

    encoder: nn.Module
    checkpoint: str
    step: int | None = None
    untrained: bool = False
    train: Shards
    test: Shards | None  # None: each sample of train against the others (kNN only)
    size: int  # of the views, in pixels
    device: torch.device
    batch_size: int = 256  # images at a time when features are computed
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    track: Track = untracked

    def __post_init__(self) -> None:
        if min(self.size, self.batch_size) < 1:
            raise ValueError(
                f"view size and batch size must be positive, got {self.size}, {self.batch_size}"
            )
        for shards in (self.train, self.test):
            if shards is not None and not (shards.labels >= 0).any():
                raise ValueError(
                    f"{shards.path} has no labels; evaluation needs labelled images: convert a "
                    "folder with one folder for each class"
                )
        if self.test is not None:
            check_known_classes(self.train, self.test)

    @property
    def num_classes(self) -> int:
        return max(len(self.train.manifest.label_names), int(self.train.labels.max()) + 1)

    @property
    def classes_not_tested(self) -> list[str]:
        """Names of the classes that have training images and no test image."""
        if self.test is None:
            return []
        tested = class_names(self.test).values()
        return [name for name in class_names(self.train).values() if name not in tested]

    @property
    def feature_dim(self) -> int:
        dim = self.encoder.feature_dim
        assert isinstance(dim, int)
        return dim


def class_names(shards: Shards) -> dict[int, str]:
    """Return label -> name of the classes that have images; the number where there is no name."""
    names = shards.manifest.label_names
    present = np.unique(shards.labels[shards.labels >= 0]).tolist()
    return {label: names[label] if label < len(names) else str(label) for label in present}


def quoted(names: Sequence[str], most: int = 20) -> str:
    """Return names for a sentence, in quotes, at most so many of them."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def check_known_classes(train: Shards, test: Shards) -> None:
    """Raise ValueError, naming them, if test images are of classes without training images."""
    known = class_names(train).values()
    unknown = [name for name in class_names(test).values() if name not in known]
    if unknown:
        raise ValueError(
            f"{test.path} has images of classes that {train.path} has none of "
            f"({quoted(unknown, 5)}); leave them out of the test images, or add training images"
        )


def to_training_labels(labels: Tensor, train: Shards, test: Shards) -> Tensor:
    """Return labels of `test`, int64 [N], as the labels of the same classes in `train`."""
    ours = {name: label for label, name in class_names(train).items()}
    table = torch.full((max(int(test.labels.max()), 0) + 1,), -1)
    for label, name in class_names(test).items():
        table[label] = ours[name]
    return torch.where(labels >= 0, table[labels.clamp(min=0)], labels)


def labelled(shards: Shards) -> Ids:
    """Return the ids of the samples that have a label, ascending."""
    return np.flatnonzero(shards.labels >= 0).astype(np.int64)


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """Features of labelled samples, and what went wrong."""

    features: Tensor  # float32 [N, D]
    labels: Tensor  # int64 [N], those of the training shards
    ids: Ids  # [N]
    notes: list[str]


def labelled_features(
    subject: Subject, shards: Shards, what: str, sample_ids: Ids | None = None
) -> Features:
    """Return the features of centre crops of the labelled samples, or of some of them."""
    ids = labelled(shards) if sample_ids is None else sample_ids
    loader = evaluation_views(
        shards,
        size=subject.size,
        batch_size=subject.batch_size,
        config=subject.loader,
        sample_ids=ids,
        device=subject.device,
    )
    with loader as views, subject.track(what, len(ids)) as progress:
        features, labels = extract_features(
            subject.encoder, views, subject.device, progress=progress
        )
        notes = views.bad_samples
    if notes:  # the substitute of an undecodable sample may have no label
        known = labels >= 0
        features, labels, ids = features[known], labels[known], ids[known.numpy()]
    if shards is subject.test:
        labels = to_training_labels(labels, subject.train, shards)
    return Features(features=features, labels=labels, ids=ids, notes=notes)
