"""Two network namespaces as two machines, a cable between them, torchrun's rendezvous over it."""

import os
import shutil
import subprocess
import time

import pytest

from tests.elastic import Launch, fed_alike, words_of_train

pytestmark = pytest.mark.slow
ADDRESSES = ("10.77.0.1", "10.77.0.2")
STEPS = 20
PATIENCE = 20  # patience_seconds
READ = 20  # seconds that torchrun waits for its store
RETRIES = 6  # of the kernel, for what is not acknowledged: 0.2 s * (2**7 - 1) = 25 s
START = 120  # seconds to import torch and meet, on busy cores


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20)


class Machines:
    """Namespaces `a` and `b`, joined by a pair of virtual network cards; a context manager."""

    def __init__(self):
        self._names = tuple(f"relic{os.getpid()}{end}" for end in "ab")

    def __enter__(self):
        for name in self._names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        a, b = self._names
        ip("-n", a, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", b)
        for name, address in zip(self._names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            retries = f"echo {RETRIES} >/proc/sys/net/ipv4/tcp_retries2"
            ip("netns", "exec", name, "sh", "-c", retries)
        return self

    def __exit__(self, *_):
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20)

    def plug(self, state):
        ip("-n", self._names[1], "link", "set", "cable", state)

    def start(self, number, folder, words):
        """Start torchrun with one process on a machine, with what a user has to say there."""
        options = [
            *("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", "--rdzv-id=cable"),
            *(f"--rdzv-endpoint={ADDRESSES[0]}:29471", f"--local-addr={ADDRESSES[number]}"),
            # Both have this machine's name, so that neither finds out which of them is a.
            f"--rdzv-conf=is_host={1 - number},read_timeout={READ}",
        ]
        within = ["ip", "netns", "exec", self._names[number], "env", "GLOO_SOCKET_IFNAME=cable"]
        return Launch(folder, options, words, pace=0.25, within=within)


@pytest.fixture
def machines():
    if shutil.which("ip") is None:
        pytest.skip("no `ip`: install iproute2")
    if os.geteuid() != 0:
        pytest.skip("network namespaces are for root")
    made = Machines()
    try:
        made.__enter__()
    except subprocess.CalledProcessError as error:
        made.__exit__()
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    yield made
    made.__exit__()


def wait_for_step(launch, step):
    deadline = time.monotonic() + START
    while not any(one.step >= step for one in launch.fed):
        assert launch.is_running, launch.said
        assert time.monotonic() < deadline, launch.said
        time.sleep(0.05)


@pytest.mark.parametrize("cut", ["for a while", "for good"])
def test_a_cut_link(machines, home, undisturbed, tmp_path, cut):
    words = words_of_train(home, tmp_path / "run", f"patience_seconds={PATIENCE}", steps=STEPS)
    with (
        machines.start(0, tmp_path / "a", words) as a,
        machines.start(1, tmp_path / "b", words) as b,
    ):
        wait_for_step(a, 6)
        machines.plug("down")
        time.sleep(5)
        before = max(one.step for one in a.fed)
        assert before < STEPS - 1  # the link was cut while they trained
        if cut == "for a while":
            machines.plug("up")
            assert a.wait(START) == 0, a.said
            assert b.wait(30) == 0, b.said
        else:
            # On b, torchrun itself waits for a's answer until the kernel gives the connection up.
            assert a.wait(PATIENCE + READ + 30) == 1, a.said
            assert b.wait(READ + 30) == 1, b.said
    fed = fed_alike([*a.fed, *b.fed], undisturbed)
    if cut == "for a while":
        assert fed == [*range(STEPS)]
    else:
        assert fed in ([*range(before)], [*range(before + 1)])
        for launch in (a, b):
            assert "another process is gone, or has not answered" in launch.said
        assert (tmp_path / "run" / "checkpoint-00000003.pt").exists()
