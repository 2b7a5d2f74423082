"""Commands of the ladder: `ladder`, and `loader` and `decode` beside what others use instead."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bench.bottleneck import RUNGS
from bench.decode import DecodeRequest, decode
from bench.ladder import LadderRequest, ladder
from bench.ladder_table import ladder_table
from bench.loader import LoaderRequest, loader
from bench.plot import check_path, plot_rates
from bench.refused import conclude, refusing
from bench.table import table
from training.config import apply_settings
from training.presets import load_preset

Option = Callable[[Callable[..., None]], Callable[..., None]]

_ROUNDS = click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object as the last line."
)
_PLOT = click.option("--plot", type=Path, metavar="FILE.png", help="Write the rates as a plot.")
_DEVICE = click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True
)
_BOTH = click.option(
    "--data",
    type=Path,
    multiple=True,
    help="Shards; one folder of each format, of the same pictures. Generated without it.",
)
_ROWS = click.option("--only", multiple=True, metavar="NAME", help="Measure the row NAME.")


def _threads(default: int | None, what: str) -> Option:
    return click.option(
        "--threads", type=click.IntRange(min=1), default=default, show_default=True, help=what
    )


@click.command("ladder")
@click.option("--data", type=Path, help="Shards; generated pictures without it.")
@click.option("--preset", default="imagenet-rn50", show_default=True)
@click.option("--set", "settings", multiple=True, metavar="PATH=VALUE")
@_DEVICE
@click.option(
    "--batch", type=click.IntRange(min=1), help="Images of a step.  [the preset's, or 32; GPU: 256]"
)
@click.option("--only", multiple=True, metavar="RUNG", help=f"One of {', '.join(RUNGS)}.")
@_ROUNDS
@_threads(None, "Of all work on the CPU.  [default: one for each core]")
@_PLOT
@_JSON
def ladder_command(
    data: Path | None,
    preset: str,
    settings: tuple[str, ...],
    device: str,
    batch: int | None,
    only: tuple[str, ...],
    rounds: int,
    threads: int | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """The pipeline rung by rung, up to the training step; names the bottleneck."""
    with refusing():
        request = LadderRequest(
            config=apply_settings(load_preset(preset), settings),
            data=data,
            device=device,
            batch=batch,
            only=only,
            rounds=rounds,
            threads=threads or len(os.sched_getaffinity(0)),
        )
        check_path(plot)
        result = ladder(request)
        click.echo(ladder_table(result))
        found = result["bottleneck"]
        demand = ("demand of the model", found["demand"]) if found else None
        _plotted(plot, result, line=demand)
    conclude(result, as_json)


@click.command("loader")
@_BOTH
@click.option("--photos", type=Path, help="Folder of the same JPEG files, for torchvision.")
@_DEVICE
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True)
@_ROUNDS
@_threads(2, "Workers of each loader, and cores.")
@click.option("--peers/--no-peers", default=True, show_default=True)
@_ROWS
@_PLOT
@_JSON
def loader_command(
    data: tuple[Path, ...],
    photos: Path | None,
    device: str,
    batch: int,
    rounds: int,
    threads: int,
    peers: bool,
    only: tuple[str, ...],
    plot: Path | None,
    as_json: bool,
) -> None:
    """From bytes on disk to the six views of imagenet-rn50, beside what you would use instead."""
    with refusing():
        request = LoaderRequest(
            data=data,
            photos=photos,
            device=device,
            batch=batch,
            rounds=rounds,
            threads=threads,
            peers=peers,
            only=only,
        )
        check_path(plot)
        result = loader(request)
        click.echo(table(result))
        _plotted(plot, result)
    conclude(result, as_json)


@click.command("decode")
@_BOTH
@click.option("--images", type=click.IntRange(min=1), default=128, show_default=True)
@_ROUNDS
@_threads(2, "Of the rows on several cores.")
@_ROWS
@_PLOT
@_JSON
def decode_command(
    data: tuple[Path, ...],
    images: int,
    rounds: int,
    threads: int,
    only: tuple[str, ...],
    plot: Path | None,
    as_json: bool,
) -> None:
    """The decoding stage, beside bare calls of libjpeg-turbo in a loop."""
    with refusing():
        request = DecodeRequest(data=data, images=images, rounds=rounds, threads=threads, only=only)
        check_path(plot)
        result = decode(request)
        click.echo(table(result))
        _plotted(plot, result)
    conclude(result, as_json)


def _plotted(
    plot: Path | None, result: dict[str, Any], *, line: tuple[str, float] | None = None
) -> None:
    """The figures are there by now: a plot that fails must not lose them."""
    if plot is None:
        return
    try:
        plot_rates(result, plot, line=line)
        click.echo(f"plot: {plot}", err=True)
    except (ValueError, OSError) as error:
        click.echo(f"no plot: {error}", err=True)
