"""The certificate from its request to its file: checks, processes, lines.

request -> schedule -> every process: Rank.measure -> process 0: lines, OUT/certificate.json
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
import torch.distributed as dist

from bench.certificate.cores import Cores, divide, model_cores
from bench.certificate.rank import Rank
from bench.certificate.report import report
from bench.certificate.schedule import Schedule, make_schedule
from bench.environment import environment
from bench.harness import tell
from files import write_text_whole
from pipeline.loader.decode import TooManyBadSamples
from pipeline.loader.watchdog import Stalled
from pipeline.shards import Shards, open_shards
from training.config import TrainConfig, to_dict
from training.decoding import settle_decoding
from training.launch import World, run_processes
from training.meter import Diverged
from training.plan import Plan, sampler_of

NAME = "certificate.json"
_NO_RUN = "run"  # a plan asks whether a run can be resumed in a folder: in this one there is none


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificateRequest:
    """What to certify."""

    data: Path
    config: TrainConfig  # executor resolved for the device
    device_type: str
    processes: int
    out: Path
    steps: int = 500  # counted steps of FULL
    throttle: float = 0.0  # the control: share of the demand that reading delivers; 0: none


def certify(request: CertificateRequest) -> int:
    """Measure in all processes; return 0 if OUT/certificate.json holds the result.

    Raises:
        ValueError: the data or the settings do not fit, in one line.
    """
    shards = open_shards(request.data)
    config, schedule = lay_out(request, shards)
    plan = Plan.of(config, shards, request.out / _NO_RUN)
    plan.check_world(config, request.processes)
    shards.close()
    request.out.mkdir(parents=True, exist_ok=True)
    (request.out / NAME).unlink(missing_ok=True)
    return run_processes(
        run,
        device_type=request.device_type,
        size=request.processes,
        arguments=(replace(request, config=config), schedule),
    )


def lay_out(request: CertificateRequest, shards: Shards) -> tuple[TrainConfig, Schedule]:
    """Return the schedule, and the settings with epochs enough for it.

    The learning rate rises until the last step of the certificate, so that no network diverges
    under a warm-up that is over too soon for it; how fast a step is does not depend on it.
    """
    config = request.config
    sampler = sampler_of(config, shards)
    schedule = make_schedule(
        steps=request.steps,
        steps_per_epoch=sampler.steps_per_epoch,
        checkpoint_every=config.checkpoint_every,
        prefetch=config.loader.prefetch,
        device_type=request.device_type,
    )
    epochs = schedule.last_step // sampler.steps_per_epoch + 1
    return replace(
        config,
        recipe=config.recipe.full_size,  # the views of most epochs, and the dearest ones
        epochs=epochs + 1,
        max_steps=0,
        optimizer=replace(config.optimizer, warmup_epochs=epochs),
    ), schedule


def run(world: World, request: CertificateRequest, schedule: Schedule) -> int:
    """Measure in this process of the world; return the exit status."""
    try:
        cores = divide(world)
        request = settled(world, request)
        ranks = _gathered(measure(world, request, schedule, cores), world)
        if world.is_main:
            _write(request, schedule, ranks, cores.note)
        return 0
    except torch.OutOfMemoryError as error:
        click.echo(
            f"Error: {error}. Give the GPUs of the run (--gpus), or --set global_batch_size lower",
            err=True,
        )
        return 2
    except (ValueError, OSError, Diverged, TooManyBadSamples, Stalled) as error:
        click.echo(f"Error: {error}", err=True)
        return 2


def settled(world: World, request: CertificateRequest) -> CertificateRequest:
    """The request with the decoder decided as a training decides it before its first step."""
    shards = open_shards(request.data)
    config = settle_decoding(request.config, shards, request.out / _NO_RUN, world, tell)
    shards.close()
    return replace(request, config=config)


def measure(
    world: World, request: CertificateRequest, schedule: Schedule, cores: Cores
) -> dict[str, Any]:
    """Return the raw figures of this process."""
    config = request.config
    with model_cores(cores, world), tempfile.TemporaryDirectory() as folder:
        shards = open_shards(request.data)
        rank = Rank(
            world,
            config,
            Plan.of(config, shards, request.out / _NO_RUN),
            schedule,
            cores,
            shards,
            Path(folder),
            throttle=request.throttle,
        )
        files = [request.data / entry.name for entry in shards.manifest.files]
        figures = rank.measure(files)
        shards.close()
    return figures


def _gathered(figures: dict[str, Any], world: World) -> list[dict[str, Any]]:
    if world.size == 1:
        return [figures]
    every: list[Any] = [None] * world.size
    dist.all_gather_object(every, figures)
    return every


def _write(
    request: CertificateRequest, schedule: Schedule, ranks: list[dict[str, Any]], cores_note: str
) -> None:
    """Write the certificate with its raw figures: OUT/certificate.json appears when complete."""
    result = {
        **report(ranks, schedule),
        "device": request.device_type,
        "processes": request.processes,
        "cores": cores_note,
        "throttle": request.throttle,
        "data": str(request.data),
        "command": ["python", "-m", "bench", *sys.argv[1:]],
        "environment": environment(),
        "config": to_dict(request.config),
        "ranks": ranks,
    }
    path = request.out / NAME
    write_text_whole(path, json.dumps(result) + "\n")
