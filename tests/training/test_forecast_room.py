"""What `train.py --plan` finds free, on made-up machines."""

import os
import shutil
from pathlib import Path

from training.forecast.room import host_memory, nearest_folder, room_here, writable_beside

GIB = 2.0**30


def memory_file(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  16777216 kB\nMemAvailable:  8388608 kB\n")
    return meminfo


def group(place, names, limit, used, cached, prefix=""):
    place.mkdir(parents=True)
    (place / names[0]).write_text(f"{limit}\n")
    (place / names[1]).write_text(f"{used}\n")
    (place / "memory.stat").write_text(
        f"anon 1\nfile 999\n{prefix}active_file {cached}\n{prefix}inactive_file {cached}\n"
    )


def test_the_memory_that_is_left_is_that_of_the_tightest_limit(tmp_path):
    meminfo, own, root = memory_file(tmp_path), tmp_path / "own", tmp_path / "cgroup"

    def found():
        return host_memory(meminfo=meminfo, cgroup=root, own=own)

    own.write_text("0::/slurm/job\n")
    assert found() == 8 * GIB  # no groups
    names = ("memory.max", "memory.current")
    group(root / "slurm" / "job", names, "max", 2**30, 0)
    assert found() == 8 * GIB
    (root / "slurm" / "memory.max").write_text(f"{6 * 2**30}\n")
    (root / "slurm" / "memory.current").write_text(f"{3 * 2**30}\n")
    (root / "slurm" / "memory.stat").write_text(f"active_file {2**29}\ninactive_file {2**29}\n")
    assert found() == 4 * GIB  # of the group above
    (root / "slurm" / "job" / "memory.max").write_text(f"{3 * 2**30}\n")
    assert found() == 2 * GIB
    assert host_memory(meminfo=tmp_path / "none", cgroup=root, own=own) is None


def test_limits_of_the_first_version_of_cgroups_count_as_well(tmp_path):
    meminfo, own, root = memory_file(tmp_path), tmp_path / "own", tmp_path / "cgroup"
    own.write_text("5:cpu:/slurm\n4:memory,hugetlb:/slurm\n")
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    group(root / "memory" / "slurm", names, 5 * 2**30, 2**30, 2**28, prefix="total_")
    assert host_memory(meminfo=meminfo, cgroup=root, own=own) == 4.5 * GIB


def test_the_disk_is_that_of_out_and_a_rehearsal_lies_beside_it(tmp_path, monkeypatch):
    asked = []
    usage = type("Usage", (), {"free": 7})
    monkeypatch.setattr(shutil, "disk_usage", lambda place: asked.append(place) or usage)
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for out in ("disk", "link", "runs/today/one", "link/run"):
        assert room_here(tmp_path / out, device_type="cpu").disk == 7
    disk = tmp_path / "disk"
    assert asked == [disk, disk, tmp_path, disk]
    assert nearest_folder(tmp_path / "runs" / "today" / "one") == tmp_path
    assert nearest_folder(Path("relative")) == Path.cwd()
    assert writable_beside(tmp_path / "run") == tmp_path
    monkeypatch.setattr(os, "access", lambda place, how: False)
    assert writable_beside(tmp_path / "run") is None
