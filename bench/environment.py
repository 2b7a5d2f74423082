"""What a figure was measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "torch",
    "torchvision",
    "numba",
    "numpy",
    "triton",
    "kornia",
    "nvidia-dali",
    "ffcv",
    "opencv",
)
# distributions that are the same package under other names
_ALSO = {
    "nvidia-dali": ("nvidia-dali-cuda130", "nvidia-dali-cuda120"),
    "opencv": ("opencv-python-headless", "opencv-python"),
}


def environment() -> dict[str, Any]:
    """Machine, versions, commit and date; None where something is absent."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_model(Path("/proc/cpuinfo")),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gigabytes": round(
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1
        ),
        "versions": {name: version_of(name) for name in PACKAGES},
        "commit": commit(Path(__file__).resolve().parents[1]),
        "gpu": _gpu(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def version_of(package: str) -> str | None:
    """The installed version of a package, under whichever of its names; None if absent."""
    for name in (package, *_ALSO.get(package, ())):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def commit(folder: Path) -> str | None:
    """The commit of a checkout, with `-dirty` after it if files differ; None without git."""
    try:
        head = _output("git", "-C", str(folder), "rev-parse", "HEAD")
        changed = _output("git", "-C", str(folder), "status", "--porcelain", "-uno")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("-dirty" if changed else "")


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()


def _cpu_model(cpuinfo: Path) -> str | None:
    if not cpuinfo.is_file():
        return None
    lines = cpuinfo.read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, None)


def _gpu() -> dict[str, Any] | None:
    """Name, memory, driver and CUDA version of the device in use."""
    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "name": properties.name,
        "memory_gigabytes": round(properties.total_memory / 1e9, 1),
        "multiprocessors": properties.multi_processor_count,
        "driver": _driver(),
        "cuda": torch.version.cuda,
    }


def _driver() -> str | None:
    try:
        return _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    except (OSError, subprocess.SubprocessError):
        return None
