"""How a command of bench says no, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from bench.table import failed
from console import Refused
from pipeline.loader.decode import TooManyBadSamples


@contextmanager
def refusing() -> Iterator[None]:
    """Errors that the user can mend become one line."""
    try:
        yield
    except (ValueError, OSError, TooManyBadSamples) as error:
        raise Refused(str(error)) from error


def conclude(result: dict[str, Any], as_json: bool, *, whose: str = "our own row") -> None:
    """The JSON object as the last line if it is wanted; exit status 1 if a row of ours broke."""
    if as_json:
        click.echo(json.dumps(result))
    if broken := failed(result):
        raise click.ClickException(f"no figures of {whose} {broken[0]!r}; see its line above")
