"""`python -m bench loader`: what each loader really gives, and the form of what is printed."""

import importlib.util
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bench import loader_cuda
from bench.__main__ import bench
from bench.generated import generated_shards, shards_for
from bench.harness import Candidate, Measured, Unavailable
from bench.loader import LoaderRequest, our_stream
from bench.loader_cpu import cpu_ratios, described
from bench.material import list_photos, material
from pipeline.augment.recipe import IMAGENET_MEAN, IMAGENET_STD, MultiCropRecipe
from pipeline.shards import open_shards
from tests.bench.loader_support import BATCH, LOADERS, look

RECIPE = MultiCropRecipe()
IMAGES = 12
LEVELS = [
    (level - mean) / std
    for level in (0, 1)
    for mean, std in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)
]


def installed(package):
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    with generated_shards(("ffcv", "dali"), count=IMAGES, height=120, width=160) as made:
        yield made


@pytest.fixture(scope="module")
def found(folders):
    with material(tuple(folders.values()), None, RECIPE, batch=BATCH) as made:
        yield made


def run(folders, *words):
    data = [word for folder in folders.values() for word in ("--data", str(folder))]
    fixed = ["--batch", str(BATCH), "--rounds", "1", "--threads", "1"]
    return CliRunner().invoke(bench, ["loader", *data, *fixed, *words])


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADERS)
def test_a_loader_gives_six_normalised_views_of_every_picture_once_in_a_pass(found, name):
    package = LOADERS[name][0]
    if not installed(package):
        pytest.skip(f"{package} is not installed here")
    seen = look(name, found)
    large, small = (BATCH, 3, 224, 224), (BATCH, 3, 96, 96)
    assert seen.shapes == {(large,) * 4 + (small,) * 2}
    assert seen.dtypes == {torch.float32}
    assert sorted(seen.labels[:IMAGES]) == list(range(IMAGES))
    assert seen.labels[:IMAGES] != list(range(IMAGES))  # shuffled
    assert set(seen.labels[IMAGES:]) <= set(range(IMAGES))  # it goes on
    assert min(LEVELS) - 0.02 < seen.lowest < seen.highest < max(LEVELS) + 0.02
    assert seen.deviation > 0.1
    assert seen.different
    assert seen.note


def test_photos_are_the_bytes_of_the_shards(found, folders):
    shards = open_shards(folders["dali"])
    encoded = shards.read(np.arange(IMAGES))
    for (path, label), jpeg in zip(found.photos, encoded.jpegs, strict=True):
        assert path.read_bytes() == bytes(jpeg)
        assert path.name == f"{label:06d}.jpg"
    shards.close()
    assert found.images == IMAGES


def test_both_formats_hold_the_same_generated_pictures_with_masks(folders):
    one, two = (open_shards(folder) for folder in folders.values())
    ids = np.arange(IMAGES)
    assert list(map(bytes, one.read(ids).jpegs)) == list(map(bytes, two.read(ids).jpegs))
    assert len(set(map(bytes, one.read(ids).jpegs))) == IMAGES
    assert (one.labels == ids).all()
    assert (one.mask_coverage > 0.05).all()
    assert one.mask_coverage == pytest.approx(two.mask_coverage)
    one.close()
    two.close()


def test_beyond_64_generated_pictures_are_mirrored_ones():
    with generated_shards(("dali",), count=130, height=24, width=32) as made:
        shards = open_shards(made["dali"])
        jpegs = list(map(bytes, shards.read(np.arange(130)).jpegs))
        assert len(set(jpegs)) == 130
        shards.close()
        folder = made["dali"].parent
    assert not folder.exists()


@pytest.mark.slow
def test_rows_and_ratios_of_both_formats_beside_torchvision(folders, tmp_path):
    names = ("loader (ffcv)", "loader (dali)", "torchvision (PIL)", "torchvision (simplejpeg)")
    plot = tmp_path / "loader.png"
    words = [word for name in names for word in ("--only", name)]
    result = run(folders, *words, "--plot", str(plot), "--json")
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout.splitlines()[-1])
    assert (made["rung"], made["device"]) == ("loader", "cpu")
    assert made["environment"]["versions"]["torch"] == torch.__version__
    assert [row["name"] for row in made["rows"]] == list(names)
    assert [row["peer"] for row in made["rows"]] == [False, False, True, True]
    assert all(row["images_per_second"]["p50"] > 0 for row in made["rows"])
    assert "masks on" in made["rows"][0]["what"]
    assert "no masks" in made["rows"][2]["what"]
    assert made["rows"][2]["version"].startswith("torchvision ")
    assert list(made["ratios"]) == ["loader (ffcv)/torchvision", "loader (dali)/torchvision"]
    assert result.stdout.startswith("bytes on disk to views 4x224 + 2x96, batch 4, 1 workers; 12")
    assert plot.stat().st_size > 10_000


def test_rows_without_shards_or_package_say_why(folders, monkeypatch, tmp_path):
    (tmp_path / "ffcv.py").write_text("raise ImportError('planted')")
    monkeypatch.syspath_prepend(tmp_path)
    words = ["--only", "FFCV stock", "--only", "loader (dali)", "--only", "DALI stock", "--json"]
    result = run({"ffcv": folders["ffcv"]}, *words)
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout.splitlines()[-1])["rows"]
    missing = "there are no shards of format dali; give them by --data"
    assert rows == [
        {"name": "loader (dali)", "skipped": missing},
        {"name": "FFCV stock", "skipped": "not installed: planted"},
        {"name": "DALI stock", "skipped": missing},
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "nothing"], "--only 'nothing': no such row; choose from loader (ffcv)"),
        (["--batch", "13"], "holds 12 samples; lower --batch 13"),
        (["--photos", "bench"], "--photos bench: no files ending in .jpg or .jpeg"),
        (["--plot", "rates.pdf"], "--plot rates.pdf: give a name that ends in .png"),
        (["--plot", "nowhere/rates.png"], "--plot nowhere/rates.png: there is no folder nowhere"),
    ],
)
def test_what_cannot_be_measured_is_one_line(folders, words, message):
    result = run(folders, *words)
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]


def test_two_folders_of_one_format_are_refused(folders):
    with (
        pytest.raises(ValueError, match="a second folder of format ffcv"),
        shards_for((folders["ffcv"], folders["ffcv"])),
    ):
        pytest.fail("opened")


def test_photos_of_a_folder_are_numbered(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("b.JPEG", "a/c.jpg", "notes.txt"):
        (tmp_path / name).touch()
    assert list_photos(tmp_path) == ((tmp_path / "a/c.jpg", 0), (tmp_path / "b.JPEG", 1))


def measured(name, *seconds):
    made = Candidate(name=name, what="", build=list, images=1, bytes_per_image=1)
    return Measured(candidate=made, seconds=seconds)


def test_ratios_are_against_the_faster_of_torchvision_and_each_other_peer():
    rows = [
        measured("loader (ffcv)", 2.0, 2.0),
        measured("loader (dali)", 1.0, 1.0),
        measured("loader (dali) (as torchvision)", 4.0, 4.0),
        measured("torchvision (PIL)", 40.0, 40.0),
        measured("torchvision (simplejpeg)", 20.0, 20.0),
        measured("FFCV stock"),  # skipped
        measured("DALI stock", 8.0, 8.0),
    ]
    assert cpu_ratios(rows) == {
        "loader (ffcv)/torchvision": 10,
        "loader (ffcv)/DALI stock": 4,
        "loader (dali)/torchvision": 20,
        "loader (dali)/DALI stock": 8,
        "loader (dali) (as torchvision)/torchvision": 5,
    }


def test_our_row_says_whether_there_are_masks(found):
    assert described(found, "ffcv", alike=False).endswith("masks on")
    assert described(found, "ffcv", alike=True).endswith("masks off")
    without = replace(found, shards={})
    assert described(without, "ffcv", alike=False) == "our loader"
    request = LoaderRequest(device="cpu", batch=BATCH, rounds=1, threads=1)
    with pytest.raises(Unavailable, match="no shards of format ffcv"):
        our_stream(without, "ffcv", RECIPE, request)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device on this machine")
def test_a_gpu_that_is_not_there_is_refused(folders):
    result = run(folders, "--device", "cuda")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == "Error: no CUDA device on this machine"


def test_rows_of_a_gpu_are_ours_by_each_decoder_and_the_peers(found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    request = LoaderRequest(device="cuda", batch=BATCH, rounds=1, threads=1)
    rows = loader_cuda.cuda_candidates(request, RECIPE, found)
    ours = [f"loader ({f}{d})" for f in ("ffcv", "dali") for d in ("", " dali-gpu")]
    assert [row.name for row in rows] == [*ours, "DALI stock", "kornia after DALI"]
    assert [row.peer for row in rows] == [False] * 4 + [True] * 2
    ratios = loader_cuda.cuda_ratios([measured(row.name, 1.0 + n) for n, row in enumerate(rows)])
    assert ratios["loader (dali dali-gpu)/kornia after DALI"] == pytest.approx(6 / 4)
    assert len(ratios) == 8


def test_a_decoder_that_cannot_run_here_is_a_skipped_row(found):
    request = LoaderRequest(device="cpu", batch=BATCH, rounds=1, threads=1)
    with pytest.raises(Unavailable, match="dali-gpu decodes on CUDA devices"):
        our_stream(found, "dali", RECIPE, request, decoder="dali-gpu")
