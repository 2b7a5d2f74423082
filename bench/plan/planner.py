"""The plan: costs of this data set and preset, a machine, and what follows from the two."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.environment import environment
from bench.harness import tell
from bench.plan.capacity import Costs, Machine, Prediction, cores_needed, predict
from bench.plan.costs import SHIPPED, Work
from bench.plan.demand import derived_demand
from bench.plan.gather import Place, costs_of
from bench.plan.memory import Memory, memory_of
from bench.plan.network import Network, examine
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.batch import MASK_GRID
from pipeline.shards import Shards, open_shards
from training.allocator import keep_freed_memory
from training.config import TrainConfig
from training.plan import Plan


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """What to plan."""

    data: Path
    config: TrainConfig
    machine: Machine
    figures: Path = SHIPPED  # folder

    @property
    def place(self) -> Place:
        return place_of(self.config, self.machine.gpu)


def place_of(config: TrainConfig, gpu: str) -> Place:
    """Where views and steps are made on the planned machine, and who has that here.

    Raises:
        ValueError: an executor that cannot feed it, a decoder whose costs are not measured here.
    """
    if config.loader.decoder not in ("auto", "turbojpeg", "dali"):
        raise ValueError(
            f"plan measures decoding on cores, not by {config.loader.decoder}; "
            "--set decoder=turbojpeg"
        )
    on_gpu, executor = gpu != "cpu", config.loader.executor
    if executor == "auto":
        executor = "fused" if on_gpu else "compiled"
    if executor == "fused" and not on_gpu:
        raise ValueError("executor fused makes views on GPUs, not with --gpu cpu; use compiled")
    bfloat16 = config.precision == "bfloat16" or (config.precision == "auto" and on_gpu)
    return Place(
        gpu=gpu, executor=executor, bfloat16=bfloat16, device=_device_here(gpu) if on_gpu else None
    )


def plan(request: PlanRequest) -> dict[str, Any]:
    """Measure what is here, predict, and return the JSON object.

    Raises:
        ValueError: unreadable shards, or settings that cannot be trained on them or so divided.
    """
    keep_freed_memory()
    shards, config, machine, place = (
        open_shards(request.data),
        request.config,
        request.machine,
        request.place,
    )
    with tempfile.TemporaryDirectory() as folder:
        steps = Plan.of(config, shards, Path(folder) / "run")
        steps.check_world(config, machine.gpus)
        tell("examining the network")
        network = examine(config, bfloat16=place.bfloat16)
        work = work_of(config, place, shards, network)
        memory = memory_of(config, machine, place, shards, network)
        costs = costs_of(
            config,
            place,
            shards,
            steps,
            work,
            folder=Path(folder),
            figures=request.figures,
            processes=machine.gpus,
            from_disk=not memory.data_fit,
        )
    shards.close()
    return _result(request, steps, work, memory, costs)


def work_of(config: TrainConfig, place: Place, shards: Shards, network: Network) -> Work:
    """One image of these data under this preset."""
    pixels = float(np.mean(shards.heights.astype(np.int64) * shards.widths))
    views = float(sum(side * side for side in config.recipe.sizes))
    return Work(
        stored_bytes=float(np.mean(shards.stored_bytes)),
        megapixels=pixels / 1e6,
        view_megapixels=views / 1e6,
        upload_bytes=3 * pixels + MASK_GRID**2 if place.views_on_gpu else 4 * 3 * views,
        gigamacs=network.gigamacs,
    )


def views_of(recipe: MultiCropRecipe) -> str:
    return f"{recipe.num_large}x{recipe.large_size} + {recipe.num_small}x{recipe.small_size}"


def _result(
    request: PlanRequest, steps: Plan, work: Work, memory: Memory, costs: Costs
) -> dict[str, Any]:
    machine, config = request.machine, request.config
    prediction = predict(costs, machine)
    images = steps.end_step * config.global_batch_size
    return {
        "preset": config.name,
        "machine": asdict(machine),
        "executor": request.place.executor,
        "work": asdict(work),
        "num_samples": steps.sampler.num_samples,
        "views": views_of(config.recipe),
        "batch": config.global_batch_size,
        "steps": steps.end_step,
        "costs": {name: asdict(cost) for name, cost in costs.items()},
        "prediction": asdict(prediction),
        "days": images / prediction.training / 86400 if prediction.training else None,
        "demand": _demand(machine, prediction, costs, work),
        "memory": asdict(memory),
        "environment": environment(),
    }


def _demand(
    machine: Machine, prediction: Prediction, costs: Costs, work: Work
) -> dict[str, Any] | None:
    """What GPUs may ask for that were never measured; None: they were, or nothing is known."""
    derived = derived_demand(machine.gpu, work.gigamacs)
    if prediction.training is not None or derived is None:
        return None
    least, most = (rate * machine.gpus for rate in derived)
    return {
        "images_per_second": [least, most],
        "cores_needed": [cores_needed(costs, least), cores_needed(costs, most)],
        "host_suffices": prediction.host >= most,
    }


def _device_here(gpu: str) -> torch.device | None:
    """The planned GPU, if this machine has one."""
    if not torch.cuda.is_available():
        return None
    found = gpu.lower() in torch.cuda.get_device_name().lower()
    return torch.device("cuda", torch.cuda.current_device()) if found else None
