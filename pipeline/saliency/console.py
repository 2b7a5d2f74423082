"""What the commands of saliency show: one line for an error, the progress of stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from console import Refused

NAMES_SHOWN = 10
SECONDS_BETWEEN_LINES = 10.0  # of progress, where there is no terminal


@contextmanager
def refusing() -> Iterator[None]:
    """Turn what the user can mend into one line and exit status 2."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise Refused(" ".join(str(error).split())) from error
    except BrokenProcessPool as error:
        raise click.ClickException(
            "a process died; out of memory? try fewer --processes"
        ) from error


@contextmanager
def report(stage: str, total: int) -> Iterator[Callable[[], None]]:
    """Show the progress of a stage on standard error: a bar on a terminal, else lines."""
    console = Console(stderr=True)
    start = shown = time.perf_counter()
    done = 0
    with Progress(
        TextColumn("{task.description:>22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(stage, total=total)

        def tick() -> None:
            nonlocal done, shown
            bar.advance(task)
            done += 1
            now = time.perf_counter()
            due = now - shown >= SECONDS_BETWEEN_LINES or done == total
            if due and not console.is_terminal:
                shown = now
                click.echo(f"{stage}: {done}/{total}, {now - start:.0f} s", err=True)

        yield tick


def list_bad(bad: list[tuple[str, str]], what: str) -> None:
    """Name pictures, with reasons, on standard error; the first ones of many."""
    if not bad:
        return
    click.echo(f"{len(bad)} {what}:", err=True)
    for key, reason in bad[:NAMES_SHOWN]:
        click.echo(f"  {key}: {reason}", err=True)
    if len(bad) > NAMES_SHOWN:
        click.echo(f"  and {len(bad) - NAMES_SHOWN} more", err=True)
