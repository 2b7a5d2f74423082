"""The plan of a run on a machine: measured here what can be, counted and derived what cannot."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench.environment import environment
from bench.planner.compute import DERIVED, Demand, demand_of
from bench.planner.measure import measure_costs
from bench.planner.predict import Costs, Machine, Prediction, predict
from bench.stages import Task
from bench.training_rungs import plan_of
from pipeline.shards import open_shards
from training.config import TrainConfig
from training.forecast.memory import plan_memory

_LARGEST_BATCH = 64  # of the measurement on a CPU: rates do not depend on it, patience does


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """What to plan; `gpu`: cpu, or the name of a GPU."""

    config: TrainConfig
    data: Path
    gpu: str
    gpus: int
    cores: int
    disk_megabytes: float | None  # that the disk gives a second; None: the data fit into memory
    memory_gigabytes: float | None  # of each GPU


def plan(request: PlanRequest) -> dict[str, Any]:
    """Measure what can be measured here, and return the JSON object of the plan.

    Raises:
        ValueError: a GPU of which nothing is known, unreadable shards, or a configuration that
            cannot be trained on them.
    """
    here = gpu_here(request.gpu)
    demand = None if request.gpu == "cpu" or here else _demand(request)
    task = task_of(request, here=here)
    costs = measure_costs(task, with_step=request.gpu == "cpu" or here)
    machine = Machine(
        cores=request.cores,
        gpus=0 if request.gpu == "cpu" else request.gpus,
        disk_bytes_per_second=None
        if request.disk_megabytes is None
        else 1e6 * request.disk_megabytes,
    )
    if demand is not None:
        costs = _with_demand(costs, demand, demand.low)
    return report(request, task, costs, machine, demand, here=here)


def gpu_here(gpu: str) -> bool:
    """Whether this machine has such a GPU."""
    return gpu != "cpu" and torch.cuda.is_available() and gpu in torch.cuda.get_device_name()


def task_of(request: PlanRequest, *, here: bool) -> Task:
    """The run as it can be measured here: all cores, a batch of a bearable size."""
    device = torch.device("cuda", 0) if here else torch.device("cpu")
    threads = len(os.sched_getaffinity(0))
    config = request.config
    executor = config.loader.executor if here or config.loader.executor != "fused" else "compiled"
    loader = replace(config.loader, threads=threads, executor=executor).for_device(device)
    batch = config.global_batch_size // max(request.gpus, 1)
    if not here:
        batch = min(batch, _LARGEST_BATCH)
    task = Task(
        config=replace(config, global_batch_size=batch, loader=loader),
        data=request.data,
        device=device,
        threads=threads,
    )
    for each in (config.global_batch_size, batch):  # what train.py would refuse is refused here
        plan_of(replace(task, config=replace(task.config, global_batch_size=each)))
    return task


def report(
    request: PlanRequest,
    task: Task,
    costs: Costs,
    machine: Machine,
    demand: Demand | None,
    *,
    here: bool,
) -> dict[str, Any]:
    """The JSON object."""
    found, config = predict(costs, machine), request.config
    shards = open_shards(request.data)
    on_gpu = request.gpu != "cpu"
    memory = plan_memory(
        config, shards, batch=config.global_batch_size // max(machine.gpus, 1), on_gpu=on_gpu
    )
    images = float(config.epochs) * len(shards)
    shards.close()
    where = f"{request.gpus} x {request.gpu}, {request.cores} cores" if on_gpu else (
        f"{request.cores} cores, no GPU"
    )  # fmt: skip
    return {
        "rung": "plan",
        "work": f"{config.name} on {request.data.name}, batch {config.global_batch_size}: {where}",
        "environment": environment(),
        "gpu": request.gpu,
        "gpus": machine.gpus,
        "cores": machine.cores,
        "costs": asdict(costs),
        "stages": found.stages,
        "resources": [asdict(each) for each in found.resources],
        "loader_images_per_second": found.loader_images_per_second,
        "demands": _demands(demand, machine),
        "images_per_second": found.images_per_second,
        "bottleneck": asdict(found.bottleneck) if found.bottleneck else None,
        "images": images,
        "days": found.days(images),
        "memory": asdict(memory),
        "warnings": _warnings(request, memory.device, found),
        "origin": _origin(demand, on_gpu=on_gpu, here=here, threads=task.threads),
    }


def _demand(request: PlanRequest) -> Demand:
    found = demand_of(request.gpu, request.config)
    if found is None:
        raise ValueError(
            f"--gpu {request.gpu}: no figures of such a GPU; choose from cpu, "
            f"{', '.join(DERIVED)}, or run this on a machine that has one"
        )
    return found


def _with_demand(costs: Costs, demand: Demand, rate: float) -> Costs:
    """The step moves to the GPU; so do the views, as `fused` makes them there."""
    return replace(
        costs, step=0.0, views=0.0, gpu_step=1 / rate, gpu_views=demand.views_seconds or 0.0
    )


def _demands(demand: Demand | None, machine: Machine) -> list[dict[str, Any]]:
    if demand is None:
        return []
    names = {"lowest estimate": demand.low, "highest estimate": demand.high}
    if demand.low == demand.high:
        names = {"views resident": demand.low}
    return [
        {"name": name, "images_per_second": rate * machine.gpus} for name, rate in names.items()
    ]


def _warnings(request: PlanRequest, device: dict[str, float], found: Prediction) -> list[str]:
    """What would stop the run, or starve it."""
    said = []
    total = sum(device.values()) / 1e9
    if request.memory_gigabytes is not None and total > request.memory_gigabytes:
        said.append(
            f"the step needs {total:.1f} GB of {request.memory_gigabytes:g}; lower "
            "global_batch_size or use more GPUs"
        )
    if found.bottleneck is not None and found.bottleneck.name != "GPU" and request.gpu != "cpu":
        said.append(
            f"the {found.bottleneck.name} cannot feed {request.gpus} x {request.gpu}: "
            f"{found.bottleneck.stage} needs more of it"
        )
    return said


def _origin(demand: Demand | None, *, on_gpu: bool, here: bool, threads: int) -> str:
    line = f"Stages on the CPU: measured here, on {threads} cores."
    if here or not on_gpu:
        return line + " The step: measured here."
    assert demand is not None
    line += f" The step on the GPU: {demand.origin}."
    if demand.views_seconds is None:
        line += " Views on the GPU: not measured, counted as free."
    return line
