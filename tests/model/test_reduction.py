"""Flat gradients, their averaging beside the backward pass, and parts of a batch."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from model.distributed import synchronise_batchnorm
from model.loss import LossConfig
from model.reduction import FlatGradients
from model.step import backward
from tests.model import step_ranks
from tests.model.processes import run_in_processes
from tests.model.two_ranks import make_model

EXACT = {"rtol": 1e-10, "atol": 1e-10}
SIZE = 2


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two gloo processes returned."""
    folder = tmp_path_factory.mktemp("ranks")
    return run_in_processes(step_ranks.everything, folder=folder, size=SIZE)


def mixed_parameters():
    """Types, layouts and sizes of all kinds; one takes no gradient."""
    return [
        nn.Parameter(torch.ones(2, 3, 2, 2).to(memory_format=torch.channels_last)),
        nn.Parameter(torch.ones(4, 3, 1, 1).to(memory_format=torch.channels_last)),
        nn.Parameter(torch.ones(5, dtype=torch.float64)),
        nn.Parameter(torch.ones(7), requires_grad=False),
        nn.Parameter(torch.ones(7)),
        nn.Parameter(torch.ones(())),
    ]


def some_loss(parameters):
    return sum(
        (number + 1) * (p.double() * torch.arange(p.numel()).view(p.shape)).sum()
        for number, p in enumerate(parameters)
    )


@pytest.mark.parametrize("bucket_elements", [1, 8, 2**23])
def test_gradients_are_what_autograd_has_in_the_parameters_layout(bucket_elements):
    flat, plain = mixed_parameters(), mixed_parameters()
    gradients = FlatGradients(flat, bucket_elements=bucket_elements)
    for _ in range(2):
        some_loss(flat).backward()
        some_loss(plain).backward()
    for one, other in zip(flat, plain, strict=True):
        if one.requires_grad:
            assert torch.equal(one.grad, other.grad)
            assert one.grad.stride() == one.stride()
            assert one.grad.dtype == one.dtype
        else:
            assert one.grad is None
    gradients.zero()
    assert all(not p.grad.any() for p in flat if p.requires_grad)


def test_gradients_come_back_after_somebody_took_them_off():
    parameters = mixed_parameters()
    gradients = FlatGradients(parameters)
    for parameter in parameters:
        parameter.grad = None
    gradients.zero()
    some_loss(parameters).backward()
    parameters[0].grad[0, 0, 0, 0] = math.nan
    assert gradients.found_inf() == 1


def test_channels_last_gradients_of_a_model_are_not_copied():
    model = make_model().to(memory_format=torch.channels_last)
    FlatGradients(model.online.parameters())
    places = {name: p.grad.data_ptr() for name, p in model.online.named_parameters()}
    views = torch.randn(2, 4, 3, 16, 16, dtype=torch.float64)
    backward(model, views, views[:0], None, LossConfig())
    for name, parameter in model.online.named_parameters():
        assert parameter.grad.data_ptr() == places[name]
        assert parameter.grad.stride() == parameter.stride()
        assert parameter.grad.any(), name


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 1, 2, 4, 5, "loss"])
def test_what_is_not_finite_is_found_wherever_it_is(place, value):
    parameters = mixed_parameters()
    gradients = FlatGradients(parameters, bucket_elements=8)
    for parameter in parameters:
        if parameter.requires_grad:
            parameter.grad.fill_(-torch.finfo(parameter.dtype).max)
    gradients.loss.fill_(1e30)
    assert gradients.found_inf() == 0
    where = gradients.loss if place == "loss" else parameters[place].grad
    where.view(-1)[-1:].fill_(value) if where.ndim < 4 else where[-1, -1, -1, -1].fill_(value)
    found = gradients.found_inf()
    assert found == 1
    assert found.dtype == torch.float32


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 7, 1023, 50_001, 99_999])
def test_one_among_very_many_is_found(place, value):
    parameter = nn.Parameter(torch.randn(100_000, generator=torch.Generator().manual_seed(0)))
    gradients = FlatGradients([parameter])
    parameter.grad.copy_(parameter.detach())
    assert gradients.found_inf() == 0
    parameter.grad[place] = value
    assert gradients.found_inf() == 1


def test_no_state_grows_with_the_flat_gradients():
    """The parameters' own memory stays theirs: a state dict of them holds nothing else."""
    module = nn.Linear(3, 2)
    FlatGradients(module.parameters())
    sizes = [value.untyped_storage().nbytes() for value in module.state_dict().values()]
    assert sizes == [24, 8]


def test_averaged_gradients_are_the_means_over_two_processes(ranks):
    results = [rank["averaged"] for rank in ranks]
    chain = step_ranks.layers().eval()
    (step_ranks.layers_loss(chain, slice(None)) / SIZE).backward()
    for number, parameter in enumerate(chain.parameters()):
        first, second = (result["gradients"][number] for result in results)
        assert torch.equal(first, second)
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(first, expected, **EXACT)


def test_without_averaging_nothing_is_sent(ranks):
    first, second = (rank["averaged"]["own"] for rank in ranks)
    assert not torch.equal(first[-1], second[-1])


def test_sums_start_in_order_and_beside_the_backward_pass(ranks):
    first, second = (rank["averaged"] for rank in ranks)
    assert first["started"] == second["started"]
    arrivals, sizes = zip(*first["started"], strict=True)
    chain = step_ranks.layers()
    expected = FlatGradients(chain.parameters(), bucket_elements=8)
    assert list(sizes) == [bucket.flat.numel() for bucket in expected._buckets]
    # The last convolution's two gradients arrive first and fill a bucket; BatchNorm's and the first
    # convolution's follow; the parameter that is never reached is sent when all is over.
    assert first["arrivals"] == 5
    assert arrivals == (2, 5, 5)


@pytest.mark.parametrize("number", [0, 1])
def test_parts_over_two_processes_are_those_of_one(ranks, number):
    form = ("swap_roles", "swap_views")[number]
    model = make_model()
    gradients = FlatGradients(model.online.parameters())
    terms = backward(
        model,
        *step_ranks.part_views(),
        step_ranks.part_negatives(0, 1, parts=2),
        replace(step_ranks.GLOBAL, kl_form=form),
        gradients=gradients,
        parts=2,
    )
    torch.testing.assert_close(gradients.loss, terms.total, **EXACT)
    for rank in ranks:
        result = rank["accumulated"][number]
        torch.testing.assert_close(result["loss"], gradients.loss, **EXACT)
        for name, parameter in model.online.named_parameters():
            torch.testing.assert_close(result["gradients"][name], parameter.grad, **EXACT)
        for name, buffer in model.named_buffers():
            torch.testing.assert_close(result["buffers"][name], buffer, **EXACT)


@pytest.mark.parametrize("form", ["swap_roles", "swap_views"])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_parts_are_the_mean_of_batches_of_their_own(parts, form):
    config = LossConfig(kl_form=form)
    model, separate = make_model(), make_model()
    large, small = step_ranks.part_views()
    terms = backward(model, large, small, None, config, parts=parts)
    rows, totals = step_ranks.BATCH // parts, []
    for part in range(parts):
        own = slice(part * rows, (part + 1) * rows)
        totals.append(backward(separate, large[:, own], small[:, own], None, config))
    for name in ("total", "contrastive", "invariance", "accuracy", "positive_similarity"):
        mean = torch.stack([getattr(each, name) for each in totals]).mean()
        torch.testing.assert_close(getattr(terms, name), mean, **EXACT)
    for one, other in zip(model.online.parameters(), separate.online.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad / parts, **EXACT)
    for (name, buffer), other in zip(model.named_buffers(), separate.buffers(), strict=True):
        assert torch.equal(buffer, other), name


def test_gathered_negatives_in_float32_are_those_of_the_whole_batch(ranks):
    """With BatchNorm frozen: rounding alone differs."""
    model = make_model().float().eval()
    negatives = step_ranks.part_negatives(0, 1, parts=1)
    backward(model, *step_ranks.part_views(torch.float32), negatives, step_ranks.GLOBAL)
    for rank in ranks:
        for name, parameter in model.online.named_parameters():
            scale = parameter.grad.abs().max()
            difference = (rank["frozen"][name] - parameter.grad).abs().max()
            assert difference <= 1e-5 * scale, name


def test_one_process_alone_hooks_nothing_up():
    module = synchronise_batchnorm(nn.Sequential(nn.Linear(2, 3)))
    gradients = FlatGradients(module.parameters())
    with gradients.averaging():
        assert not any(p._post_accumulate_grad_hooks for p in module.parameters())
        module(torch.ones(1, 2)).sum().backward()
    assert torch.equal(module[0].weight.grad, torch.ones(3, 2))
