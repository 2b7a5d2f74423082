"""Output that cannot be written, and what a command does about it: it goes on."""

import os
import subprocess
import sys
import threading
import time

import pytest

from tests.journey import ROOT

TALKS = """
import os, subprocess, sys
from console import outlive_output
outlive_output()
for number in range(2000):
    print(number, "x" * 50)
open(sys.argv[1], "w").write("done")
"""


def talk(tmp_path, redirected="", **options):
    """Run a command that prints 100 kB; `redirected`: what a shell does with its output."""
    line = f'exec "$0" -c "$1" "$2" {redirected}'
    return subprocess.run(
        ["sh", "-c", line, sys.executable, TALKS, str(tmp_path / "mark")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        **options,
    )


@pytest.mark.parametrize(
    ("redirected", "said"),
    [
        ("> /dev/full", "standard output is lost (no space left on device); going on without it\n"),
        ("<&- >&- 2>&-", ""),
        (">&-", ""),
    ],
)
def test_a_command_goes_on_without_its_output(tmp_path, redirected, said):
    done = talk(tmp_path, redirected)
    assert done.returncode == 0
    assert done.stderr == said
    assert (tmp_path / "mark").read_text() == "done"


def test_a_pipe_that_was_made_non_blocking_is_waited_for(tmp_path):
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    received = bytearray()

    def read_late():
        time.sleep(0.5)
        while part := os.read(reading, 4096):
            received.extend(part)

    thread = threading.Thread(target=read_late)
    thread.start()
    done = talk(tmp_path, stdout=writing)
    os.close(writing)
    thread.join()
    os.close(reading)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(received.splitlines()) == 2000


def test_a_descriptor_that_was_closed_is_given_to_no_file(tmp_path):
    code = (
        "from console import outlive_output\n"
        "outlive_output()\n"
        f"number = open({str(tmp_path / 'numbers')!r}, 'w')\n"
        "number.write(str(number.fileno()))\n"
    )
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code], cwd=ROOT, timeout=60
    )
    assert done.returncode == 0
    assert int((tmp_path / "numbers").read_text()) > 2
