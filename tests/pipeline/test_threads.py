"""A team of threads: everybody works once a turn, errors come out, nobody is left behind."""

import gc
import threading
import time
import weakref

import pytest

from pipeline.threads import Threads


def alive():
    return [thread for thread in threading.enumerate() if thread.name.startswith("team")]


@pytest.mark.parametrize("count", [1, 2, 5])
def test_each_thread_works_once_a_turn(count):
    team, seen = Threads(count, "team"), []
    for turn in range(50):
        team.run(lambda turn=turn: seen.append((turn, threading.get_ident())))
    assert len(seen) == 50 * count
    for turn in range(50):
        assert len({who for t, who in seen if t == turn}) == count
    team.close()
    assert not alive()


def test_rows_that_are_shared_are_done_once():
    team, done = Threads(4, "team"), []
    rows = iter(range(1000))
    team.run(lambda: [done.append(row) for row in rows])
    assert sorted(done) == list(range(1000))
    team.close()


@pytest.mark.parametrize("count", [1, 3])
def test_an_error_is_raised_and_the_team_goes_on(count):
    team = Threads(count, "team")

    def fail():
        raise KeyError("planted")

    with pytest.raises(KeyError, match="planted"):
        team.run(fail)
    done = []
    team.run(lambda: done.append(1))
    assert len(done) == count
    team.close()


def test_a_forgotten_team_ends():
    team = Threads(3, "team")
    team.run(lambda: None)
    del team
    gc.collect()
    deadline = time.monotonic() + 5
    while alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive()


def test_a_closed_team_says_so():
    team = Threads(2, "team")
    team.close()
    team.close()
    with pytest.raises(RuntimeError, match="have ended"):
        team.run(lambda: None)


def test_a_thread_that_hangs_is_left_behind():
    release, team = threading.Event(), Threads(2, "team")
    # (whether or not the threads have begun when they are told to end)
    caller = threading.Thread(target=lambda: team.run(release.wait), daemon=True)
    caller.start()
    start = time.monotonic()
    team.close(patience=0.05)
    assert time.monotonic() - start < 5
    release.set()
    caller.join(5)
    assert not caller.is_alive()


def test_what_a_turn_held_is_let_go():
    class Held:
        """Something that can be watched."""

    team, held = Threads(2, "team"), Held()
    watch = weakref.ref(held)
    team.run(lambda held=held: None)
    del held
    gc.collect()
    assert watch() is None
    team.close()


def test_a_team_of_none_is_refused():
    with pytest.raises(ValueError, match="at least one thread, got 0"):
        Threads(0, "team")
