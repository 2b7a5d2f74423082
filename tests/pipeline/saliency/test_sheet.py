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
    names = [*METHODS, "true", "student", "truth"]
    first, *_ = page.split("<article>")[1:]
    captions = re.findall(r"<figcaption>([^<]*)", first)
    assert captions == ["image", "outline", "masked view", *names]
    assert page.count("data:image/jpeg;base64,") == 4 * len(captions)
    assert re.findall(r"<dt>([^<]*)<dd>.", page) == names
    assert "&#x27;student&#x27; is what a conversion stores" in page
    assert page.count("a folder of --maps") == 1  # "true"; the others are explained
    assert "http" not in page
    assert "disc&lt;0&gt;.png" in page
    sure = [float(value) for value in re.findall(r"confidence ([\d.]+)", page)]
    assert len(sure) == 4
    assert sure == sorted(sure)


def test_what_stands_out_is_surer_than_noise_and_a_flat_picture_is_refused(photos, tmp_path):
    result = run("--photos", photos, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    page = (tmp_path / "out" / "sheet.html").read_text()
    names = re.findall(r'class="key">([^<]*png)<', page)
    assert names[:2] == ["flat.png", "noise.png"]
    assert re.findall(r'fault">(\w*: ?\w*)<', page)[0] == "refused: small"
    assert page.count('"verdict">accepted<') >= 2
    assert "&#x27;finished&#x27; is what a conversion stores" in page
    sheet = cv2.imread(str(tmp_path / "out" / "sheet-01.png"))
    assert sheet.shape == (24 + 4 * 126, 126 * 14, 3)


def test_pngs_hold_25_rows_each(tmp_path):
    tile = np.zeros((90, 120), np.uint8)
    rows = [
        SheetRow(
            key=f"{number:02d}é\udcff",  # of a name that is not UTF-8
            image=np.zeros((90, 120, 3), np.uint8),
            final=tile,
            maps={"rbd": tile},
            verdict=Verdict(coverage=0.1, fault=None),
            confidence=0.5,
        )
        for number in range(26)
    ]
    paths = write_sheet(tmp_path, rows, title="t", note="n")
    assert [path.name for path in paths] == ["sheet.html", "sheet-01.png", "sheet-02.png"]
    assert cv2.imread(str(paths[2])).shape[0] == 24 + 126


def test_the_final_mask_is_drawn_over_the_image_and_cuts_it_out():
    final = np.zeros((90, 120), np.uint8)
    final[30:60, 40:80] = 128  # above half
    row = SheetRow(
        key="a.jpg",
        image=np.full((90, 120, 3), (10, 200, 100), np.uint8),
        final=final,
        maps={},
        verdict=Verdict(coverage=0.1, fault=None),
        confidence=0.5,
    )
    image, outline, masked = row.tiles().values()
    assert (image == (10, 200, 100)).all()
    assert (masked[30:60, 40:80] == (10, 200, 100)).all()
    assert len(np.unique(masked[final == 0])) == 1
    assert (outline[30, 40:80] == (255, 196, 0)).all()
    assert (outline[45, 60] == (10, 200, 100)).all()
    assert (outline[5, 5] == (4, 80, 40)).all()


def test_a_phone_gets_a_page_of_its_width_with_the_methods_folded_away(photos, tmp_path):
    assert run("--photos", photos, "--out", tmp_path / "out", "--limit", 2).exit_code == 0
    page = (tmp_path / "out" / "sheet.html").read_text()
    assert '<meta name="viewport" content="width=device-width' in page
    assert "<table" not in page
    row = page.split("<article>")[1]
    before, folded = row.split("<details>")
    assert before.count("<img") == 3
    assert folded.count("<img") == len(METHODS)


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
