"""The loader on a GPU: the views of the CPU, finished when they are used, never overwritten."""

import gc
from dataclasses import replace

import pytest
import torch

from pipeline.augment.recycled import RecycledMemory
from pipeline.loader import training_views
from pipeline.sampler import Sampler
from tests.pipeline.loader.loader_support import CONFIG, RECIPE, collected, shards_of, views

pytestmark = pytest.mark.gpu
EXECUTORS = ["fused", "compiled", "reference"]


def on_gpu(executor, steps=6, shards=None):
    shards = shards or shards_of()
    return training_views(
        shards,
        recipe=RECIPE,
        sampler=Sampler(num_samples=len(shards), global_batch_size=8, seed=3),
        seed=3,
        config=replace(CONFIG, executor=executor),
        end_step=steps,
        device=torch.device("cuda", 0),
    )


def busy():
    """Some milliseconds of work on the current stream."""
    matrix = torch.ones(4096, 4096, device="cuda")
    return matrix @ matrix


@pytest.mark.parametrize("executor", EXECUTORS)
def test_views_are_those_of_the_cpu(executor):
    expected = collected(views(steps=6))
    with on_gpu(executor) as loader:
        for batch, cpu in zip(loader, expected, strict=True):
            assert batch.large.is_cuda
            assert batch.ready is None
            for made, wanted in ((batch.large, cpu.large), (batch.small, cpu.small)):
                levels = (made.cpu() - wanted).abs().max() * 255 * max(RECIPE.std)
                assert levels <= (0.2 if executor == "fused" else 0.02)
            assert batch.sample_ids.tolist() == cpu.sample_ids.tolist()


@pytest.mark.parametrize("executor", EXECUTORS)
def test_views_that_are_held_are_not_overwritten(executor):
    with on_gpu(executor, steps=12) as loader:
        held = []
        for batch in loader:
            held.append((batch.large, batch.large.clone(), batch.small, batch.small.clone()))
            busy()
    torch.cuda.synchronize()
    for large, large_then, small, small_then in held:
        assert torch.equal(large, large_then)
        assert torch.equal(small, small_then)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_work_that_is_queued_reads_views_before_their_memory_is_used_again(executor):
    expected = collected(views(steps=24))
    sums = []
    with on_gpu(executor, steps=24) as loader:
        for batch in loader:
            busy()  # the sum is taken long after the loop has let the batch go
            sums.append(batch.large.double().sum())
            del batch
    for found, cpu in zip(sums, expected, strict=True):
        assert float(found) == pytest.approx(float(cpu.large.double().sum()), rel=1e-3, abs=1.0)


def test_memory_is_steady():
    with on_gpu("fused", steps=300) as loader:
        for step, _ in enumerate(loader):
            if step == 50:
                torch.cuda.synchronize()
                before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        torch.cuda.synchronize()
        assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before


def test_memory_of_a_device_comes_back_and_waits_for_its_readers():
    memory = RecycledMemory(torch.device("cuda", 0))
    views = memory.empty(1 << 20)
    place = views.data_ptr()
    views.fill_(1)
    busy()
    total = views.sum()
    del views
    gc.collect()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        again = memory.empty(1 << 20)
        again.zero_()
    assert again.data_ptr() == place
    torch.cuda.synchronize()
    assert float(total) == 1 << 20
    half = memory.empty(3, 5, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half.shape == (3, 5)


def test_waiting_is_measured_on_the_device():
    with on_gpu("fused", steps=20) as loader:
        for _ in loader:
            busy()
        torch.cuda.synchronize()
        stats = loader.stats()
    assert 0 <= stats.wait_seconds < 60
