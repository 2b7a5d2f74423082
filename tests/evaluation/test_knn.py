import numpy as np
import pytest
import torch
from torch import Tensor

import evaluation.knn as knn
from evaluation.knn import KnnConfig, knn_accuracy, leave_one_out_accuracy

CPU = torch.device("cpu")


def blobs(rows: int, seed: int, *, classes: int = 8, dim: int = 16) -> tuple[Tensor, Tensor]:
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=generator)
    return centres[labels] + 1.5 * torch.randn(rows, dim, generator=generator), labels


@pytest.mark.parametrize("k", [1, 10, 20, 200])
@pytest.mark.parametrize("weighted", [True, False])
def test_agrees_with_scikit_learn(k: int, weighted: bool) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    bank, bank_labels = blobs(1500, 1)
    queries, query_labels = blobs(1000, 2)
    config = KnnConfig(k=k, more_k=(k,), temperature=0.07)
    theirs = KNeighborsClassifier(
        n_neighbors=k,
        metric="cosine",
        algorithm="brute",
        weights=(lambda d: np.exp((1 - d) / 0.07)) if weighted else "uniform",
    ).fit(bank.double().numpy(), bank_labels.numpy())
    expected = float(theirs.score(queries.double().numpy(), query_labels.numpy()))
    assert 0.3 < expected < 0.99  # a task on which classifiers can differ
    (row,) = knn_accuracy(bank, bank_labels, queries, query_labels, config=config, device=CPU)
    ours = row.weighted if weighted else row.unweighted
    assert ours.top1 == pytest.approx(100 * expected, abs=0.1 if weighted else 0.3)


def test_top5_agrees_with_scikit_learns_probabilities() -> None:
    from sklearn.metrics import top_k_accuracy_score
    from sklearn.neighbors import KNeighborsClassifier

    bank, bank_labels = blobs(1500, 1, classes=30)
    queries, query_labels = blobs(500, 2, classes=30)
    theirs = KNeighborsClassifier(
        n_neighbors=100, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.07)
    ).fit(bank.numpy(), bank_labels.numpy())
    chances = theirs.predict_proba(queries.numpy())
    expected = top_k_accuracy_score(query_labels.numpy(), chances, k=5)
    config = KnnConfig(k=100, more_k=())
    (row,) = knn_accuracy(bank, bank_labels, queries, query_labels, config=config, device=CPU)
    assert row.weighted.top5 == pytest.approx(100 * expected, abs=0.3)


def test_a_near_neighbour_outweighs_many_far_ones() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.5, 1.0]])
    labels = torch.tensor([0, 1, 1])
    (row,) = knn_accuracy(
        bank,
        labels,
        torch.tensor([[1.0, 0.0]]),
        torch.tensor([0]),
        config=KnnConfig(k=3),
        device=CPU,
    )
    assert row.weighted.top1 == 100.0
    assert row.unweighted.top1 == 0.0


def test_length_of_a_feature_does_not_matter() -> None:
    bank, bank_labels = blobs(300, 1)
    queries, query_labels = blobs(200, 2)
    lengths = torch.linspace(0.01, 100, 300)[:, None]
    config = KnnConfig(k=20)
    plain = knn_accuracy(bank, bank_labels, queries, query_labels, config=config, device=CPU)
    scaled = knn_accuracy(
        bank * lengths, bank_labels, queries * 7, query_labels, config=config, device=CPU
    )
    assert plain == scaled


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, bank_labels = blobs(300, 1)
    queries, query_labels = blobs(200, 2)
    arguments = {"config": KnnConfig(k=5), "device": CPU}
    whole = knn_accuracy(bank, bank_labels, queries, query_labels, **arguments)
    alone = leave_one_out_accuracy(bank, bank_labels, **arguments)
    monkeypatch.setattr(knn, "CHUNK_ELEMENTS", 300 * 7)
    assert knn_accuracy(bank, bank_labels, queries, query_labels, **arguments) == whole
    assert leave_one_out_accuracy(bank, bank_labels, **arguments) == alone


def test_leaving_one_out_is_each_sample_against_the_others() -> None:
    features, labels = blobs(40, 3)
    config = KnnConfig(k=4, more_k=())
    expected = []
    for i in range(40):
        others = torch.arange(40) != i
        (row,) = knn_accuracy(
            features[others],
            labels[others],
            features[i : i + 1],
            labels[i : i + 1],
            config=config,
            device=CPU,
        )
        expected.append(row.weighted.top1)
    (row,) = leave_one_out_accuracy(features, labels, config=config, device=CPU)
    assert row.weighted.top1 == pytest.approx(np.mean(expected))
    assert 0 < row.weighted.top1 < 100


def test_a_class_without_a_neighbour_is_no_hit_among_the_five_best() -> None:
    bank, queries = torch.eye(2), torch.tensor([[1.0, 0.0]])
    (row,) = knn_accuracy(
        bank, torch.tensor([0, 1]), queries, torch.tensor([2]), config=KnnConfig(k=2), device=CPU
    )
    assert row.weighted.top5 == row.unweighted.top5 == 0.0


def test_table_holds_every_k_that_the_bank_allows() -> None:
    bank, bank_labels = blobs(120, 1)
    rows = knn_accuracy(bank, bank_labels, bank, bank_labels, config=KnnConfig(k=5), device=CPU)
    assert [row.k for row in rows] == [5, 10, 100]


def test_too_few_neighbours_are_refused_with_the_number() -> None:
    bank, labels = blobs(10, 1)
    with pytest.raises(ValueError, match=r"k=20 neighbours need .* there are 10"):
        knn_accuracy(bank, labels, bank, labels, config=KnnConfig(), device=CPU)
    with pytest.raises(ValueError, match="there are 9"):
        leave_one_out_accuracy(bank, labels, config=KnnConfig(k=10), device=CPU)


def test_unlabelled_and_missing_samples_are_refused() -> None:
    bank, labels = blobs(30, 1)
    with pytest.raises(ValueError, match="got -1"):
        knn_accuracy(bank, labels - 1, bank, labels, config=KnnConfig(), device=CPU)
    with pytest.raises(ValueError, match="no queries"):
        knn_accuracy(bank, labels, bank[:0], labels[:0], config=KnnConfig(), device=CPU)
    with pytest.raises(ValueError, match="no labelled samples"):
        knn_accuracy(bank[:0], labels[:0], bank, labels, config=KnnConfig(), device=CPU)


@pytest.mark.parametrize(
    "wrong", [{"k": 0}, {"more_k": (10, -1)}, {"temperature": 0.0}, {"temperature": float("inf")}]
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        KnnConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.gpu
def test_gpu_finds_the_cpus_neighbours() -> None:
    bank, bank_labels = blobs(500, 1)
    queries, query_labels = blobs(300, 2)
    config = KnnConfig(k=20)
    on_cpu = knn_accuracy(bank, bank_labels, queries, query_labels, config=config, device=CPU)
    device = torch.device("cuda")
    on_gpu = knn_accuracy(bank, bank_labels, queries, query_labels, config=config, device=device)
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        assert ours.weighted.top1 == pytest.approx(theirs.weighted.top1, abs=0.4)
