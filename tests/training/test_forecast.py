"""What `train.py --plan` makes of counts and a rehearsal."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.batch import MASK_GRID
from pipeline.shards import open_shards
from training.config import apply_settings
from training.forecast import rehearsal as rehearsals
from training.forecast.footprint import Footprint, Libraries
from training.forecast.forecast import _disk, _trial, _work
from training.forecast.memory import plan_memory
from training.forecast.obstacles import obstacles_of
from training.forecast.operations import (
    forward_operations,
    operations_per_image,
)
from training.forecast.rehearsal import Rehearsal
from training.forecast.room import Room
from training.plan import Plan
from training.presets import imagenet_rn50, load_preset

REHEARSAL = Rehearsal(
    global_batch_size=64,
    steps=20,
    images_per_second=100.0,
    images_per_second_20=90.0,
    images_per_second_80=110.0,
    images_per_second_mean=98.0,
    wait_share=0.0,
    bottleneck="step",
    peak_host_bytes=1e9,
    peak_device_bytes=None,
    saved_bytes=50_000_000,
    bad_samples=0,
)
LIBRARIES = Libraries(total=3e8, of_files=2e8)
ROOMY = Room(host=64e9, device=None, disk=1e12)


@pytest.fixture(scope="module")
def shards(home):
    opened = open_shards(home / "shards")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def tiny(home):
    return load_preset(str(home / "tiny.toml"))


def parts_of(found, *names):
    every = found.host | found.device
    return sum(every[name] for name in names)


def growing_of(found):
    every = found.host | found.device
    return sum(every.values()) - parts_of(found, "weights", "gradients", "optimizer", "index")


def test_what_was_held_beyond_libraries_and_weights_grows_with_the_batch(shards, tiny):
    footprint = Footprint(tiny, shards, 1, on_gpu=False)
    whole = replace(REHEARSAL, global_batch_size=8)
    assert footprint.of_run(whole, libraries=LIBRARIES) == (1e9, None)
    assert footprint.of_run(None) == (None, None)
    then = footprint.counted(4)
    kept = 3e8 + REHEARSAL.saved_bytes
    kept += parts_of(then, "weights", "gradients", "optimizer", "index")
    half = replace(REHEARSAL, global_batch_size=4)

    def found(peak):
        return footprint.of_run(replace(half, peak_host_bytes=peak), libraries=LIBRARIES)[0]

    growing = 1.3 * growing_of(then)
    assert found(kept + growing) == pytest.approx(kept + 2 * growing)
    most = 1.4 * growing_of(then)  # what is more than that was loaded at first use
    assert found(kept + 2 * most) == pytest.approx(kept + 3 * most)
    assert found(2e8) == 2e8  # less than the libraries: nothing is taken off


def test_processes_share_pages_of_files_and_one_alone_saves(shards, tiny):
    footprint = Footprint(tiny, shards, 4, on_gpu=False)
    whole = replace(REHEARSAL, global_batch_size=8)
    found, _ = footprint.of_run(whole, libraries=LIBRARIES)
    others = 1e9 - 2e8 - REHEARSAL.saved_bytes
    assert found == 1e9 + 3 * others + 1e8  # and the process that starts them


def test_knn_adds_its_own_rings_less_the_activations_that_are_gone(shards, tiny):
    whole = replace(REHEARSAL, global_batch_size=8)
    large = apply_settings(tiny, ["recipe.large_size=128"])
    unwatched, _ = Footprint(large, shards, 1, on_gpu=False).of_run(whole, libraries=LIBRARIES)
    watched = replace(large, monitor_every=1)
    # of 8 pictures in a step as many are measured at a time: on a CPU activations are more
    assert (
        Footprint(watched, shards, 1, on_gpu=False).of_run(whole, libraries=LIBRARIES)[0]
        == unwatched
    )
    footprint = Footprint(watched, shards, 1, on_gpu=True)
    found, _ = footprint.of_run(whole, libraries=LIBRARIES)
    rings = parts_of(footprint.counted(8), "bytes read", "pixels and masks")
    assert found > 1e9 + rings * 0.99
    assert found < 1e9 + rings + 4 * 8 * 3 * 128**2 * 4 * 1.01  # four batches of one view


def test_the_parts_of_a_gpu_and_of_its_host_are_kept_apart(shards, tiny):
    footprint = Footprint(tiny, shards, 1, on_gpu=True)
    found = footprint.counted(8)
    then = footprint.counted(4)
    kept = parts_of(then, "weights", "gradients", "optimizer")
    growing = sum(then.device.values()) - kept
    half = replace(REHEARSAL, global_batch_size=4, peak_device_bytes=kept + growing)
    host, device = footprint.of_run(half, libraries=LIBRARIES)
    assert device == pytest.approx(kept + 2 * growing)
    more = sum(found.host.values()) - sum(then.host.values())  # pinned memory grows by leaps
    assert host == pytest.approx(1e9 + 1.4 * more)
    step = sum(found.device.values())
    assert footprint.fits(8, replace(ROOMY, device=1.3 * step), share=0.8)
    assert not footprint.fits(8, replace(ROOMY, device=1.2 * step), share=0.8)


def test_memory_that_a_gpu_copies_from_is_a_power_of_two(shards, tiny):
    def counted(batch, *settings, on_gpu=True):
        config = apply_settings(tiny, settings)
        return plan_memory(config, shards, batch=batch, on_gpu=on_gpu).host

    pixels = 3 * float(np.mean(shards.heights.astype(np.int64) * shards.widths))
    masks = MASK_GRID**2
    assert counted(6, on_gpu=False)["pixels and masks"] == 3 * 6 * (1.25 * pixels + masks)

    def next_power(size):
        return 2 ** int(np.ceil(np.log2(size)))

    pinned = next_power(6 * 1.25 * pixels) + next_power(6 * masks)
    assert counted(6)["pixels and masks"] == 3 * pinned
    large, small = (
        next_power(6 * number * 3 * side**2 * 4)  # made as float32, whatever the step takes
        for number, side in (
            (tiny.recipe.num_large, tiny.recipe.large_size),
            (tiny.recipe.num_small, tiny.recipe.small_size),
        )
    )
    batches = tiny.loader.prefetch + 2
    assert counted(6, "executor=compiled")["views"] == batches * (large + small)
    assert counted(6, "num_small=0", "executor=compiled")["views"] == batches * large


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
    assert _work(watched, plan, shards, done=0, size=1) == pytest.approx(96 + 3 * knn)
    assert _work(watched, plan, shards, done=6, size=2) == pytest.approx(48 + 2 * knn)
    for seldom, times in ((3, 3), (9, 2)):  # before the first step, and after the last, too
        watched = replace(tiny, monitor_every=seldom)
        assert _work(watched, plan, shards, done=0, size=1) == pytest.approx(96 + times * knn)
    assert _work(watched, plan, shards, done=12, size=1) == 0
    growing = apply_settings(tiny, ["recipe.progressive_epochs=1"])  # 16 pixels, not 32, at first
    halved = replace(growing, recipe=growing.recipe.at(0))
    share = operations_per_image(halved) / operations_per_image(tiny)
    assert share < 0.5
    assert _work(growing, plan, shards, done=0, size=1) == pytest.approx(72 + 24 * share)
    short = replace(tiny, max_steps=4)
    assert _work(short, plan_of(short, shards), shards, done=0, size=1) == 32


def test_checkpoints_that_are_kept_are_counted_once_and_less_what_is_there(shards, tiny, tmp_path):
    plan = plan_of(tiny, shards)  # 12 steps, saved every 2, three kept
    saved = REHEARSAL.saved_bytes
    (tmp_path / "checkpoint-00000004.pt").write_bytes(bytes(1000))
    (tmp_path / "encoder-00000004.pt").write_bytes(bytes(100))
    (tmp_path / "metrics.jsonl").write_bytes(bytes(10))

    def disk(config, out=Path("no-such-run"), done=0):
        return _disk(config, plan, REHEARSAL, out, done=done, encoder=7)

    assert disk(tiny) == 4 * saved + 7
    assert disk(replace(tiny, milestone_every=2)) == 5 * saved + 3 * 7  # 6 and 12; 8, 10, 12 newest
    assert disk(replace(tiny, checkpoint_every=100)) == 2 * saved + 7
    assert disk(tiny, tmp_path, 4) == 4 * saved + 7 - 1100
    assert disk(tiny, tmp_path, 12) == 0
    assert _disk(tiny, plan, None, tmp_path, done=0, encoder=7) is None


def test_rates_are_the_medians_and_the_means_of_the_time(tmp_path):
    lines = [
        {"images_per_second": rate, "wait_share": share, "bottleneck": "step", "bad_samples": 0}
        for rate, share in ((10.0, 0.0), (40.0, 0.0), (40.0, 0.0), (40.0, 0.0), (10.0, 1.0))
    ]
    found = rehearsals._summary(lines, 8, peak_host_bytes=5, saved_bytes=6)
    assert found.images_per_second == 40
    # 40 pictures in 0.8 + 3 * 0.2 + 0.8 seconds, of which 0.8 were waited
    assert found.images_per_second_mean == pytest.approx(40 / 2.2)
    assert found.wait_share == pytest.approx(0.8 / 2.2)
    assert (found.images_per_second_20, found.images_per_second_80) == (10.0, 40.0)
    assert (found.steps, found.peak_host_bytes, found.saved_bytes) == (5, 5, 6)


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
        ({"host": 65e9}, "it needs 65.00 GB of memory, 64.00 GB are free; lower global_batch_size"),
        (
            {"device": 150e9, "room": replace(ROOMY, device=140e9)},
            "each GPU needs 150.00 GB of its 140.00 GB; lower global_batch_size",
        ),
        (
            {"disk": 2e12},
            "checkpoints take 2000.00 GB more, the disk of --out has 1000.00 GB; lower",
        ),
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
            {"rehearsal": replace(REHEARSAL, images_per_second_20=20.0)},
            "the rehearsed steps differ, 20.0 to 110.0 images/s: is other work on the cores?",
        ),
        (
            {"rehearsal": replace(REHEARSAL, bad_samples=3)},
            "3 of the pictures rehearsed cannot be decoded; the run ends after more than "
            "loader.max_bad=10",
        ),
        (  # 100 kB a picture, 100 pictures a second
            {"data_bytes": 63e9, "num_samples": 630_000},
            "the shards (63.00 GB) do not fit into memory beside the run; the disk must give 10 MB",
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
    assert rehearsals._ended(137, said) == killed  # one of several processes
    assert rehearsals._ended(-11, said).startswith("the rehearsal was ended by SIGSEGV [it said")
