"""How a command of bench says no."""

from __future__ import annotations

import click


class Refused(click.ClickException):
    """What the user asked for cannot be done: one line, exit status 2."""

    exit_code = 2
