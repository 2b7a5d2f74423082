"""What this machine has left: memory, and disk where the run is to lie."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """Bytes."""

    host: float | None  # memory that is free or can be freed; None: cannot be told here
    device: float | None  # of each GPU, as a whole; None: there is none
    disk: float  # free where `out` lies


def room_here(out: Path, *, device_type: str) -> Room:
    """Look what there is."""
    device = None
    if device_type == "cuda":
        device = float(torch.cuda.get_device_properties(0).total_memory)
    return Room(
        host=host_memory(),
        device=device,
        disk=float(shutil.disk_usage(nearest_folder(out)).free),
    )


def host_memory(*, meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP) -> float | None:
    """Return what processes may still take: of the machine, or of a container's limit."""
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    kib = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    limit = _left_of_limit(cgroup)
    return 1024.0 * kib if limit is None else min(1024.0 * kib, limit)


def nearest_folder(out: Path) -> Path:
    """The folder that `out` is made in, or the nearest above that exists."""
    return next(path for path in out.absolute().parents if path.is_dir())


def _left_of_limit(cgroup: Path) -> float | None:
    """What is left below a limit of cgroup v2, page cache counted as free; None without one."""
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    return float(limit) - used + int(stat.get("file", 0))
