"""Parts of the certificate: schedule, throttle, page cache, cores, clocks."""

import os
import time

import numpy as np
import pytest
import torch

from bench.certificate import page_cache
from bench.certificate.cores import divide, model_cores, pinned_to
from bench.certificate.schedule import SETTLE, WARMUP, make_schedule
from bench.certificate.step_clock import HostClock
from bench.certificate.throttle import ThrottledShards
from bench.certificate.trainee import number_kept, own
from pipeline.batch import MultiCropBatch
from pipeline.shards.memory import MemoryShards
from tests.support import textured_image
from training.launch import World


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
@pytest.mark.parametrize("steps", [4, 40, 60, 500, 501])
@pytest.mark.parametrize("steps_per_epoch", [1, 3, 62, 313, 5005])
def test_counted_steps_cross_an_epochs_end_and_a_checkpoint(steps, steps_per_epoch, device_type):
    schedule = make_schedule(
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        checkpoint_every=1000,
        prefetch=2,
        device_type=device_type,
    )
    assert steps <= schedule.counted < steps + schedule.block
    assert schedule.blocks >= 2
    counted = set()
    step = schedule.start_step + WARMUP
    for _ in range(schedule.blocks):
        step += schedule.drain + SETTLE
        counted |= set(range(step, step + schedule.block))
        step += schedule.block
    assert step == schedule.end_step <= schedule.cold_start_step
    assert schedule.cold_start_step % steps_per_epoch == 0
    crossed = [s for s in counted if s % steps_per_epoch == 0 and s - 1 in counted]
    assert crossed
    assert len(schedule.saves) == 1
    assert schedule.saves < set(range(schedule.counted))


def test_checkpoints_come_as_often_as_in_the_training():
    schedule = make_schedule(
        steps=500, steps_per_epoch=62, checkpoint_every=100, prefetch=2, device_type="cuda"
    )
    assert schedule.saves == {99, 199, 299, 399, 499}
    assert schedule.blocks == 10


def test_throttled_shards_are_those_inside_but_slow():
    shards = MemoryShards.from_images([textured_image(20, 20, seed=i) for i in range(4)])
    throttled = ThrottledShards(shards)
    ids = np.arange(4)
    throttled.read(ids)  # as fast as they are
    throttled.images_per_second = 40.0
    start = time.monotonic()
    for _ in range(3):
        slow = throttled.read(ids)
    assert time.monotonic() - start >= 0.3
    assert [bytes(jpeg) for jpeg in slow.jpegs] == [bytes(jpeg) for jpeg in shards.read(ids).jpegs]
    assert len(throttled) == 4
    assert throttled.manifest is shards.manifest


def test_pages_of_a_file_are_seen_and_dropped(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(os.urandom(1 << 20))
    pages = (1 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert page_cache.resident(path) == (pages, pages)
    stayed = page_cache.drop([path])
    in_memory, _ = page_cache.resident(path)
    assert stayed == in_memory / pages  # 0 on a disk, 1 where the file system is memory itself
    rate, done = page_cache.sequential_rate([path])
    assert rate > 0
    assert done == 1 << 20


def test_an_empty_file_has_no_pages(tmp_path):
    path = tmp_path / "data"
    path.touch()
    assert page_cache.resident(path) == (0, 0)
    assert page_cache.drop([path]) == 0


def affinity(monkeypatch, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(cores))


@pytest.mark.parametrize(
    ("available", "model", "loader"),
    [([0, 1], [0], [1]), ([2, 3, 4, 5, 6, 7, 8, 9], [2, 3, 4, 5, 6, 7], [8, 9])],
)
def test_model_and_loader_have_cores_of_their_own(monkeypatch, available, model, loader):
    affinity(monkeypatch, available)
    cores = divide(World())
    assert (sorted(cores.model), sorted(cores.loader)) == (model, loader)
    assert cores.note.startswith("cores set apart")


def test_one_core_is_shared_and_the_note_says_so(monkeypatch):
    affinity(monkeypatch, [1])
    cores = divide(World())
    assert cores.model == cores.loader == {1}
    assert "share one core" in cores.note


def test_a_loader_beside_a_gpu_has_all_cores_of_its_process(monkeypatch):
    affinity(monkeypatch, [4, 5, 6])
    assert divide(World(device=torch.device("cuda", 0))).loader == {4, 5, 6}


def test_threads_return_to_where_they_were():
    before, threads = os.sched_getaffinity(0), torch.get_num_threads()
    cores = divide(World())
    with model_cores(cores, World()):
        assert os.sched_getaffinity(0) == cores.model
        assert torch.get_num_threads() == len(cores.model)
        with pinned_to(cores.loader):
            assert os.sched_getaffinity(0) == cores.loader
        assert os.sched_getaffinity(0) == cores.model
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == (before, threads)


def test_a_clock_gives_the_time_between_marks_once():
    clock = HostClock()
    clock.mark()
    time.sleep(0.02)
    clock.mark()
    clock.mark()
    first, second = clock.take()
    assert first >= 0.02
    assert second >= 0
    assert clock.take() == []


def batch(side, device="cpu"):
    return MultiCropBatch(
        large=torch.ones(2, 4, 3, side, side, device=device),
        small=torch.ones(1, 4, 3, 8, 8, device=device),
        labels=torch.arange(4),
        sample_ids=np.arange(4),
        epoch=0,
    )


def test_synthetic_keeps_views_of_its_own_and_enough_of_them():
    first = batch(16)
    kept = own(first)
    assert torch.equal(kept.large, first.large)
    first.large.zero_()
    assert kept.large.any()
    assert number_kept(batch(8, "meta"), 12) == 12
    assert number_kept(batch(1024, "meta"), 12) == 3  # 101 MB each
    assert number_kept(batch(2048, "meta"), 12) == 2
