"""Train ReLICv2 on shards: `python train.py --data SHARDS --out RUN --gpus 8 --preset NAME`.

Reads top to bottom: command line -> processes -> train() -> train_step(). Starting again with the
same --out resumes at the last checkpoint; the loader has no state but the number of the step. The
imports stand below the command line, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, replace
from pathlib import Path

import click

from console import HELP_NAMES, Command, Refused, answer_usage, outlive_output, spin_briefly
from training import DEFAULT_PRESET, PRESET_NAMES


class TrainCommand(Command):
    """Says which option is missing, and how a setting that is given as an option is set."""

    def parse_args(self, context: click.Context, words: list[str]) -> list[str]:
        try:
            rest = super().parse_args(context, list(words))
        except click.NoSuchOption as error:
            from training.config import setting_for_option  # imports torch: it knows the settings

            setting = setting_for_option(error.option_name, sure=not error.possibilities)
            if setting is None:
                raise
            _, _, value = " ".join(words).replace("=", " ").partition(f"{error.option_name} ")
            example = f"--set {setting}={value.partition(' ')[0] or 'VALUE'}"
            message = f"no option {error.option_name}; it is a setting: {example}"
            raise click.UsageError(message, context) from error
        needed = {each.name: each for each in self.params}
        given = context.params
        if not given["listed"]:
            if given["out"] is None and given["show_views"] is None:
                raise click.MissingParameter(ctx=context, param=needed["out"])
            run = given["out"] and given["out"] / "config.json"
            if given["data"] is None and not (run and run.exists()):
                if run:
                    raise click.UsageError(
                        f"there is no run in {given['out']} to go on with; a new one needs --data",
                        context,
                    )
                raise click.MissingParameter(ctx=context, param=needed["data"])
        return rest


@click.command(cls=TrainCommand, context_settings=HELP_NAMES)
@click.option(
    "--data", type=Path, help="Shards made by convert_dataset.py. [default: those of the run]"
)
@click.option("--out", type=Path, help="Run directory; an existing run resumes, with its settings.")
@click.option("--gpus", type=int, help="GPUs of this machine; 0: CPU. [default: 1 if there is one]")
@click.option("--processes", type=int, default=1, show_default=True, help="CPU processes.")
@click.option(
    "--preset",
    help=f"{', '.join(PRESET_NAMES)}, or a .toml file. [default: the run's, or {DEFAULT_PRESET}]",
)
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="Change a setting.")
@click.option("--settings", "listed", is_flag=True, help="List all settings; trains nothing.")
@click.option(
    "--max-bad", type=click.IntRange(min=0), help="Undecodable pictures that are tolerated. [10]"
)
@click.option("--plan", "asked", is_flag=True, help="What the run would take; trains nothing.")
@click.option(
    "--show-views",
    type=Path,
    metavar="FILE.png",
    help="Draw some images, their masks and their views; trains nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def main(
    data: Path | None,
    out: Path | None,
    gpus: int | None,
    processes: int,
    preset: str | None,
    settings: tuple[str, ...],
    listed: bool,
    max_bad: int | None,
    asked: bool,
    show_views: Path | None,
    as_json: bool,
) -> None:
    """Pretrain a ResNet without labels by ReLICv2."""
    if max_bad is not None:
        settings = (*settings, f"loader.max_bad={max_bad}")
    try:
        if listed:
            show_settings(apply_settings(load_preset(preset or DEFAULT_PRESET), settings), as_json)
            return
        config, data = asked_of(out, data, preset)
        config = apply_settings(config, settings)
        if show_views is not None:
            if asked:
                raise ValueError("--plan and --show-views exclude each other; give one")
            click.echo(
                draw_views(open_shards(data), config.recipe, seed=config.seed, path=show_views)
            )
            if as_json:
                click.echo(json.dumps({"status": 0, "views": str(show_views)}))
            return
        assert out is not None
        device_type, size = plan_world(gpus=gpus, processes=processes)
        settled = replace(config, loader=config.loader.for_device(torch.device(device_type)))
        plan = Plan.of(settled, open_shards(data), out)
        arguments = (settled if asked else config, data, out)
        patience = config.patience_seconds
        if asked:
            sys.exit(
                foretell(
                    run,
                    *arguments,
                    plan,
                    device_type=device_type,
                    size=size,
                    say=click.echo,
                    as_json=as_json,
                )
            )
        if under_torchrun():
            sys.exit(
                run_in_place(
                    run, device_type=device_type, arguments=arguments, patience_seconds=patience
                )
            )
        plan.check_world(config, size)
        status = run_processes(
            run,
            device_type=device_type,
            size=size,
            arguments=arguments,
            patience_seconds=patience,
        )
    except (ValueError, OSError) as error:
        leave_it_to_rank_0()
        raise Refused(reason(error)) from error
    if as_json:
        click.echo(json.dumps({"status": status, "out": str(out), **last_values(out)}))
    sys.exit(status)


if __name__ == "__main__":
    outlive_output()
    spin_briefly()
    answer_usage(main)  # before the imports below, which take seconds

import torch

from evaluation.sheets import draw_views
from model import checkpoint
from model.distributed import barrier, broadcast_parameters, from_main, synchronise_batchnorm
from model.guard import Guard
from model.lars import make_optimizer
from model.loss import LossTerms
from model.relicv2 import ReLICv2
from model.step import backward
from pipeline.batch import MultiCropBatch
from pipeline.loader import MultiCropLoader, training_views
from pipeline.loader.decode import TooManyBadSamples
from pipeline.loader.watchdog import Stalled
from pipeline.shards import Shards, open_shards
from pipeline.shards.described import mask_summary
from training.claim import Claim, claimed
from training.config import TrainConfig, apply_settings, doubts
from training.decoding import settle_decoding
from training.feed import agreed_batches
from training.forecast import foretell
from training.launch import (
    StopRequest,
    World,
    leave_it_to_rank_0,
    plan_world,
    run_in_place,
    run_processes,
    under_torchrun,
    unforeseen,
)
from training.meter import Diverged, Meter
from training.monitor import KnnMonitor
from training.negatives import draw_negatives
from training.plan import Plan
from training.presets import load_preset
from training.runlog import (
    RunLog,
    SilentLog,
    described,
    described_run,
    duration,
    last_values,
)
from training.saving import CheckpointWriter
from training.settings_list import listed_settings, settings_text
from training.trust import Verdict, settle_executor


def asked_of(out: Path | None, data: Path | None, preset: str | None) -> tuple[TrainConfig, Path]:
    """Return the configuration before any --set, and the shards: of the preset, or of the run.

    A run that can be resumed, or that no --data is given for, goes on with its own settings.

    Raises:
        ValueError: an unknown preset, or nothing says where the shards are.
    """
    kept, own_data = out and described_run(out), data is None
    data = data or (kept.data if kept else None)
    if data is None:
        raise ValueError(f"{out} does not say where the shards of its run are; give --data")
    if preset is None and out and kept and (own_data or checkpoint.latest(out)):
        return kept.config, data
    return load_preset(preset or DEFAULT_PRESET), data


def show_settings(config: TrainConfig, as_json: bool) -> None:
    """Print every setting; as one JSON object if asked for."""
    if as_json:
        click.echo(json.dumps({"settings": [asdict(each) for each in listed_settings(config)]}))
    else:
        click.echo(settings_text(config))


def run(world: World, config: TrainConfig, data: Path, out: Path) -> int:
    """Train in this process of the world; return the exit status."""
    try:
        with claimed(out) as claim:
            return train(world, config, data, out, claim)
    except Exception as error:
        if world.is_main or not isinstance(error, (ValueError, Diverged)):  # same on every rank
            explain(error, out)
        return 2 if isinstance(error, (ValueError, OSError)) else 1


def explain(error: Exception, out: Path) -> None:
    """Say why the run ends: a line, or for what nobody foresaw all that is known."""
    if isinstance(error, Diverged):
        kept = checkpoint.latest(out)
        click.echo(f"Error: {error} ({kept.name if kept else 'none was saved yet'})", err=True)
    elif isinstance(error, (TooManyBadSamples, Stalled, ValueError, OSError)):
        click.echo(f"Error: {reason(error)}", err=True)
    else:
        click.echo(unforeseen(error), err=True, nl=False)


def reason(error: Exception) -> str:
    """What a known error says, in one line; of the file system's, the path comes first."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        wrong = error.strerror[0].lower() + error.strerror[1:]
        return f"cannot use {error.filename}: {wrong}; mend that, or give another path"
    return str(error)


def train(world: World, config: TrainConfig, data: Path, out: Path, claim: Claim) -> int:
    """Train to the end, or until told to stop; return the exit status."""
    shards = open_shards(data)
    plan = Plan.of(config, shards, out)
    plan.check_world(config, world.size)
    config, verdict = settle_executor(config, data, out, world, click.echo)
    config = settle_decoding(config, shards, out, world, click.echo)
    model, optimizer = build(config, world)
    step = resume(out, model, optimizer, world)
    if step >= plan.end_step:
        if world.is_main:
            conclude(out, model, shards, f"finished already: all of its {step} steps are done")
        barrier()
        return 0
    began, first = time.monotonic(), step
    guard = Guard(model, remembered=config.log_every, group=world.gradient_group())
    stop = StopRequest(world)
    loader = open_views(shards, config, plan, world, start_step=step)
    with ExitStack() as stack:
        stack.enter_context(loader)
        log: RunLog | SilentLog = open_log(out, config, shards, plan, step, world, claim, verdict)
        stack.callback(log.close)
        monitor = KnnMonitor(shards, config, world, stop.fail)
        meter = Meter(loader, world, stop.fail, guard.skipped, log)
        writer = stack.enter_context(open_writer(out, config, plan, world, log.say, stop.fail))
        saved = step
        if step == 0 and monitor.due(step, plan.sampler.steps_per_epoch, last=False):
            measure(monitor, model, log, meter, step, world)
        for batch in agreed_batches(loader, stop):
            if step == first:
                log.show_views(batch, config.recipe, step)
            terms = train_step(model, optimizer, batch, config, plan, step, world, guard)
            step += 1
            last = step == plan.end_step
            writer.check()
            saving = writer.due(step)
            if step % config.log_every == 0 or saving:
                # A loss is seen before its weights are kept.
                record(log, meter, terms, config, plan, step)
            log.advance(step)
            if saving:
                writer.save(step, model, optimizer)
                saved = step
            if log.take_removal():  # the checkpoints, too: none is left but what is in memory
                writer.save(step, model, optimizer)
            if monitor.due(step, plan.sampler.steps_per_epoch, last=last):
                measure(monitor, model, log, meter, step, world)
        if stop.verdict and step > saved:
            record(log, meter, terms, config, plan, step)
            writer.save(step, model, optimizer)
        writer.finish(step, model, optimizer)  # "step N is saved" is to be true when it is said
        if stop.agreed():
            log.say(f"stopped {stop.reason()}; {writer.kept(step)}")
        elif world.is_main:
            took = duration(time.monotonic() - began)
            since = f", after step {first}" if first else ""
            conclude(
                out, model, shards, f"finished: {step - first} steps in {took}{since}", log.say
            )
        if stop.error:
            explain(stop.error, out)  # here: behind the barrier another process may end this one
        barrier()
    return stop.verdict


def conclude(
    out: Path,
    model: ReLICv2,
    shards: Shards,
    finished: str,
    say: Callable[[str], object] = click.echo,
) -> None:
    """Write the encoder of a run that is at its end; say where it is and how to evaluate it."""
    path = out / "encoder.pt"
    checkpoint.export_encoder(path, model)
    labelled = bool((shards.labels >= 0).any())
    data = shlex.quote(str(shards.path)) if labelled else "LABELLED_SHARDS"
    say(
        f"{finished}; encoder: {path}\n"
        f"evaluate: python evaluate.py knn --checkpoint {shlex.quote(str(out))} --train {data}"
    )


def measure(
    monitor: KnnMonitor,
    model: ReLICv2,
    log: RunLog | SilentLog,
    meter: Meter,
    step: int,
    world: World,
) -> None:
    """Write the encoder's kNN accuracy, on rank 0; it is no part of the training's speed."""
    if world.is_main:
        if figures := monitor.measure(model.online.encoder, meter.bad_samples):
            log.write(step, **figures)
        meter.restart()


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
    log.keep_skipped_steps(meter.skipped_steps)
    meter.check_skipped(config.max_skipped)


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
    guard: Guard,
) -> LossTerms:
    """One update: gradients view by view, optimizer, target. Returns device scalars."""
    for group in optimizer.param_groups:
        group["lr"] = plan.learning_rate(config, step)
    guard.begin()
    terms = backward(
        model,
        batch.large,
        batch.small,
        draw_negatives(batch, config, plan, step, world),
        config.loss,
        gradients=guard.gradients,
        parts=config.accumulate,
        together=config.runs_views_together(
            len(batch.labels) // config.accumulate, on_cpu=world.device.type == "cpu"
        ),
        autocast=_autocast(config, world.device),
    )
    guard.update(optimizer, step, plan.target_decay(config, step))
    return terms


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
    """Load the newest checkpoint that rank 0 can read; return its completed steps, 0 without."""
    found = from_main(lambda: checkpoint.restore(out))
    if found is None:
        return 0
    if found.warning and world.is_main:
        click.echo(found.warning, err=True)
    return checkpoint.apply(found.state, model, optimizer)


def open_writer(
    out: Path,
    config: TrainConfig,
    plan: Plan,
    world: World,
    say: Callable[[str], object],
    fail: Callable[[Exception], object],
) -> CheckpointWriter:
    """Return what saves checkpoints, from rank 0; the others go on."""
    return CheckpointWriter(
        out,
        config,
        plan.sampler.steps_per_epoch,
        plan.end_step,
        is_main=world.is_main,
        say=say,
        fail=fail,
    )


def open_log(
    out: Path,
    config: TrainConfig,
    shards: Shards,
    plan: Plan,
    step: int,
    world: World,
    claim: Claim,
    verdict: Verdict | None,
) -> RunLog | SilentLog:
    """Describe the run and open its log, on rank 0; other ranks say nothing."""
    if not world.is_main:
        return SilentLog()
    log = RunLog(
        out,
        start_step=step,
        total_steps=plan.end_step,
        name=config.name,
        description=described(config, shards.manifest, world, data=shards.path)
        | {"gpu_check": verdict and asdict(verdict)},
        renew=claim.renew,
    )
    log.say(
        f"{config.name}: {len(shards)} pictures, {plan.sampler.steps_per_epoch} steps an epoch, "
        f"{plan.end_step} in all, {world.size} process(es) on {world.device.type}, "
        f"views by {config.loader.executor}" + (f"; going on after step {step}" if step else "")
    )
    log.say(mask_summary(shards.manifest, config.recipe))
    for doubt in doubts(config):
        log.say(f"warning: {doubt}")
    return log


def _autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[object]:
    wanted = _in_bfloat16(config, device)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)


def _in_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    return config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda")


if __name__ == "__main__":
    main()
