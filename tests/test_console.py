"""How commands refuse, and how they go on when nobody reads their output."""

import errno
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from console import in_one_line, spin_briefly

ROOT = Path(__file__).resolve().parents[1]
PRINTS = """
import sys
from console import outlive_output
outlive_output()
for number in range(20000):  # more than a pipe holds
    print("out", number)
print("err", file=sys.stderr)
print("caf\\udce9 \\U0001f408", file=sys.stderr)
open(sys.argv[1], "w").write("to its end")
"""


def printing(tmp_path, shell, **env):
    """Run a program that prints; return (exit status, standard error). `shell` redirects it."""
    (tmp_path / "end").unlink(missing_ok=True)
    line = f'set -o pipefail; "$0" -c "$1" "$2" {shell}'
    run = subprocess.run(
        ["bash", "-c", line, sys.executable, PRINTS, tmp_path / "end"],
        env={**os.environ, **env},
        cwd=ROOT,
        capture_output=True,
    )
    assert (tmp_path / "end").read_text() == "to its end", run.stderr
    return run.returncode, run.stderr.decode()


@pytest.mark.parametrize(
    ("shell", "reason"),
    [("> /dev/full", "no space left on device"), ("| head -c 1 > /dev/null", "broken pipe")],
)
def test_a_lost_output_is_said_once_and_ends_nothing(tmp_path, shell, reason):
    status, err = printing(tmp_path, shell)
    assert status == 0
    assert err.splitlines()[0] == f"standard output is lost ({reason}); going on without it"
    assert "err" in err.splitlines()
    assert err.count("is lost") == 1
    assert "Traceback" not in err


@pytest.mark.parametrize("shell", ["2> /dev/full", "2>&-", "<&- >&- 2>&-", "> /dev/full 2>&1"])
def test_a_lost_standard_error_ends_nothing(tmp_path, shell):
    assert printing(tmp_path, shell) == (0, "")


def test_characters_that_an_encoding_lacks_are_escaped(tmp_path):
    _, err = printing(tmp_path, "> /dev/null", PYTHONIOENCODING="ascii")
    assert err.splitlines()[-1] == r"caf\udce9 \U0001f408"


def test_an_error_is_one_line():
    assert in_one_line(ValueError("a\n  b")) == "a b"
    assert in_one_line(OSError(errno.ENOENT, "No such file")) == "[Errno 2] No such file"


def test_the_limit_of_open_files_is_named(monkeypatch):
    error = OSError(errno.EMFILE, "Too many open files")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
    line = in_one_line(error)
    assert "this shell allows 256 (`ulimit -n`); `ulimit -n 4096` allows more" in line
    monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 256))
    assert "this shell allows 256 (`ulimit -n`); raise it" in in_one_line(error)


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
    done = subprocess.run(
        [sys.executable, "-c", PRINTS, tmp_path / "end"],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
    )
    os.close(writing)
    thread.join()
    os.close(reading)
    assert done.returncode == 0, done.stderr
    assert len(received.splitlines()) == 20000


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


def test_idle_threads_sleep_early_unless_the_user_says_otherwise(monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    spin_briefly()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    spin_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "5000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    spin_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == "7"


@pytest.mark.parametrize("command", ["train.py", "evaluate.py", "-m bench", "-m pipeline.saliency"])
def test_it_is_said_before_torch_is_imported(command):
    code = (
        "import runpy, sys\n"
        "words = sys.argv[1].split()\n"
        "run = runpy.run_module if words[0] == '-m' else runpy.run_path\n"
        "sys.argv = [words[-1], '--help']\n"
        "try: run(words[-1], run_name='__main__')\n"
        "except SystemExit: pass\n"
        "import os\n"
        "print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "5000 False", done.stderr
