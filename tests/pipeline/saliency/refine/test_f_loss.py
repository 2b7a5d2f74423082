"""The F-measure loss: against a plain transcription of the spec, and its properties."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.saliency.refine.f_loss import f_measure_loss, soften


def transcribed(prediction: np.ndarray, target: np.ndarray, thr: float, b: float) -> float:
    """The loss of one picture, pixel by pixel, as the facts of DeepUSPS's code state it."""
    tp = fp = fn = 0.0
    for pred, label in zip(prediction.flat, target.flat, strict=True):
        binary = 1.0 if label > thr else 0.0
        if label > thr and pred > label:
            pred = 1.0
        elif label <= thr and pred < label:
            pred = 0.0
        tp += pred * binary
        fp += pred * (1 - binary)
        fn += (1 - pred) * binary
    prec = tp / (tp + fp + 1e-5)
    rec = tp / (tp + fn + 1e-5)
    return 1 - (1 + b) * prec * rec / (b * prec + rec + 1e-5)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random(shape))


def loss_of(prediction, target, *, threshold=0.5, beta=1.0) -> float:
    return float(f_measure_loss(prediction, target, threshold=threshold, beta=beta))


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.23, 0.31, 0.5]), st.sampled_from([1.0, 4.0]))
def test_it_is_what_the_spec_says(seed, threshold, beta):
    prediction, target = drawn(seed, 3, 5, 7), drawn(seed + 1, 3, 5, 7)
    expected = [
        transcribed(p, t, threshold, beta)
        for p, t in zip(prediction.numpy(), target.numpy(), strict=True)
    ]
    found = loss_of(prediction, target, threshold=threshold, beta=beta)
    assert found == pytest.approx(np.mean(expected), abs=1e-12)


@given(st.integers(0, 2**32 - 1), st.sampled_from([1.0, 4.0]))
def test_it_lies_between_0_and_1_and_a_perfect_prediction_costs_nothing(seed, beta):
    target = (drawn(seed, 2, 6, 6) > 0.6).double()
    target[:, 0, 0] = 1
    assert 0 <= loss_of(drawn(seed + 1, 2, 6, 6), target, beta=beta) <= 1
    assert loss_of(target, target, beta=beta) < 1e-4
    assert loss_of(1 - target, target, beta=beta) > 0.999


def test_a_larger_beta_weighs_recall_more():
    target = torch.zeros(1, 4, 4)
    target[:, :2] = 1
    misses, alarms = target.clone(), target.clone()
    misses[:, 1], alarms[:, 2] = 0, 1
    for beta, dearer, cheaper in ((4.0, misses, alarms), (0.25, alarms, misses)):
        assert loss_of(dearer, target, beta=beta) > loss_of(cheaper, target, beta=beta)


@given(st.integers(0, 2**32 - 1))
def test_gradients_are_those_of_finite_differences(seed):
    target = drawn(seed, 2, 3, 4)
    # away from the steps at prediction = target, where the loss has no derivative
    away = torch.where(drawn(seed + 1, 2, 3, 4) > 0.5, 0.1, -0.1)
    prediction = (target + away).clamp(0.01, 0.99).requires_grad_()
    torch.autograd.gradcheck(
        lambda p: f_measure_loss(p, target, threshold=0.5, beta=4.0), (prediction,)
    )


def test_what_is_already_beyond_its_target_counts_as_right_and_gets_no_gradient():
    target = torch.tensor([[[0.7, 0.7, 0.2, 0.2]]])
    prediction = torch.tensor([[[0.8, 0.6, 0.1, 0.3]]], requires_grad=True)
    soft = soften(prediction, target, 0.5)
    assert torch.equal(soft.detach(), torch.tensor([[[1.0, 0.6, 0.0, 0.3]]]))
    f_measure_loss(prediction, target, threshold=0.5, beta=1.0).backward()
    gradient = prediction.grad[0, 0]
    assert gradient[0] == gradient[2] == 0
    assert gradient[1] < 0 < gradient[3]
