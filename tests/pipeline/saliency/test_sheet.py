"""`python -m pipeline.saliency sheet`: what it draws, in which order, and how it says no."""

import re

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import pipeline.saliency.__main__ as command
from pipeline.saliency.gate import Verdict
from pipeline.saliency.methods import METHODS
from pipeline.saliency.refine.predictor import MaskSettings, save_student
from pipeline.saliency.refine.u2net import Student, StudentNetworkConfig
from pipeline.saliency.sheet import SheetRow, confidence_of, thumbnail, write_sheet
from pipeline.saliency.sheet_command import map_folders
from tests.pipeline.saliency.support import disc_picture


@pytest.fixture
def photos(tmp_path):
    """Two discs, noise, a flat picture and a broken one."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(2):
        image, mask = disc_picture(90, 120, centre=(0.5, 0.4 + i / 10), seed=i)
        cv2.imwrite(str(folder / f"disc<{i}>.png"), image[..., ::-1])
        (tmp_path / "true").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"true/disc<{i}>.png"), mask.astype(np.uint8) * 255)
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    cv2.imwrite(str(folder / "noise.png"), noise)
    cv2.imwrite(str(folder / "flat.png"), np.full((40, 60, 3), 99, np.uint8))
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def run(*words):
    return CliRunner().invoke(command.main, ["sheet", *map(str, words)])


def test_rows_are_sorted_and_have_all_columns(photos, tmp_path):
    student = tmp_path / "student.pt"
    torch.manual_seed(0)
    save_student(
        student, Student(StudentNetworkConfig(side=128, channels=4, inner=2)), MaskSettings(), {}
    )
    out = tmp_path / "out"
    result = run(
        *("--photos", photos, "--out", out, "--masks", tmp_path / "true"),
        *("--model", student, "--maps", tmp_path / "true"),
    )
    assert result.exit_code == 0, result.output
    assert "4 pictures" in result.stdout
    assert "broken.png" in result.stderr
    page = (out / "sheet.html").read_text()
    heads = re.findall(r"<th>([^<]*)", page)
    assert heads == ["picture", *METHODS, "true", "student", "truth"]
    assert page.count("data:image/jpeg;base64,") == 4 * len(heads)
    assert "http" not in page
    assert "disc&lt;0&gt;.png" in page
    sure = [float(value) for value in re.findall(r"confidence ([\d.]+)", page)]
    assert len(sure) == 4
    assert sure == sorted(sure)


def test_what_stands_out_is_surer_than_noise_and_a_flat_picture_is_refused(photos, tmp_path):
    result = run("--photos", photos, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "out" / "sheet.html").read_text()
    names = re.findall(r"<td>([^<]*png)<br>", page)
    assert names[:2] == ["flat.png", "noise.png"]
    assert re.findall(r'fault">(\w*: ?\w*)<', page)[0] == "refused: small"
    sheet = cv2.imread(str(tmp_path / "out" / "sheet-01.png"))
    assert sheet.shape == (24 + 4 * 126, 126 * 12, 3)


def test_pngs_hold_25_rows_each(tmp_path):
    tile = np.zeros((90, 120), np.uint8)
    rows = [
        SheetRow(
            key=f"{number:02d}é",
            tiles={"picture": tile},
            verdict=Verdict(coverage=0.1, fault=None),
            confidence=0.5,
        )
        for number in range(26)
    ]
    paths = write_sheet(tmp_path, rows, title="t", note="n")
    assert [path.name for path in paths] == ["sheet.html", "sheet-01.png", "sheet-02.png"]
    assert cv2.imread(str(paths[2])).shape[0] == 24 + 126


@pytest.mark.parametrize(
    ("final", "opinions", "expected"),
    [
        ([0, 255], [[0, 255]], 1),
        ([0, 255], [[255, 0]], 0),
        ([0, 255], [[0, 255], [255, 0]], 0.5),
        ([200, 100], [[100, 100]], 2 / 3),
        ([0, 0], [[0, 0]], 0),
    ],
)
def test_confidence_is_the_soft_overlap(final, opinions, expected):
    arrays = [np.array([values], np.uint8) for values in (final, *opinions)]
    assert confidence_of(arrays[0], arrays[1:]) == pytest.approx(expected)


@pytest.mark.parametrize("size", [(400, 300), (1, 500), (7, 5)])
def test_thumbnails_have_a_longer_side_of_120(size):
    assert max(thumbnail(np.zeros(size, np.uint8)).shape) == 120


def test_of_a_training_the_last_round_of_each_method_is_shown(tmp_path):
    for name in ("rbd", "rbd-round2", "rbd-round10", "mc", "mc-round1", "fused"):
        (tmp_path / "maps" / name).mkdir(parents=True)
    found = dict(map_folders(tmp_path))
    assert list(found) == ["mc-round1", "rbd-round10", "fused"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--maps", "nowhere"], "nowhere: no such folder of maps"),
        (["--model", "nowhere.pt"], "nowhere.pt: cannot be read"),
        (["--photos", "nowhere"], "nowhere: no such folder or file"),
    ],
)
def test_refusals_are_one_line(photos, tmp_path, words, message):
    result = run("--photos", photos, "--out", tmp_path / "out", *words)
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
