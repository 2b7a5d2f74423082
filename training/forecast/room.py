"""What this machine has left: memory, and disk where the run is to lie."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
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
    place = out.resolve()  # what it is a link to, or mounted on
    disk = shutil.disk_usage(place if place.exists() else nearest_folder(place))
    return Room(host=host_memory(), device=device, disk=float(disk.free))


def shown(size: float | None) -> str:
    """Return a number of bytes as a person reads it."""
    if size is None:
        return "not known"
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def nearest_folder(out: Path) -> Path:
    """The folder that `out` is made in, or the nearest above that exists."""
    return next(path for path in out.absolute().parents if path.is_dir())


def writable_beside(out: Path) -> Path | None:
    """The folder that `out` is made in, where something else may be made too; None: it may not."""
    near = nearest_folder(out)
    return near if os.access(near, os.W_OK | os.X_OK) else None


def host_memory(
    *, meminfo: Path = _MEMINFO, cgroup: Path = _CGROUP, own: Path = _OWN_CGROUP
) -> float | None:
    """Return what processes may still take: of the machine, or of the tightest limit on them.

    Limits are those of cgroups, version 2 or 1, of this process's own and all above it: a
    container, a job of SLURM, a systemd slice.
    """
    try:
        lines = meminfo.read_text().splitlines()
    except OSError:
        return None
    free = 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return min([free, *_left_of_limits(cgroup, own)])


def _left_of_limits(cgroup: Path, own: Path) -> Iterator[float]:
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = ["0::/"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _left_above(cgroup, path, ("memory.max", "memory.current", ""))
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            yield from _left_above(cgroup / "memory", path, names)


def _left_above(root: Path, path: str, names: tuple[str, str, str]) -> Iterator[float]:
    """What each group from `path` up to the root has left; the page cache of files can be freed."""
    limit_name, used_name, prefix = names
    place = root / path.lstrip("/")
    while True:
        try:
            limit = float((place / limit_name).read_text())
            used = float((place / used_name).read_text())
            rows = (place / "memory.stat").read_text().splitlines()
            stat = dict(row.split() for row in rows)
            cached = sum(int(stat.get(f"{prefix}{of}_file", 0)) for of in ("active", "inactive"))
            yield limit - used + cached
        except (OSError, ValueError):  # no limit ("max"), or no such group in this container
            pass
        if place == root:
            return
        place = place.parent
