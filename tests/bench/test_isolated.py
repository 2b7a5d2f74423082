"""Candidates in processes of their own; what they do must be importable there."""

import multiprocessing
import os
import signal
import time
from functools import partial

import pytest

from bench import isolated as isolation
from bench.harness import Built, Candidate, measure
from bench.isolated import isolated
from bench.rows import row


def candidate(build, **fields):
    return Candidate(
        name="one", what="", build=build, images=1, bytes_per_image=1, peer=True, **fields
    )


def measured(build, *, setup=None, rounds=2, **fields):
    (found,) = measure(
        [isolated(candidate(build, **fields), setup)], rounds=rounds, announce=lambda _: None
    )
    return found


def test_the_work_is_done_there_and_its_time_is_taken_here():
    # Built(run=partial(sleep, ..)), made in the child
    found = measured(partial(Built, run=partial(time.sleep, 0.05), note="slept"))
    assert found.note == "slept"
    assert len(found.seconds) == 2
    assert all(seconds >= 0.05 for seconds in found.seconds)


def test_the_child_runs_on_the_cores_of_its_candidate_after_its_setup(tmp_path):
    file = tmp_path / "made"
    build = partial(Built, run=partial(os.stat, file))  # fails unless the setup came first
    assert len(measured(build, setup=partial(os.mkdir, file)).seconds) == 2


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (partial(int, "no number"), "ValueError: invalid literal for int()"),
        (partial(__import__, "no_such_module"), "not installed: No module named 'no_such_module'"),
        (partial(os._exit, 3), "its process ended with status 3"),
        (partial(Built, run=partial(signal.raise_signal, 11)), "its process ended with status -11"),
    ],
)
def test_what_fails_there_is_a_skipped_row_here(build, reason):
    assert row(measured(build))["skipped"].startswith(reason)


def test_seconds_that_the_work_tells_come_across():
    found = measured(partial(Built, run=partial(float, "7.5")))
    assert found.seconds == (7.5, 7.5)


def test_work_may_have_processes_of_its_own():
    assert measured(partial(Built, run=_with_a_child)).seconds == (1.0, 1.0)


def test_what_it_holds_is_closed_there(tmp_path):
    file = tmp_path / "closed"
    measured(partial(Built, run=os.getpid, close=partial(os.mkdir, file)))
    assert file.exists()


def test_who_gives_no_answer_is_a_skipped_row(monkeypatch):
    monkeypatch.setattr(isolation, "PATIENCE_SECONDS", 0.01)
    found = measured(partial(Built, run=partial(time.sleep, 60)))
    assert row(found)["skipped"] == "gave no answer within 0 s"


def _with_a_child():
    child = multiprocessing.get_context("fork").Process(target=os.getpid)
    child.start()
    child.join()
    return float(child.exitcode == 0)


def test_no_process_is_left():
    before = set(multiprocessing.active_children())
    built = isolated(candidate(partial(Built, run=os.getpid))).build()
    (child,) = set(multiprocessing.active_children()) - before
    built.run()
    built.close()
    assert not child.is_alive()
    assert child.exitcode == 0
