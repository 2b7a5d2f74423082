"""Costs by stage: measured here where this machine has what it takes, else from shipped figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from bench.harness import tell
from bench.plan.capacity import Costs
from bench.plan.costs import CORES, DISK, GPU, HERE, LINK, Cost, Work, find_figures
from bench.plan.measure import disk_cost, pipeline_costs, step_cost, upload_cost
from pipeline.augment import CPU
from pipeline.shards import Shards
from training.config import TrainConfig
from training.launch import World
from training.plan import Plan

_MOST_IMAGES = {"cpu": 64, "cuda": 128}  # of the step that is measured


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the work is done on the planned machine."""

    gpu: str  # or "cpu"
    executor: str  # what `auto` stands for there
    bfloat16: bool
    device: torch.device | None  # its GPU, if this machine has one too

    @property
    def on_gpu(self) -> bool:
        return self.gpu != "cpu"

    @property
    def views_on_gpu(self) -> bool:
        return self.on_gpu and self.executor == "fused"


def costs_of(
    config: TrainConfig,
    place: Place,
    shards: Shards,
    steps: Plan,
    work: Work,
    *,
    folder: Path,
    figures: Path,
    processes: int,
    from_disk: bool,
) -> Costs:
    """Return the costs of all stages; `from_disk`: the data do not stay in the page cache."""
    costs: Costs = _on_cores(config, place, shards)
    if from_disk:
        tell("measuring the disk")
        disk = Cost(resource=DISK, seconds=disk_cost(shards, config), source=HERE)
        costs = {"disk": disk, **costs}
    images = config.global_batch_size // processes
    if not place.on_gpu:
        tell("measuring the step")
        seconds = _step(config, steps, CPU, images, folder)
        return {**costs, "step": Cost(resource=CORES, seconds=seconds, source=HERE)}
    if place.device is None:
        return {**costs, **_from_figures(place, work, figures)}
    return {**costs, **_on_gpu_here(config, place, shards, steps, work, images, folder)}


def _on_cores(config: TrainConfig, place: Place, shards: Shards) -> Costs:
    tell("measuring the pipeline on one core")
    executor = None if place.views_on_gpu else place.executor
    spent = pipeline_costs(shards, config, executor, CPU)
    return {name: Cost(resource=CORES, seconds=each, source=HERE) for name, each in spent.items()}


def _on_gpu_here(
    config: TrainConfig,
    place: Place,
    shards: Shards,
    steps: Plan,
    work: Work,
    images: int,
    folder: Path,
) -> Costs:
    assert place.device is not None
    tell("measuring the GPU")
    upload = upload_cost(work.upload_bytes, place.device)
    seconds = {"upload": (LINK, upload)}
    if place.views_on_gpu:
        augment = pipeline_costs(shards, config, place.executor, place.device)["augment"]
        seconds["augment"] = (GPU, max(augment - upload, 0.0))  # it brings the pixels up itself
    seconds["step"] = (GPU, _step(config, steps, place.device, images, folder))
    return {
        name: Cost(resource=resource, seconds=each, source=HERE)
        for name, (resource, each) in seconds.items()
    }


def _from_figures(place: Place, work: Work, folder: Path) -> Costs:
    """Figures of the GPU as it was measured elsewhere, scaled; without figures nothing is known."""
    figures = find_figures(place.gpu, folder)
    resources = {"upload": LINK} | ({"augment": GPU} if place.views_on_gpu else {}) | {"step": GPU}
    if figures is None:
        source = f"unknown: no {place.gpu} has been measured"
    else:
        source = f"measured on {figures.gpu}, {str(figures.environment.get('date'))[:10]}"
    return {
        name: Cost(resource=each, seconds=figures and figures.of(name, work), source=source)
        for name, each in resources.items()
    }


def _step(
    config: TrainConfig, steps: Plan, device: torch.device, images: int, folder: Path
) -> float:
    images = min(images, _MOST_IMAGES[device.type])
    return step_cost(config, steps, World(device=device), images, folder)
