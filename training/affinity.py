"""Which cores the processes of one machine keep to.

Threads that decode and views that are copied should be near the GPU that they feed: on a machine
with several NUMA nodes, memory of another node is read at a fraction of the speed. So each process
takes its share of the cores beside its GPU; without GPUs, its share of all.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

PCI_DEVICES = Path("/sys/bus/pci/devices")


def share_of_cores(
    cores: set[int], *, local_rank: int, near: Sequence[set[int]], local_size: int
) -> set[int]:
    """Return the cores of one process.

    Args:
        cores: those that the machine (or the job's cgroup) gives us.
        near: for each local rank, the cores beside its GPU; empty: not known.
        local_size: processes on this machine.

    Ranks beside the same cores divide them evenly, in the order of their ranks. Where a rank would
    get none, or where nothing is known, all ranks divide all cores; a machine with fewer cores than
    processes shares them.
    """
    homes = [frozenset(beside & cores) or frozenset(cores) for beside in near]
    homes += [frozenset(cores)] * (local_size - len(homes))
    if any(homes.count(home) > len(home) for home in homes) or _overlap(homes):
        homes = [frozenset(cores)] * local_size
    home = homes[local_rank]
    neighbours = [rank for rank in range(local_size) if homes[rank] == home]
    place, count, ordered = neighbours.index(local_rank), len(neighbours), sorted(home)
    share = ordered[place * len(ordered) // count : (place + 1) * len(ordered) // count]
    return set(share) or set(ordered)


def keep_to_own_cores(
    neighbours: Sequence[set[int]], *, local_rank: int, device_type: str
) -> set[int]:
    """Bind this process, and the threads that it will start, to its cores, and return them.

    Args:
        neighbours: the cores that each process of this machine may use now, by local rank. Where
            they differ, a scheduler has divided them already, and they are left as they are.
    """
    cores = set(neighbours[local_rank])
    if all(each == cores for each in neighbours):
        near = []
        if device_type == "cuda":
            near = [cores_beside(address) for address in gpu_addresses(len(neighbours))]
        share = share_of_cores(cores, local_rank=local_rank, near=near, local_size=len(neighbours))
        try:
            os.sched_setaffinity(0, share)
        except OSError:  # a sandbox forbids it, or the cores were taken away meanwhile
            return cores
        return share
    return cores


def gpu_addresses(count: int) -> list[str]:
    """PCI addresses of the first `count` GPUs, as Linux names them: 0000:3b:00.0."""
    found = []
    for number in range(count):
        gpu: Any = torch.cuda.get_device_properties(number)
        found.append(f"{gpu.pci_domain_id:04x}:{gpu.pci_bus_id:02x}:{gpu.pci_device_id:02x}.0")
    return found


def cores_beside(address: str, pci_devices: Path = PCI_DEVICES) -> set[int]:
    """Cores of the NUMA node that a PCI device hangs on; none where the kernel does not say."""
    try:
        return parse_cores((pci_devices / address / "local_cpulist").read_text())
    except (OSError, ValueError):
        return set()


def parse_cores(text: str) -> set[int]:
    """Read Linux's list of cores: "0-3,8,10-11"."""
    cores: set[int] = set()
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        cores.update(range(int(first), int(last or first) + 1))
    return cores


def _overlap(homes: Sequence[frozenset[int]]) -> bool:
    """Whether two different homes share a core."""
    different: Mapping[frozenset[int], None] = dict.fromkeys(homes)
    return sum(len(home) for home in different) > len(frozenset().union(*different))
