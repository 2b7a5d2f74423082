"""What all commands share: how they refuse, and how they go on when nobody reads their output."""

from __future__ import annotations

import ast
import errno
import importlib.util
import io
import os
import resource
import select
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import click

HELP_NAMES = {"help_option_names": ["-h", "--help"]}


class Refused(click.ClickException):
    """What the user asked for cannot be done: one line, exit status 2."""

    exit_code = 2


def in_one_line(error: Exception) -> str:
    """What went wrong, in one line; where files are too many, the limit and what to do."""
    line = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        higher = f"; `ulimit -n {most}` allows more" if limit < most else ""
        line += f": this shell allows {limit} (`ulimit -n`){higher}; raise it, or use fewer workers"
    return line


class Command(click.Command):
    """A command whose options never take another option for their value.

    Without this, `--masks --out X` reads masks from a folder named `--out`.
    """

    def parse_args(self, context: click.Context, words: list[str]) -> list[str]:
        options = [each for each in self.params if isinstance(each, click.Option)]
        names = {name for each in options for name in (*each.opts, *each.secondary_opts)}
        valued = {
            name
            for each in options
            # with a text for its flag_value, it may stand without a value
            if not (each.is_flag or each.count or isinstance(each.flag_value, str))
            for name in each.opts
        }
        for name, value in pairwise(words):
            if name in valued and value in names:
                raise click.UsageError(f"{name} needs a value, and {value} is an option", context)
        return super().parse_args(context, words)


class Group(click.Group):
    """Commands, each imported when it is asked for: `--help` waits for none of them.

    Args:
        places: command -> "module:function", the function that is its click.Command.
    """

    def __init__(self, name: str, *, places: Mapping[str, str], help: str) -> None:
        super().__init__(name, help=help, context_settings=HELP_NAMES)
        self._places = {each: place.split(":") for each, place in places.items()}

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(self._places)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in self._places:
            return None
        module, function = self._places[name]
        command: click.Command = getattr(importlib.import_module(module), function)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._summary(name)) for name in sorted(self._places)])

    def _summary(self, name: str) -> str:
        """The first paragraph of a command's docstring, read without importing it."""
        module, function = self._places[name]
        spec = importlib.util.find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        source = Path(spec.origin).read_text(encoding="utf-8")
        (found,) = (
            ast.get_docstring(node) or ""
            for node in ast.parse(source).body
            if isinstance(node, ast.FunctionDef) and node.name == function
        )
        return " ".join(found.partition("\n\n")[0].split())


def answer_usage(command: click.Command) -> None:
    """Answer `--help` and refuse a wrong command line, before a command's slow imports.

    Returns if the words of the command line are right: nothing of the command has run yet.
    """
    commands = [command, *(command.commands.values() if isinstance(command, click.Group) else ())]
    callbacks = [each.callback for each in commands]
    try:
        for each in commands:
            each.callback = None
        shown = command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    finally:
        for each, callback in zip(commands, callbacks, strict=True):
            each.callback = callback
    if shown is not None:  # the exit status of --help
        sys.exit(shown)


def spin_briefly() -> None:
    """Let idle OpenMP threads sleep after microseconds instead of spinning for milliseconds.

    Beside another busy process, spinning threads keep those that work from their cores. libgomp,
    which torch's CPU kernels use, reads this once: call it before torch is imported. What the user
    has set counts.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")


def outlive_output() -> None:
    """Let writing to standard output and standard error fail without ending the command.

    A closed pipe (`| head`) or a full disk (`> log`) ends neither a conversion nor a training run.
    The loss of standard output is said once on standard error; what is printed later is discarded.
    Characters that the encoding lacks (file names that are not UTF-8) are escaped. Each
    process that prints calls this once, before it prints anything.
    """
    # Descriptors that were closed before the command began (`>&-`): a file that is opened later
    # must not get such a number, or a process started from here would print into that file.
    while (null := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(null, True)
    os.close(null)
    sys.stdout = _outliving(1, sys.stdout)
    sys.stderr = _outliving(2, sys.stderr)


def _outliving(number: int, stream: io.TextIOWrapper | object) -> io.TextIOWrapper:
    raw: io.RawIOBase = _OutlivingFile(number, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=getattr(stream, "encoding", "utf-8"),
        errors="backslashreplace",
        line_buffering=True,
    )


class _OutlivingFile(io.FileIO):
    """A file descriptor that becomes /dev/null at the first write that fails."""

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        try:
            # None: whoever shares this terminal or pipe has made it non-blocking, and it is full
            while (written := super().write(data)) is None:
                select.select([], [self], [])
            return written
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            if self.fileno() == 1:
                reason = os.strerror(error.errno or 0).lower()
                click.echo(f"standard output is lost ({reason}); going on without it", err=True)
            return memoryview(data).nbytes
