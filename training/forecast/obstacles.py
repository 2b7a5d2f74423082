"""What would stop a run, and what would slow it down."""

from __future__ import annotations

from dataclasses import dataclass

from training.forecast.rehearsal import Rehearsal
from training.forecast.room import Room, shown

_STARVED = 0.02  # of the time, waiting for views
_UNSTEADY = 1.3  # the faster fifth of steps over the slower one


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
        stops.append(f"it needs {shown(host)} of memory, {shown(room.host)} are free; {lower}")
    if device is not None and room.device is not None and device > room.device:
        stops.append(
            f"each GPU needs {shown(device)} of its {shown(room.device)}; {lower}, or "
            "take more GPUs"
        )
    if disk is not None and disk > room.disk:
        stops.append(
            f"checkpoints take {shown(disk)} more, the disk of --out has {shown(room.disk)}; "
            "lower keep_checkpoints, raise milestone_every, or give another --out"
        )
    warnings = []
    if rehearsal is not None:
        slow, fast = rehearsal.images_per_second_20, rehearsal.images_per_second_80
        if fast > _UNSTEADY * slow:
            warnings.append(
                f"the rehearsed steps differ, {slow:.1f} to {fast:.1f} images/s: is other work on "
                "the cores? then speed and days say little"
            )
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
                f"the shards ({shown(data_bytes)}) do not fit into memory beside the run; "
                f"the disk must give {rate / 1e6:.0f} MB/s"
            )
    return Obstacles(stops=tuple(stops), warnings=tuple(warnings))
