"""What the commands of saliency show: one line for an error, the progress of stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

NAMES_SHOWN = 10


class Refused(click.ClickException):
    """What the user asked for cannot be done: one line, exit status 2."""

    exit_code = 2


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what the user can mend into one line and exit status 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise Refused(" ".join(str(error).split())) from error


@contextmanager
def report(stage: str, total: int) -> Iterator[Callable[[], None]]:
    """Show the progress of a stage on standard error; without a terminal, its last line alone."""
    with Progress(
        TextColumn("{task.description:>20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    ) as progress:
        task = progress.add_task(stage, total=total)
        yield lambda: progress.advance(task)


def list_bad(bad: list[tuple[str, str]], what: str) -> None:
    """Name pictures, with reasons, on standard error; the first ones of many."""
    if not bad:
        return
    click.echo(f"{len(bad)} {what}:", err=True)
    for key, reason in bad[:NAMES_SHOWN]:
        click.echo(f"  {key}: {reason}", err=True)
    if len(bad) > NAMES_SHOWN:
        click.echo(f"  and {len(bad) - NAMES_SHOWN} more", err=True)
