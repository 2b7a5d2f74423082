"""A step on CUDA tensors without memory: devices, types, strides, and questions of the host.

torch's FakeTensorMode runs the rules of every operator on shapes alone. A tensor on the wrong
device, types that a kernel refuses, or a value that the host asks for (`.item()`, `if`) raises
here; on a GPU it would fail, or wait. Build, two steps with their guard, a log line's device work,
export.
"""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

import train
from model import checkpoint
from model.guard import Guard
from model.snapshot import HostCopy
from pipeline.batch import MultiCropBatch
from training.config import TrainConfig, apply_settings
from training.launch import World
from training.plan import Plan
from training.presets import load_preset

DEVICE = torch.device("cuda", 0)
BATCH = 32
CONFIGURATIONS = [
    [],
    ["num_negatives=0"],
    ["kl_form=swap_views"],
    ["accumulate=2"],
    ["optimizer.name=adamw"],
    ["stop_gradient=none"],
    ["same_view_pairs=false"],
    ["padding=same"],
    ["precision=float32"],
]


def main() -> None:
    """Rehearse all configurations, and find what is planted."""
    for settings in CONFIGURATIONS:
        began = time.perf_counter()
        rehearse(settings)
        seconds = time.perf_counter() - began
        print(f"fake tensors: {' '.join(settings) or 'the preset'}: well ({seconds:.0f} s)")
    faults: dict[str, tuple[str, type[Exception], str]] = {
        "a value that the host asks for": ("item", DataDependentOutputException, "_local_scalar"),
        "a tensor on the CPU": ("cpu", RuntimeError, "cpu"),
        "two types that no kernel takes": ("type", RuntimeError, "dtype"),
    }
    logging.disable()  # of what is planted, torch logs the whole stack
    for name, (fault, kind, words) in faults.items():
        found = ""
        try:
            rehearse([], fault=fault)
        except kind as error:
            found = str(error)
        assert words in found, f"{name} was not found: {found or 'nothing was'}"
        print(f"fake tensors: found as planted: {name}")


def rehearse(settings: list[str], fault: str = "") -> None:
    """Build, step twice, export."""
    config = apply_settings(load_preset("imagenet-rn50"), settings)
    config = replace(config, global_batch_size=BATCH)
    with ExitStack() as stack:
        for what in _stand_ins():
            stack.enter_context(what)
        stack.enter_context(FakeTensorMode())
        _steps(config, World(device=DEVICE), fault)


def _steps(config: TrainConfig, world: World, fault: str) -> None:
    model, optimizer = train.build(config, world)
    guard = Guard(model, remembered=4)
    batch = views_of(config, DEVICE, BATCH)
    if fault:
        plant(model, fault)
    for step in range(2):
        terms = train.train_step(
            model, optimizer, batch, config, plan_of(BATCH), step, world, guard
        )
    assert terms.total.device == DEVICE
    assert terms.total.dtype == torch.float32
    for parameter in model.online.parameters():
        # the optimizer's fused kernels demand it
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride()
    held = [*model.state_dict().values()]
    held += [v for state in optimizer.state.values() for v in state.values()]
    assert {tensor.device for tensor in held} == {DEVICE}
    state = checkpoint.capture(model, optimizer, step=2, config={})
    copied = HostCopy().take(state).state["model"].values()
    assert {tensor.device.type for tensor in copied} == {"cpu"}


def plant(model: nn.Module, fault: str) -> None:
    """Make the projector of the online network do what none may."""

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        if fault == "item":
            return output * float(output.sum() > 0)
        if fault == "cpu":
            return output + torch.ones(output.shape[-1])
        return output.lerp(output.to(torch.float64), 0.5)

    model.online.register_forward_hook(hook)


def views_of(config: TrainConfig, device: torch.device, rows: int) -> MultiCropBatch:
    """Return views as the executor for GPUs makes them: their type, layout and device."""
    recipe = config.recipe

    def view(count: int, side: int) -> Tensor:
        dtype = train.views_dtype(config, device)
        room = torch.empty(count, rows, side, side, 3, dtype=dtype, device=device)
        return room.permute(0, 1, 4, 2, 3)

    return MultiCropBatch(
        large=view(recipe.num_large, recipe.large_size),
        small=view(recipe.num_small, recipe.small_size),
        labels=torch.zeros(rows, dtype=torch.long),
        sample_ids=np.arange(rows),
        epoch=0,
    )


def plan_of(batch_size: int) -> Plan:
    """Return a plan of 100 steps over samples that are not there."""
    sampler = SimpleNamespace(steps_per_epoch=10, batch=lambda step: (0, np.arange(batch_size)))
    return Plan(sampler=sampler, warmup_steps=1, total_steps=100, end_step=100)  # type: ignore[arg-type]


def _stand_ins() -> list[object]:
    """For what fake tensors cannot do: draw numbers, change device in place, be numpy."""

    def negatives(batch, config, plan, step, world):  # type: ignore[no-untyped-def]
        if (number := config.loss.num_negatives) == 0:
            return None
        views = config.recipe.num_views, config.recipe.num_large
        return torch.zeros(*views, BATCH, number, dtype=torch.long, device=world.device)

    return [
        mock.patch("model.resnet.draw_weights"),
        mock.patch("model.heads.draw_weights"),
        mock.patch("model.relicv2.ReLICv2.to", _moved),
        mock.patch("train.draw_negatives", negatives),
    ]


def _moved(model: nn.Module, device: torch.device, memory_format: torch.memory_format) -> nn.Module:
    for module in model.modules():
        for name, old in module.named_parameters(recurse=False):
            layout = memory_format if old.ndim == 4 else torch.contiguous_format
            new = torch.empty(old.shape, device=device, memory_format=layout)
            setattr(module, name, nn.Parameter(new, requires_grad=old.requires_grad))
        for name, old in module.named_buffers(recurse=False):
            setattr(module, name, torch.zeros(old.shape, dtype=old.dtype, device=device))
    return model


if __name__ == "__main__":
    main()
