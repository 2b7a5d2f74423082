"""The memory of a run at any batch: what a rehearsal held, and by count what another batch adds."""

from __future__ import annotations

from dataclasses import replace

from pipeline.shards import Shards
from training.config import TrainConfig
from training.forecast.memory import MemoryPlan, plan_memory
from training.forecast.rehearsal import Rehearsal
from training.forecast.room import Room


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
        host, device = self._totals(global_batch_size)
        fits_host = room.host is None or host <= share * room.host
        return fits_host and (room.device is None or device <= share * room.device)

    def beside(self, rehearsal: Rehearsal | None) -> tuple[float | None, float | None]:
        """Return bytes (of the host, all processes; of each GPU) that the run will hold."""
        if rehearsal is None:
            return None, None
        host, device = self._totals(self.config.global_batch_size)
        then_host, then_device = self._totals(rehearsal.global_batch_size)
        on_host = self._size * rehearsal.peak_host_bytes + host - then_host
        if rehearsal.peak_device_bytes is None:
            return on_host, None
        return on_host, rehearsal.peak_device_bytes + device - then_device

    def _totals(self, global_batch_size: int) -> tuple[float, float]:
        """(host, all processes; each device): on a CPU the step is in the host's."""
        found = self.counted(global_batch_size)
        host, device = sum(found.host.values()), sum(found.device.values())
        return (self._size * host, device) if self._on_gpu else (self._size * (host + device), 0.0)
