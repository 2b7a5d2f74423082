"""Decoding on a real GPU. Where one is, with DALI; nothing here has been seen running yet."""

import numpy as np
import pytest
import torch

pytest.importorskip("simplejpeg")
pytest.importorskip("nvidia.dali")

from pipeline.augment.recipe import MultiCropRecipe
from pipeline.loader import LoaderConfig, training_views
from pipeline.loader.checked import CheckedDecoder, unlike
from pipeline.loader.dali_gpu import DaliGpuDecoder
from pipeline.loader.gpu_decode import settled_shares
from pipeline.loader.gpu_trial import CudaWork, try_engine
from pipeline.loader.jpeg_engine import hardware_engines
from pipeline.loader.ragged import places, room_for, some_encoded, some_images
from pipeline.loader.trial_samples import trial_samples
from pipeline.sampler import Sampler
from pipeline.shards import open_shards
from pipeline.shards.memory import MemoryShards
from tests.pipeline.loader.gpu_support import STALE, batch_of, cut, exact, pictures
from tests.pipeline.shards.support import write_folder

pytestmark = pytest.mark.gpu
DEVICE = torch.device("cuda", 0)
ENGINES = ["hardware", "cuda"]


def engine_of(engine):
    if engine == "hardware":
        torch.cuda.init()
        if hardware_engines() == 0:
            pytest.skip("this GPU has no JPEG engine")
    return DaliGpuDecoder(device=DEVICE, engine=engine, threads=2)


def checked(engine):
    return CheckedDecoder(engine_of(engine), name=engine, device=DEVICE)


def assert_close(images, encoded, rows):
    for row in rows:
        assert unlike(images.image(row), torch.from_numpy(exact(encoded)[row])) == ""


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_pass_the_self_test(engine):
    samples = trial_samples(MemoryShards.from_images(pictures(16)))
    trial = try_engine(engine, engine_of(engine), samples, CudaWork(DEVICE), DEVICE)
    assert trial.fault == ""
    assert trial.images_per_second > 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("shard_format", ["ffcv", "dali"])
def test_both_formats_are_decoded(engine, shard_format, tmp_path):
    if shard_format == "ffcv":
        pytest.importorskip("ffcv")  # for writing
    samples = MemoryShards.from_images(pictures(24))._samples
    write_folder(tmp_path / "shards", shard_format, samples)
    shards = open_shards(tmp_path / "shards")
    encoded = shards.read(np.arange(24))
    decoder, images = checked(engine), room_for(encoded, DEVICE)
    for rows in (range(24), range(0, 24, 2)):
        images.pixels.fill_(STALE)
        torch.cuda.synchronize()
        part = some_encoded(encoded, list(rows))
        assert decoder.decode(part, some_images(images, list(rows))) == {}
        assert_close(images, encoded, rows)
    shards.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_pixels_are_the_same_in_any_company_and_every_time(engine):
    decoder, encoded = engine_of(engine), batch_of(13)
    whole = room_for(encoded, DEVICE)
    decoder.decode(encoded, whole)
    for rows in ([3], [1, 0], list(range(0, 13, 3)), list(range(9)), list(range(13))):
        alone = room_for(some_encoded(encoded, rows), DEVICE)
        decoder.decode(some_encoded(encoded, rows), alone)
        for place, row in zip(places(alone), rows, strict=True):
            assert torch.equal(place, places(whole)[row])


@pytest.mark.parametrize("engine", ENGINES)
def test_earlier_batches_stay_as_they_are(engine):
    """Two hundred batches beside other work, on an engine that may disregard streams."""
    decoder, other = engine_of(engine), CudaWork(DEVICE)
    batches = [batch_of(8, seed=seed) for seed in (1, 30)]
    rooms = [room_for(batch, DEVICE) for batch in batches]
    for turn in range(200):
        if turn % 20 == 0:
            other.start()
        decoder.decode(batches[turn % 2], rooms[turn % 2])
    assert other.fault() == ""
    for batch, room in zip(batches, rooms, strict=True):
        assert_close(room, batch, range(8))


@pytest.mark.parametrize("engine", ENGINES)
def test_bad_images_do_not_spoil_the_others(engine):
    encoded = cut(batch_of(6), 1, 4)
    images = room_for(encoded, DEVICE)
    failures = checked(engine).decode(encoded, images)
    assert {1, 4} >= set(failures)
    assert_close(images, encoded, (0, 2, 3, 5))


def test_shares_are_settled_in_a_process_of_its_own():
    lines = []
    shards = MemoryShards.from_images(pictures(20) * 4)
    shares = settled_shares("auto", "auto", shards, device=DEVICE, threads=2, tell=lines.append)
    assert 0 < shares.gpu < 1, lines
    assert lines[-1].startswith("decoding on this data set")


def test_views_are_those_of_the_cpu_decoder_within_a_few_levels():
    shards = MemoryShards.from_images(pictures(20))
    recipe = MultiCropRecipe(num_large=2, num_small=1, large_size=64, small_size=32)

    def views(**settings):
        with training_views(
            shards,
            recipe=recipe,
            sampler=Sampler(num_samples=20, global_batch_size=10, seed=3),
            seed=3,
            config=LoaderConfig(executor="fused", threads=2, **settings),
            end_step=4,
            device=DEVICE,
        ) as loader:
            return [batch.large.clone() for batch in loader]

    expected = views(decoder="turbojpeg")
    found = views(decoder="dali-gpu", gpu_decode_share=0.7, hw_decoder_load=0.5)
    for left, right in zip(found, expected, strict=True):
        assert (left - right).abs().mean() < 0.1  # 5 levels of 255, in standard deviations
