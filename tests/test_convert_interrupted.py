"""convert_dataset.py, killed, interrupted, or on a full disk: nothing half-written stays."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.shards import open_shards
from tests.convert_support import refusal, run

ROOT = Path(__file__).resolve().parents[1]


def start(out):
    """Start a long conversion and wait until it is writing."""
    process = subprocess.Popen(
        [
            *(sys.executable, ROOT / "convert_dataset.py", "--source", "demo", "--limit", "100000"),
            *("--format", "dali", "--out", out, "--workers", "1"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    tar = out.with_name(f"{out.name}.partial") / "shard-000000.tar"
    deadline = time.monotonic() + 60
    while not (tar.exists() and tar.stat().st_size > 100_000):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def test_a_killed_conversion_leaves_no_shards_and_can_be_started_again(tmp_path):
    out = tmp_path / "out"
    process = start(out)
    line = refusal("--source", "demo", "--limit", "5", "--out", out, "--format", "dali")
    assert "being written by another conversion" in line
    process.kill()
    process.communicate(timeout=30)
    assert not out.exists()
    assert (tmp_path / "out.partial").exists()
    with pytest.raises(ValueError, match="no manifest"):
        open_shards(tmp_path / "out.partial")
    _, err = run("--source", "demo", "--limit", "5", "--out", out, "--format", "dali")
    assert "left by an interrupted run" in err
    assert len(open_shards(out)) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_conversion_leaves_nothing(tmp_path, kind):
    process = start(tmp_path / "out")
    os.killpg(process.pid, kind) if kind == signal.SIGINT else process.send_signal(kind)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "Traceback" not in output
    assert "Aborted" in output
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300000, 300000))"
    script = f"{limit}; import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); import sys"
    script += f"; sys.path.insert(0, {str(ROOT)!r}); import convert_dataset; convert_dataset.main()"
    for format in ("ffcv", "dali"):
        process = subprocess.run(
            [
                *(sys.executable, "-c", script, "--source", "demo", "--limit", "200"),
                *("--format", format, "--out", tmp_path / "out", "--workers", "0"),
            ],
            capture_output=True,
            text=True,
        )
        assert process.returncode == 2, process.stderr
        assert process.stderr.splitlines()[-1].startswith("Error: ")
        assert "Traceback" not in process.stderr
        assert list(tmp_path.iterdir()) == []
