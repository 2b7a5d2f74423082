"""`python -m pipeline.saliency evaluate`: its table, its JSON line, and how it says no."""

import json
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

import pipeline.saliency.__main__ as command
from pipeline.saliency import evaluate_command
from pipeline.saliency.evaluate import evaluate
from pipeline.saliency.labelled import list_labelled, read_labelled
from pipeline.saliency.measures import measure, summarise
from pipeline.saliency.methods import METHODS, SINGLE, estimate
from tests.pipeline.saliency.support import disc_picture


@pytest.fixture
def data(tmp_path):
    """Five discs with their masks."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for i in range(5):
        image, mask = disc_picture(60, 80, centre=(0.5, 0.3 + i / 10), seed=i)
        cv2.imwrite(str(tmp_path / f"images/{i}.png"), image[..., ::-1])
        cv2.imwrite(str(tmp_path / f"masks/{i}.png"), mask.astype(np.uint8) * 255)
    return tmp_path


def run(*words):
    return CliRunner().invoke(command.main, ["evaluate", *map(str, words)])


def test_the_table_has_a_row_for_each_method(data):
    result = run("--data", data, "--processes", 1)
    assert result.exit_code == 0, result.output
    head, *rows = [line.split() for line in result.stdout.splitlines()]
    assert head[:2] == ["method", "max-F"]
    assert [row[0] for row in rows[:-1]] == list(METHODS)
    assert "5/5" in result.stderr


def test_json_is_the_last_line_and_holds_the_figures(data):
    result = run("--data", data, "--processes", 1, "--methods", "mr,fusion", "--json")
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["pictures"] == 5
    assert [row["method"] for row in found["rows"]] == ["mr", "fusion"]
    expected = summarise(
        [
            measure(estimate(image), truth)
            for image, truth in map(read_labelled, list_labelled(data))
        ]
    )
    fusion = found["rows"][1]
    assert fusion["summary"]["max_f"] == pytest.approx(expected.max_f)
    assert fusion["summary"]["mae"] == pytest.approx(expected.mae)
    assert fusion["milliseconds"] > 0
    assert fusion["degenerate"] == sum(fusion["faults"].values()) / 5
    assert 0.05 < fusion["coverage"] < 0.3


def test_two_processes_find_what_one_finds(data):
    results = [run("--data", data, "--processes", n, "--json") for n in (1, 2)]
    rows = []
    for result in results:
        assert result.exit_code == 0, result.output
        rows.append(json.loads(result.stdout.splitlines()[-1])["rows"])
        for row in rows[-1]:
            del row["milliseconds"]
    assert rows[0] == rows[1]


def test_a_limit_is_spread_evenly(data):
    assert [one.image.stem for one in list_labelled(data, limit=2)] == ["0", "2"]
    assert len(list_labelled(data, limit=50)) == 5
    result = run("--data", data, "--limit", 2, "--methods", "mr", "--processes", 1, "--json")
    assert json.loads(result.stdout.splitlines()[-1])["pictures"] == 2


def without_mask(data):
    (data / "masks/3.png").unlink()


def smaller_mask(data):
    cv2.imwrite(str(data / "masks/3.png"), np.zeros((59, 80), np.uint8))


def broken_picture(data):
    (data / "images/3.png").write_bytes(b"no picture")


def empty_mask_file(data):
    (data / "masks/3.png").write_bytes(b"")


def no_pictures(data):
    for path in (data / "images").iterdir():
        path.rename(path.with_suffix(".txt"))


def no_masks_folder(data):
    (data / "masks").rename(data / "truth")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without_mask, "3.png: no mask 3.png in"),
        (smaller_mask, "3.png: 80 x 59 pixels, but 3.png has 80 x 60"),
        (broken_picture, "images/3.png: cannot be decoded as a picture"),
        (empty_mask_file, "masks/3.png: cannot be decoded as a picture"),
        (no_pictures, "no pictures (.jpg"),
        (no_masks_folder, "masks: no such folder; --data needs images/ and masks/"),
    ],
)
@pytest.mark.parametrize("processes", [1, 2])
def test_what_cannot_be_measured_is_one_line(data, spoil, says, processes):
    spoil(data)
    result = run("--data", data, "--methods", "mr", "--processes", processes)
    assert result.exit_code == 2
    assert says in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("methods", "says"), [("mr,xyz", "no method 'xyz'; there are rbd"), (",", "names none")]
)
def test_unknown_methods_are_one_line(data, methods, says):
    result = run("--data", data, "--methods", methods)
    assert (result.exit_code, says in result.stderr) == (2, True)


def test_a_process_that_dies_is_one_line(data, monkeypatch):
    def die(*_, **__):
        raise BrokenProcessPool("terminated abruptly")

    monkeypatch.setattr(evaluate_command, "evaluate", die)
    result = run("--data", data)
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (
        "Error: a process died; out of memory? try fewer --processes"
    )


@pytest.mark.real
@pytest.mark.slow
def test_ecssd_is_met_by_the_best_single_method_and_by_fusion(real_data: Path):
    pictures = list_labelled(real_data / "ecssd", limit=200)
    rows = evaluate(pictures, METHODS, processes=2, tick=lambda: None)
    figures = {row.method: row.summary for row in rows}
    best = max((figures[method] for method in SINGLE), key=lambda summary: summary.max_f)
    assert best.max_f >= 0.68
    assert best.mae <= 0.19
    assert figures["fusion"].max_f >= 0.72
    assert figures["fusion"].mae <= 0.17
    assert figures["finished"].max_f > figures["fusion"].max_f + 0.01
    assert figures["finished"].mae < figures["fusion"].mae
