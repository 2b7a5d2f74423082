"""Train ReLICv2 on shards: `python train.py --data SHARDS --out RUN --gpus 8 --preset NAME`.

Reads top to bottom: command line -> processes -> train() -> train_step(). Starting again with the
same --out resumes at the last checkpoint; the loader has no state but the number of the step.
"""

from __future__ import annotations

import math
import sys
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from model import checkpoint
from model.distributed import barrier, broadcast_parameters, synchronise_batchnorm
from model.lars import make_optimizer
from model.loss import LossTerms
from model.relicv2 import ReLICv2
from model.schedules import learning_rate, target_decay
from model.step import backward
from pipeline.batch import MultiCropBatch
from pipeline.loader import MultiCropLoader, training_views
from pipeline.sampler import Sampler, sample_negatives
from pipeline.shards import Shards, open_shards
from training.config import TrainConfig, apply_settings, to_dict
from training.launch import (
    StopRequest,
    World,
    plan_world,
    run_in_place,
    run_processes,
    under_torchrun,
)
from training.monitor import KnnMonitor
from training.presets import PRESETS, load_preset
from training.runlog import RunLog, check_same_run, write_description


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
def main(
    data: Path,
    out: Path,
    gpus: int | None,
    processes: int,
    preset: str,
    settings: tuple[str, ...],
) -> None:
    """Pretrain a ResNet without labels by ReLICv2."""
    try:
        config = apply_settings(load_preset(preset), settings)
        device_type, size = plan_world(gpus=gpus, processes=processes)
        plan = Plan.of(config, open_shards(data), out)
        if under_torchrun():
            sys.exit(run_in_place(train, device_type=device_type, arguments=(config, data, out)))
        plan.check_world(size)
        sys.exit(
            run_processes(train, device_type=device_type, size=size, arguments=(config, data, out))
        )
    except ValueError as error:
        raise Refused(str(error)) from error


class Refused(click.ClickException):
    """What the user asked for cannot be done: one line, exit status 2."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What follows from a configuration and a data set: the steps of the run."""

    sampler: Sampler
    warmup_steps: int
    total_steps: int
    end_step: int

    @classmethod
    def of(cls, config: TrainConfig, shards: Shards, out: Path) -> Plan:
        """Make the plan.

        Raises:
            ValueError: the data are too few for a batch, or `out` cannot be this run's directory.
        """
        check_same_run(out, config, shards.manifest)
        sampler = Sampler(
            num_samples=len(shards),
            global_batch_size=config.global_batch_size,
            seed=config.seed,
        )
        total_steps = config.epochs * sampler.steps_per_epoch
        return cls(
            sampler=sampler,
            warmup_steps=config.optimizer.warmup_epochs * sampler.steps_per_epoch,
            total_steps=total_steps,
            end_step=min(config.max_steps or total_steps, total_steps),
        )

    def learning_rate(self, config: TrainConfig, step: int) -> float:
        return learning_rate(
            step,
            base=config.optimizer.base_learning_rate,
            global_batch_size=config.global_batch_size,
            warmup_steps=self.warmup_steps,
            total_steps=self.total_steps,
        )

    def target_decay(self, config: TrainConfig, step: int) -> float:
        return target_decay(step, base=config.target_decay, total_steps=self.total_steps)

    def check_world(self, size: int) -> None:
        """Raise ValueError unless `size` processes share a global batch evenly."""
        if self.sampler.global_batch_size % size:
            raise ValueError(
                f"global_batch_size={self.sampler.global_batch_size} cannot be divided among "
                f"{size} processes; --set global_batch_size to a multiple of {size}"
            )


def train(world: World, config: TrainConfig, data: Path, out: Path) -> int:
    """Train in this process of the world; return the exit status."""
    shards = open_shards(data)
    plan = Plan.of(config, shards, out)
    plan.check_world(world.size)
    model, optimizer = build(config, world)
    step = resume(out, model, optimizer, world)
    stop = StopRequest(world)
    loader = training_views(
        shards,
        recipe=config.recipe,
        sampler=plan.sampler,
        seed=config.seed,
        config=config.loader,
        start_step=step,
        end_step=plan.end_step,
        rank=world.rank,
        world_size=world.size,
    )
    with ExitStack() as stack:
        stack.enter_context(loader)
        log = stack.enter_context(open_log(out, config, shards, plan, step, world))
        monitor = KnnMonitor(shards, config, world)
        meter = Meter(loader, world)
        for batch in loader:
            terms = train_step(model, optimizer, batch, config, plan, step, world)
            step += 1
            last = step == plan.end_step
            signal = stop.agreed(step)
            if log and (step % config.log_every == 0 or last or signal):
                log.write(step, **meter.read(terms, config, plan, step))
            if step % config.checkpoint_every == 0 or last or signal:
                save(out, step, model, optimizer, config, world)
            if monitor.due(step, plan.sampler.steps_per_epoch, last=last) and log:
                log.write(step, **monitor.measure(model.online.encoder))
            if signal:
                if log:
                    log.say(f"stopped by signal {signal}; step {step} is saved, run again to go on")
                barrier()
                return 128 + signal
        if log:
            checkpoint.export_encoder(out / "encoder.pt", model)
            for line in loader.bad_samples:
                log.say(line)
        barrier()
    return 0


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
    batch = _to_device(batch, world.device)
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
    state = checkpoint.capture(model, optimizer, step=step, config=to_dict(config))
    checkpoint.save(out, step, state, keep=config.keep_checkpoints)


def open_log(
    out: Path, config: TrainConfig, shards: Shards, plan: Plan, step: int, world: World
) -> AbstractContextManager[RunLog | None]:
    """Describe the run and open its log, on rank 0; None elsewhere."""
    if not world.is_main:
        return nullcontext()
    out.mkdir(parents=True, exist_ok=True)
    write_description(out, config, shards.manifest, world)
    return RunLog(out, start_step=step, total_steps=plan.end_step, name=config.name)


class Meter:
    """Turns the loader's totals and the clock into the figures of a log line."""

    def __init__(self, loader: MultiCropLoader, world: World) -> None:
        self._loader = loader
        self._world_size = world.size
        self._last = (time.perf_counter(), loader.stats())

    def read(self, terms: LossTerms, config: TrainConfig, plan: Plan, step: int) -> dict[str, Any]:
        """Return the values of the steps since the last call. Waits for the device."""
        loss = float(terms.total)
        if not math.isfinite(loss):
            raise RuntimeError(
                f"the loss is {loss} after step {step}; the last checkpoint is kept. Lower "
                "optimizer.base_learning_rate or raise loss.temperature, and start again"
            )
        then, before = self._last
        now, stats = time.perf_counter(), self._loader.stats()
        self._last = (now, stats)
        images = (stats.images - before.images) * self._world_size
        return {
            "epoch": step / plan.sampler.steps_per_epoch,
            "loss": loss,
            "contrastive": float(terms.contrastive),
            "invariance": float(terms.invariance),
            "accuracy": float(terms.accuracy),
            "learning_rate": plan.learning_rate(config, step - 1),
            "target_decay": plan.target_decay(config, step - 1),
            "images_per_second": images / (now - then),
            "wait_share": (stats.wait_seconds - before.wait_seconds) / (now - then),
            "queue_occupancy": stats.occupancy,
            "decode_seconds": stats.busy.get("decode", 0.0) - before.busy.get("decode", 0.0),
            "augment_seconds": stats.busy.get("augment", 0.0) - before.busy.get("augment", 0.0),
            "bad_samples": stats.bad_samples,
        }


def _to_device(batch: MultiCropBatch, device: torch.device) -> MultiCropBatch:
    if device.type == "cpu":
        return batch
    large, small = (
        views.pin_memory().to(device, non_blocking=True) for views in (batch.large, batch.small)
    )
    return replace(batch, large=large, small=small)


def _autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[object]:
    wanted = config.precision == "bfloat16" or (
        config.precision == "auto" and device.type == "cuda"
    )
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)


if __name__ == "__main__":
    main()
