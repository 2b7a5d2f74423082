"""Processes of a run: how many there are, how they meet, and how they are told to stop.

`--gpus N` starts N processes here; under torchrun, which sets RANK and its kin, the processes exist
already and this one joins in place.
"""

from __future__ import annotations

import importlib
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store
from torch.multiprocessing.spawn import ProcessExitedException, spawn

from console import outlive_output
from training.affinity import keep_to_own_cores
from training.allocator import keep_freed_memory
from training.meeting import store_of_attempt

# A rank that evaluates or writes lets the others wait; longer than this, and something is dead.
PATIENCE_SECONDS = 600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Where this process stands."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    patience_seconds: float = PATIENCE_SECONDS  # so long it waits for another

    @property
    def patience(self) -> timedelta:
        return timedelta(seconds=self.patience_seconds)

    def gradient_group(self) -> dist.ProcessGroup | None:
        """Return a group of all processes for gradients alone; None: the one that is there does.

        Collectives of one NCCL group wait for each other: gradients would wait behind the backward
        pass's own. Every rank must call it.
        """
        if self.size == 1 or self.device.type == "cpu":
            return None
        group: dist.ProcessGroup = dist.new_group(timeout=self.patience)
        return group

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


def leave_it_to_rank_0() -> None:
    """Where torchrun started several processes, end all but the first: it says what is wrong.

    They wait before they end, since torchrun ends all others as soon as one has.
    """
    if under_torchrun() and os.environ["RANK"] != "0":
        time.sleep(_HEAD_START)
        sys.exit(2)


def run_in_place(
    main: Callable[..., int],
    *,
    device_type: str,
    arguments: tuple[Any, ...],
    patience_seconds: float,
) -> int:
    """Join the process group that torchrun describes and run `main(world, *arguments)`."""
    environment = os.environ
    return _run(
        World(
            rank=int(environment["RANK"]),
            size=int(environment["WORLD_SIZE"]),
            local_rank=int(environment.get("LOCAL_RANK", "0")),
            local_size=int(environment.get("LOCAL_WORLD_SIZE", "1")),
            device=_device(device_type, int(environment.get("LOCAL_RANK", "0"))),
            patience_seconds=patience_seconds,
        ),
        main,
        arguments,
    )


def run_processes(
    main: Callable[..., int],
    *,
    device_type: str,
    size: int,
    arguments: tuple[Any, ...],
    patience_seconds: float = PATIENCE_SECONDS,
) -> int:
    """Run `main(world, *arguments)` in `size` processes of this machine; return the exit status.

    One process runs right here. The signals that stop a run reach every process; the first to fail
    ends the others, and its status is returned.
    """
    if size == 1:
        return _run(World(device=_device(device_type, 0)), main, arguments)
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    os.environ["MASTER_PORT"] = str(_free_port())
    # It would say that it ends the other processes, which is no news.
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)
    forwarded = 0
    spawned = spawn(
        _spawned,
        (size, device_type, patience_seconds, main, arguments),
        nprocs=size,
        join=False,
        daemon=False,
    )
    assert spawned is not None

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal forwarded
        forwarded = number
        for process in spawned.processes:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGTERM)

    previous = {number: signal.signal(number, forward) for number in stop_signals()}
    try:
        while not spawned.join():
            continue
    except ProcessExitedException as error:
        return error.exit_code if error.exit_code > 0 else 128 - error.exit_code
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 128 + forwarded if forwarded else 0


_ERROR = 1000  # a wish above all signals
_HEAD_START = 5.0  # seconds
_THREADS_BESIDE_A_GPU = 4


def stop_signals() -> list[signal.Signals]:
    """SIGTERM, SIGINT, and SIGHUP of a closed terminal unless it is ignored, as under nohup."""
    hangup = [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, *hangup]


class StopRequest:
    """What ends a run early: `stop_signals`, or an error. Ranks ask `agreed` before each step.

    Over NCCL the question would make the host wait for the GPU; so there it goes through a group of
    the hosts' own (gloo), while the GPU is busy with the step before.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._interrupted = False
        self._signal = 0
        self.error: Exception | None = None  # of this rank
        self.verdict = 0  # of all ranks; not 0: the run ends here, and this is its exit status
        self._hosts: Any = None
        if world.size > 1 and world.device.type == "cuda":
            self._hosts = dist.new_group(backend="gloo", timeout=world.patience)
        if threading.current_thread() is threading.main_thread():
            for number in stop_signals():
                signal.signal(number, self._notice)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        # Ctrl-C twice: the user does not want to wait for the step. A second SIGTERM means nothing:
        # job schedulers send it to every process, and the parent passes its own on.
        if number == signal.SIGINT and self._interrupted:
            raise KeyboardInterrupt
        self._interrupted |= number == signal.SIGINT
        self._signal = self._signal or number

    def fail(self, error: Exception) -> None:
        """End the run because of an error of this rank; the first counts."""
        self.error = self.error or error

    def agreed(self) -> int:
        """Return the verdict, the same on every rank: 0, or the exit status of the run.

        An error outweighs a signal. Status 2: the disk or what the user gave; 1: any other error;
        128 + its number: a signal.
        """
        wish = self._signal
        if self.error:
            wish = _ERROR + (2 if isinstance(self.error, (OSError, ValueError)) else 1)
        if self._world.size > 1:
            wishes = torch.tensor(wish)
            dist.all_reduce(wishes, op=dist.ReduceOp.MAX, group=self._hosts)
            wish = int(wishes)
        if wish:
            self.verdict = wish - _ERROR if wish > _ERROR else 128 + wish
        return self.verdict

    @property
    def wished(self) -> bool:
        """Whether this rank wants to stop; the others may not know yet."""
        return bool(self._signal or self.error)

    def reason(self) -> str:
        """Why, for the log."""
        if self.verdict > 128:
            name = "Ctrl-C" if self._interrupted else signal.Signals(self.verdict - 128).name
            return f"by {name}"
        return "by an error" + ("" if self.error else " of another process")


def _spawned(
    rank: int,
    size: int,
    device_type: str,
    patience_seconds: float,
    main: Callable[..., int],
    arguments: tuple[Any, ...],
) -> None:
    outlive_output()  # where train.py did it is another process
    world = World(
        rank=rank,
        size=size,
        local_rank=rank,
        local_size=size,
        device=_device(device_type, rank),
        patience_seconds=patience_seconds,
    )
    status = _run(world, main, arguments)
    if status:
        raise SystemExit(status)


def _run(world: World, main: Callable[..., int], arguments: tuple[Any, ...]) -> int:
    keep_freed_memory()
    if world.local_rank:  # what the pipeline warns of is the same in all processes of a machine
        logging.getLogger("pipeline").setLevel(logging.ERROR)
    if world.device.type == "cuda":
        torch.cuda.set_device(world.device)
    if world.size == 1:
        _settle(world, [os.sched_getaffinity(0)])
        return main(world, *arguments)
    backend = "nccl" if world.device.type == "cuda" else "gloo"
    _import_before_a_group_exists()
    try:
        dist.init_process_group(
            backend,
            store=_store_of_torchrun(world),
            timeout=world.patience,
            rank=world.rank,
            world_size=world.size,
            device_id=world.device if world.device.type == "cuda" else None,
        )
        _settle(world, _cores_of_neighbours(world))
        status = main(world, *arguments)
    except Exception as error:
        sys.stderr.write(unforeseen(error))
        status = 1
    if 0 < status < 128:
        # At once. Others may be stuck, and to destroy the group is to wait for them; but threads of
        # one that is not destroyed may abort the process while the interpreter ends.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    dist.destroy_process_group()
    return status


def _store_of_torchrun(world: World) -> Store | None:
    """Where the processes meet that torchrun started; None: where MASTER_ADDR says."""
    environment = os.environ
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    agents = dist.TCPStore(address, port, is_master=False, timeout=world.patience)  # type: ignore[attr-defined]
    return store_of_attempt(agents, rank=world.rank, size=world.size)


def unforeseen(error: Exception) -> str:
    """What to say of an error that nobody foresaw: a line, if another process is gone; else all."""
    # What a collective raises in that case: gloo's errors have no type of their own.
    lost = isinstance(error, RuntimeError) and "gloo/" in str(error)
    if lost or isinstance(error, dist.DistError):
        reason, *_ = str(error).splitlines()
        return (
            f"Error: on {socket.gethostname()}: another process is gone, or has not answered for "
            f"patience_seconds; what was saved is kept, run again to go on [{reason}]\n"
        )
    return "".join(traceback.format_exception(error))


def _import_before_a_group_exists() -> None:
    """Keep torch.distributed.nn from holding the process group for ever.

    Its functions take the group that exists when they are defined as a default, and a training step
    imports them. The threads of a group that is never freed outlive the interpreter: one that still
    lets go of a tensor by then aborts the process ("terminate called without an active exception").
    """
    importlib.import_module("torch.distributed.nn.functional")


def _settle(world: World, neighbours: list[set[int]]) -> None:
    """Keep to this process's share of the machine's cores."""
    cores = keep_to_own_cores(
        neighbours, local_rank=world.local_rank, device_type=world.device.type
    )
    # With a GPU, torch's CPU kernels have little to do, and each process keeps a team of threads.
    most = len(cores) if world.device.type == "cpu" else _THREADS_BESIDE_A_GPU
    torch.set_num_threads(min(most, len(cores)))


def _cores_of_neighbours(world: World) -> list[set[int]]:
    """Cores that each process of this machine may use, by local rank."""
    own = (socket.gethostname(), world.local_rank, os.sched_getaffinity(0))
    every = [own] * world.size
    dist.all_gather_object(every, own)
    here = {rank: cores for host, rank, cores in every if host == own[0]}
    return [here.get(rank, own[2]) for rank in range(world.local_size)]


def _device(device_type: str, local_rank: int) -> torch.device:
    return torch.device(device_type, local_rank) if device_type == "cuda" else torch.device("cpu")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
