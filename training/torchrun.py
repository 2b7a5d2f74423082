"""Processes that torchrun started, if it did: where they stand, and what it is told at their end.

torchrun takes every exit status but 0 for a failure: it ends the processes of its machine and, as
often as --max-restarts says, starts them again. It knows no status for "do not try again". What has
ended for good (Diverged) is therefore written to OUT/ended.json, and a restart repeats it at once.
docs/multi_node.md says what happens when.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from training.launch import World, device_of, plan_world, run_in_world, run_processes
from training.meeting import store_of_attempt

_ENDED_NAME = "ended.json"


def under_torchrun() -> bool:
    """Whether this process is one of several that exist already."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def speaks_first() -> bool:
    """Whether this process may say what all of them find out: rank 0, or one that is alone."""
    return not under_torchrun() or os.environ["RANK"] == "0"


def plan_processes(*, gpus: int | None, processes: int) -> tuple[str, int]:
    """Return (device type, processes on all machines): as wished, or as torchrun started them.

    Args:
        gpus: of each machine. None: a GPU if there is one, under torchrun one for each process; 0
            stays on the CPU.
        processes: CPU processes of each machine; under torchrun, 1 takes what is there.

    Raises:
        ValueError: more GPUs than there are, or not what torchrun has started.
    """
    if not under_torchrun():
        return plan_world(gpus=gpus, processes=processes)
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    available = torch.cuda.device_count()
    if gpus is None:
        gpus = here if available else 0
    for name, wanted, nothing in (("--gpus", gpus, 0), ("--processes", processes, 1)):
        if wanted not in (nothing, here):
            raise ValueError(
                f"{name} {wanted}, but torchrun started {here} on this machine; leave {name} away, "
                f"or give torchrun --nproc-per-node {wanted}"
            )
    if gpus and processes > 1:
        raise ValueError("--processes is for the CPU: with GPUs there is one process for each")
    if gpus and int(os.environ.get("LOCAL_RANK", "0")) >= available:
        raise ValueError(
            f"torchrun started {here} processes on {socket.gethostname()}, which has "
            f"{available or 'no'} GPUs; give torchrun --nproc-per-node {available or here}"
            + ("" if available else ", and --gpus 0 to train on the CPU")
        )
    return ("cuda" if gpus else "cpu", int(os.environ["WORLD_SIZE"]))


def start(
    main: Callable[..., int],
    *,
    device_type: str,
    size: int,
    arguments: tuple[Any, ...],
    patience_seconds: float,
) -> int:
    """Run `main(world, *arguments)` in `size` processes, and return the exit status.

    Processes that torchrun started do not return from an error: others may be stuck, and an orderly
    exit would wait for them.
    """
    if not under_torchrun():
        return run_processes(
            main,
            device_type=device_type,
            size=size,
            arguments=arguments,
            patience_seconds=patience_seconds,
        )
    environment = os.environ
    world = World(
        rank=int(environment["RANK"]),
        size=size,
        local_rank=int(environment.get("LOCAL_RANK", "0")),
        local_size=int(environment.get("LOCAL_WORLD_SIZE", "1")),
        device=device_of(device_type, int(environment.get("LOCAL_RANK", "0"))),
        patience_seconds=patience_seconds,
    )
    try:
        status = run_in_world(world, main, arguments, store=_agents_store(world))
    except Exception as error:
        if lost_process(error):
            sys.stderr.write(f"Error: {_without(error, world)}\n")
        else:
            traceback.print_exception(error)
            record_error("".join(traceback.format_exception(error)))
        _leave(1)
    if 0 < status < 128:
        _leave(status)
    return status


def _agents_store(world: World) -> Store | None:
    """This attempt's part of the store that torchrun's agents keep; None if they keep none."""
    environment = os.environ
    if world.size == 1 or environment.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    patience = world.patience
    store = dist.TCPStore(address, port, is_master=False, timeout=patience)  # type: ignore[attr-defined]
    return store_of_attempt(store, rank=world.rank, size=world.size, seconds=world.patience_seconds)


def lost_process(error: BaseException) -> bool:
    """Whether this is what a collective raises when another process is gone, or does not answer."""
    return isinstance(error, dist.DistError | TimeoutError) or (
        isinstance(error, RuntimeError) and "gloo/" in str(error)
    )


def _without(error: BaseException, world: World) -> str:
    reason = str(error).strip().splitlines()[0]
    return (
        f"rank {world.rank} on {socket.gethostname()}: another process is gone, or has not "
        f"answered for {world.patience_seconds:g} s (patience_seconds); the last "
        f"checkpoint is kept, run again to go on. [{reason}]"
    )


def _leave(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def record_error(message: str, *, ended: Path | None = None) -> None:
    """Give torchrun the message for its closing table; without torchrun, do nothing.

    Args:
        ended: the run directory, if to go on from the last checkpoint would come to the same end.
    """
    path, run_id = (os.environ.get(f"TORCHELASTIC_{name}") for name in ("ERROR_FILE", "RUN_ID"))
    if path:
        extra = {"py_callstack": message, "timestamp": str(int(time.time()))}
        content = {"message": {"message": message, "extraInfo": extra}}
        Path(path).write_text(json.dumps(content), encoding="utf-8")
    if ended and run_id and speaks_first():
        reason = {"run_id": run_id, "message": message}
        (ended / _ENDED_NAME).write_text(json.dumps(reason) + "\n", encoding="utf-8")


def check_not_ended(out: Path) -> None:
    """Refuse a restart by torchrun of what has ended for good; a new start is another attempt.

    Raises:
        ValueError: with the message of that end.
    """
    path = out / _ENDED_NAME
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        path.unlink(missing_ok=True)
    elif path.exists():
        ended = json.loads(path.read_text(encoding="utf-8"))
        if ended["run_id"] == os.environ.get("TORCHELASTIC_RUN_ID"):
            raise ValueError(f"{ended['message']} (torchrun's restart does not change that)")
