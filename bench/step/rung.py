"""Rung `step`: what is asked, and what is reported. Each part has a process of its own.

A part that fails leaves the others their figures: it becomes a row that says why.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from bench.environment import environment
from bench.harness import Broken, Unavailable, tell
from bench.isolated import alone
from bench.step.inside import look_inside
from bench.step.memory import compare_memory
from bench.step.speed import Timing, measure_speed
from bench.step.subject import Subject, plan_of
from training.allocator import keep_freed_memory
from training.config import TrainConfig

PARTS = ("speed", "memory", "inside")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRequest:
    """What to measure; the config's global batch is that of one process."""

    config: TrainConfig
    device: str
    timing: Timing
    cudnn_benchmark: bool = False  # whether cuDNN tries its algorithms, or guesses the fastest
    only: tuple[str, ...] = ()  # of PARTS; empty: all

    @property
    def memory_batches(self) -> tuple[int, int]:
        """A quarter and a half of the batch on a GPU, where all views at once need the room."""
        batch = self.config.global_batch_size
        whole = 2 if self.device == "cuda" else 1
        return batch // (2 * whole), batch // whole


def step(request: StepRequest) -> dict[str, Any]:
    """Measure, and return the JSON object of this rung.

    Raises:
        ValueError: no such device or part, or a configuration that cannot be trained.
    """
    _check(request)
    device = torch.device(request.device)
    settle = partial(_settle, request.timing.threads, request.cudnn_benchmark)
    config = request.config
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "speed": partial(alone, measure_speed, config, device, request.timing, setup=settle),
        "memory": partial(compare_memory, config, device, request.memory_batches, setup=settle),
        "inside": partial(alone, inside_a_step, config, device, setup=settle),
    }
    found: dict[str, dict[str, Any]] = {}
    failures = []
    for name in request.only or PARTS:
        tell(f"step: {name}")
        try:
            found[name] = parts[name]()
        except (Broken, Unavailable, ImportError, ValueError) as error:
            why = {"name": name, "skipped": str(error)}
            ours = not isinstance(error, Unavailable)
            failures.append(why | {"failed": True} if ours else why)
    return report(request, found, failures)


def inside_a_step(config: TrainConfig, device: torch.device) -> dict[str, Any]:
    """See `look_inside`, of a step that is warm."""
    subject = Subject(config, device)
    subject.step()
    subject.finish()
    return look_inside(subject.step, device)


def report(
    request: StepRequest, found: dict[str, dict[str, Any]], failures: list[dict[str, Any]]
) -> dict[str, Any]:
    """The JSON object; a part that was not measured is None."""
    speed, memory = found.get("speed"), found.get("memory")
    ratios = dict(speed["ratios"]) if speed else {}
    if memory:
        ratios["memory of view by view/all views at once"] = memory["ratio"]
    config = request.config
    return {
        "rung": "step",
        "device": request.device,
        "work": described(request),
        "environment": environment(),
        "settings": {
            "preset": config.name,
            "batch": config.global_batch_size,
            "threads": request.timing.threads,
            "cudnn_benchmark": request.cudnn_benchmark,
            "optimizer": config.optimizer.name,
            "precision": config.precision,
            "encoder": config.model.encoder.architecture,
            "width": config.model.encoder.width,
        },
        "rows": (speed["rows"] if speed else []) + failures,
        "ratios": ratios,
        "update": speed["update"] if speed else None,
        "memory": memory,
        "waits": found["inside"]["waits"] if "inside" in found else None,
        "operators": found["inside"]["operators"] if "inside" in found else None,
    }


def described(request: StepRequest) -> str:
    """One line: what is trained, on what, how often."""
    config, timing = request.config, request.timing
    recipe, encoder = config.recipe, config.model.encoder
    where = (
        torch.cuda.get_device_name()
        if request.device == "cuda"
        else f"CPU, {timing.threads} thread{'s' * (timing.threads > 1)}"
    )
    width = "" if encoder.width == 1 else f" of width {encoder.width:g}"
    return (
        f"{config.name}: {encoder.architecture}{width}, {recipe.num_large}x{recipe.large_size} + "
        f"{recipe.num_small}x{recipe.small_size} views that lie on the device, batch "
        f"{config.global_batch_size}, {config.optimizer.name}, precision {config.precision}"
        f"{', cudnn.benchmark' * request.cudnn_benchmark}; "
        f"{where}; {timing.rounds} rounds of {timing.steps} steps, interleaved"
    )


def _check(request: StepRequest) -> None:
    if request.device == "cuda" and not torch.cuda.is_available():
        raise ValueError("no CUDA device on this machine")
    for name in request.only:
        if name not in PARTS:
            raise ValueError(f"--only {name!r}: no such part; choose from {', '.join(PARTS)}")
    plan_of(request.config)
    if "memory" in (request.only or PARTS):
        small, _ = request.memory_batches
        try:
            plan_of(replace(request.config, global_batch_size=small))
        except ValueError as error:
            raise ValueError(
                f"{error}: the memory of a step is measured at batches of {small}, too; give a "
                "larger --batch"
            ) from error


def _settle(threads: int, cudnn_benchmark: bool) -> None:
    """The allocator as train.py sets it, and as many threads."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = cudnn_benchmark
