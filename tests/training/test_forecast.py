"""The parts of `train.py --plan`: counts against known ones, and made-up machines."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.shards import open_shards
from training.config import apply_settings
from training.forecast import rehearsal as rehearsals
from training.forecast.footprint import Footprint
from training.forecast.forecast import _trial, _work
from training.forecast.memory import step_memory
from training.forecast.obstacles import obstacles_of
from training.forecast.operations import (
    count_parameters,
    forward_operations,
    operations_per_image,
)
from training.forecast.rehearsal import Rehearsal
from training.forecast.room import Room, host_memory, nearest_folder
from training.plan import Plan
from training.presets import demo, imagenet_rn50, load_preset

GIB = 2.0**30
REHEARSAL = Rehearsal(
    global_batch_size=64,
    steps=20,
    images_per_second=100.0,
    images_per_second_20=90.0,
    images_per_second_80=110.0,
    wait_share=0.0,
    bottleneck="step",
    peak_host_bytes=1e9,
    peak_device_bytes=None,
    saved_bytes=50_000_000,
    bad_samples=0,
)
ROOMY = Room(host=64e9, device=None, disk=1e12)


@pytest.fixture(scope="module")
def shards(home):
    opened = open_shards(home / "shards")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def tiny(home):
    return load_preset(str(home / "tiny.toml"))


def test_parameters_are_those_of_the_literature():
    found = count_parameters(imagenet_rn50())
    assert found["encoder"] == 23_508_032  # torchvision's ResNet-50 without its classifier
    # 2048 -> 4096 with BatchNorm -> 256, and 256 -> 4096 -> 256
    assert found["target"] == found["encoder"] + found["projector"]
    assert found["projector"] == pytest.approx(2048 * 4096 + 4096 * 256, rel=0.002)
    assert found["predictor"] == pytest.approx(2 * 256 * 4096, rel=0.01)


def test_operations_are_those_of_the_literature():
    # 17.9 GMAC forward of four 224s and two 96s, three times, and 16.4 of the target: about 70
    assert operations_per_image(imagenet_rn50()) / 2e9 == pytest.approx(70, rel=0.03)
    (forward,) = forward_operations(imagenet_rn50().model.encoder, 224)
    assert forward / 2e9 == pytest.approx(4.09, rel=0.01)


def test_memory_of_the_step_counts_what_is_there():
    config = demo()
    found = step_memory(config, batch=64, half=False)
    assert found["gradients"] * 2 == found["optimizer"]  # AdamW keeps two numbers of each
    assert found["weights"] > found["gradients"]  # the target has weights and no gradients
    twice = step_memory(config, batch=128, half=False)
    assert twice["activations of one view"] == 2 * found["activations of one view"]
    large = replace(config, recipe=replace(config.recipe, large_size=96))
    grown = step_memory(large, batch=64, half=False)["activations of one view"]
    assert grown == pytest.approx(4 * found["activations of one view"], rel=0.1)


def test_parts_of_a_batch_share_its_activations_and_coupled_views_add_them_up():
    config = demo()
    one = step_memory(config, batch=64, half=False)["activations of one view"]
    parts = step_memory(replace(config, accumulate=4), batch=64, half=False)
    assert parts["activations of one view"] == one / 4
    coupled = apply_settings(config, ["loss.kl_form=swap_views"])
    every = step_memory(coupled, batch=64, half=False)["activations of all views"]
    small = (32 / 48) ** 2  # the area of a small view
    assert every == pytest.approx((4 + 2 * small) * one, rel=0.05)


def test_the_memory_of_the_machine_is_that_of_the_container(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  16777216 kB\nMemAvailable:  8388608 kB\n")
    cgroup = tmp_path / "cgroup"
    assert host_memory(meminfo=meminfo, cgroup=cgroup) == 8 * GIB
    cgroup.mkdir()
    (cgroup / "memory.current").write_text(f"{3 * 2**30}\n")
    (cgroup / "memory.stat").write_text(f"anon 1\nfile {2**30}\n")
    (cgroup / "memory.max").write_text("max\n")
    assert host_memory(meminfo=meminfo, cgroup=cgroup) == 8 * GIB
    (cgroup / "memory.max").write_text(f"{6 * 2**30}\n")
    assert host_memory(meminfo=meminfo, cgroup=cgroup) == 4 * GIB
    assert host_memory(meminfo=tmp_path / "none", cgroup=cgroup) is None


def test_the_disk_is_that_of_the_nearest_folder(tmp_path):
    assert nearest_folder(tmp_path / "runs" / "today" / "one") == tmp_path
    (tmp_path / "file").touch()
    assert nearest_folder(Path("relative")) == Path.cwd()


def parts_of(found, *names):
    every = found.host | found.device
    return sum(every[name] for name in names)


def test_what_was_held_beyond_libraries_and_weights_grows_with_the_batch(shards, tiny):
    footprint = Footprint(tiny, shards, 2, on_gpu=False)
    whole = replace(REHEARSAL, global_batch_size=8)
    assert footprint.of_run(whole, libraries=3e8) == (2e9, None)
    assert footprint.of_run(None) == (None, None)
    fixed = parts_of(footprint.counted(8), "weights", "gradients", "optimizer", "index")
    growing = 1e9 - 3e8 - fixed - REHEARSAL.saved_bytes
    half = replace(REHEARSAL, global_batch_size=4)
    found, _ = footprint.of_run(half, libraries=3e8)
    assert found == pytest.approx(2 * (1e9 + growing))
    idle = replace(half, peak_host_bytes=2e8)  # less than the libraries: nothing is taken off
    assert footprint.of_run(idle, libraries=3e8)[0] == 4e8


def test_knn_adds_its_own_rings_less_the_activations_that_are_gone(shards, tiny):
    whole = replace(REHEARSAL, global_batch_size=8)
    large = apply_settings(tiny, ["recipe.large_size=128"])
    unwatched, _ = Footprint(large, shards, 1, on_gpu=False).of_run(whole, libraries=3e8)
    watched = replace(large, monitor_every=1)
    # of 8 pictures in a step as many are measured at a time: on a CPU activations are more
    assert Footprint(watched, shards, 1, on_gpu=False).of_run(whole, libraries=3e8)[0] == unwatched
    footprint = Footprint(watched, shards, 1, on_gpu=True)
    found, _ = footprint.of_run(whole, libraries=3e8)
    rings = parts_of(footprint.counted(8), "bytes read", "pixels and masks")
    assert found > 1e9 + rings * 0.99
    assert found < 1e9 + rings + 4 * 8 * 3 * 128**2 * 4 * 1.01  # four batches of one view


def test_the_parts_of_a_gpu_and_of_its_host_are_kept_apart(shards, tiny):
    footprint = Footprint(tiny, shards, 1, on_gpu=True)
    found = footprint.counted(8)
    half = replace(REHEARSAL, global_batch_size=4, peak_device_bytes=3e9)
    host, device = footprint.of_run(half, libraries=3e8)
    growing = 1e9 - 3e8 - REHEARSAL.saved_bytes - parts_of(found, "index")
    assert host == pytest.approx(1e9 + growing)
    assert device == pytest.approx(6e9 - parts_of(found, "weights", "gradients", "optimizer"))
    step = sum(found.device.values())
    assert footprint.fits(8, replace(ROOMY, device=1.3 * step), share=0.8)
    assert not footprint.fits(8, replace(ROOMY, device=1.2 * step), share=0.8)


def plan_of(config, shards):
    return Plan.of(config, shards, Path("no-such-run"))


def test_a_batch_that_takes_a_cpu_too_long_is_halved_while_it_can_be(shards, tiny):
    plan = plan_of(tiny, shards)
    footprint = Footprint(tiny, shards, 1, on_gpu=False)
    assert _trial(tiny, plan, footprint, ROOMY, 1) == tiny
    slow = apply_settings(
        imagenet_rn50(),
        ["global_batch_size=24", "num_negatives=5", "warmup_epochs=0"],
    )
    operations = operations_per_image(slow)
    assert operations * 24 > 3e12 > operations * 12
    footprint = Footprint(slow, shards, 1, on_gpu=False)
    assert _trial(slow, plan_of(slow, shards), footprint, ROOMY, 1).global_batch_size == 12
    on_gpu = replace(ROOMY, device=100e9)
    footprint = Footprint(slow, shards, 1, on_gpu=True)
    assert _trial(slow, plan_of(slow, shards), footprint, on_gpu, 1) == slow
    many = replace(slow, loss=replace(slow.loss, num_negatives=20))
    footprint = Footprint(many, shards, 1, on_gpu=False)
    assert _trial(many, plan_of(many, shards), footprint, ROOMY, 1) == many  # 12 are too few


def test_a_batch_that_does_not_fit_is_halved_and_one_that_never_fits_is_not_rehearsed(shards, tiny):
    plan = plan_of(tiny, shards)
    footprint = Footprint(tiny, shards, 1, on_gpu=False)
    counted = {size: footprint.counted(size) for size in (8, 4)}
    needs = {
        size: sum(found.host.values()) + sum(found.device.values())
        for size, found in counted.items()
    }
    room = replace(ROOMY, host=(needs[8] + needs[4]) / 2 / 0.8)
    assert _trial(tiny, plan, footprint, room, 1).global_batch_size == 4
    assert _trial(tiny, plan, footprint, replace(ROOMY, host=needs[4] / 2), 1) is None


def test_the_work_that_is_left_counts_kNN_and_smaller_views(shards, tiny):
    plan = plan_of(tiny, shards)  # 3 steps of 8 in each of 4 epochs
    assert _work(tiny, plan, shards, done=0, size=1) == 96
    assert _work(tiny, plan, shards, done=5, size=1) == 56
    watched = replace(tiny, monitor_every=2)
    (forward,) = forward_operations(tiny.model.encoder, tiny.recipe.large_size)
    knn = 24 * forward / operations_per_image(tiny)
    assert np.all(shards.labels >= 0)
    assert _work(watched, plan, shards, done=0, size=1) == pytest.approx(96 + 2 * knn)
    assert _work(watched, plan, shards, done=6, size=2) == pytest.approx(48 + 2 * knn)
    growing = apply_settings(tiny, ["recipe.progressive_epochs=1"])  # 16 pixels, not 32, at first
    halved = replace(growing, recipe=growing.recipe.at(0))
    share = operations_per_image(halved) / operations_per_image(tiny)
    assert share < 0.5
    assert _work(growing, plan, shards, done=0, size=1) == pytest.approx(72 + 24 * share)
    short = replace(tiny, max_steps=4)
    assert _work(short, plan_of(short, shards), shards, done=0, size=1) == 32


def obstacles(**changed):
    asked = {
        "failure": "",
        "host": 2e9,
        "device": None,
        "disk": 3e9,
        "room": ROOMY,
        "rehearsal": REHEARSAL,
        "data_bytes": 5e9,
        "num_samples": 50_000,
        "max_bad": 10,
    }
    return obstacles_of(**(asked | changed))


def test_nothing_is_said_of_a_run_that_has_room():
    assert obstacles() == replace(obstacles(), stops=(), warnings=())


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"failure": "it ended"}, "it ended"),
        ({"host": 65e9}, "it needs 65.0 GB of memory, 64.0 are free; lower global_batch_size"),
        (
            {"device": 150e9, "room": replace(ROOMY, device=140e9)},
            "each GPU needs 150.0 GB of its 140.0; lower global_batch_size or raise accumulate",
        ),
        ({"disk": 2e12}, "checkpoints take 2000.0 GB, the disk of --out has 1000.0; lower keep"),
    ],
)
def test_what_would_stop_a_run_is_said_with_the_way_out(changed, line):
    (found,) = obstacles(**changed).stops
    assert found.startswith(line)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {"rehearsal": replace(REHEARSAL, wait_share=0.25, bottleneck="decode")},
            "steps wait for views 25% of the time, limited by decode",
        ),
        (
            {"rehearsal": replace(REHEARSAL, bad_samples=3)},
            "3 of the pictures rehearsed cannot be decoded; the run ends after more than "
            "loader.max_bad=10",
        ),
        (  # 100 kB a picture, 100 pictures a second
            {"data_bytes": 63e9, "num_samples": 630_000},
            "the shards (63.0 GB) do not fit into memory beside the run; the disk must give 10 MB",
        ),
    ],
)
def test_what_would_slow_a_run_down_is_a_warning(changed, line):
    found = obstacles(**changed)
    assert found.stops == ()
    assert found.warnings[0].startswith(line)
    assert len(found.warnings) == 1


def test_how_a_rehearsal_ended_is_told_by_its_last_words(tmp_path):
    said = tmp_path / "said.txt"
    said.write_text("Error: it broke\n\n")
    assert rehearsals._ended(3, said) == "the rehearsal ended with status 3: Error: it broke"
    said.write_text("")
    killed = rehearsals._ended(-9, said)
    assert killed.startswith(
        "the rehearsal was ended by SIGKILL; the kernel does that where memory"
    )
    assert rehearsals._ended(-11, said).startswith("the rehearsal was ended by SIGSEGV [it said")
