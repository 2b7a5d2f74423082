"""Cores of the processes of a machine: beside their GPUs, divided without gaps or overlap."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.affinity import cores_beside, keep_to_own_cores, parse_cores, share_of_cores


def shares(cores, near, size):
    return [share_of_cores(cores, local_rank=r, near=near, local_size=size) for r in range(size)]


@given(st.sets(st.integers(0, 200), min_size=1, max_size=64), st.integers(1, 16))
def test_without_gpus_all_cores_are_divided(cores, size):
    found = shares(cores, [], size)
    assert set().union(*found) == cores
    if size <= len(cores):
        assert sum(map(len, found)) == len(cores)
        assert max(map(len, found)) - min(map(len, found)) <= 1


@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=8),
    st.sets(st.integers(0, 47), min_size=1),
)
def test_gpus_keep_to_their_side_where_it_has_room(sides, cores):
    nodes = [set(range(16 * node, 16 * node + 16)) for node in range(3)]
    found = shares(cores, [nodes[side] for side in sides], len(sides))
    assert all(share and share <= cores for share in found)
    if all(len(nodes[side] & cores) >= sides.count(side) for side in sides):
        assert all(share <= nodes[side] for share, side in zip(found, sides, strict=True))
        assert sum(map(len, found)) == len(set().union(*found))  # no core twice


def test_eight_gpus_on_two_sockets():
    sockets = [set(range(32)), set(range(32, 64))]
    found = shares(set(range(64)), [sockets[rank // 4] for rank in range(8)], 8)
    assert found[0] == set(range(8))
    assert found[7] == set(range(56, 64))


def test_a_container_with_cores_of_one_socket_shares_them():
    sockets = [set(range(32)), set(range(32, 64))]
    found = shares(set(range(8)), [sockets[rank // 4] for rank in range(8)], 8)
    assert found == [{core} for core in range(8)]


def test_fewer_cores_than_processes_are_shared():
    assert shares({3}, [], 4) == [{3}] * 4
    assert all(shares({0, 1}, [], 3))


@pytest.mark.parametrize(
    ("text", "cores"), [("0-3,8,10-11\n", {0, 1, 2, 3, 8, 10, 11}), ("5", {5}), ("\n", set())]
)
def test_linux_lists_are_read(text, cores):
    assert parse_cores(text) == cores


def test_the_kernel_is_asked(tmp_path):
    device = tmp_path / "0000:3b:00.0"
    device.mkdir()
    (device / "local_cpulist").write_text("0-1,4\n")
    assert cores_beside("0000:3b:00.0", tmp_path) == {0, 1, 4}
    assert cores_beside("0000:ff:00.0", tmp_path) == set()


def test_a_process_is_bound():
    code = (
        "import os; from training.affinity import keep_to_own_cores as keep; "
        "all = os.sched_getaffinity(0); "
        "assert keep([all], local_rank=0, device_type='cpu') == all == os.sched_getaffinity(0); "
        "last = keep([all] * len(all), local_rank=len(all) - 1, device_type='cpu'); "
        "assert last == os.sched_getaffinity(0) == {max(all)}, last"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_a_scheduler_divided_is_left_alone():
    before = os.sched_getaffinity(0)
    divided = [{900, 901}, {902, 903}]
    assert keep_to_own_cores(divided, local_rank=1, device_type="cpu") == {902, 903}
    assert os.sched_getaffinity(0) == before


def test_a_sandbox_that_forbids_binding_is_lived_with(monkeypatch):
    def forbid(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", forbid)
    found = keep_to_own_cores([{0, 1}, {0, 1}], local_rank=1, device_type="cpu")
    assert found == {0, 1}  # as many threads as it may use cores
