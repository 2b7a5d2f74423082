"""What all commands share: how they refuse, and how they go on when nobody reads their output."""

from __future__ import annotations

import errno
import io
import os
import resource
import sys

import click


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


def outlive_output() -> None:
    """Let writing to standard output and standard error fail without ending the command.

    A closed pipe (`| head`) or a full disk (`> log`) ends neither a conversion nor a training run.
    The loss of standard output is said once on standard error; what is printed later is discarded.
    Characters that the encoding lacks (file names that are not UTF-8) are escaped. Each command
    calls this once, before it prints anything.
    """
    sys.stdout = _outliving(1, sys.stdout)
    sys.stderr = _outliving(2, sys.stderr)


def _outliving(number: int, stream: io.TextIOWrapper | object) -> io.TextIOWrapper:
    try:
        raw: io.RawIOBase = _OutlivingFile(number, "w", closefd=False)
    except OSError:  # the descriptor was closed before the command began (`>&-`)
        raw = io.FileIO(os.devnull, "w")
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
            return super().write(data)
        except OSError as error:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            if self.fileno() == 1:
                reason = os.strerror(error.errno or 0).lower()
                click.echo(f"standard output is lost ({reason}); going on without it", err=True)
            return memoryview(data).nbytes
