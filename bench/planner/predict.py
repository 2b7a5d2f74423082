"""From what each stage costs to the rate of a run: pure arithmetic.

Stages work beside each other, so a run is as fast as the scarcest of what they use:

    disk     bytes of a picture, over what the disk gives
    cores    core-seconds of reading, decoding and, with a CPU executor, of the views, which share
             the cores of the node; the step too where it runs on them
    GPU      seconds of the step and, with `fused`, of the views, which share each GPU
"""

from __future__ import annotations

from dataclasses import dataclass

SECONDS_A_DAY = 86_400.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Costs:
    """What one source picture costs. Core-seconds, but for `gpu_step` and `gpu_views`."""

    bytes_stored: float
    read: float
    decode: float
    views: float  # 0: made on the GPU
    step: float  # 0: runs on the GPU
    gpu_step: float | None  # seconds of one GPU; None: not known; 0: there is none
    gpu_views: float | None  # the same


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """One node."""

    cores: int
    gpus: int  # 0: the step runs on the cores
    disk_bytes_per_second: float | None = None  # None: not known, or all is in memory


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """Something scarce: how many pictures a second it is good for, and who uses it most."""

    name: str  # disk, cores, GPU
    stage: str  # its largest user
    images_per_second: float | None  # of the node; None: not known


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Rates are source pictures per second of the node; None where a figure is missing."""

    stages: dict[str, float | None]  # what each stage could do if it had its resource alone
    resources: tuple[Resource, ...]
    loader_images_per_second: float  # the pipeline without a step
    images_per_second: float | None
    bottleneck: Resource | None  # of what is known

    def days(self, images: float) -> float | None:
        """Days for so many pictures shown."""
        rate = self.images_per_second
        return None if rate is None else images / rate / SECONDS_A_DAY


def predict(costs: Costs, machine: Machine) -> Prediction:
    """Predict the rates of a node."""
    resources = [_cores(costs, machine)]
    if machine.disk_bytes_per_second is not None:
        rate = machine.disk_bytes_per_second / costs.bytes_stored
        resources.insert(0, Resource(name="disk", stage="read", images_per_second=rate))
    if machine.gpus:
        resources.append(_gpus(costs, machine))
    known = [each for each in resources if each.images_per_second is not None]
    slowest = min(known, key=lambda each: each.images_per_second or 0.0)
    complete = len(known) == len(resources)
    return Prediction(
        stages=_alone(costs, machine),
        resources=tuple(resources),
        loader_images_per_second=_loader(costs, machine),
        images_per_second=slowest.images_per_second if complete else None,
        bottleneck=slowest,
    )


def _on_cores(costs: Costs) -> dict[str, float]:
    return {
        "read": costs.read,
        "decode": costs.decode,
        "augment": costs.views,
        "step": costs.step,
    }


def _cores(costs: Costs, machine: Machine) -> Resource:
    users = _on_cores(costs)
    rate = machine.cores / sum(users.values())
    return Resource(name="cores", stage=max(users, key=users.__getitem__), images_per_second=rate)


def _gpus(costs: Costs, machine: Machine) -> Resource:
    if costs.gpu_step is None or costs.gpu_views is None:
        return Resource(name="GPU", stage="step", images_per_second=None)
    stage = "step" if costs.gpu_step >= costs.gpu_views else "augment"
    rate = machine.gpus / (costs.gpu_step + costs.gpu_views)
    return Resource(name="GPU", stage=stage, images_per_second=rate)


def _loader(costs: Costs, machine: Machine) -> float:
    """Reading is one thread of each process; decoding and the views take what cores there are."""
    rates = [machine.cores / (costs.read + costs.decode + costs.views)]
    rates.append(max(machine.gpus, 1) / costs.read)
    if machine.disk_bytes_per_second is not None:
        rates.append(machine.disk_bytes_per_second / costs.bytes_stored)
    if machine.gpus and costs.gpu_views:
        rates.append(machine.gpus / costs.gpu_views)
    return min(rates)


def _alone(costs: Costs, machine: Machine) -> dict[str, float | None]:
    rates: dict[str, float | None] = {}
    for name, seconds in _on_cores(costs).items():
        if seconds:
            cores = min(machine.cores, max(machine.gpus, 1)) if name == "read" else machine.cores
            rates[name] = cores / seconds
    if machine.gpus:
        for name, gpu in (("augment", costs.gpu_views), ("step", costs.gpu_step)):
            if name not in rates:
                rates[name] = machine.gpus / gpu if gpu else None
    return rates
