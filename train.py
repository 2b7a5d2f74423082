"""Train ReLICv2 on shards: `python train.py --data SHARDS --out RUN --gpus 8 --preset NAME`.

Reads top to bottom: command line -> processes -> train() -> train_step(). Starting again with the
same --out resumes at the last checkpoint; the loader has no state but the number of the step.
"""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import click
import torch
from torch import Tensor

from model import checkpoint
from model.distributed import barrier, broadcast_parameters, synchronise_batchnorm
from model.lars import make_optimizer
from model.loss import LossTerms
from model.relicv2 import ReLICv2
from model.step import backward
from pipeline.batch import MultiCropBatch
from pipeline.loader import MultiCropLoader, training_views
from pipeline.loader.decode import TooManyBadSamples
from pipeline.loader.watchdog import Stalled
from pipeline.sampler import sample_negatives
from pipeline.shards import Shards, open_shards
from training.config import TrainConfig, apply_settings, to_dict
from training.decoding import settle_decoding
from training.feed import agreed_batches
from training.launch import StopRequest, World
from training.meter import Diverged, Meter
from training.monitor import KnnMonitor
from training.plan import Plan
from training.presets import PRESETS, load_preset
from training.runlock import held
from training.runlog import RunLog, SilentLog, last_values, write_description
from training.together import resume_together
from training.torchrun import plan_processes, record_error, speaks_first, start


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--data", required=True, type=Path, help="Shards made by convert_dataset.py.")
@click.option("--out", required=True, type=Path, help="Run directory; an existing run resumes.")
@click.option("--gpus", type=int, help="GPUs of this machine; 0: CPU. [default: 1 if there is one]")
@click.option("--processes", type=int, default=1, show_default=True, help="CPU processes.")
@click.option(
    "--preset",
    default="imagenet-rn50",
    show_default=True,
    help=f"{', '.join(PRESETS)}, or a .toml file.",
)
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE", help="Change a setting.")
@click.option(
    "--max-bad", type=click.IntRange(min=0), help="Undecodable pictures that are tolerated. [10]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def main(
    data: Path,
    out: Path,
    gpus: int | None,
    processes: int,
    preset: str,
    settings: tuple[str, ...],
    max_bad: int | None,
    as_json: bool,
) -> None:
    """Pretrain a ResNet without labels by ReLICv2."""
    if max_bad is not None:
        settings = (*settings, f"loader.max_bad={max_bad}")
    try:
        config = apply_settings(load_preset(preset), settings)
        device_type, size = plan_processes(gpus=gpus, processes=processes)
        config = replace(config, loader=config.loader.for_device(torch.device(device_type)))
        plan = Plan.of(config, open_shards(data), out)
        plan.check_world(config, size)
        status = start(
            run,
            device_type=device_type,
            size=size,
            arguments=(config, data, out),
            patience_seconds=config.patience_seconds,
        )
    except ValueError as error:
        raise Refused(str(error)) from error
    if as_json and speaks_first():
        click.echo(json.dumps({"status": status, "out": str(out), **last_values(out)}))
    sys.exit(status)


class Refused(click.ClickException):
    """What the user asked for cannot be done: one line, exit status 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        record_error(self.message)
        if speaks_first():
            super().show(file)


def run(world: World, config: TrainConfig, data: Path, out: Path) -> int:
    """Train in this process of the world; return the exit status."""
    try:
        with held(out, world):
            return train(world, config, data, out)
    except (Diverged, TooManyBadSamples, Stalled) as error:
        click.echo(f"Error: {error}", err=True)
        record_error(str(error), ended=None if isinstance(error, Stalled) else out)
        return 1
    except (ValueError, OSError) as error:
        record_error(str(error))
        if world.is_main or isinstance(error, OSError):  # wrong input is wrong on every rank
            click.echo(f"Error: {error}", err=True)
        return 2


def train(world: World, config: TrainConfig, data: Path, out: Path) -> int:
    """Train to the end, or until told to stop; return the exit status."""
    shards = open_shards(data)
    plan = Plan.of(config, shards, out)
    plan.check_world(config, world.size)
    config = settle_decoding(config, shards, out, world, click.echo)
    model, optimizer = build(config, world)
    step = resume_together(lambda: resume(out, model, optimizer, world), out, world)
    stop = StopRequest(world)
    loader = open_views(shards, config, plan, world, start_step=step)
    with ExitStack() as stack:
        stack.enter_context(loader)
        log: RunLog | SilentLog = open_log(out, config, shards, plan, step, world)
        stack.callback(log.close)
        monitor = KnnMonitor(shards, config, world)
        meter = Meter(loader, world, stop.fail)
        saved = step
        for batch in agreed_batches(loader, stop):
            terms = train_step(model, optimizer, batch, config, plan, step, world)
            step += 1
            last = step == plan.end_step
            saving = step % config.checkpoint_every == 0 or last
            if step % config.log_every == 0 or saving:
                # A loss is seen before its weights are kept.
                record(log, meter, terms, config, plan, step)
            log.advance(step)
            if saving:
                save(out, step, model, optimizer, config, world)
                saved = step
            if monitor.due(step, plan.sampler.steps_per_epoch, last=last):
                log.write(step, **monitor.measure(model.online.encoder))
                meter.restart()  # the measurement is no part of the training's speed
        if stop.verdict:
            if step > saved:
                record(log, meter, terms, config, plan, step)
                save(out, step, model, optimizer, config, world)
            kept = f"step {step} is saved, run again to go on" if step else "no step was done yet"
            log.say(f"stopped {stop.reason()}; {kept}")
        elif world.is_main:
            checkpoint.export_encoder(out / "encoder.pt", model)
        barrier()
        if stop.error:
            raise stop.error
    return stop.verdict


def record(
    log: RunLog | SilentLog,
    meter: Meter,
    terms: LossTerms,
    config: TrainConfig,
    plan: Plan,
    step: int,
) -> None:
    """Write a log line: what the steps since the last one came to, on all ranks."""
    log.write(step, **meter.read(terms, config, plan, step))
    log.keep_bad_samples(meter.bad_samples)


def open_views(
    shards: Shards,
    config: TrainConfig,
    plan: Plan,
    world: World,
    *,
    start_step: int,
    end_step: int | None = None,
) -> MultiCropLoader:
    """Stream this process's views from `start_step` on, to the end of the plan by default."""
    return training_views(
        shards,
        recipe=config.recipe,
        sampler=plan.sampler,
        seed=config.seed,
        config=config.loader,
        start_step=start_step,
        end_step=plan.end_step if end_step is None else end_step,
        rank=world.rank,
        world_size=world.size,
        local_size=world.local_size,
        device=world.device,
        dtype=views_dtype(config, world.device),
    )


def views_dtype(config: TrainConfig, device: torch.device) -> torch.dtype:
    """What views are made as, where the executor can choose."""
    return torch.bfloat16 if _in_bfloat16(config, device) else torch.float32


def train_step(
    model: ReLICv2,
    optimizer: torch.optim.Optimizer,
    batch: MultiCropBatch,
    config: TrainConfig,
    plan: Plan,
    step: int,
    world: World,
) -> LossTerms:
    """One update: gradients view by view, optimizer, target. Returns device scalars."""
    for group in optimizer.param_groups:
        group["lr"] = plan.learning_rate(config, step)
    optimizer.zero_grad(set_to_none=True)
    terms = backward(
        model,
        batch.large,
        batch.small,
        draw_negatives(batch, config, plan, step, world),
        config.loss,
        autocast=_autocast(config, world.device),
    )
    optimizer.step()
    model.update_target(plan.target_decay(config, step))
    return terms


def draw_negatives(
    batch: MultiCropBatch, config: TrainConfig, plan: Plan, step: int, world: World
) -> Tensor | None:
    """Return the negatives of each anchor [V, L, B, n], or None for all others of the batch.

    Positions count the local batch, or the global one with loss.negatives=global: sample p of the
    global batch lives on rank p % world_size, row p // world_size.
    """
    if config.loss.num_negatives == 0:
        return None
    rows = torch.arange(len(batch.labels)).numpy()
    gathered = config.loss.negatives == "global"
    epoch, ids = plan.sampler.batch(step)
    negatives = sample_negatives(
        seed=config.seed,
        epoch=epoch,
        sample_ids=ids[world.rank :: world.size],
        positions=rows * world.size + world.rank if gathered else rows,
        num_candidates=len(rows) * world.size if gathered else len(rows),
        num_negatives=config.loss.num_negatives,
        num_online=config.recipe.num_views,
        num_target=config.recipe.num_large,
    )
    return torch.from_numpy(negatives).to(batch.large.device, non_blocking=True)


def build(config: TrainConfig, world: World) -> tuple[ReLICv2, torch.optim.Optimizer]:
    """Make model and optimizer, the same on every rank."""
    generator = torch.Generator().manual_seed(config.seed)
    model = ReLICv2(config.model, generator=generator)
    model = model.to(world.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if world.size > 1:
        model = synchronise_batchnorm(model)
        broadcast_parameters(model)
    return model.train(), make_optimizer(model, config.optimizer)


def resume(out: Path, model: ReLICv2, optimizer: torch.optim.Optimizer, world: World) -> int:
    """Load the newest checkpoint of `out`; return the number of completed steps, 0 without one."""
    found = checkpoint.restore(out)
    if found is None:
        return 0
    if found.warning and world.is_main:
        click.echo(found.warning, err=True)
    return checkpoint.apply(found.state, model, optimizer)


def save(
    out: Path,
    step: int,
    model: ReLICv2,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    world: World,
) -> None:
    """Write a checkpoint, from rank 0; the others go on."""
    if not world.is_main:
        return
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise Diverged(
            f"weights are not finite after step {step}; the last checkpoint is kept. Lower "
            "optimizer.base_learning_rate, and start again"
        )
    state = checkpoint.capture(model, optimizer, step=step, config=to_dict(config))
    checkpoint.save(out, step, state, keep=config.keep_checkpoints)


def open_log(
    out: Path, config: TrainConfig, shards: Shards, plan: Plan, step: int, world: World
) -> RunLog | SilentLog:
    """Describe the run and open its log, on rank 0; other ranks say nothing."""
    if not world.is_main:
        return SilentLog()
    out.mkdir(parents=True, exist_ok=True)
    write_description(out, config, shards.manifest, world)
    log = RunLog(out, start_step=step, total_steps=plan.end_step, name=config.name)
    log.say(
        f"{config.name}: {len(shards)} pictures, {plan.sampler.steps_per_epoch} steps an epoch, "
        f"{plan.end_step} in all, {world.size} process(es) on {world.device.type}, "
        f"views by {config.loader.executor}" + (f"; going on after step {step}" if step else "")
    )
    return log


def _autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[object]:
    wanted = _in_bfloat16(config, device)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)


def _in_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    return config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda")


if __name__ == "__main__":
    main()
