"""A step that is not finite leaves no bit changed, on any rank, and the host is not asked."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.step.inside import sync_debug_mode
from model.guard import Guard, SkippedSteps
from model.lars import OptimizerConfig, make_optimizer
from model.loss import LossConfig
from model.step import backward
from tests.model import step_ranks
from tests.model.processes import run_in_processes
from tests.model.two_ranks import make_model, make_views


def bits(value, prefix=""):
    """Every number of a nested state by its name, as bytes."""
    if isinstance(value, torch.Tensor):
        return {prefix: value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()}
    if isinstance(value, dict):
        return {
            name: found
            for key, inner in value.items()
            for name, found in bits(inner, f"{prefix}/{key}").items()
        }
    return {prefix: value}


def assert_skipped(result):
    before, after = (bits(state) for state in result["states"][1:3])
    assert after.keys() == before.keys()
    assert [name for name in before if before[name] != after[name]] == []
    assert result["skipped"] == [step_ranks.POISONED]
    assert result["in_a_row"] == 1
    last = bits(result["states"][3])
    changed = {name for name in before if before[name] != last[name]}
    assert any("running_mean" in name for name in changed)  # the next step counts again
    assert any("/target." in name and name.endswith("weight") for name in changed)
    assert any(name.startswith("/optimizer") for name in changed)
    assert all(bool(value.isfinite().all()) for value in result["states"][3]["model"].values())


@pytest.mark.parametrize("name", ["lars", "adamw"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_poisoned_view_changes_nothing(name, value):
    assert_skipped(step_ranks.poisoned(0, 1, name=name, value=value))


def test_a_poisoned_view_of_one_rank_changes_nothing_on_any(tmp_path):
    results = run_in_processes(step_ranks.poisoned, folder=tmp_path, size=2)
    for result in results:
        assert_skipped(result)
    first, second = (result["states"] for result in results)
    for one, other in zip(first, second, strict=True):
        assert bits(one) == bits(other)


@pytest.mark.parametrize("name", ["lars", "adamw"])
def test_a_skipped_step_is_as_if_it_had_not_been(name):
    """The step after it gives the bits that it gives without it."""
    with_it = step_ranks.poisoned(0, 1, name=name)
    model = make_model().float()
    optimizer = make_optimizer(model, OptimizerConfig(name=name, base_learning_rate=0.1))
    guard = Guard(model, remembered=1)
    large, small = step_ranks.part_views(torch.float32)
    for step in range(2):
        guard.begin()
        backward(model, large, small, None, step_ranks.GLOBAL, gradients=guard.gradients)
        guard.update(optimizer, step, 0.9)
    assert bits(step_ranks.state(model, optimizer)) == bits(with_it["states"][3])


def test_a_finite_step_is_that_of_the_plain_optimizer_and_average():
    guarded, plain = make_model(), make_model()
    optimizers = [
        make_optimizer(model, OptimizerConfig(base_learning_rate=0.5)) for model in (guarded, plain)
    ]
    guard, views = Guard(guarded, remembered=2), make_views()
    for step in range(3):
        guard.begin()
        backward(guarded, *views, None, LossConfig(), gradients=guard.gradients)
        guard.update(optimizers[0], step, 0.9)
        optimizers[1].zero_grad()
        backward(plain, *views, None, LossConfig())
        optimizers[1].step()
        plain.update_target(0.9)
    for (name, value), other in zip(
        guarded.state_dict().items(), plain.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, other, rtol=1e-12, atol=1e-14, msg=name)
    assert guard.skipped.read().steps == ()


def noted(remembered, flags, start=0):
    steps = SkippedSteps(remembered, torch.device("cpu"))
    for step, flag in enumerate(flags, start):
        steps.note(step, torch.tensor(float(flag)))
    return steps


def test_memory_names_steps_since_the_last_look_and_the_longest_row():
    steps = noted(5, [0, 1, 1, 0, 1], start=13)
    found = steps.read()
    assert found.steps == (14, 15, 17)
    assert found.in_a_row == 2
    for step, flag in enumerate([1, 1, 0], 18):  # the row goes on across the look
        steps.note(step, torch.tensor(float(flag)))
    found = steps.read()
    assert (found.steps, found.in_a_row) == ((18, 19), 3)
    found = steps.read()
    assert (found.steps, found.in_a_row) == ((), 0)


def test_memory_keeps_the_newest_and_counts_the_row_beyond_them():
    found = noted(3, [1] * 7).read()
    assert (found.steps, found.in_a_row) == ((4, 5, 6), 7)


WAITING = {  # what makes the host wait for a device, where the tensors are on one
    "_local_scalar_dense",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "equal",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
}


class Waits(TorchDispatchMode):
    """Collects the operations that would wait for a device."""

    def __init__(self):
        super().__init__()
        self.found, self.seen = [], 0

    def __torch_dispatch__(self, function, kinds, arguments=(), options=None):
        self.seen += 1
        name = function.overloadpacket.__name__
        if name in WAITING:
            self.found.append(name)
        if name.startswith("index") and any(
            isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)
            for index in (arguments[1] if isinstance(arguments[1], (list, tuple)) else ())
        ):
            self.found.append(f"{name} by a mask")
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize(
    "wait", [lambda t: t.sum().item(), lambda t: t[t > 0], bool, lambda t: float(t.max())]
)
def test_waiting_is_noticed(wait):
    with Waits() as waits:
        wait(torch.ones(()) if wait is bool else torch.ones(3))
    assert waits.found


@pytest.mark.parametrize("form", ["swap_roles", "swap_views"])
@pytest.mark.parametrize("name", ["lars", "adamw"])
def test_no_step_waits_for_the_device(name, form):
    steps = guarded_steps(name, form, "cpu")
    with Waits() as waits:
        for step in range(2):
            steps(step)
    assert waits.found == []
    assert waits.seen > 1000


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["lars", "adamw"])
def test_no_step_waits_for_cuda(name):
    steps = guarded_steps(name, "swap_roles", "cuda")
    steps(0)
    with sync_debug_mode("error"):
        steps(1)


def guarded_steps(name, form, device):
    """Return a function that does a step, in two parts under autocast."""
    model = make_model().float().to(device, memory_format=torch.channels_last)
    optimizer = make_optimizer(model, OptimizerConfig(name=name))
    guard, config = Guard(model, remembered=4), LossConfig(kl_form=form, num_negatives=2)
    large, small = (views.to(device) for views in step_ranks.part_views(torch.float32))
    negatives = step_ranks.part_negatives(0, 1, parts=2).to(device)
    context = torch.autocast(device, dtype=torch.bfloat16)

    def one(step):
        guard.begin()
        backward(
            model,
            large,
            small,
            negatives,
            config,
            gradients=guard.gradients,
            parts=2,
            autocast=context,
        )
        guard.update(optimizer, step, 0.9)

    return one
