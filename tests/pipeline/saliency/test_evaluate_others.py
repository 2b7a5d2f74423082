"""`python -m pipeline.saliency evaluate` of a student (--model) and of folders of maps (--maps)."""

import json

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner

import pipeline.saliency.__main__ as command
from pipeline.devices import CPU
from pipeline.saliency.labelled import list_labelled, read_labelled
from pipeline.saliency.measures import measure, summarise
from pipeline.saliency.methods import METHODS
from pipeline.saliency.refine.chance import torch_generator
from pipeline.saliency.refine.estimators import named_folder
from pipeline.saliency.refine.maps import read_map, write_map
from pipeline.saliency.refine.network import draw_weights
from pipeline.saliency.refine.predict import predict_masks
from pipeline.saliency.refine.predictor import MaskSettings, load_predictor, save_student
from pipeline.saliency.refine.u2net import Student, StudentNetworkConfig
from pipeline.sources import list_records
from tests.pipeline.saliency.support import disc_picture
from tests.pipeline.sources.support import with_orientation

COUNT = 3


@pytest.fixture
def data(tmp_path):
    """Discs with their masks."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(COUNT):
        image, mask = disc_picture(60, 80, centre=(0.5, 0.3 + i / 10), seed=i)
        cv2.imwrite(str(tmp_path / f"images/{i}.png"), image[..., ::-1])
        cv2.imwrite(str(tmp_path / f"masks/{i}.png"), mask.astype(np.uint8) * 255)
    return tmp_path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A student of random weights whose maps depend on the picture."""
    student = Student(StudentNetworkConfig(side=128, channels=8, inner=4))
    draw_weights(student, torch_generator(0, "evaluate"))
    for part in student.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None
    discs = [disc_picture(128, 128, centre=(0.5, 0.3 + i / 10), seed=i)[0] for i in range(4)]
    student(torch.from_numpy(np.stack(discs)))
    path = tmp_path_factory.mktemp("model") / "student.pt"
    save_student(path, student, MaskSettings(), {})
    return path


def run(data, *words):
    return CliRunner().invoke(command.main, ["evaluate", "--data", str(data), *map(str, words)])


def rows_of(result):
    assert result.exit_code == 0, result.output
    return {row["method"]: row for row in json.loads(result.stdout.splitlines()[-1])["rows"]}


ALONE = ("--methods", "", "--processes", 1, "--json")


def test_a_student_is_measured_as_its_predicted_masks_are(data, model, tmp_path):
    predictor = load_predictor(model, CPU)
    records = list_records(str(data / "images")).records
    out = tmp_path / "predicted"
    assert len(list(predict_masks(records, predictor, out, batch_size=1, threads=1))) == COUNT
    by_hand = []
    for one in list_labelled(data):
        mask = read_map(out / f"{one.image.stem}.png")
        assert np.ptp(mask) > 20  # else any map would do
        by_hand.append(measure(mask / np.float32(255), read_labelled(one)[1]))
    expected = summarise(by_hand)
    rows = rows_of(run(data, "--model", model, "--maps", out, *ALONE))
    assert list(rows) == ["student", "predicted"]
    for row in rows.values():
        for name in ("max_f", "adaptive_f", "mae", "structure"):
            assert row["summary"][name] == pytest.approx(getattr(expected, name), abs=2e-3)
    assert rows["student"]["milliseconds"] > 0
    assert rows["predicted"]["milliseconds"] is None


def test_true_masks_as_maps_are_perfect_and_have_no_time(data):
    words = ("--methods", "mr", "--processes", 1, "--maps", f"truth={data / 'masks'}")
    result = run(data, *words, "--json")
    rows = rows_of(result)
    assert list(rows) == ["mr", "truth"]
    summary = rows["truth"]["summary"]
    assert [summary[name] for name in ("max_f", "adaptive_f", "mae")] == [1, 1, 0]
    assert summary["structure"] == pytest.approx(1)
    line = next(line for line in result.stdout.splitlines() if line.startswith("truth"))
    assert line.split()[-1] == "-"


def test_maps_of_another_size_are_resized_bilinearly(data, tmp_path):
    expected = []
    for one in list_labelled(data):
        small = cv2.resize(read_map(one.mask), (32, 32), interpolation=cv2.INTER_AREA)
        write_map(tmp_path / "small" / one.mask.name, small)
        image, truth = read_labelled(one)
        resized = cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        expected.append(measure(resized / np.float32(255), truth).mae)
    row = rows_of(run(data, "--maps", tmp_path / "small", *ALONE))["small"]
    assert row["summary"]["mae"] == pytest.approx(np.mean(expected))
    assert 0 < row["summary"]["mae"] < 0.05


@pytest.mark.parametrize(("orientation", "lies_upright"), [(3, False), (6, False), (6, True)])
def test_maps_lie_as_the_pixels_of_a_turned_picture_do(tmp_path, orientation, lies_upright):
    image, mask = disc_picture(60, 80, centre=(0.3, 0.2))
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "images/a.jpg").write_bytes(with_orientation(image, orientation))
    in_file = mask.astype(np.uint8) * 255
    upright = np.rot90(in_file, {3: 2, 6: -1}[orientation])
    cv2.imwrite(str(tmp_path / "masks/a.png"), upright)
    write_map(tmp_path / "maps/a.png", upright if lies_upright else in_file)
    row = rows_of(run(tmp_path, "--maps", tmp_path / "maps", *ALONE))["maps"]
    assert row["summary"]["mae"] == 0


def test_two_processes_find_what_one_finds(data, model):
    words = ("--methods", "mr", "--model", model, "--maps", data / "masks", "--json")
    rows = [rows_of(run(data, *words, "--processes", count)) for count in (1, 2)]
    for found in rows:
        assert list(found) == ["mr", "student", "masks"]
        for row in found.values():
            del row["milliseconds"]
    assert rows[0] == rows[1]


def test_all_methods_are_measured_beside_others_unless_fewer_are_named(data):
    rows = rows_of(run(data, "--maps", data / "masks", "--processes", 1, "--json"))
    assert list(rows) == [*METHODS, "masks"]


def test_a_missing_map_is_named_unless_its_picture_is_left_out(data, tmp_path):
    for one in list_labelled(data)[:2]:
        write_map(tmp_path / "some" / one.mask.name, read_map(one.mask))
    result = run(data, "--maps", tmp_path / "some", *ALONE)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].endswith(
        "images/2.png: no map 2.png in " + str(tmp_path / "some")
    )
    rows = rows_of(run(data, "--maps", tmp_path / "some", "--limit", 2, *ALONE))
    assert rows["some"]["summary"]["mae"] == 0


@pytest.mark.parametrize("processes", [1, 2])
def test_a_damaged_map_is_one_line(data, tmp_path, processes):
    for one in list_labelled(data):
        write_map(tmp_path / "maps" / one.mask.name, read_map(one.mask))
    (tmp_path / "maps/1.png").write_bytes(b"no map")
    result = run(data, "--maps", tmp_path / "maps", "--methods", "", "--processes", processes)
    assert result.exit_code == 2
    assert "maps/1.png: the map is damaged" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--maps", "nowhere"], "nowhere: no such folder of maps"),
        (["--maps", "=nowhere"], "want DIR or NAME=DIR"),
        (["--maps", ""], "want DIR or NAME=DIR"),
        (["--model", "nowhere.pt"], "nowhere.pt: cannot be read"),
        (["--maps", "mr={masks}"], "2 rows would be named 'mr'"),
        (["--maps", "{masks}", "--maps", "{masks}"], "2 rows would be named 'masks'"),
        (["--methods", ""], "--methods names none"),
        (["--methods", ",", "--maps", "{masks}"], "--methods names none"),
    ],
)
def test_refusals_are_one_line(data, words, says):
    words = [word.format(masks=data / "masks") for word in words]
    result = run(data, *words, "--processes", 1)
    assert result.exit_code == 2
    assert says in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("text", "name", "folder"),
    [
        ("runs/maps", "maps", "runs/maps"),
        ("ours=runs/maps/", "ours", "runs/maps"),
        ("./lr=1", "lr=1", "lr=1"),
        ("ours=runs/lr=1", "ours", "runs/lr=1"),
    ],
)
def test_a_folder_can_be_named(text, name, folder):
    found = named_folder(text)
    assert (found.name, str(found.folder)) == (name, folder)
