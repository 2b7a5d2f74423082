"""The memory of a run: what its rehearsal held, with what grows laid out for the whole batch.

    libraries                what this process holds, which has loaded the same ones
    fixed                    by count: weights, gradients, optimizer, index; the copy that is saved
    the rest of the peak     grows with the batch: activations, views, pixels, bytes

kNN comes while the training's loader holds what it holds, but no activations. So it adds what its
own loader needs beyond them.
"""

from __future__ import annotations

from dataclasses import replace

from pipeline.shards import Shards
from training.config import TrainConfig
from training.forecast.memory import MemoryPlan, plan_memory
from training.forecast.rehearsal import Rehearsal
from training.forecast.room import Room
from training.monitor import batch_measured
from training.peak_memory import status_bytes

_FIXED = ("weights", "gradients", "optimizer", "index")


class Footprint:
    """Of `size` processes; views have their full size."""

    def __init__(self, config: TrainConfig, shards: Shards, size: int, *, on_gpu: bool) -> None:
        self.config = replace(config, recipe=config.recipe.full_size)
        self._shards, self._size, self._on_gpu = shards, size, on_gpu

    def counted(self, global_batch_size: int) -> MemoryPlan:
        """Bytes of one process, by what they are for. Libraries and the allocator are not in it."""
        batch = global_batch_size // self._size
        return plan_memory(self.config, self._shards, batch=batch, on_gpu=self._on_gpu)

    def fits(self, global_batch_size: int, room: Room, *, share: float) -> bool:
        """Whether what is counted fills no more than a share of the room."""
        found = self.counted(global_batch_size)
        host, device = sum(found.host.values()), sum(found.device.values())
        if not self._on_gpu:
            host, device = host + device, 0.0
        fits_host = room.host is None or self._size * host <= share * room.host
        return fits_host and (room.device is None or device <= share * room.device)

    def of_run(
        self, rehearsal: Rehearsal | None, *, libraries: float | None = None
    ) -> tuple[float | None, float | None]:
        """Return bytes (of the host, all processes; of each GPU) that the run will hold at most."""
        if rehearsal is None:
            return None, None
        if libraries is None:
            libraries = float(status_bytes("VmRSS") or 0)
        found = self.counted(self.config.global_batch_size)
        times = self.config.global_batch_size / rehearsal.global_batch_size
        fixed_host, fixed_device = (_fixed(parts) for parts in (found.host, found.device))
        if not self._on_gpu:
            fixed_host += fixed_device
        kept = libraries + fixed_host + rehearsal.saved_bytes
        host = _grown(rehearsal.peak_host_bytes, kept, times) + self._knn(found)
        if rehearsal.peak_device_bytes is None:
            return self._size * host, None
        return self._size * host, _grown(rehearsal.peak_device_bytes, fixed_device, times)

    def _knn(self, found: MemoryPlan) -> float:
        """What kNN adds to the peak of a process: its own loader's rings, less the activations."""
        config = self.config
        batch = batch_measured(self._shards, config, self._size)
        one_view = replace(config, recipe=replace(config.recipe, num_large=1, num_small=0))
        needs = plan_memory(one_view, self._shards, batch=batch, on_gpu=self._on_gpu).host
        freed = 0.0 if self._on_gpu else sum(found.device.values()) - _fixed(found.device)
        return max(sum(needs.values()) - _fixed(needs) - freed, 0.0)


def _fixed(parts: dict[str, float]) -> float:
    """The parts that do not grow with the batch."""
    return sum(size for name, size in parts.items() if name in _FIXED)


def _grown(peak: float, kept: float, times: float) -> float:
    """A peak, with what is not kept so many times."""
    return peak + max(peak - kept, 0.0) * (times - 1)
