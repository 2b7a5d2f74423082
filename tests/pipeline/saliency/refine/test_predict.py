"""predict: masks of the pictures' own sizes, bad pictures, resuming, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from pipeline.saliency.predict_command import list_photos, predict_command
from pipeline.saliency.refine.chance import torch_generator
from pipeline.saliency.refine.maps import read_map
from pipeline.saliency.refine.network import draw_weights
from pipeline.saliency.refine.predictor import MaskSettings, save_student
from pipeline.saliency.refine.u2net import Student, StudentNetworkConfig
from pipeline.sources.demo import render
from pipeline.sources.prepare import PrepareSettings, prepare, read_mask_file
from pipeline.sources.record import Record

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    config = StudentNetworkConfig(side=128, channels=8, inner=4)
    student = Student(config)
    draw_weights(student, torch_generator(0, "predict"))
    for part in student.modules():  # maps that depend on the picture, not on random biases
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None
    student(torch.from_numpy(np.stack([photo(i).resize((128, 128)) for i in range(4)])))
    path = tmp_path_factory.mktemp("model") / "student.pt"
    save_student(path, student, MaskSettings(), {})
    return path


def photo(index: int) -> Image.Image:
    return Image.fromarray(render("demo", 0, index)[0])


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    photo(0).save(folder / "a.jpg", quality=95)
    photo(1).save(folder / "deep" / "b.png")
    photo(2).convert("L").save(folder / "gray.jpg", quality=95)
    photo(3).convert("P").save(folder / "palette.gif")
    Image.fromarray(np.full((1, 300, 4), 128, np.uint8)).save(folder / "line.png")
    (folder / "broken.jpg").write_bytes((folder / "a.jpg").read_bytes()[:200])
    (folder / "empty.png").touch()
    return folder


def predict(*options: object):
    return CliRunner().invoke(predict_command, [*map(str, options), "--threads", "2"])


def last_line(result) -> dict:
    return json.loads(result.stdout.strip().splitlines()[-1])


def test_each_photo_gets_a_mask_of_its_size_and_bad_ones_are_named(photos, model, tmp_path):
    out = tmp_path / "masks"
    result = predict(
        "--photos", photos, "--model", model, "--out", out, "--batch-size", 2, "--json"
    )
    assert result.exit_code == 0, result.output
    facts = last_line(result)
    assert (facts["predicted"], facts["there_before"], facts["bad"]) == (5, 0, 2)
    assert "broken.jpg: cannot be decoded" in result.stderr
    assert "empty.png: no picture that Pillow knows" in result.stderr
    found = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert found == {"a.png", "deep/b.png", "gray.png", "palette.png", "line.png"}
    for name, source in (("a.png", "a.jpg"), ("deep/b.png", "deep/b.png"), ("line.png",) * 2):
        with Image.open(out / name) as mask, Image.open(photos / source) as picture:
            assert mask.mode == "L"
            assert mask.size == picture.size
    assert np.ptp(read_map(out / "a.png")) > 5


def test_it_goes_on_where_it_was_interrupted(photos, model, tmp_path):
    out = tmp_path / "masks"
    arguments = ("--photos", photos, "--model", model, "--out", out, "--json")
    predict(*arguments)
    whole = {path: path.read_bytes() for path in out.rglob("*.png")}
    gray = read_map(out / "gray.png").astype(int)
    (out / "gray.png").unlink()
    (out / "a.png").write_bytes(b"kept as it is")
    result = predict(*arguments)
    facts = last_line(result)
    assert (facts["predicted"], facts["there_before"], facts["bad"]) == (1, 4, 2)
    again = {path: path.read_bytes() for path in out.rglob("*.png")}
    del again[out / "gray.png"], whole[out / "gray.png"]
    assert again == whole | {out / "a.png": b"kept as it is"}
    # sums of a convolution differ in their last digits from one size of batch to another
    assert np.abs(read_map(out / "gray.png") - gray).max() <= 1


def test_the_size_of_batches_does_not_matter(photos, model, tmp_path):
    for size in (1, 5):
        predict(
            *("--photos", photos, "--model", model, "--out", tmp_path / str(size)),
            *("--batch-size", size),
        )
    for path in (tmp_path / "1").rglob("*.png"):
        other = tmp_path / "5" / path.relative_to(tmp_path / "1")
        assert np.abs(read_map(path).astype(int) - read_map(other)).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_is_turned_together_with_its_picture(model, tmp_path, orientation):
    """What `prepare` makes of both is the mask of the upright picture, whatever EXIF says."""
    upright, folder = photo(4), tmp_path / "photos"
    folder.mkdir()
    turns = Image.Transpose
    back = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_90,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_270,
    }
    stored = upright.transpose(back[orientation]) if orientation in back else upright
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stored.save(folder / "turned.png", exif=exif)
    upright.save(folder / "upright.png")
    predict("--photos", folder, "--model", model, "--out", tmp_path / "masks")
    expected = read_map(tmp_path / "masks" / "upright.png")
    mask = (tmp_path / "masks" / "turned.png").read_bytes()
    found, _ = read_mask_file(mask, orientation, stored.size)
    assert np.abs(found.astype(int) - expected).max() <= 2
    assert read_map(tmp_path / "masks" / "turned.png").shape == stored.size[::-1]
    (record,) = [r for r in list_photos(str(folder)) if r.key == "turned.png"]
    made = prepare(
        Record(
            key=record.key,
            label_name=None,
            origin=record.origin,
            offset=0,
            size=0,
            mask=str(tmp_path / "masks" / "turned.png"),
        ),
        PrepareSettings(),
    )
    assert (made.width, made.height) == upright.size


def test_a_list_of_files_is_taken_as_it_is(photos, model, tmp_path):
    names = photos / "some.txt"
    names.write_text("deep/b.png\n\na.jpg\nmissing.jpg\n")
    result = predict("--photos", names, "--model", model, "--out", tmp_path / "masks", "--json")
    assert last_line(result)["predicted"] == 2
    assert last_line(result)["bad"] == 1
    assert "missing.jpg: cannot be read" in result.stderr


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "lists no photos"),
        ("../secret.jpg", "leaves the folder"),
        ("/etc/x.jpg", "leaves the folder"),
        ("a.jpg\na.png", "would both have the mask a.png"),
    ],
)
def test_a_list_that_will_not_do_is_refused(photos, model, tmp_path, text, reason):
    names = photos / "some.txt"
    names.write_text(text)
    result = predict("--photos", names, "--model", model, "--out", tmp_path / "masks")
    assert result.exit_code == 2
    assert reason in result.stderr


def test_what_is_missing_is_said_in_one_line(photos, model, tmp_path):
    for arguments, reason in (
        (("--photos", photos, "--model", tmp_path / "no.pt"), "no.pt: cannot be read"),
        (("--photos", tmp_path / "none", "--model", model), "no such folder or file"),
        (("--photos", photos, "--model", model, "--device", "tpu"), "tpu: unknown"),
    ):
        result = predict(*arguments, "--out", tmp_path / "masks")
        assert result.exit_code == 2
        assert reason in result.stderr
        assert result.stderr.startswith("Error: ")
        assert len(result.stderr.splitlines()) == 1


def test_a_disk_that_cannot_be_written_ends_it(photos, model, tmp_path):
    (tmp_path / "masks").write_text("a file where the folder should be")
    result = predict("--photos", photos, "--model", model, "--out", tmp_path / "masks")
    assert result.exit_code == 2
    assert Path(tmp_path / "masks").read_text() == "a file where the folder should be"
