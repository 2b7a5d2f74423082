"""A stop that a finaliser swallows is raised at the next check."""

import os
import signal

import pytest

from pipeline.sources.stop import Stop


@pytest.fixture
def stop():
    previous = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    stop = Stop()
    stop.listen()
    yield stop
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_swallowed_stop_is_raised_at_the_next_check(stop, number):
    stop.check()

    def swallow():
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            return "swallowed"

    assert swallow() == "swallowed"
    with pytest.raises(KeyboardInterrupt):
        stop.check()
