"""`python -m bench augment`: the form of what it prints, and the views of each peer."""

import importlib.util
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bench.__main__ import bench
from bench.augment import AugmentRequest, augment, peer
from bench.augment_cpu import alike_to
from bench.harness import Candidate
from bench.isolated import isolated
from bench.pictures import bytes_to_move, from_shards, generated
from convert_dataset import main as convert
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.saliency.codec import coverage

ROOT = Path(__file__).resolve().parents[2]
SMALL_WORK = ("augment", "--images", "2", "--rounds", "2")


def run(*words):
    return CliRunner().invoke(bench, [*SMALL_WORK, *words])


def test_the_last_line_is_one_object_with_environment_rows_and_ratios():
    words = ["--device", "cpu", "--only", "compiled", "--only", "torchvision (tensor)", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", *SMALL_WORK, *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["rung"] == "augment"
    assert result["environment"]["versions"]["torch"] == torch.__version__
    assert [r["name"] for r in result["rows"]] == ["compiled", "torchvision (tensor)"]
    for r in result["rows"]:
        assert r["images_per_second"]["p20"] <= r["images_per_second"]["p80"]
        assert 0 < r["share_of_memory_roof"] < 1
        assert r["cores"] == 1
    assert result["rows"][1]["version"].startswith("torchvision ")
    assert list(result["ratios"]) == ["compiled/torchvision"]
    assert "round 2 of 2" in done.stderr


def test_a_table_comes_first():
    result = run("--only", "compiled")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("views 4x224 + 2x96 of 2 generated pictures of 500x375")
    assert any(line.startswith("compiled ") for line in lines)


def test_rows_of_our_own_alone():
    request = AugmentRequest(device="cpu", images=1, rounds=1, threads=1, peers=False)
    names = [r["name"] for r in augment(request)["rows"]]
    assert {"compiled", "reference"} <= set(names)
    assert not set(names) & set(PEERS)


def test_several_threads_are_a_row_and_a_ratio():
    words = ("--threads", "2", "--only", "compiled", "--only", "compiled x2", "--json")
    result = json.loads(run(*words).stdout.splitlines()[-1])
    several = result["rows"][1]
    if "skipped" in several:  # one core only
        assert several["skipped"].startswith("needs 2 cores")
    else:
        assert several["cores"] == 2
        assert list(result["ratios"]) == ["compiled x2/compiled"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "nothing"], "--only 'nothing': no such row; choose from compiled"),
        (["--data", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_measured_is_one_line(words, message):
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device on this machine")
def test_a_gpu_that_is_not_there_is_refused():
    result = run("--device", "cuda")
    assert result.exit_code == 2
    assert result.stderr.strip() == "Error: no CUDA device on this machine"


def test_a_missing_peer_is_a_skipped_row(monkeypatch, tmp_path):
    (tmp_path / "kornia.py").write_text("raise ImportError('planted')")
    monkeypatch.syspath_prepend(tmp_path)
    result = run("--only", "compiled", "--only", "kornia", "--json")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout.splitlines()[-1])["rows"]
    assert rows[1] == {"name": "kornia", "skipped": "not installed: planted"}
    assert "skipped: not installed: planted" in result.stdout


def test_our_own_row_that_breaks_fails_the_run(monkeypatch):
    def broken(*_):
        build = partial(json.loads, "broken")
        what = {"name": "ours", "what": "", "images": 1, "bytes_per_image": 1}
        return [isolated(Candidate(build=build, **what))]

    monkeypatch.setattr("bench.augment_cpu.cpu_candidates", broken)
    result = run("--json")
    assert result.exit_code == 1
    (row,) = json.loads(result.stdout.splitlines()[-1])["rows"]
    assert row["failed"] is True
    assert row["skipped"].startswith("JSONDecodeError: Expecting value")
    assert "no figures of our own row 'ours'" in result.stderr


def test_equal_work_has_the_views_of_torchvision_and_no_masks():
    recipe = alike_to(MultiCropRecipe())
    assert (recipe.antialias, recipe.jitter_style) == (True, "torchvision")
    assert {view.mask_probability for view in recipe.views} == {0.0}
    assert recipe.sizes == MultiCropRecipe().sizes
    names = ("compiled (as torchvision)", "torchvision (PIL)")
    words = [word for name in names for word in ("--only", name)]
    result = json.loads(run(*words, "--json").stdout.splitlines()[-1])
    assert list(result["ratios"]) == ["compiled (as torchvision)/torchvision"]


PEERS = {
    "torchvision (tensor)": ("torchvision", "torchvision_v2", "make_tensor", {}),
    "torchvision (PIL)": ("torchvision", "torchvision_v2", "make_pil", {}),
    "kornia": ("kornia", "kornia_batched", "make", {"device": torch.device("cpu")}),
    "DALI stock": ("nvidia.dali", "dali_stock", "make", {"threads": 1}),
    "FFCV stock": ("ffcv", "ffcv_stock", "make", {}),
}


def is_installed(package):
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_makes_the_views_of_the_recipe(name):
    package, file, function, arguments = PEERS[name]
    if not is_installed(package):
        pytest.skip(f"{package} is not installed here")
    recipe = MultiCropRecipe(num_large=2, num_small=1, large_size=64, small_size=32)
    pictures = generated(3, height=90, width=120)
    candidate = peer(name, file, function, pictures, recipe, **arguments)
    built = candidate.build()
    first, second = [[view.clone() for view in built.run()] for _ in range(2)]
    assert [tuple(v.shape) for v in first] == [(3, 3, 64, 64)] * 2 + [(3, 3, 32, 32)]
    for view, later in zip(first, second, strict=True):
        assert view.dtype == torch.float32
        assert view.isfinite().all()
        assert 0.1 < view.std() < 3  # normalised: neither 0..255 nor empty
        assert not torch.equal(view, later)  # drawn anew
    assert not torch.equal(first[0][0], first[0][1])
    assert candidate.version
    assert "no masks" in candidate.what


def test_generated_pictures_are_the_same_in_every_run_and_have_usable_masks():
    one, two = generated(66), generated(66)
    assert torch.equal(one.decoded.images.pixels, two.decoded.images.pixels)
    assert one.arrays()[0].shape == (375, 500, 3)
    assert one.arrays()[0].std() > 30
    assert (one.arrays()[65] == one.arrays()[1]).all()
    assert ((one.mask_coverage > 0.05) & (one.mask_coverage < 0.95)).all()
    assert len(one.first(5)) == 5
    assert [len(group) for group in one.groups()] == [66]


def test_bytes_to_move_are_pixels_and_mask_read_once_and_views_written_once():
    recipe = MultiCropRecipe()
    expected = 375 * 500 * 3 + 128 * 128
    written = 3 * (4 * 224**2 + 2 * 96**2)
    assert bytes_to_move(generated(2), recipe) == expected + 4 * written
    assert bytes_to_move(generated(2), recipe, element_size=2) == expected + 2 * written


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    out = tmp_path_factory.mktemp("augment") / "shards"
    words = ["--source", "demo", "--limit", "6", "--format", "ffcv", "--out", str(out)]
    result = CliRunner().invoke(convert, [*words, "--workers", "1"])
    assert result.exit_code == 0, result.output
    return out


def test_pictures_of_shards_are_decoded_with_their_masks(shards):
    pictures = from_shards(shards, 4)
    assert len(pictures) == 4
    assert pictures.mask_coverage == pytest.approx(
        [coverage(grid) for grid in pictures.decoded.masks.numpy()]
    )
    result = run("--data", str(shards), "--only", "compiled", "--json")
    assert result.exit_code == 0, result.output
    assert "2 samples of shards" in json.loads(result.stdout.splitlines()[-1])["work"]


def test_more_pictures_than_the_shards_hold_is_refused(shards):
    with pytest.raises(ValueError, match="holds 6 samples"):
        from_shards(shards, 7)
