"""Worker processes: same results in the same order, none left behind, and death is an error."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.sources import Record, list_records
from pipeline.sources.prepare import BadPicture, PrepareSettings
from pipeline.sources.workers import WorkerDied, prepare_all
from tests.pipeline.sources.support import jpeg, write_files

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = PrepareSettings()


@dataclass(frozen=True)
class Deadly:
    """An origin that kills whoever reads it, after a while."""

    signal: int

    def read(self, record: Record) -> tuple[bytes, None]:
        if record.key == "deadly.jpg":
            os.kill(os.getpid(), self.signal)
            time.sleep(60)
        return jpeg(), None


@dataclass(frozen=True)
class Slow:
    """An origin whose first picture takes its time."""

    def read(self, record: Record) -> tuple[bytes, None]:
        if record.key == "000.jpg":
            time.sleep(0.5)
        return jpeg(seed=int(record.key[:3])), None


def records_of(origin, keys):
    return [Record(key=key, label_name=None, origin=origin, offset=0, size=0) for key in keys]


def children():
    return [child for child in multiprocessing.active_children() if child.is_alive()]


def test_results_do_not_depend_on_the_number_of_workers(tmp_path):
    files = {f"{n:02d}.jpg": jpeg(seed=n) for n in range(30)}
    files |= {"07.jpg": b"broken", "11.jpg": b""}
    records = list_records(str(write_files(tmp_path, files))).records
    runs = [
        [
            (record.key, str(outcome) if isinstance(outcome, BadPicture) else outcome.jpeg)
            for record, outcome in prepare_all(records, SETTINGS, num_workers=num_workers)
        ]
        for num_workers in (0, 1, 3)
    ]
    assert runs[0] == runs[1] == runs[2]
    assert [key for key, _ in runs[0]] == sorted(files)
    assert "no picture" in runs[0][7][1]
    assert children() == []


def test_a_slow_picture_holds_up_nothing_but_its_successors():
    records = records_of(Slow(), [f"{n:03d}.jpg" for n in range(300)])
    seen = [record.key for record, _ in prepare_all(records, SETTINGS, num_workers=2)]
    assert seen == [record.key for record in records]


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGSEGV])
def test_a_dying_worker_is_an_error_that_names_the_picture(kind):
    keys = [f"{n:03d}.jpg" for n in range(10)]
    keys.insert(6, "deadly.jpg")
    outcomes = prepare_all(records_of(Deadly(kind), keys), SETTINGS, num_workers=2)
    with pytest.raises(WorkerDied, match=rf"{kind.name}\) at deadly\.jpg"):
        list(outcomes)
    assert children() == []


def test_leaving_early_leaves_no_process():
    outcomes = prepare_all(
        records_of(Slow(), [f"{n:03d}.jpg" for n in range(1, 200)]), SETTINGS, num_workers=2
    )
    next(outcomes)
    assert len(children()) == 2
    outcomes.close()
    assert children() == []


def test_no_more_workers_than_pictures():
    outcomes = prepare_all(records_of(Slow(), ["001.jpg"]), SETTINGS, num_workers=8)
    assert next(outcomes)[0].key == "001.jpg"
    assert len(children()) == 1
    outcomes.close()


def test_workers_leave_when_their_parent_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            """
            import multiprocessing, os, signal
            from pipeline.sources import list_records
            from pipeline.sources.prepare import PrepareSettings
            from pipeline.sources.workers import prepare_all

            if __name__ == "__main__":
                records = list_records("demo", limit=2000).records
                for number, _ in enumerate(
                    prepare_all(records, PrepareSettings(), num_workers=2)
                ):
                    if number == 5:
                        pids = [child.pid for child in multiprocessing.active_children()]
                        print(*pids, flush=True)
                        os.kill(os.getpid(), signal.SIGKILL)
            """
        )
    )
    run = subprocess.run(
        [sys.executable, script],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=60,
    )
    assert run.returncode == -signal.SIGKILL
    pids = [int(pid) for pid in run.stdout.split()]
    assert len(pids) == 2
    deadline = time.monotonic() + 20
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"{alive} outlived their parent"
        time.sleep(0.05)
