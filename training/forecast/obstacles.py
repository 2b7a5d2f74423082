"""What would stop a run, and what would slow it down."""

from __future__ import annotations

from dataclasses import dataclass

from training.forecast.rehearsal import Rehearsal
from training.forecast.room import Room

_STARVED = 0.02  # of the time, waiting for views


@dataclass(frozen=True, kw_only=True, slots=True)
class Obstacles:
    """One line each."""

    stops: tuple[str, ...]  # the run would not come to its end
    warnings: tuple[str, ...]


def obstacles_of(
    *,
    failure: str,
    host: float | None,
    device: float | None,
    disk: float | None,
    room: Room,
    rehearsal: Rehearsal | None,
    data_bytes: float,
    num_samples: int,
    max_bad: int,
) -> Obstacles:
    """Compare what a run needs with what is there.

    Args:
        failure: why there is no rehearsal; empty if there is one.
        host, device, disk: bytes that the run will hold; None: not known.
    """
    stops = [failure] if failure else []
    lower = "lower global_batch_size or raise accumulate"
    if host is not None and room.host is not None and host > room.host:
        stops.append(
            f"it needs {host / 1e9:.1f} GB of memory, {room.host / 1e9:.1f} are free; {lower}"
        )
    if device is not None and room.device is not None and device > room.device:
        stops.append(
            f"each GPU needs {device / 1e9:.1f} GB of its {room.device / 1e9:.1f}; {lower}, or "
            "take more GPUs"
        )
    if disk is not None and disk > room.disk:
        stops.append(
            f"checkpoints take {disk / 1e9:.1f} GB, the disk of --out has {room.disk / 1e9:.1f}; "
            "lower keep_checkpoints, raise milestone_every, or give another --out"
        )
    warnings = []
    if rehearsal is not None:
        if rehearsal.wait_share > _STARVED:
            warnings.append(
                f"steps wait for views {rehearsal.wait_share:.0%} of the time, limited by "
                f"{rehearsal.bottleneck}; see docs/feeding.md"
            )
        if rehearsal.bad_samples:
            warnings.append(
                f"{rehearsal.bad_samples} of the pictures rehearsed cannot be decoded; the run "
                f"ends after more than loader.max_bad={max_bad}"
            )
        if room.host is not None and data_bytes + (host or 0.0) > room.host:
            rate = rehearsal.images_per_second * data_bytes / num_samples
            warnings.append(
                f"the shards ({data_bytes / 1e9:.1f} GB) do not fit into memory beside the run; "
                f"the disk must give {rate / 1e6:.0f} MB/s"
            )
    return Obstacles(stops=tuple(stops), warnings=tuple(warnings))
