"""Two network namespaces as two machines, a cable between them, torchrun's rendezvous over it."""

import os
import shutil
import subprocess
import time

import pytest

from tests.elastic import (
    Launch,
    assert_fed_alike,
    words_of_torchrun,
    words_of_train,
)

pytestmark = pytest.mark.slow
ADDRESSES = ("10.77.0.1", "10.77.0.2")
PORT = 29471
STEPS = 20
PATIENCE = 20  # patience_seconds
READ = 20  # seconds that torchrun waits for its store
JOIN = 30  # seconds that torchrun waits for other nodes
START = 120  # seconds to import torch and meet, twice on two busy cores


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20)


class Nodes:
    """Namespaces `a` and `b`, joined by a pair of virtual network cards of the same names."""

    def __init__(self):
        self.names = tuple(f"relic{os.getpid()}{end}" for end in "ab")

    def set_up(self):
        for name in self.names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        a, b = self.names
        ip("-n", a, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", b)
        for name, address in zip(self.names, ADDRESSES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")

    def plug(self, state):
        ip("-n", self.names[1], "link", "set", "cable", state)

    def within(self, number):
        """The words that run a command on a node, with what a user has to set there."""
        settings = [f"{name}_SOCKET_IFNAME=cable" for name in ("GLOO", "NCCL")]
        return ["ip", "netns", "exec", self.names[number], "env", *settings]

    def tear_down(self):
        for name in self.names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, timeout=20)


@pytest.fixture
def nodes():
    if shutil.which("ip") is None:
        pytest.skip("no `ip`: install iproute2")
    if os.geteuid() != 0:
        pytest.skip("network namespaces are for root")
    made = Nodes()
    try:
        made.set_up()
    except subprocess.CalledProcessError as error:
        made.tear_down()
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    yield made
    made.tear_down()


def start(nodes, number, folder, words, *, nnodes="2", restarts=0, pace=0.25):
    # both nodes have this machine's name, so that neither finds out which one hosts the rendezvous
    rendezvous = f"is_host={1 - number},read_timeout={READ},join_timeout={JOIN},last_call_timeout=3"
    options = [
        f"--nnodes={nnodes}",
        f"--max-restarts={restarts}",
        "--rdzv-backend=c10d",
        "--rdzv-id=cable",
        f"--rdzv-endpoint={ADDRESSES[0]}:{PORT}",
        f"--rdzv-conf={rendezvous}",
        f"--local-addr={ADDRESSES[number]}",
    ]
    command = [*words_of_torchrun(1, *options), *words]
    return Launch(folder, command, pace=pace, within=nodes.within(number))


def wait_for_step(launch, step):
    deadline = time.monotonic() + START
    while not any(one.step >= step for one in launch.fed):
        assert launch.process.poll() is None, launch.said
        assert time.monotonic() < deadline, launch.said
        time.sleep(0.05)


def words(pictures, out):
    patience = ("loader.stall_seconds=15", f"patience_seconds={PATIENCE}")
    return words_of_train(pictures, out, *patience, steps=STEPS)


@pytest.mark.timeout(2 * START + 60)
def test_a_link_that_comes_back_soon_costs_only_that_time(nodes, pictures, undisturbed, tmp_path):
    run = words(pictures, tmp_path / "run")
    with (
        start(nodes, 0, tmp_path / "a", run) as a,
        start(nodes, 1, tmp_path / "b", run) as b,
    ):
        wait_for_step(a, 6)
        nodes.plug("down")
        time.sleep(6)
        during = max(one.step for one in a.fed)
        nodes.plug("up")
        assert a.wait(START) == 0, a.said
        assert b.wait(30) == 0, b.said
    assert during < STEPS - 1  # the link was cut while they trained
    assert {one.attempt for one in (*a.fed, *b.fed)} == {0}
    assert_fed_alike([[*a.fed, *b.fed]], undisturbed, steps=STEPS)


@pytest.mark.timeout(3 * START + 3 * PATIENCE + 120)
def test_a_link_that_stays_away_ends_both_nodes_and_the_run_goes_on_later(
    nodes, pictures, undisturbed, tmp_path
):
    run = words(pictures, tmp_path / "run")
    with (
        start(nodes, 0, tmp_path / "a", run) as a,
        start(nodes, 1, tmp_path / "b", run) as b,
    ):
        wait_for_step(a, 6)
        nodes.plug("down")
        # the step gives up, then torchrun looks for the other node to close the rendezvous
        bound = PATIENCE + READ + 30 + 30
        assert a.wait(bound) != 0
        assert b.wait(bound) != 0
    assert f"has not answered for {PATIENCE} s (patience_seconds)" in a.said
    nodes.plug("up")
    with (
        start(nodes, 0, tmp_path / "a2", run, pace=0) as a2,
        start(nodes, 1, tmp_path / "b2", run, pace=0) as b2,
    ):
        assert a2.wait(START) == 0, a2.said
        assert b2.wait(30) == 0, b2.said
    assert_fed_alike([[*a.fed, *b.fed], [*a2.fed, *b2.fed]], undisturbed, steps=STEPS)


@pytest.mark.timeout(3 * START + 3 * PATIENCE + 120)
def test_with_one_to_two_nodes_the_one_that_hosts_the_rendezvous_goes_on_alone(
    nodes, pictures, undisturbed, tmp_path
):
    run = words(pictures, tmp_path / "run")
    with (
        start(nodes, 0, tmp_path / "a", run, nnodes="1:2", restarts=2) as a,
        start(nodes, 1, tmp_path / "b", run, nnodes="1:2", restarts=2) as b,
    ):
        wait_for_step(a, 4)
        nodes.plug("down")
        assert a.wait(PATIENCE + JOIN + 2 * START) == 0, a.said
        assert b.wait(READ + JOIN + 60) != 0
    alone = [one for one in a.fed if one.world_size == 1]
    assert max(one.step for one in alone) == STEPS - 1
    together = [one for one in (*a.fed, *b.fed) if one.world_size == 2]
    assert {one.step for one in together} >= set(range(min(one.step for one in alone)))
    assert_fed_alike([[*a.fed, *b.fed]], undisturbed, steps=STEPS)
