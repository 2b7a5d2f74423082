"""The prediction: each stage's rate alone, and what is left where stages share a resource.

Stages work beside each other, so the slowest resource sets the rate; stages on one resource take
turns, so their seconds add up. Nothing else is in the model: no queueing, no all-reduce, no memory
bandwidth that many cores share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.plan.costs import CORES, DISK, GPU, LINK, STAGES, Cost

Costs = Mapping[str, Cost]


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What is there."""

    gpu: str  # "cpu": the model runs on the cores
    gpus: int  # processes, on a CPU
    cores: int
    memory_bytes: float
    threads: int = 0  # of each team of a process; 0: as many as it has cores

    def units(self, resource: str) -> float:
        """How many seconds of a resource a second has."""
        return {DISK: 1.0, CORES: self.cores, LINK: self.gpus, GPU: self.gpus}[resource]

    def most(self, stage: str, resource: str) -> float:
        """The units that one stage can use: a team of threads has no more cores than threads."""
        teams = {"read": 1, "decode": self.threads, "augment": self.threads}
        if resource != CORES or not teams.get(stage):
            return self.units(resource)
        return min(self.units(resource), teams[stage] * self.gpus)


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Rates in images per second; None: a figure is missing."""

    stages: Mapping[str, float | None]  # each alone, with all of its resource
    resources: Mapping[str, float | None]  # all stages of a resource together
    host: float  # what disk and cores make, whatever the GPUs do
    feeding: float | None  # what the pipeline makes
    training: float | None
    bottleneck: str | None  # the stage that takes most of the slowest resource
    resource: str | None


def predict(costs: Costs, machine: Machine) -> Prediction:
    """Return what a machine does with images of these costs."""
    stages = {name: _alone(name, costs[name], machine) for name in STAGES if name in costs}
    resources = {
        resource: _shared(resource, costs, machine)
        for resource in dict.fromkeys(cost.resource for cost in costs.values())
    }
    pipeline = {name: cost for name, cost in costs.items() if name != "step"}
    on_host = {name: cost for name, cost in pipeline.items() if cost.resource in (DISK, CORES)}
    training = _slowest(costs, machine)
    bottleneck, resource = _bottleneck(costs, stages, resources, training)
    return Prediction(
        stages=stages,
        resources=resources,
        host=_slowest(on_host, machine) or 0.0,
        feeding=_slowest(pipeline, machine),
        training=training,
        bottleneck=bottleneck,
        resource=resource,
    )


def cores_needed(costs: Costs, rate: float) -> float:
    """Cores that keep up with `rate` images per second."""
    return rate * sum(c.seconds or 0.0 for c in costs.values() if c.resource == CORES)


def _alone(stage: str, cost: Cost, machine: Machine) -> float | None:
    if cost.seconds is None:
        return None
    return machine.most(stage, cost.resource) / max(cost.seconds, 1e-12)


def _shared(resource: str, costs: Costs, machine: Machine) -> float | None:
    seconds = [cost.seconds for cost in costs.values() if cost.resource == resource]
    known = [each for each in seconds if each is not None]
    if len(known) < len(seconds):
        return None
    return machine.units(resource) / max(sum(known), 1e-12)


def _slowest(costs: Costs, machine: Machine) -> float | None:
    """The rate of these stages beside each other; None: a figure is missing."""
    rates = [_alone(name, cost, machine) for name, cost in costs.items()]
    rates += [_shared(cost.resource, costs, machine) for cost in costs.values()]
    known = [rate for rate in rates if rate is not None]
    return min(known) if len(known) == len(rates) else None


def _bottleneck(
    costs: Costs,
    stages: Mapping[str, float | None],
    resources: Mapping[str, float | None],
    training: float | None,
) -> tuple[str | None, str | None]:
    """The stage that sets the rate, and its resource."""
    if training is None:
        return None, None
    for name, rate in stages.items():
        if rate == training:
            return name, costs[name].resource
    resource = next(name for name, rate in resources.items() if rate == training)
    return max(
        (name for name, cost in costs.items() if cost.resource == resource),
        key=lambda name: costs[name].seconds or 0.0,
    ), resource
