"""The most memory that this process has held so far."""

from __future__ import annotations

from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def peak_memory(device: torch.device) -> dict[str, float]:
    """Return bytes, by name; what cannot be told here is left out.

    peak_host_bytes: in the host's memory, with the libraries and what the allocator keeps.
    peak_device_bytes: of a GPU, what torch has reserved; the driver's own part is not in it.
    """
    found = {}
    if (host := status_bytes("VmHWM")) is not None:
        found["peak_host_bytes"] = float(host)
    if device.type == "cuda":
        found["peak_device_bytes"] = float(torch.cuda.max_memory_reserved(device))
    return found


def status_bytes(field: str) -> int | None:
    """Bytes of a line of Linux's /proc/self/status; None where there is none."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    return None
