"""The outlined photos as a folder of pictures and masks."""

import json

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from bench.__main__ import bench
from bench.outlines import command
from pipeline.saliency.labelled import list_labelled, read_labelled


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Two photos of our own, and their outlines in place of the real ones."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.JPEG", "b.JPEG"):
        cv2.imwrite(str(folder / name), np.full((40, 80, 3), 90, np.uint8))
    square, left, right = (
        [[a, 25], [b, 25], [b, 75], [a, 75]] for a, b in ((10, 60), (0, 40), (20, 90))
    )
    outlines = tmp_path / "outlines.json"
    outlines.write_text(json.dumps({"a.JPEG": [square], "b.JPEG": [left, right]}))
    monkeypatch.setattr(command, "_OUTLINES", outlines)
    return folder


def make(photos, out):
    return CliRunner().invoke(bench, ["outlines", "--photos", str(photos), "--out", str(out)])


def test_masks_are_the_union_of_the_polygons_at_the_photos_size(photos, tmp_path):
    result = make(photos, tmp_path / "out")
    assert result.exit_code == 0, result.output
    pictures = list_labelled(tmp_path / "out")
    assert [one.image.name for one in pictures] == ["a.jpg", "b.jpg"]
    (_, first), (image, second) = map(read_labelled, pictures)
    assert image.shape == (40, 80, 3)
    assert first[20, 9:48].all()
    assert not first[:9].any()
    assert not first[:, :7].any()
    assert second[20, 1:71].all()  # where both lie, too


def test_what_is_missing_is_named(photos, tmp_path):
    (photos / "b.JPEG").unlink()
    result = make(photos, tmp_path / "out")
    assert result.exit_code == 2
    assert "lacks 1 of 2 outlined photos, b.JPEG first" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_refused(photos, tmp_path):
    result = make(photos, photos)
    assert result.exit_code == 2
    assert "is not empty" in result.stderr


def test_the_real_outlines_are_polygons_within_their_photos():
    outlines = json.loads(command._OUTLINES.read_text())
    assert len(outlines) == 101
    for polygons in outlines.values():
        assert polygons
        for polygon in polygons:
            corners = np.array(polygon)
            assert corners.shape[1:] == (2,)
            assert len(corners) >= 3
            assert corners.min() >= 0
            assert corners.max() <= 100
