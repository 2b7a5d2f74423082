"""convert_dataset.py --saliency: masks it makes, what it says of them, and that none is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from pipeline.augment.params import sample_view_params
from pipeline.augment.recipe import LARGE_EVEN, MultiCropRecipe
from pipeline.saliency.codec import decode_mask, encode_mask
from pipeline.saliency.handcrafted_masks import HandCraftedMasks
from pipeline.saliency.refine.predictor import MaskSettings, load_predictor, save_student
from pipeline.saliency.refine.u2net import Student, StudentNetworkConfig
from pipeline.shards import open_shards
from pipeline.sources.estimated import EstimatedMask
from pipeline.sources.mask_journal import opened_journal
from pipeline.sources.pixels import squared
from tests.convert_support import refusal, run
from tests.pipeline.saliency.support import disc_picture
from tests.pipeline.sources.support import encoded, write_files

ROOT = Path(__file__).resolve().parents[1]
PLACES = ((0.5, 0.5), (0.4, 0.3), (0.6, 0.7), (0.5, 0.35), (0.35, 0.6), (0.6, 0.45))


@pytest.fixture
def discs(tmp_path):
    """Six discs at different places, and a picture of one colour, in which nothing stands out."""
    files = {
        f"{number}.png": encoded(disc_picture(centre=centre, seed=number)[0], "PNG")
        for number, centre in enumerate(PLACES)
    }
    files["flat.png"] = encoded(np.full((60, 80, 3), 90, np.uint8), "PNG")
    return write_files(tmp_path / "discs", files)


@pytest.fixture
def student(tmp_path):
    path = tmp_path / "student.pt"
    torch.manual_seed(0)
    facts = {"method": "deepusps-student", "version": 1, "labels_involved": False}
    save_student(
        path, Student(StudentNetworkConfig(side=128, channels=4, inner=2)), MaskSettings(), facts
    )
    return path


def overlap(mask, truth):
    found = decode_mask(mask) > 127
    true = decode_mask(encode_mask((truth * 255).astype(np.uint8))) > 127
    return (found & true).sum() / (found | true).sum()


def start(*arguments):
    """Start a conversion in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, ROOT / "convert_dataset.py", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for_masks(process, path, size):
    """Wait until a conversion has kept so many bytes of masks."""
    deadline = time.monotonic() + 120
    while not (path.exists() and path.stat().st_size > size):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("format", ["ffcv", "dali"])
def test_auto_finds_what_stands_out_and_says_how(discs, tmp_path, format):
    out = tmp_path / "out"
    printed, _ = run(
        *("--source", discs, "--saliency", "auto", "--format", format, "--out", out, "--json")
    )
    shards = open_shards(out)
    masks = shards.read(np.arange(7)).masks
    for number, centre in enumerate(PLACES):
        assert overlap(masks[number], disc_picture(centre=centre, seed=number)[1]) > 0.8
    summary = shards.manifest.masks
    assert (summary.origin, summary.num_masks, summary.num_missing) == ("estimated", 6, 1)
    assert (summary.method.name, summary.method.version) == ("finished", 2)
    assert summary.method.settings["finish"]["cut"] is True
    assert summary.labels_involved is False
    assert summary.method.settings["gate"]["max_coverage"] == 0.95
    assert (summary.refused, summary.refused_share) == ({"small": 1}, round(1 / 7, 6))
    assert "1 refused (14.3% of the pictures): 1 small" in printed
    assert json.loads(printed.splitlines()[-1])["masks"]["refused"] == {"small": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["discs", "out"]


def test_what_the_gate_refuses_is_never_masked(discs, tmp_path):
    run("--source", discs, "--saliency", "auto", "--format", "dali", "--out", tmp_path / "out")
    shards = open_shards(tmp_path / "out")
    assert shards.key(6) == "flat.png"
    assert len(shards.read(np.array([6])).masks[0]) == 0
    eager = replace(LARGE_EVEN, mask_probability=1.0)
    recipe = MultiCropRecipe(large_even=eager, large_odd=eager, mask_min_coverage=0.0)
    params = sample_view_params(
        recipe,
        seed=0,
        epoch=0,
        sample_ids=np.arange(7),
        heights=shards.heights,
        widths=shards.widths,
        mask_coverage=shards.mask_coverage,
    )
    assert params.mask[:6, : recipe.num_large].all()
    assert not params.mask[6].any()


def test_one_method_gives_its_own_masks_and_those_of_the_source_do_not_count(tmp_path):
    run("--source", "demo", "--limit", "4", "--saliency", "mbd", "--out", tmp_path / "out")
    shards = open_shards(tmp_path / "out")
    assert shards.manifest.masks.method.name == "mbd"
    maker = HandCraftedMasks(name="mbd")
    encoded_batch = shards.read(np.arange(4))
    for jpeg, mask in zip(encoded_batch.jpegs, encoded_batch.masks, strict=True):
        assert mask == encode_mask(maker.mask(simplejpeg.decode_jpeg(jpeg)))


def test_a_picture_that_exif_turns_has_an_upright_mask(tmp_path):
    image, truth = disc_picture(centre=(0.3, 0.35))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(np.rot90(image)).save(folder / "a.jpg", exif=exif, quality=95)
    run("--source", folder, "--saliency", "auto", "--out", tmp_path / "out")
    shards = open_shards(tmp_path / "out")
    assert (shards.heights[0], shards.widths[0]) == image.shape[:2]
    assert overlap(shards.read(np.array([0])).masks[0], truth) > 0.8


def test_a_student_makes_the_masks_and_is_named_by_its_checksum(discs, student, tmp_path):
    out = tmp_path / "out"
    run("--source", discs, "--saliency", "auto", "--saliency-model", student, "--out", out)
    shards = open_shards(out)
    method = shards.manifest.masks.method
    assert method.name == "deepusps-student"
    assert len(method.model_sha256) == 64
    assert shards.manifest.masks.labels_involved is False
    predictor = load_predictor(student, torch.device("cpu"))
    masks = shards.read(np.arange(7)).masks
    made = [number for number in range(7) if len(masks[number])]
    assert len(made) + sum(shards.manifest.masks.refused.values()) == 7
    for number in made:
        picture = np.asarray(Image.open(discs / shards.key(number)))
        expected = predictor.masks(squared(picture, 128)[None])[0]
        assert masks[number] == encode_mask(expected)


@pytest.mark.parametrize("model", [False, True])
def test_workers_do_not_change_a_byte(discs, student, tmp_path, model):
    more = ("--saliency-model", student) if model else ()
    for workers in ("0", "2"):
        process = start(
            *("--source", discs, "--saliency", "auto", *more, "--format", "dali"),
            *("--out", tmp_path / workers, "--workers", workers),
        )
        printed = process.communicate(timeout=120)[0]
        assert process.returncode == 0, printed
    assert contents(tmp_path / "0") == contents(tmp_path / "2")


def test_what_does_not_go_together_is_refused_in_one_line(discs, student, tmp_path):
    (tmp_path / "masks").mkdir()
    (tmp_path / "no student.pt").write_bytes(b"x")
    before = sorted(tmp_path.rglob("*"))
    cases = {
        "exclude each other": ("--saliency", "auto", "--masks", tmp_path / "masks"),
        "choose auto or rbd, ": ("--saliency", "magic"),
        "needs --saliency auto": ("--saliency-model", student),
        "needs no --saliency-model": ("--saliency", "mbd", "--saliency-model", student),
        "no file of torch.save": (
            *("--saliency", "auto", "--saliency-model", tmp_path / "no student.pt"),
        ),
    }
    for message, arguments in cases.items():
        assert message in refusal("--source", discs, "--out", tmp_path / "out", *arguments)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("format", ["ffcv", "dali"])
def test_a_killed_conversion_goes_on_with_the_masks_that_were_made(tmp_path, monkeypatch, format):
    what = ("--source", "demo", "--limit", "60", "--saliency", "mbd", "--format", format)
    run(*what, "--out", tmp_path / "undisturbed")
    out, kept = tmp_path / "out", tmp_path / "out.masks"
    process = start(*what, "--out", out, "--workers", "2")
    wait_for_masks(process, kept, 12_000)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    assert not out.exists()
    maker = HandCraftedMasks(name="mbd")
    with opened_journal(kept, maker.method) as journal:
        num_made = len(journal)
    assert 5 < num_made < 60

    counted = []
    make = HandCraftedMasks.mask
    monkeypatch.setattr(
        HandCraftedMasks, "mask", lambda self, image: counted.append(1) or make(self, image)
    )
    _, progress = run(*what, "--out", out)
    assert f"{num_made} masks are made already, in {kept}" in progress
    assert len(counted) == 60 - num_made
    assert contents(out) == contents(tmp_path / "undisturbed")
    assert not kept.exists()


def test_ctrl_c_keeps_the_masks_and_nothing_else(tmp_path):
    what = ("--source", "demo", "--limit", "100000", "--saliency", "mbd", "--format", "dali")
    process = start(*what, "--out", tmp_path / "out", "--workers", "1")
    wait_for_masks(process, tmp_path / "out.masks", 5_000)
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate(timeout=30)
    assert process.returncode == 1, printed
    assert "Traceback" not in printed
    assert "Aborted" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["out.masks"]


def test_masks_of_another_method_or_of_nobody_are_not_touched(discs, tmp_path):
    kept = tmp_path / "out.masks"
    mask = EstimatedMask(picture_sha256=b"p" * 32, mask=b"m", fault="")
    with opened_journal(kept, HandCraftedMasks(name="mr").method) as journal:
        journal.add("a.png", mask)
    before = kept.read_bytes()
    arguments = ("--source", discs, "--out", tmp_path / "out", "--saliency")
    assert "holds masks of an unfinished conversion by mr" in refusal(*arguments, "mbd")
    assert kept.read_bytes() == before
    kept.write_bytes(b"precious\n")
    assert "not of this command's making" in refusal(*arguments, "mbd")
    assert kept.read_bytes() == b"precious\n"


def test_bad_pictures_are_skipped_and_have_no_mask(discs, tmp_path):
    write_files(discs, {"3.png": b"broken"})
    arguments = ("--source", discs, "--saliency", "mbd", "--max-bad", "1")
    run(*arguments, "--out", tmp_path / "out")
    manifest = open_shards(tmp_path / "out").manifest
    assert [note.key for note in manifest.skipped] == ["3.png"]
    assert manifest.masks.num_masks == 5
