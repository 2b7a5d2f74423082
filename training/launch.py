"""Processes of a run: how many there are, how they meet, and how they are told to stop.

`--gpus N` starts N processes here; under torchrun, which sets RANK and its kin, the processes exist
already and this one joins in place.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from training.allocator import keep_freed_memory

# A rank that evaluates or writes lets the others wait; longer than this, and something is dead.
_PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Where this process stands."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def plan_world(*, gpus: int | None, processes: int) -> tuple[str, int]:
    """Return (device type, number of processes) for the command line's wishes.

    Args:
        gpus: None takes a GPU if there is one; 0 stays on the CPU.
        processes: CPU processes, only with gpus 0 (or no GPU).

    Raises:
        ValueError: more GPUs than the machine has, or both kinds of processes.
    """
    available = torch.cuda.device_count()
    if gpus is None:
        gpus = min(available, 1)
    if gpus > available:
        raise ValueError(
            f"--gpus {gpus}, but this machine has {available or 'none'}; give --gpus {available}"
            + ("" if available else " to train on the CPU")
        )
    if gpus < 0 or processes < 1:
        raise ValueError(f"--gpus must be >= 0 and --processes >= 1, got {gpus} and {processes}")
    if gpus and processes > 1:
        raise ValueError("--processes is for the CPU: with GPUs there is one process for each")
    return ("cuda", gpus) if gpus else ("cpu", processes)


def under_torchrun() -> bool:
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def run_in_place(main: Callable[..., int], *, device_type: str, arguments: tuple[Any, ...]) -> int:
    """Join the process group that torchrun describes and run `main(world, *arguments)`."""
    environment = os.environ
    return _run(
        World(
            rank=int(environment["RANK"]),
            size=int(environment["WORLD_SIZE"]),
            local_rank=int(environment.get("LOCAL_RANK", "0")),
            local_size=int(environment.get("LOCAL_WORLD_SIZE", "1")),
            device=_device(device_type, int(environment.get("LOCAL_RANK", "0"))),
        ),
        main,
        arguments,
    )


def run_processes(
    main: Callable[..., int], *, device_type: str, size: int, arguments: tuple[Any, ...]
) -> int:
    """Run `main(world, *arguments)` in `size` processes of this machine; return the exit status.

    One process runs right here. SIGTERM and SIGINT reach every process; the first to fail ends the
    others, and its error is raised.
    """
    if size == 1:
        return _run(World(device=_device(device_type, 0)), main, arguments)
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    os.environ["MASTER_PORT"] = str(_free_port())
    # It would say that it ends the other processes, which is no news.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    forwarded = 0
    spawned = spawn(
        _spawned, (size, device_type, main, arguments), nprocs=size, join=False, daemon=False
    )
    assert spawned is not None

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal forwarded
        forwarded = number
        for process in spawned.processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    previous = {number: signal.signal(number, forward) for number in _STOP_SIGNALS}
    try:
        while not spawned.join():
            continue
    except ProcessExitedException as error:
        return error.exit_code if error.exit_code > 0 else 128 - error.exit_code
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 128 + forwarded if forwarded else 0


_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Notices SIGTERM and SIGINT; the run asks `agreed` between steps, all ranks alike."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._interrupted = False
        self.signal = 0
        if threading.current_thread() is threading.main_thread():
            for number in _STOP_SIGNALS:
                signal.signal(number, self._notice)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        # Ctrl-C twice: the user does not want to wait for the step. A second SIGTERM means nothing:
        # job schedulers send it to every process, and the parent passes its own on.
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        self.signal = self.signal or number

    def agreed(self, step: int) -> int:
        """Return the signal that any rank has got, the same on every rank; 0: none.

        Over NCCL the question costs a synchronisation, so it is asked every tenth step only.
        """
        if self._world.size == 1:
            return self.signal
        if self._world.device.type == "cuda" and step % 10:
            return 0
        wish = torch.tensor(self.signal, device=self._world.device)
        dist.all_reduce(wish, op=dist.ReduceOp.MAX)
        return int(wish)


def _spawned(
    rank: int, size: int, device_type: str, main: Callable[..., int], arguments: tuple[Any, ...]
) -> None:
    world = World(
        rank=rank,
        size=size,
        local_rank=rank,
        local_size=size,
        device=_device(device_type, rank),
    )
    status = _run(world, main, arguments)
    if status:
        raise SystemExit(status)


def _run(world: World, main: Callable[..., int], arguments: tuple[Any, ...]) -> int:
    keep_freed_memory()
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    else:
        cores = len(os.sched_getaffinity(0))
        torch.set_num_threads(max(1, cores // world.local_size))
    if world.size == 1:
        return main(world, *arguments)
    backend = "nccl" if world.device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend,
        init_method="env://",
        timeout=_PATIENCE,
        rank=world.rank,
        world_size=world.size,
    )
    try:
        return main(world, *arguments)
    finally:
        dist.destroy_process_group()


def _device(device_type: str, local_rank: int) -> torch.device:
    return torch.device(device_type, local_rank) if device_type == "cuda" else torch.device("cpu")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
