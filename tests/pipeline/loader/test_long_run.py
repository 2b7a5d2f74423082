"""10,000 batches from files: as much memory, and as many threads and open files, as after 1,000."""

import gc
import os
import threading
from dataclasses import replace

import psutil
import pytest

from pipeline.shards import open_shards
from tests.pipeline.loader.loader_support import CONFIG, sample_list, views
from tests.pipeline.shards.support import write_folder


def state():
    gc.collect()
    process = psutil.Process()
    return process.memory_info().rss / 2**20, threading.active_count(), process.num_fds()


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("format", ["dali"])
def test_ten_thousand_batches_leave_memory_as_it_was(format, tmp_path):
    write_folder(tmp_path / "shards", format, sample_list())
    shards = open_shards(tmp_path / "shards")
    config = replace(CONFIG, threads=2, decoder="turbojpeg")
    with views(shards, steps=10_000, config=config, batch=2) as loader:
        for number, batch in enumerate(loader):
            assert batch.large.shape[1] == 2
            if number == 1000:
                before = state()
        memory, threads, files = state()
    # 150 bytes lost in each batch would show
    assert memory - before[0] < 1.5
    assert threads <= before[1]
    assert files == before[2]


def test_loaders_that_come_and_go_leave_nothing(tmp_path):
    write_folder(tmp_path / "shards", "dali", sample_list())
    files, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for number in range(40):
        shards = open_shards(tmp_path / "shards")
        loader = views(shards, steps=50, config=replace(CONFIG, threads=2))
        served = iter(loader)
        next(served)
        if number % 2:
            loader.close()
        shards.close()
        del served, loader, shards  # the other half is left to the garbage collector
    gc.collect()
    for thread in threading.enumerate():
        if thread.name.startswith(("reading", "decoding", "augmenting", "decode", "views")):
            thread.join(10)
    gc.collect()
    assert threading.active_count() <= threads
    assert len(os.listdir("/proc/self/fd")) <= files
