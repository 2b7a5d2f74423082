"""Before it is used, a GPU's work is compared with the CPU's; what differs is left out, by name."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model import checkpoint
from pipeline.loader import LoaderConfig
from tests.pipeline.loader.loader_support import RECIPE, shards_of
from training import trust
from training.config import TrainConfig, apply_settings, differences, to_dict
from training.launch import World
from training.presets import load_preset
from training.trust import (
    Verdict,
    difference_of_views,
    fault_of_bfloat16,
    fault_of_views,
    in_child,
    settle_executor,
    usable,
)

CPU = torch.device("cpu")
CONFIG = TrainConfig(recipe=RECIPE, loader=LoaderConfig(executor="fused", threads=1))
interpreted = pytest.mark.skipif(
    torch.cuda.is_available(), reason="Triton's interpreter stands in only where there is no GPU"
)


@pytest.fixture
def kernels(monkeypatch):
    """The executor for GPUs on the CPU, by Triton's interpreter."""
    pytest.importorskip("triton")
    from pipeline.augment import fused_kernels

    monkeypatch.setattr("pipeline.augment.choose_executor", lambda name, device: name)
    return fused_kernels


@interpreted
def test_views_that_agree_are_no_fault(kernels):
    assert fault_of_views(CONFIG, shards_of(), CPU) == ""


@interpreted
def test_views_are_those_of_the_reference_too(kernels, monkeypatch):
    assert difference_of_views(CONFIG, shards_of(), CPU, expected_of="reference") == ""
    monkeypatch.setattr(trust, "tolerances", lambda *_: np.full((3, 16), -1.0))
    fault = difference_of_views(CONFIG, shards_of(), CPU, expected_of="reference")
    assert fault.endswith("(-1 allowed)")  # and not the sum of two: the reference has none


@interpreted
def test_a_wrong_tap_is_found_and_its_view_named(kernels, monkeypatch):
    taps = kernels.four_taps

    def swapped(*arguments):
        y0, y1, y2, y3, w0, w1, w2, w3 = taps(*arguments)
        return y0, y1, y2, y3, w0, w2, w1, w3

    monkeypatch.setattr(kernels, "four_taps", swapped)
    fault = fault_of_views(CONFIG, shards_of(), CPU)
    assert fault.startswith("view ")
    assert " levels of 255 (" in fault


@interpreted
def test_a_kernel_that_fails_is_a_fault_of_one_line(kernels, monkeypatch):
    def broken(*_):
        raise RuntimeError("an illegal memory access\nat line 3")

    monkeypatch.setattr(kernels, "four_taps", broken)
    fault = fault_of_views(CONFIG, shards_of(), CPU)
    assert "\n" not in fault
    assert "Error" in fault


def test_a_bfloat16_step_agrees_with_a_float32_step():
    config = apply_settings(load_preset("demo"), ["loader.executor=compiled"])
    assert fault_of_bfloat16(config, shards_of(), CPU) == ""


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ((2.5, 10.0), "the loss is 2.5 in bfloat16 and 2 in float32"),
        ((2.01, 4.0), "the gradient's norm is 4 in bfloat16 and 10 in float32"),
        ((float("nan"), 10.0), "the loss is nan in bfloat16 and 2 in float32"),
    ],
)
def test_a_step_that_differs_is_named(monkeypatch, found, said):
    by_type = {torch.bfloat16: found, torch.float32: (2.0, 10.0)}
    monkeypatch.setattr(trust, "some_views", lambda *_: None)
    monkeypatch.setattr(trust, "_loss_and_norm", lambda *arguments: by_type[arguments[-1]])
    assert fault_of_bfloat16(CONFIG, None, CPU) == said


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def answer(views, step):
    return views, step


def test_a_check_that_ends_its_process_is_a_fault():
    assert in_child(answer, "one", "two") == ("one", "two")
    assert in_child(die) == ("the process of its check ended with status -9", "")
    assert in_child(time.sleep, 60, patience=0.1) == ("its check did not end within 0 s", "")


def test_the_run_goes_on_without_what_is_not_to_be_trusted():
    said = []
    fine, broken = (Verdict(views=fault, step=fault, seconds=1.0) for fault in ("", "it is wrong"))
    assert usable(CONFIG, fine, by_hand=False, tell=said.append) == CONFIG
    assert said == []
    left = usable(CONFIG, broken, by_hand=False, tell=said.append)
    assert (left.loader.executor, left.precision) == ("compiled", "float32")
    assert len(said) == 2
    assert all("it is wrong" in line for line in said)
    runbook = (Path(__file__).parents[2] / "docs/first-gpu.md").read_text("utf-8")
    assert all(f"`{line.replace('it is wrong', '...')}`" in runbook for line in said)


def test_what_was_asked_for_by_name_is_refused():
    broken = Verdict(views="it is wrong", step="so is this", seconds=1.0)
    with pytest.raises(ValueError, match="executor fused fails its check on this GPU: it is wrong"):
        usable(CONFIG, broken, by_hand=True, tell=print)
    config = replace(CONFIG, precision="bfloat16")
    with pytest.raises(ValueError, match="precision=bfloat16 fails its check: so is this"):
        usable(config, broken, by_hand=False, tell=lambda _: None)


AUTO = replace(CONFIG, loader=LoaderConfig(threads=1))
GPU = World(device=torch.device("cuda", 0))


def test_without_a_gpu_nothing_is_checked(tmp_path):
    config, verdict = settle_executor(AUTO, tmp_path, tmp_path, World(), print)
    assert (config.loader.executor, verdict) == ("compiled", None)


@pytest.mark.parametrize("fault", ["", "it is wrong"])
def test_a_run_begins_with_the_check_and_goes_on_as_it_found(tmp_path, monkeypatch, fault):
    pytest.importorskip("triton")
    monkeypatch.setattr(trust, "checked", lambda *_: Verdict(views=fault, step="", seconds=1.0))
    said = []
    config, verdict = settle_executor(AUTO, tmp_path, tmp_path, GPU, said.append)
    assert config.loader.executor == ("compiled" if fault else "fused")
    assert verdict.views == fault
    assert len(said) == bool(fault)
    if fault:
        with pytest.raises(ValueError, match=r"leave loader\.executor at auto"):
            settle_executor(CONFIG, tmp_path, tmp_path, GPU, said.append)


def test_a_resumed_run_keeps_what_it_goes_on_without(tmp_path, monkeypatch):
    used = replace(AUTO, precision="float32", loader=replace(AUTO.loader, executor="compiled"))
    checkpoint.save(tmp_path, 8, {"config": to_dict(used), "x": torch.ones(2)})
    monkeypatch.setattr(trust, "checked", lambda *_: Verdict(views="", step="", seconds=1.0))
    config, _ = settle_executor(AUTO, tmp_path, tmp_path, GPU, print)
    assert (config.loader.executor, config.precision) == ("compiled", "float32")
    assert differences(used, AUTO) == []
