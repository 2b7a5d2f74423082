from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from evaluation.logistic import LogisticConfig, fit_logistic, fit_with_sweep

CPU = torch.device("cpu")


@pytest.fixture
def torch_threads() -> Iterator[Callable[[int], None]]:
    """Set the number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def blobs(rows: int, seed: int, *, classes: int = 7, dim: int = 24) -> tuple[Tensor, Tensor]:
    """Features with overlapping classes, unequal scales and an offset, as an encoder gives."""
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (rows,), generator=generator)
    noise = 1.6 * torch.randn(rows, dim, generator=generator)
    features = (centres[labels] + noise) * torch.linspace(0.2, 2.0, dim) + 3.0
    return features.relu(), labels


@pytest.mark.parametrize("l2", [1e-1, 1e-3, 1e-5])
def test_agrees_with_scikit_learn_on_the_same_features(l2: float) -> None:
    from sklearn.linear_model import LogisticRegression

    features, labels = blobs(1200, 1)
    test, test_labels = blobs(2000, 2)
    ours = fit_logistic(features, labels, num_classes=7, l2=l2, config=LogisticConfig(), device=CPU)
    scale = (features - features.mean(0)).square().mean().sqrt().item()
    theirs = LogisticRegression(C=1 / (l2 * len(features)), max_iter=5000, tol=1e-8)
    theirs.fit(features.double().numpy() / scale, labels.numpy())
    expected = float(theirs.score(test.double().numpy() / scale, test_labels.numpy()))
    assert 0.5 < expected < 0.99  # a task on which classifiers can differ
    assert ours.accuracy(test, test_labels).top1 == pytest.approx(100 * expected, abs=0.3)
    their_margins = theirs.decision_function(test.double().numpy() / scale)
    our_scores = ours.scores(test).double().numpy()
    our_margins = our_scores - our_scores.mean(axis=1, keepdims=True)
    their_margins = their_margins - their_margins.mean(axis=1, keepdims=True)
    assert np.abs(our_margins - their_margins).max() < 0.02 * np.abs(their_margins).max()


@pytest.mark.parametrize("threads", [1, 2])  # they sum in different orders
@pytest.mark.parametrize(("factor", "offset"), [(50.0, 20.0), (1.0, 100.0), (1e-3, 0.1)])
def test_offset_and_scale_of_the_features_do_not_change_the_answer(
    factor: float, offset: float, threads: int, torch_threads: Callable[[int], None]
) -> None:
    torch_threads(threads)
    features, labels = blobs(400, 3)
    config = LogisticConfig()
    moved = features * factor + offset
    fits = [
        fit_logistic(some, labels, num_classes=7, l2=1e-2, config=config, device=CPU).scores(some)
        for some in (features, moved)
    ]
    torch.testing.assert_close(fits[0].softmax(1), fits[1].softmax(1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("l2", [1e-2, 1e-4])
@pytest.mark.parametrize("offset", [0.0, 20.0, 100.0])
def test_solver_stops_at_its_tolerance_and_not_at_rounding(
    l2: float, offset: float, threads: int, torch_threads: Callable[[int], None]
) -> None:
    torch_threads(threads)
    features, labels = blobs(400, 3)
    features = features + offset
    config = LogisticConfig()
    fit = fit_logistic(features, labels, num_classes=7, l2=l2, config=config, device=CPU)
    exact = features.double()
    centred = exact - exact.mean(0)
    scale = centred.square().mean().sqrt()
    weight = (fit.weight.double() * scale).requires_grad_()
    bias = (fit.bias.double() + fit.weight.double() @ exact.mean(0)).requires_grad_()
    scores = centred / scale @ weight.T + bias
    loss = cross_entropy(scores, labels) + l2 / 2 * weight.square().sum()
    gradients = torch.autograd.grad(loss, (weight, bias))
    largest = max(gradient.abs().max().item() for gradient in gradients)
    assert largest < config.tolerance + 1e-6  # the classifier itself is rounded to float32


def test_sweep_prefers_strong_regularisation_when_features_are_noise_mostly() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 2
    features = torch.randn(600, 280, generator=generator)
    features[:, 0] += 2.0 * labels
    fit = fit_with_sweep(
        features,
        labels,
        num_classes=2,
        config=LogisticConfig(l2=(1e-6, 1.0), held_out_share=0.5),
        device=CPU,
    )
    assert fit.l2 == 1.0
    assert dict(fit.held_out)[1.0].top1 > dict(fit.held_out)[1e-6].top1


def test_reported_choice_is_the_best_on_the_held_out_split() -> None:
    features, labels = blobs(300, 4)
    fits = 0

    def count(done: int) -> None:
        nonlocal fits
        fits += done

    config = LogisticConfig(l2=(1e-3, 1e-1, 10.0))
    fit = fit_with_sweep(features, labels, num_classes=7, config=config, device=CPU, progress=count)
    assert [l2 for l2, _ in fit.held_out] == [10.0, 1e-1, 1e-3]
    assert dict(fit.held_out)[fit.l2].top1 == max(a.top1 for _, a in fit.held_out)
    assert fits == 4


def test_a_single_l2_holds_nothing_out() -> None:
    features, labels = blobs(60, 5)
    fit = fit_with_sweep(
        features, labels, num_classes=7, config=LogisticConfig(l2=(0.01,)), device=CPU
    )
    assert fit.l2 == 0.01
    assert fit.held_out == ()


def test_chunks_of_rows_give_the_same_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    import evaluation.logistic as logistic

    features, labels = blobs(300, 6)
    config = LogisticConfig()
    whole = fit_logistic(features, labels, num_classes=7, l2=1e-2, config=config, device=CPU)
    monkeypatch.setattr(logistic, "CHUNK_ROWS", 64)
    parts = fit_logistic(features, labels, num_classes=7, l2=1e-2, config=config, device=CPU)
    torch.testing.assert_close(whole.weight, parts.weight, atol=1e-2, rtol=1e-2)


def test_constant_features_give_the_largest_class() -> None:
    labels = torch.tensor([0, 1, 1, 1])
    fit = fit_logistic(
        torch.ones(4, 3), labels, num_classes=2, l2=0.1, config=LogisticConfig(), device=CPU
    )
    assert fit.accuracy(torch.ones(4, 3), labels).top1 == 75.0


def test_one_sample_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="too few to hold"):
        fit_with_sweep(
            torch.ones(1, 2),
            torch.zeros(1, dtype=torch.int64),
            num_classes=1,
            config=LogisticConfig(),
            device=CPU,
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"l2": ()},
        {"l2": (-1.0,)},
        {"l2": (float("nan"),)},
        {"l2": (0.1, float("nan"))},
        {"l2": (float("inf"),)},
        {"max_iterations": 0},
        {"tolerance": float("nan")},
        {"tolerance": 0.0},
        {"held_out_share": 1.0},
        {"held_out_share": float("nan")},
        {"seed": -1},
        {"seed": 2**32},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"needs|must be|must lie"):
        LogisticConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.gpu
def test_gpu_fits_the_cpus_classifier() -> None:
    features, labels = blobs(400, 7)
    config = LogisticConfig()
    fits = [
        fit_logistic(features, labels, num_classes=7, l2=1e-2, config=config, device=device)
        for device in (CPU, torch.device("cuda"))
    ]
    scores = [fit.scores(features).softmax(1).cpu() for fit in fits]
    torch.testing.assert_close(scores[1], scores[0], atol=5e-3, rtol=0)
