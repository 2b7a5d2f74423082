"""What a protocol works on: an encoder, labelled shards, and how their images are fed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

    Raises:
        ValueError: no labels, or train and test whose labels mean different things.
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
            check_same_classes(self.train, self.test)

    @property
    def num_classes(self) -> int:
        largest = max(int(s.labels.max()) for s in (self.train, self.test) if s is not None)
        return max(len(self.train.manifest.label_names), largest + 1)

    @property
    def feature_dim(self) -> int:
        dim = self.encoder.feature_dim
        assert isinstance(dim, int)
        return dim


def check_same_classes(train: Shards, test: Shards) -> None:
    """Raise ValueError unless a label means the same class in both, saying where they differ."""
    ours, theirs = train.manifest.label_names, test.manifest.label_names
    if ours == theirs:
        return
    if len(ours) != len(theirs):
        difference = f"{len(ours)} and {len(theirs)} classes"
    else:
        i = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) if a != b)
        difference = f"class {i} is {ours[i]!r} in the one and {theirs[i]!r} in the other"
    raise ValueError(
        f"the labels of {train.path} and {test.path} mean different things ({difference}); "
        "convert both from folders with the same class names"
    )


def labelled(shards: Shards) -> Ids:
    """Return the ids of the samples that have a label, ascending."""
    return np.flatnonzero(shards.labels >= 0).astype(np.int64)


def labelled_features(
    subject: Subject, shards: Shards, what: str, sample_ids: Ids | None = None
) -> tuple[Tensor, Tensor, list[str]]:
    """Return features and labels of the labelled samples' centre crops, and what went wrong."""
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
        features, labels = features[labels >= 0], labels[labels >= 0]
    return features, labels, notes
