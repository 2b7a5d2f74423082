import io
from collections import OrderedDict
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from model import checkpoint
from model.lars import OptimizerConfig, make_optimizer
from model.snapshot import HostCopy, Snapshot, first_not_finite
from tests.model.test_checkpoint import CONFIG, assert_equal_states, make_model, train


def written(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def tensors_of(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from tensors_of(inner)


def trained(name):
    # at width 1/16, layers of 4 channels, torch 2.13 on one thread breaks the heap in this layout
    model = make_model(width=0.125).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, OptimizerConfig(name=name))
    train(model, optimizer, 0, 2)
    return model, optimizer


@pytest.mark.parametrize("name", ["lars", "adamw"])
def test_a_copy_is_written_as_the_state_itself_is(name):
    state = checkpoint.capture(*trained(name), step=2, config=CONFIG)
    assert written(HostCopy().take(state).state) == written(state)


@pytest.mark.parametrize("name", ["lars", "adamw"])
def test_what_comes_after_the_copy_does_not_change_it(name):
    model, optimizer = trained(name)
    state = checkpoint.capture(model, optimizer, step=2, config=CONFIG)
    before = written(state)
    snapshot = HostCopy().take(state)
    train(model, optimizer, 2, 4)
    assert written(checkpoint.capture(model, optimizer, step=2, config=CONFIG)) != before
    snapshot.wait()
    assert written(snapshot.state) == before


def test_memory_is_kept_from_copy_to_copy():
    model, optimizer = trained("lars")
    host = HostCopy()

    def take(step):
        return host.take(checkpoint.capture(model, optimizer, step=step, config=CONFIG)).state

    first = [tensor.data_ptr() for tensor in tensors_of(take(2))]
    train(model, optimizer, 2, 4)
    second = take(4)
    assert [tensor.data_ptr() for tensor in tensors_of(second)] == first
    assert_equal_states(second, checkpoint.capture(model, optimizer, step=4, config=CONFIG))


def test_memory_follows_a_state_that_grows_or_changes():
    host = HostCopy()
    for value in ({}, {"a": torch.ones(2)}, {"a": torch.ones(3), "b": torch.ones(1).int()}):
        assert_equal_states(host.take(value).state, value)


def test_parts_of_one_storage_get_a_storage_each():
    whole = torch.arange(100.0)
    state = HostCopy().take({"part": whole[10:20]}).state
    assert torch.equal(state["part"], whole[10:20])
    assert state["part"].untyped_storage().nbytes() == 40


def test_versions_of_layers_travel_along():
    state = {"model": nn.BatchNorm1d(3).state_dict()}
    copy = HostCopy().take(state).state["model"]
    assert isinstance(copy, OrderedDict)
    assert copy._metadata == state["model"]._metadata
    assert copy._metadata[""]["version"] == 2


def test_the_first_tensor_that_is_not_finite_is_named():
    state = {"step": 3, "model": {"a.weight": torch.ones(2)}, "groups": [{"n": torch.tensor(1)}]}
    assert first_not_finite(state) == ""
    state["groups"].append({"lr": torch.tensor([1.0, float("inf")])})
    assert first_not_finite(state) == "groups.1.lr"
    state["model"]["a.weight"][1] = float("nan")
    assert first_not_finite(state) == "model.a.weight"


@pytest.mark.gpu
def test_updates_queued_behind_the_copy_do_not_tear_it():
    """The GPU is kept busy, so that the copy begins when later updates are queued already."""
    busy = torch.randn(4096, 4096, device="cuda")
    live = {"w": torch.zeros(50_000_000, device="cuda"), "n": torch.zeros(7, device="cuda")}
    host = HostCopy()
    for round in range(1, 4):
        for tensor in live.values():
            tensor.add_(1)
        for _ in range(20):
            busy = busy @ busy / 64
        snapshot = host.take(live)
        for tensor in live.values():
            tensor.mul_(-1).mul_(-1).add_(5).sub_(5)
        live["w"].add_(1).sub_(1)
        snapshot.wait()
        assert all(tensor.is_pinned() for tensor in tensors_of(snapshot.state))
        assert all(bool((tensor == round).all()) for tensor in tensors_of(snapshot.state))


def test_a_thread_waits_on_the_device_of_the_copy(monkeypatch):
    # A new thread's current device is GPU 0: on another rank it would open a context there.
    calls = []

    @contextmanager
    def current(device):
        calls.append(device)
        yield
        calls.append("left")

    monkeypatch.setattr(torch.cuda, "device", current)
    event = SimpleNamespace(device="cuda:3", synchronize=lambda: calls.append("waited"))
    Snapshot(state={}, copied=event).wait()
    assert calls == ["cuda:3", "waited", "left"]
