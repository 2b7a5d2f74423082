"""The memory of a run: what its rehearsal held, with what grows laid out for the whole batch.

    libraries                what this process holds, which has loaded the same ones
    fixed                    by count: weights, gradients, optimizer, index; the copy that is saved
    the rest of the peak     grows with the batch: activations, views, pixels, bytes

The rest has what is loaded at first use in it, and buffers of the backward pass, which no count
has: of a ResNet-50 1.37 times what is counted. What is above 1.4 times is assumed not to grow.

Processes of one machine share the pages of the libraries' files, which are in the peak of each; and
with several there is one more, without a step, that started them. What rank 0 alone holds, the copy
and kNN, is counted once.

kNN comes while the training's loader holds what it holds, but no activations. So it adds what its
own loader needs beyond them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.shards import Shards
from training.config import TrainConfig
from training.forecast.memory import MemoryPlan, plan_memory
from training.forecast.rehearsal import Rehearsal
from training.forecast.room import Room
from training.monitor import batch_measured
from training.peak_memory import status_bytes

_FIXED = ("weights", "gradients", "optimizer", "index")
_MOST = 1.4  # what grows, over what of it is counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Libraries:
    """Bytes that a process holds before it does anything."""

    total: float
    of_files: float  # pages of their files: there once, for all processes

    @classmethod
    def of_this_process(cls) -> Libraries:
        total, of_files = (status_bytes(field) or 0 for field in ("VmRSS", "RssFile"))
        return cls(total=float(total), of_files=float(of_files))


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
        self, rehearsal: Rehearsal | None, *, libraries: Libraries | None = None
    ) -> tuple[float | None, float | None]:
        """Return bytes (of the host, all processes; of each GPU) that the run will hold at most."""
        if rehearsal is None:
            return None, None
        libraries = libraries or Libraries.of_this_process()
        whole = self.counted(self.config.global_batch_size)
        then = self.counted(rehearsal.global_batch_size)
        device = None
        if rehearsal.peak_device_bytes is not None:
            device = _grown(rehearsal.peak_device_bytes, 0.0, then.device, whole.device)
        ours, all_of_it = (
            found.host if self._on_gpu else found.host | found.device for found in (then, whole)
        )
        kept = libraries.total + rehearsal.saved_bytes
        largest = _grown(rehearsal.peak_host_bytes, kept, ours, all_of_it)  # rank 0's
        others = max(largest - libraries.of_files - rehearsal.saved_bytes, 0.0)
        starter = libraries.total - libraries.of_files if self._size > 1 else 0.0
        host = largest + (self._size - 1) * others + starter + self._knn(whole)
        return host, device

    def _knn(self, found: MemoryPlan) -> float:
        """What kNN adds to the peak of a process: its own loader's rings, less the activations."""
        config = self.config
        batch = batch_measured(self._shards, config, self._size)
        one_view = replace(config, recipe=replace(config.recipe, num_large=1, num_small=0))
        needs = plan_memory(one_view, self._shards, batch=batch, on_gpu=self._on_gpu).host
        _, freed = (0.0, 0.0) if self._on_gpu else _parts(found.device)
        return max(_parts(needs)[1] - freed, 0.0)


def _parts(parts: dict[str, float]) -> tuple[float, float]:
    """(those that do not grow with the batch, those that do)."""
    fixed = sum(size for name, size in parts.items() if name in _FIXED)
    return fixed, sum(parts.values()) - fixed


def _grown(peak: float, kept: float, then: dict[str, float], whole: dict[str, float]) -> float:
    """A peak, with what of it grows as much larger as it is by count in a batch of the run.

    `kept`: what of the peak does not grow, beyond what is counted as such.
    """
    (fixed, counted), (_, of_run) = _parts(then), _parts(whole)
    growing = min(max(peak - kept - fixed, 0.0), _MOST * counted)
    return peak + growing * (of_run / counted - 1)
