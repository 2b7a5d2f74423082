"""`python -m bench step`: that it measures what it says. No time that was measured is asserted."""

import json
import warnings

import pytest
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

import train
from bench.__main__ import bench
from bench.harness import Broken, Unavailable
from bench.isolated import alone
from bench.step import inside, rung, speed
from bench.step.command import config_of
from bench.step.inside import (
    costliest,
    look_inside,
    profiled,
    sync_debug_mode,
    waits_on_cpu,
    waits_on_gpu,
)
from bench.step.memory import slope
from bench.step.rung import StepRequest
from bench.step.speed import PARTS, Timing, update_shares
from bench.step.subject import STEPS_PER_EPOCH, Subject, resident_batch
from model.guard import Guard
from model.lars import LARS
from tests.bench.step_support import CPU, MEGABYTE, fail, peak_of_an_allocation, tiny, words
from training.launch import World

SHARES = [*PARTS, "optimizer, target and statistics"]


def run(*arguments):
    fixed = ["step", "--device", "cpu", "--rounds", "1", "--threads", "1"]
    return CliRunner().invoke(bench, [*fixed, *arguments])


def weights(subject):
    return [value.clone() for value in subject.model.state_dict().values()]


def operations(work):
    """Floating-point operations by operator."""
    with FlopCounterMode(display=False) as counter:
        work()
    return {str(operator): count for operator, count in counter.get_flop_counts()["Global"].items()}


@pytest.mark.parametrize("settings", [(), ("model.predictor=false", "recipe.num_small=0")])
def test_the_bare_networks_are_those_of_the_step(settings):
    subject = Subject(tiny(*settings), CPU)
    step, bare = operations(subject.step), operations(subject.bare)
    for operator in ("aten.convolution", "aten.convolution_backward", "aten.addmm"):
        assert bare[operator] == step[operator] > 0
    assert sum(bare.values()) < sum(step.values())  # the loss compares embeddings


def test_the_bare_networks_change_no_weight_and_leave_no_gradient_to_the_step():
    with_bare, without = (
        Subject(tiny("optimizer.name=lars"), CPU),
        Subject(tiny("optimizer.name=lars"), CPU),
    )
    before = weights(with_bare)
    with_bare.bare()
    names = list(with_bare.model.state_dict())
    changed = [
        name
        for name, old, new in zip(names, before, weights(with_bare), strict=True)
        if not torch.equal(old, new)
    ]
    assert changed
    assert all("running_" in name or "num_batches" in name for name in changed)
    assert all(parameter.grad is not None for parameter in with_bare.model.online.parameters())
    with_bare.step()
    without.step()
    for one, other in zip(with_bare.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_steps_are_those_of_train():
    config, world = tiny("optimizer.name=lars"), World(device=CPU)
    subject = Subject(config, CPU)
    plan, batch = subject.plan, resident_batch(config, CPU)
    model, optimizer = train.build(config, world)
    guard = Guard(model, remembered=2)
    before = weights(subject)
    for step in range(2):
        train.train_step(model, optimizer, batch, config, plan, step, world, guard)
        subject.step()
    for one, other in zip(weights(subject), model.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert not all(torch.equal(old, new) for old, new in zip(before, weights(subject), strict=True))
    assert plan.sampler.steps_per_epoch == STEPS_PER_EPOCH


class FakeClock:
    """Goes on by one whenever it is asked, and by what is added."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        self.now += 1.0
        return self.now


def test_shares_are_those_of_the_parts_after_backward(monkeypatch):
    clock, subject = FakeClock(), Subject(tiny("optimizer.name=lars"), CPU)
    monkeypatch.setattr(speed, "time", clock)
    assert update_shares(subject, 3) == dict(zip(SHARES, [0.25, 0.25, 0.25, 0.5], strict=True))
    monkeypatch.setattr(LARS, "_update", lambda *_: setattr(clock, "now", clock.now + 3.0))
    shares = update_shares(subject, 3)  # two groups of parameters
    assert list(shares.values()) == pytest.approx([0.1, 0.7, 0.1, 0.8])


def test_marks_are_gone_afterwards():
    subject, marks = Subject(tiny(), CPU), []
    with subject.marking(lambda: marks.append(1)):
        subject.step()
    assert len(marks) == 4
    subject.step()
    assert len(marks) == 4


def test_bytes_for_each_more_picture():
    assert slope((4, 12), [100, 900]) == 100
    with pytest.raises(ValueError, match="a batch of 12 peaked at 100 bytes, one of 4 at 100"):
        slope((4, 12), [100, 100])


def test_the_slope_of_an_allocator_is_what_it_allocates():
    peaks = [alone(peak_of_an_allocation, megabytes) for megabytes in (40, 100)]
    assert slope((40, 100), peaks) == pytest.approx(MEGABYTE, rel=0.02)


def test_memory_that_was_freed_before_hides_nothing():
    hidden = alone(peak_of_an_allocation, 64, 150)
    assert hidden == pytest.approx(64 * MEGABYTE, rel=0.05)


def test_what_fails_alone_is_told():
    with pytest.raises(Broken, match="ValueError: planted"):
        alone(fail)
    with pytest.raises(Broken, match="its process ended with status 3"):
        alone(exit_at_once)


def exit_at_once():
    import os

    os._exit(3)


@pytest.mark.parametrize(
    ("wait", "name"),
    [
        (lambda t: t.sum().item(), "aten::_local_scalar_dense"),
        (lambda t: t[t > 0], "aten::nonzero"),
        (lambda t: torch.equal(t, t), "aten::equal"),
    ],
)
def test_a_planted_wait_is_counted(wait, name):
    tensor = torch.ones(3)

    def work():
        tensor.mul(2)
        wait(tensor)
        wait(tensor)

    found = look_inside(work, CPU)["waits"]
    assert found["calls"] == {name: 2}
    assert found["count"] == 2


@pytest.mark.parametrize(("name", "kernels"), [("lars", set()), ("adamw", {"aten::_fused_adamw_"})])
def test_no_wait_in_a_step(name, kernels):
    subject = Subject(tiny(f"optimizer.name={name}"), CPU)
    subject.step()
    found = look_inside(subject.step, CPU)["waits"]
    assert (found["count"], found["calls"]) == (0, {})
    assert set(found["of_cpu_kernels"]) == kernels


def test_the_costliest_operators_come_first():
    left = torch.ones(300, 300)
    with profiled(False) as profiler:
        for _ in range(20):
            left @ left
        left.add(1)
    found = costliest(profiler, on_gpu=False, count=2)
    assert [each["operator"] for each in found][:1] == ["aten::mm"]
    assert found[0]["calls"] == 20
    assert found[0]["share"] > found[1]["share"] > 0
    assert sum(each["share"] for each in found) <= 1
    assert waits_on_cpu(profiler)["count"] == 0


@pytest.fixture
def modes(monkeypatch):
    """What torch's sync debug mode was set to; setting it warns, as it does with a GPU."""
    found = []

    def set_mode(mode):
        found.append(mode)
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    return found


def test_the_sync_debug_mode_is_put_back(modes):
    with pytest.raises(ZeroDivisionError), sync_debug_mode("error"):
        1 / len(modes[1:])
    assert modes == ["error", 0]


def test_warnings_of_waits_are_counted_each_time(modes):

    def work():
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("something else", stacklevel=1)

    found = waits_on_gpu(work)
    assert found["count"] == 3
    assert list(found["calls"].values()) == [3]
    assert all(place.startswith("test_step.py:") for place in found["calls"])
    assert modes == ["warn", 0]


@pytest.mark.gpu
def test_no_wait_for_cuda_and_a_planted_one_is_seen():
    device = torch.device("cuda", torch.cuda.current_device())
    subject = Subject(tiny("optimizer.name=lars"), device)
    subject.step()
    found = inside.look_inside(subject.step, device)
    assert found["waits"]["count"] == 0, found["waits"]["calls"]
    assert found["operators"][0]["milliseconds"] > 0
    assert waits_on_gpu(lambda: torch.ones(3, device=device).sum().item())["count"] == 1


def test_what_is_measured_without_being_asked():
    on_gpu, on_cpu = config_of("cuda", None, (), None), config_of("cpu", None, (), None)
    assert (on_gpu.recipe.large_size, on_gpu.recipe.small_size) == (224, 96)
    assert (on_gpu.global_batch_size, on_gpu.precision) == (256, "auto")  # bfloat16 there
    assert (on_cpu.recipe.large_size, on_cpu.recipe.small_size) == (64, 32)
    assert on_cpu.global_batch_size == 32
    assert on_gpu.model == on_cpu.model
    assert on_gpu.optimizer.name == "lars"
    asked = config_of("cpu", None, ("large_size=96",), 6)
    assert (asked.recipe.large_size, asked.global_batch_size) == (96, 6)
    assert config_of("cpu", "imagenet-rn50", (), None).recipe.large_size == 224


@pytest.mark.slow
def test_every_part_has_its_figures():
    # fewer images need less than what libraries keep, so that the peaks say nothing
    result = run(*words("optimizer.name=lars"), "--batch", "64", "--json")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout.splitlines()[-1])
    assert (made["rung"], made["device"]) == ("step", "cpu")
    assert made["environment"]["versions"]["torch"] == torch.__version__
    assert [row["name"] for row in made["rows"]] == ["step", "bare networks"]
    assert all(row["images"] == 64 for row in made["rows"])
    step, bare = (row["milliseconds_per_image"]["p50"] for row in made["rows"])
    memory = made["memory"]
    assert made["ratios"] == pytest.approx(
        {
            "step/bare networks": bare / step,  # one round: the ratio of the medians
            "memory of view by view/all views at once": memory["view by view"]["bytes_per_image"]
            / memory["all views at once"]["bytes_per_image"],
        }
    )
    assert memory["batches"] == [32, 64]
    assert made["ratios"]["memory of view by view/all views at once"] < 1
    assert list(made["update"]) == SHARES
    assert made["waits"]["count"] == 0
    assert len(made["operators"]) == 10
    for said in ("step/bare networks: 0.", "costliest operators", "waits for the device 0 times"):
        assert said in result.stdout


@pytest.mark.parametrize("asked", [False, True])
def test_cudnn_tries_its_algorithms_where_it_is_asked_to(monkeypatch, asked):
    found = []

    def alone(*_, setup):
        setup()
        found.append(torch.backends.cudnn.benchmark)
        raise Unavailable("it was only looked at")

    monkeypatch.setattr(rung, "alone", alone)
    monkeypatch.setattr(rung, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    words_of = [*words(), "--only", "speed", "--only", "inside", "--json"]
    with torch.backends.cudnn.flags(benchmark=False):
        made = run(*words_of, *["--cudnn-benchmark"][:asked])
    assert made.exit_code == 0, made.output
    assert found == [asked, asked]
    result = json.loads(made.stdout.splitlines()[-1])
    assert result["settings"]["cudnn_benchmark"] is asked
    assert ("cudnn.benchmark" in result["work"]) == asked


def test_a_part_that_breaks_is_a_row_that_says_why(monkeypatch):
    def broken(*_, **__):
        raise Broken("its process ended with status -9")

    monkeypatch.setattr(rung, "compare_memory", broken)
    result = run(*words(), "--only", "memory", "--json")
    assert result.exit_code == 1
    made = json.loads(result.stdout.splitlines()[-1])
    why = {"name": "memory", "skipped": "its process ended with status -9", "failed": True}
    assert made["rows"] == [why]
    assert (made["memory"], made["waits"], made["ratios"]) == (None, None, {})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--only", "nothing"], "--only 'nothing': no such part; choose from speed, memory"),
        (["--batch", "3"], "lower loss.num_negatives"),
        (["--batch", "6"], "is measured at batches of 3, too; give a larger --batch"),
        (["--set", "nonsense=1"], "unknown setting 'nonsense'"),
    ],
)
def test_what_cannot_be_measured_is_one_line(more, message):
    result = run(*words(), *more)
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device on this machine")
def test_a_gpu_that_is_not_there_is_refused():
    result = CliRunner().invoke(bench, ["step", "--device", "cuda"])
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "Error: no CUDA device on this machine"


def test_on_a_gpu_all_views_at_once_have_room():
    timing = Timing(rounds=1, steps=1, threads=1)
    request = StepRequest(config=config_of("cuda", None, (), None), device="cuda", timing=timing)
    assert request.memory_batches == (64, 128)
