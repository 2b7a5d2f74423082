"""Progress of work on many pictures: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 5.0  # of progress, where there is no terminal
SECONDS_BETWEEN_UPDATES = 0.1

Advance = Callable[[int], None]  # called once for each picture with the number of bad ones so far


@contextmanager
def shown_progress(total: int, what: str) -> Iterator[Advance]:
    """Show progress with rate and time left: a bar on a terminal, else a line now and then."""
    console = Console(stderr=True)
    start = time.perf_counter()
    done, shown = 0, start
    interval = SECONDS_BETWEEN_UPDATES if console.is_terminal else SECONDS_BETWEEN_LINES
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} pictures/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[bad]}"),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=total, rate=0.0, bad="")

        def advance(num_bad: int) -> None:
            nonlocal done, shown
            done += 1
            now = time.perf_counter()
            if now - shown < interval and (done < total or not console.is_terminal):
                return
            shown = now
            rate = done / (now - start)
            bad = f"{num_bad} bad" if num_bad else ""
            if console.is_terminal:
                bar.update(task, completed=done, rate=rate, bad=bad)
                return
            left = time.strftime("%H:%M:%S", time.gmtime((total - done) / rate))
            line = f"{what}: {done}/{total} pictures, {rate:.0f} pictures/s, {left} left {bad}"
            click.echo(line.rstrip(), err=True)

        yield advance
