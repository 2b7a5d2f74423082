"""Both classifiers against scikit-learn's, on features of real photos of ten classes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from evaluation.features import extract_features
from evaluation.knn import KnnConfig
from evaluation.logistic import LogisticConfig
from evaluation.protocols import evaluate_knn, evaluate_quick
from evaluation.subject import Subject
from model.resnet import ResNetConfig, make_encoder
from pipeline.loader import LoaderConfig, evaluation_views
from pipeline.shards.index import Sample
from pipeline.shards.memory import MemoryShards

pytestmark = pytest.mark.real
CPU = torch.device("cpu")
LOADER = LoaderConfig(decoder="turbojpeg", threads=2)
SIZE = 64


def photos(folder: Path, each: int) -> MemoryShards:
    import simplejpeg

    samples, names = [], sorted(path.name for path in folder.iterdir())
    for label, name in enumerate(names):
        for path in sorted((folder / name).iterdir())[:each]:
            jpeg = path.read_bytes()
            height, width, _, _ = simplejpeg.decode_jpeg_header(jpeg)
            samples.append(
                Sample(
                    key=f"{name}/{path.name}",
                    label=label,
                    jpeg=jpeg,
                    mask=b"",
                    height=height,
                    width=width,
                    coverage=float("nan"),
                    unchanged=True,
                )
            )
    return MemoryShards(samples, label_names=names)


@pytest.fixture(scope="module")
def subject(real_data: Path) -> Subject:
    encoder = make_encoder(
        ResNetConfig(architecture="resnet18", width=0.25), torch.Generator().manual_seed(0)
    )
    return Subject(
        encoder=encoder,
        checkpoint="untrained",
        train=photos(real_data / "imagenette128" / "train", 90),
        test=photos(real_data / "imagenette128" / "val", 50),
        size=SIZE,
        device=CPU,
        loader=LOADER,
    )


@pytest.fixture(scope="module")
def features(subject: Subject) -> list[tuple[Tensor, Tensor]]:
    sides = []
    for shards in (subject.train, subject.test):
        assert shards is not None
        with evaluation_views(shards, size=SIZE, batch_size=100, config=LOADER) as views:
            sides.append(extract_features(subject.encoder, views, CPU))
    return sides


@pytest.mark.parametrize("k", [1, 20, 200])
def test_knn_of_real_photos_agrees_with_scikit_learn(
    subject: Subject, features: list[tuple[Tensor, Tensor]], k: int
) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    (bank, labels), (queries, query_labels) = features
    theirs = KNeighborsClassifier(
        n_neighbors=k, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.07)
    ).fit(bank.double().numpy(), labels.numpy())
    expected = 100 * float(theirs.score(queries.double().numpy(), query_labels.numpy()))
    result = evaluate_knn(subject, KnnConfig(k=k, more_k=()))
    assert result.chance == 10.0
    assert expected > 15  # even random weights see colours
    assert result.top1 == pytest.approx(expected, abs=0.3)


def test_quick_protocol_on_real_photos_agrees_with_scikit_learn(
    subject: Subject, features: list[tuple[Tensor, Tensor]]
) -> None:
    from sklearn.linear_model import LogisticRegression

    (train, labels), (tests, test_labels) = features
    result = evaluate_quick(subject, LogisticConfig(l2=(1e-2, 1e-3, 1e-4)))
    centred: Any = (train - train.mean(0)).double().numpy()
    scale = np.sqrt(np.square(centred).mean())
    theirs = LogisticRegression(
        C=1 / (result.chosen["l2"] * len(train)), max_iter=10_000, tol=1e-6
    ).fit(train.double().numpy() / scale, labels.numpy())
    expected = 100 * float(theirs.score(tests.double().numpy() / scale, test_labels.numpy()))
    assert expected > 20
    assert result.top1 == pytest.approx(expected, abs=0.3)
