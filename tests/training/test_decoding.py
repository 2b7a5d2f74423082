"""Who decodes is decided once: before the first step, by rank 0, and for ever after."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.loader import LoaderConfig
from training.config import TrainConfig, apply_settings, differences, from_dict, to_dict
from training.decoding import settle_decoding
from training.launch import World, run_processes
from training.runlog import check_same_run

GPU_LOADER = LoaderConfig(decoder="dali-gpu", executor="fused", threads=4)
DECIDED = replace(GPU_LOADER, gpu_decode_share=0.41, hw_decoder_load=0.62)


@pytest.fixture
def measured(monkeypatch):
    """What the measurement is asked; it answers DECIDED's shares, and obeys those that are set."""
    asked = []

    def settled(config, shards, *, device, tell):
        if config.decoder != "dali-gpu":
            return config
        asked.append((config.gpu_decode_share, config.hw_decoder_load))
        tell("a line")
        gpu, hardware = (
            found if wished == "auto" else wished
            for wished, found in zip(asked[-1], (0.41, 0.62), strict=True)
        )
        return replace(config, gpu_decode_share=gpu, hw_decoder_load=hardware)

    monkeypatch.setattr(LoaderConfig, "settled", settled)
    return asked


def settle(config, out, world=None):
    lines = []
    settled = settle_decoding(config, None, out, world or World(), lines.append)
    return settled, lines


def started_with(out, loader, *, checkpoint=True):
    out.mkdir(exist_ok=True)
    description = {"config": to_dict(TrainConfig(loader=loader)), "data": {"index_sha256": "x"}}
    (out / "config.json").write_text(json.dumps(description))
    if checkpoint:
        (out / "checkpoint-00000002.pt").touch()


def test_a_new_run_measures_and_keeps_the_result_in_its_config(tmp_path, measured):
    settled, lines = settle(TrainConfig(loader=GPU_LOADER), tmp_path)
    assert settled == TrainConfig(loader=DECIDED)
    assert (measured, lines) == ([("auto", "auto")], ["a line"])
    assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(settled)))) == settled


def test_a_resumed_run_takes_the_shares_that_it_was_started_with(tmp_path, measured):
    started_with(tmp_path, replace(DECIDED, gpu_decode_share=0.9, hw_decoder_load=0.1))
    settled, _ = settle(TrainConfig(loader=GPU_LOADER), tmp_path)
    assert (settled.loader.gpu_decode_share, settled.loader.hw_decoder_load) == (0.9, 0.1)
    assert measured == [(0.9, 0.1)]  # tested, not chosen again


def test_left_to_auto_a_resumed_run_takes_the_decoder_too(tmp_path, measured):
    started_with(tmp_path, replace(DECIDED, gpu_decode_share=0.9, hw_decoder_load=0.1))
    settled, _ = settle(TrainConfig(loader=LoaderConfig(executor="fused")), tmp_path)
    assert settled.loader.decoder == "dali-gpu"
    assert settled.loader.gpu_decode_share == 0.9


def test_a_run_that_decoded_on_the_cpu_goes_on_there_with_however_few_cores(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.loader.shares.has_dali", lambda: True)
    world = World(device=torch.device("cuda", 0))
    starved = TrainConfig(loader=LoaderConfig(executor="fused", threads=1))
    monkeypatch.setattr(
        "pipeline.loader.gpu_decode.settled_shares",
        lambda *_, **__: pytest.fail("asked to decode on the GPU"),
    )
    started_with(tmp_path, starved.loader)
    assert settle(starved, tmp_path, world)[0] == starved
    with pytest.raises(pytest.fail.Exception, match="asked to decode on the GPU"):
        settle(starved, tmp_path / "new", world)


def test_a_folder_without_a_checkpoint_is_a_new_run(tmp_path, measured):
    started_with(tmp_path, replace(DECIDED, gpu_decode_share=0.9), checkpoint=False)
    assert settle(TrainConfig(loader=GPU_LOADER), tmp_path)[0].loader == DECIDED


def test_a_run_of_before_these_settings_can_be_resumed(tmp_path, measured):
    started_with(tmp_path, LoaderConfig(decoder="turbojpeg"))
    path = tmp_path / "config.json"
    description = json.loads(path.read_text())
    for name in ("gpu_decode_share", "hw_decoder_load"):
        del description["config"]["loader"][name]
    path.write_text(json.dumps(description))
    config = TrainConfig(loader=LoaderConfig(decoder="turbojpeg"))
    check_same_run(tmp_path, config, manifest("x"))
    assert settle(config, tmp_path)[0] == config


def manifest(sha256):
    from types import SimpleNamespace

    return SimpleNamespace(index_sha256=sha256)


def test_auto_agrees_with_what_was_decided_and_another_number_does_not(tmp_path):
    started_with(tmp_path, DECIDED)
    check_same_run(tmp_path, TrainConfig(loader=GPU_LOADER), manifest("x"))
    check_same_run(tmp_path, TrainConfig(loader=DECIDED), manifest("x"))
    other = apply_settings(TrainConfig(loader=GPU_LOADER), ["gpu_decode_share=0.5"])
    with pytest.raises(ValueError, match=r"loader\.gpu_decode_share was 0.41, is 0.5"):
        check_same_run(tmp_path, other, manifest("x"))
    cpu = apply_settings(TrainConfig(loader=GPU_LOADER), ["decoder=turbojpeg"])
    with pytest.raises(ValueError, match=r"loader\.decoder was dali-gpu, is turbojpeg"):
        check_same_run(tmp_path, cpu, manifest("x"))


def test_only_these_settings_may_be_left_to_auto():
    old = TrainConfig(precision="float32", views_together="no", loader=DECIDED)
    new = TrainConfig(precision="auto", loader=GPU_LOADER)
    assert differences(old, new) == []
    assert differences(new, old) == [
        "loader.gpu_decode_share was auto, is 0.41",
        "loader.hw_decoder_load was auto, is 0.62",
        "precision was auto, is float32",
    ]


def in_two_processes(world, folder):
    """Rank 0 decides; both must come to the same, though rank 1 would measure something else."""

    def settled(config, shards, *, device, tell):
        tell("told")
        if config.threads == 2:
            raise ValueError("it cannot decode here")
        return replace(config, gpu_decode_share=0.1 * (world.rank + 1), hw_decoder_load=0.5)

    LoaderConfig.settled = settled
    lines = []
    for threads in (4, 2):
        config = TrainConfig(loader=replace(GPU_LOADER, threads=threads))
        try:
            loader = settle_decoding(config, None, Path(folder), world, lines.append).loader
            lines.append(loader.gpu_decode_share)
        except ValueError as error:
            lines.append(str(error))
    (Path(folder) / f"rank{world.rank}").write_text(json.dumps(lines))
    return 0


def test_all_ranks_take_what_rank_0_decides_or_refuses(tmp_path):
    status = run_processes(in_two_processes, device_type="cpu", size=2, arguments=(str(tmp_path),))
    assert status == 0
    first, second = (json.loads((tmp_path / f"rank{rank}").read_text()) for rank in (0, 1))
    assert first == ["told", 0.1, "told", "it cannot decode here"]
    assert second == [0.1, "it cannot decode here"]
