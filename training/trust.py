"""Trust, then use: before a run on a GPU, a few views and half a step are compared with the CPU's.

The executor for GPUs makes the views of some samples and so does the one for CPUs; the loss and the
norm of its gradient are computed in bfloat16 and in float32. All of it happens in a process of its
own: a kernel that writes where it must not ends that process, not the run. What differs is named,
and the run goes on without it: views by the CPU, or a step in float32.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.utils import get_total_norm

from model import checkpoint
from model.relicv2 import ReLICv2
from model.step import backward
from pipeline.augment.agreement import disagreement, tolerances
from pipeline.augment.params import sample_view_params
from pipeline.batch import MultiCropBatch
from pipeline.loader import training_views
from pipeline.sampler import Sampler
from pipeline.shards import Shards, open_shards
from training.config import TrainConfig
from training.launch import World
from training.runlog import recorded

SAMPLES = 16  # whose views are compared
# Of a freshly drawn network. In bfloat16 the loss of ResNets moved by 0.3 % and the norm by 4 % at
# most (tests/training/test_trust.py); a wrong layout or a lost factor moves them by far more.
LOSS_SHARE, NORM_SHARE = 0.02, 0.2
_PATIENCE = 180.0  # seconds; compiling the kernels takes some ten


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What came out: the faults are "" where all was well."""

    views: str  # why the executor must not be used
    step: str  # why bfloat16 must not be used
    seconds: float


def checked(config: TrainConfig, data: Path, device: torch.device) -> Verdict:
    """Compare, in a process of its own."""
    began = time.perf_counter()
    views, step = in_child(_faults, config, data, device)
    return Verdict(views=views, step=step, seconds=time.perf_counter() - began)


def in_child(
    find: Callable[..., tuple[str, str]], *arguments: Any, patience: float = _PATIENCE
) -> tuple[str, str]:
    """Call a function in a new process; a process that dies or hangs is a fault of the views."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(theirs, find, *arguments), daemon=True)
    child.start()
    theirs.close()
    try:
        if not ours.poll(patience):
            return f"its check did not end within {patience:.0f} s", ""
        faults: tuple[str, str] = ours.recv()
        return faults
    except EOFError:
        child.join()
        return f"the process of its check ended with status {child.exitcode}", ""
    finally:
        ours.close()
        child.kill()
        child.join()


def _answer(answer: Connection, find: Callable[..., tuple[str, str]], *arguments: Any) -> None:
    answer.send(find(*arguments))


def _faults(config: TrainConfig, data: Path, device: torch.device) -> tuple[str, str]:
    torch.cuda.set_device(device)
    shards = open_shards(data)
    views = ""
    if config.loader.executor == "fused":
        views = fault_of_views(config, shards, device)
        if views:
            config = replace(config, loader=replace(config.loader, executor="compiled"))
    return views, fault_of_bfloat16(config, shards, device)


def fault_of_views(config: TrainConfig, shards: Shards, device: torch.device) -> str:
    """Return where the configured executor's views are not those of the CPU's, or ""."""
    try:
        return difference_of_views(config, shards, device, expected_of="compiled")
    except Exception as error:  # Triton's and CUDA's have no common type
        return _in_a_line(error)


def difference_of_views(
    config: TrainConfig, shards: Shards, device: torch.device, *, expected_of: str
) -> str:
    """Return where the configured executor's views are not those of another one, or "".

    Args:
        expected_of: an executor for CPUs, whose own tolerance is added; the reference has none.
    """
    name, recipe = config.loader.executor, config.recipe
    views = some_views(config, shards, device, name)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    expected = some_views(config, shards, torch.device("cpu"), expected_of)
    params = sample_view_params(
        recipe,
        seed=config.seed,
        epoch=views.epoch,
        sample_ids=views.sample_ids,
        heights=shards.heights[views.sample_ids],
        widths=shards.widths[views.sample_ids],
        mask_coverage=shards.mask_coverage[views.sample_ids],
    )
    bounds = tolerances(name, recipe, params)
    if expected_of != "reference":
        bounds = bounds + tolerances(expected_of, recipe, params)
    return disagreement(views, expected, bounds, recipe)


def fault_of_bfloat16(config: TrainConfig, shards: Shards, device: torch.device) -> str:
    """Return how far loss or gradient in bfloat16 are from those in float32, or ""."""
    views = some_views(config, shards, device, config.loader.executor)
    try:
        (loss, norm), (exact_loss, exact_norm) = (
            _loss_and_norm(config, views, device, dtype)
            for dtype in (torch.bfloat16, torch.float32)
        )
    except RuntimeError as error:
        return _in_a_line(error)
    for what, found, exact, share in (
        ("loss", loss, exact_loss, LOSS_SHARE),
        ("gradient's norm", norm, exact_norm, NORM_SHARE),
    ):
        if not abs(found - exact) <= share * exact:
            return f"the {what} is {found:.4g} in bfloat16 and {exact:.4g} in float32"
    return ""


def some_views(
    config: TrainConfig, shards: Shards, device: torch.device, executor: str
) -> MultiCropBatch:
    """Return the views of the first samples of the run, made by an executor."""
    count = min(SAMPLES, len(shards))
    sampler = Sampler(num_samples=len(shards), global_batch_size=count, seed=config.seed)
    with training_views(
        shards,
        recipe=config.recipe,
        sampler=sampler,
        seed=config.seed,
        config=replace(config.loader, executor=executor, decoder="turbojpeg"),
        end_step=1,
        device=device,
        dtype=torch.bfloat16 if device.type == "cuda" else torch.float32,
    ) as loader:
        return next(iter(loader))


def _loss_and_norm(
    config: TrainConfig, views: MultiCropBatch, device: torch.device, dtype: torch.dtype
) -> tuple[float, float]:
    model = ReLICv2(config.model, generator=torch.Generator().manual_seed(config.seed))
    model = model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    autocast = torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
    loss = replace(config.loss, negatives="local")  # no other process takes part
    large, small = views.large.float(), views.small.float()
    terms = backward(model, large, small, None, loss, autocast=autocast)
    gradients = [p.grad for p in model.online.parameters() if p.grad is not None]
    return float(terms.total), float(get_total_norm(gradients))


def _in_a_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0]}"


def settle_executor(
    config: TrainConfig, data: Path, out: Path, world: World, tell: Callable[[str], object]
) -> tuple[TrainConfig, Verdict | None]:
    """Decide who makes the views, the same on every rank; on a GPU after a check of each one.

    A run that goes on keeps, where it says `auto`, what it was started with.

    Args:
        tell: gets a line, on rank 0, for each thing that the run goes on without.

    Returns:
        The config, and what the check found; None without a GPU.

    Raises:
        ValueError: an executor or a precision that was asked for by name fails its check.
    """
    by_hand = config.loader.executor != "auto"
    if checkpoint.latest(out) is not None:
        before = recorded(out)[0]
        if not by_hand:
            config = replace(config, loader=replace(config.loader, executor=before.loader.executor))
        if config.precision == "auto":
            config = replace(config, precision=before.precision)
    config = replace(config, loader=config.loader.for_device(world.device))
    if world.device.type != "cuda":
        return config, None
    verdict = checked(config, data, world.device)
    if world.size > 1:
        every = [verdict] * world.size
        dist.all_gather_object(every, verdict)
        verdict = next((one for one in every if one.views or one.step), verdict)
    say = tell if world.is_main else lambda line: None
    return usable(config, verdict, by_hand=by_hand, tell=say), verdict


def usable(
    config: TrainConfig, verdict: Verdict, *, by_hand: bool, tell: Callable[[str], object]
) -> TrainConfig:
    """Return the config without what is not to be trusted.

    Args:
        by_hand: whether the executor was asked for by its name.
        tell: gets a line for each thing that the run goes on without.

    Raises:
        ValueError: it was, and is at fault.
    """
    name = config.loader.executor
    if verdict.views:
        if by_hand:
            raise ValueError(
                f"executor {name} fails its check on this GPU: {verdict.views}; leave "
                "loader.executor at auto, and the CPU makes the views"
            )
        tell(f"executor {name} is not used: {verdict.views}; the CPU makes the views")
        config = replace(config, loader=replace(config.loader, executor="compiled"))
    if verdict.step:
        if config.precision == "bfloat16":
            raise ValueError(f"precision=bfloat16 fails its check: {verdict.step}; set float32")
        tell(f"bfloat16 is not used: {verdict.step}; the step is computed in float32")
        config = replace(config, precision="float32")
    return config
