"""What all commands share: how they refuse, and how they go on when nobody reads their output."""

from __future__ import annotations

import io
import os
import select
import sys

import click


class Refused(click.ClickException):
    """What the user asked for cannot be done: one line, exit status 2."""

    exit_code = 2


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
