"""`python -m bench ladder`: naming the bottleneck, the form of what is printed, the plot."""

import json
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bench import plot
from bench.__main__ import bench
from bench.bottleneck import RUNGS, drops, find_bottleneck, own_seconds
from bench.harness import Unavailable
from bench.ladder import LadderRequest, task_of
from bench.ladder_table import ladder_table
from bench.plot import plot_rates
from bench.stages import Stages
from bench.training_rungs import resident_views
from training.presets import demo, imagenet_rn50, small_images


def rates(**per_second):
    """Seconds per image of two rounds for made-up rates, the second round twice as slow."""
    return {name: (1 / rate, 2 / rate) for name, rate in per_second.items()}


def verdict(shared="cores", **per_second):
    return find_bottleneck(rates(**per_second), shared=shared)


FAST = {"read": 90_000, "decode": 1500, "augment": 700, "loader": 800}


def test_a_fed_training_is_limited_by_its_model():
    found = verdict(**FAST, model=200, step=198)
    assert found.rung == "model"
    assert found.full_over_synthetic == pytest.approx(0.99)
    assert found.demand == pytest.approx(2 / 3 * 200)  # the median of two rounds
    assert "as it should be" in found.sentence
    assert "4.0 times the demand" in found.sentence
    assert "99.0%" in found.sentence


def test_a_stage_too_slow_by_itself_is_named_first():
    found = verdict("GPU", read=9000, decode=600, upload=590, augment=580, loader=610, model=2000)
    assert found.rung == "decode"
    assert found.sentence.startswith("decode is the bottleneck: the model takes 1333.3 images/s")


def test_a_slow_disk_is_named_before_what_follows_it():
    found = verdict(read=300, decode=100, augment=50, loader=50, model=1000, step=49)
    assert found.rung == "read"


def test_a_serial_rung_below_the_demand_is_none_where_stages_overlap():
    # one after another 714 images/s, but each stage alone is faster than the demand, and the loader
    # works on them at once
    found = verdict("GPU", read=5000, decode=1250, augment=714, loader=1240, model=1000, step=995)
    assert found.rung == "model"


def test_stages_that_are_too_slow_together_name_the_rung_that_falls_below():
    found = verdict(read=90_000, decode=1500, augment=700, loader=720, model=1000, step=700)
    assert found.rung == "augment"
    assert "each stage alone would do" in found.sentence
    assert "augment takes 53% of their time" in found.sentence


def test_a_loader_slower_than_its_stages_is_named_itself():
    found = verdict(read=90_000, decode=5000, augment=3000, loader=500, model=1000, step=490)
    assert found.rung == "loader"
    assert "one after another are faster" in found.sentence


def test_a_fast_loader_that_takes_from_the_model_is_named_by_the_step():
    found = verdict("GPU", **FAST, model=200, step=160)
    assert found.rung == "step"
    assert "share the GPU (taking turns on them would give 80.0%)" in found.sentence
    assert found.full_over_synthetic == pytest.approx(0.8)


def test_without_the_step_the_loader_is_compared_with_the_model():
    assert verdict(**FAST, model=200).rung == "model"
    assert verdict(**FAST, model=200).full_over_synthetic is None
    assert verdict(loader=100, model=200).rung == "loader"


def test_no_verdict_without_model_or_loader():
    assert verdict(**FAST) is None
    assert verdict(read=100, model=200, step=50) is None


def test_a_rung_left_out_adds_its_time_to_the_next():
    own = own_seconds(rates(read=1000, augment=100))
    assert own == pytest.approx({"read": 1.5e-3, "augment": 13.5e-3})
    assert own_seconds(rates(read=100, decode=200))["decode"] == 0  # noise, not a gain


def test_a_drop_is_a_share_of_the_rung_before_and_of_the_model():
    lost = drops(rates(decode=400, augment=100, loader=150, model=50, step=45))
    assert lost == pytest.approx({"augment": 0.75, "loader": -0.5, "step": 0.1})


def result_of(**per_second):
    rows = [
        {
            "name": name,
            "what": f"what {name} does",
            "images_per_second": {"p20": 0.9 * rate, "p50": rate, "p80": 1.1 * rate},
            "milliseconds_per_image": {"p50": 1e3 / rate},
            "own_milliseconds_per_image": None,
            "drop": None,
            "times_demand": None,
        }
        for name, rate in per_second.items()
    ]
    rows.append({"name": "upload", "skipped": "nothing to upload"})
    return {"rung": "ladder", "work": "made up", "rows": rows, "ratios": {}, "bottleneck": None}


def pixels_of(path):
    """uint8 [h, w, 3]."""
    return (matplotlib.image.imread(path)[..., :3] * 255).round().astype(np.uint8)


def columns_with(pixels, colour):
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((pixels == wanted).all(axis=-1).any(axis=0).sum())


@pytest.mark.parametrize("fastest", [60, 60_000])
def test_a_plot_has_a_bar_for_each_row_with_figures(tmp_path, fastest):
    path = tmp_path / "rates.png"
    plot_rates(result_of(read=fastest, model=20, step=19), path, line=("demand", 20))
    pixels = pixels_of(path)
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    wide = [columns_with(pixels, colour) for colour in (plot.OURS, plot.MODEL, plot.STEP)]
    assert wide[0] > wide[1] >= wide[2] > 50


def test_peers_have_a_colour_of_their_own(tmp_path):
    result = result_of(ours=20, theirs=10)
    result["rows"][1]["peer"] = True
    plot_rates(result, tmp_path / "rates.png")
    pixels = pixels_of(tmp_path / "rates.png")
    ours, theirs = columns_with(pixels, plot.OURS), columns_with(pixels, plot.PEER)
    assert theirs == pytest.approx(ours / 2, rel=0.05)  # the scale is linear


def test_nothing_to_plot_is_said(tmp_path):
    with pytest.raises(ValueError, match="no row has figures"):
        plot_rates(result_of(), tmp_path / "rates.png")


def test_the_table_has_every_rung_and_says_what_a_verdict_takes():
    lines = ladder_table(result_of(read=1000, decode=100)).splitlines()
    assert lines[0] == "made up"
    assert [line.split()[0] for line in lines[3:6]] == ["read", "decode", "upload"]
    assert lines[5] == "upload  skipped: nothing to upload"
    assert lines[-1] == "no verdict: it takes the rungs loader and model"


def run(home, *words):
    fixed = ["--data", str(home / "shards"), "--preset", str(home / "tiny.toml")]
    return CliRunner().invoke(bench, ["ladder", *fixed, "--rounds", "2", "--threads", "1", *words])


@pytest.mark.slow
def test_all_rungs_on_a_cpu(home, tmp_path):
    path = tmp_path / "ladder.png"
    result = run(home, "--plot", str(path), "--json")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout.splitlines()[-1])
    assert made["rung"] == "ladder"
    assert made["settings"] == {
        "preset": "tiny", "batch": 8, "threads": 1, "executor": "compiled", "decoder": "auto",
    }  # fmt: skip
    assert made["environment"]["versions"]["torch"] == torch.__version__
    rows = {row["name"]: row for row in made["rows"]}
    assert tuple(rows) == RUNGS
    upload = rows.pop("upload")
    assert upload["skipped"] == "nothing to upload: the views are made and used on the CPU"
    assert "failed" not in upload
    for row in rows.values():
        rate = row["images_per_second"]
        assert 0 < rate["p20"] <= rate["p50"] <= rate["p80"]
        assert row["images"] == 8
        assert row["times_demand"] > 0
    assert rows["model"]["times_demand"] == 1
    assert {name for name, row in rows.items() if row["drop"] is not None} == {
        "decode", "augment", "loader", "step",
    }  # fmt: skip
    assert set(made["ratios"]) == {"loader/model", "step/model"}
    assert made["bottleneck"]["sentence"] in result.stdout
    assert made["bottleneck"]["rung"] in RUNGS
    assert columns_with(pixels_of(path), plot.STEP) > 10
    assert "round 2 of 2" in result.stderr


def test_single_rungs_and_a_missing_decoder(home, monkeypatch, tmp_path):
    (tmp_path / "simplejpeg.py").write_text("raise ImportError('planted')")
    monkeypatch.syspath_prepend(tmp_path)
    result = run(home, "--only", "read", "--only", "decode", "--json")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout.splitlines()[-1])
    read, decode = made["rows"]
    own = read["own_milliseconds_per_image"]
    assert own == pytest.approx(read["milliseconds_per_image"]["p50"])
    assert read["times_demand"] is None
    assert decode == {"name": "decode", "skipped": "not installed: planted"}
    assert made["bottleneck"] is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "nothing"], "--only 'nothing': no such rung; choose from read, decode"),
        (["--batch", "25"], "24 samples do not fill one global batch of 25"),
        (["--batch", "3"], "num_negatives=3 needs a batch of at least 4"),
        (["--set", "executor=fused"], "executor fused makes views on CUDA devices"),
        (["--set", "nothing=1"], "nothing"),
        (["--data", "nowhere"], "nowhere: no such folder"),
        (["--plot", "rates"], "--plot rates: give a name that ends in .png"),
    ],
)
def test_what_cannot_be_measured_is_one_line(home, words, message):
    result = run(home, *words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device on this machine")
def test_a_gpu_that_is_not_there_is_refused(home):
    result = run(home, "--device", "cuda")
    assert result.exit_code == 2
    assert result.stderr.strip() == "Error: no CUDA device on this machine"


def request(config, **fields):
    return LadderRequest(config=config, device="cpu", rounds=1, threads=1, **fields)


@pytest.mark.parametrize(
    ("preset", "asked", "batch"),
    [(demo, None, 64), (small_images, None, 128), (imagenet_rn50, None, 32), (demo, 7, 7)],
)
def test_the_batch_is_the_preset_s_unless_that_is_for_many_gpus(home, preset, asked, batch):
    task = task_of(request(preset(), batch=asked), home / "shards")
    assert task.batch_size == batch
    assert task.config.loader.executor == "compiled"


@pytest.fixture
def small_task(home):
    return task_of(request(demo(), batch=4), home / "shards")


def test_each_stage_contains_the_one_before(small_task):
    stages = Stages(small_task)
    try:
        read, decoded, views = stages.read(), stages.decode(), stages.augment()
    finally:
        stages.close()
    assert [len(each) for each in (read.jpegs, decoded.sample_ids)] == [4, 4]
    assert not set(read.sample_ids) & set(decoded.sample_ids)  # the next batch of the sampler
    assert views.large.shape == (4, 4, 3, 48, 48)
    assert views.small.shape == (2, 4, 3, 32, 32)


def test_upload_says_why_there_is_none(small_task):
    stages = Stages(small_task)
    with pytest.raises(Unavailable, match="made and used on the CPU"):
        stages.upload()
    stages.close()
    stages = Stages(replace(small_task, device=torch.device("cuda")))
    with pytest.raises(Unavailable, match="executor compiled makes views on the CPU"):
        stages.upload()
    stages.close()


def test_resident_views_are_those_of_the_recipe(small_task):
    views = resident_views(small_task)
    assert views.large.shape == (4, 4, 3, 48, 48)
    assert 0.3 < float(views.large.std()) < 3
