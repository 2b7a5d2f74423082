"""Masks on disk: found again by key, whole or not at all, and only for the same picture."""

from dataclasses import replace

import pytest

from pipeline.saliency.provenance import MaskMethod
from pipeline.sources.estimated import EstimatedMask
from pipeline.sources.mask_journal import opened_journal
from pipeline.sources.prepare import PrepareSettings, prepare
from tests.pipeline.sources.support import jpeg
from tests.pipeline.sources.test_workers import Slow, records_of

METHOD = MaskMethod(name="own", version=3, labels_involved=False, settings={"a": 0.5})
MASKS = {
    "a/1.jpg": EstimatedMask(picture_sha256=b"1" * 32, mask=b"\x01" + bytes(900), fault=""),
    "a/\udcff.jpg": EstimatedMask(picture_sha256=b"2" * 32, mask=b"", fault="small"),
    "b.jpg": EstimatedMask(picture_sha256=b"3" * 32, mask=b"\x01xyz", fault=""),
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "out.masks"
    with opened_journal(path, METHOD) as journal:
        for key, mask in MASKS.items():
            journal.add(key, mask)
    return path


def test_masks_are_found_when_the_file_is_opened_again(path):
    with opened_journal(path, METHOD) as journal:
        assert len(journal) == 3
        assert {key: journal.find(key) for key in MASKS} == MASKS
        assert journal.find("c.jpg") is None
        journal.add("c.jpg", MASKS["b.jpg"])
        assert journal.find("c.jpg") == MASKS["b.jpg"]
        assert {key: journal.find(key) for key in MASKS} == MASKS


def test_a_newer_mask_of_a_key_counts(path):
    with opened_journal(path, METHOD) as journal:
        journal.add("b.jpg", MASKS["a/1.jpg"])
    with opened_journal(path, METHOD) as journal:
        assert journal.find("b.jpg") == MASKS["a/1.jpg"]


@pytest.mark.parametrize("missing", [1, 5, 60])
def test_a_torn_entry_is_cut_off_and_made_again(path, missing):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - missing])
    with opened_journal(path, METHOD) as journal:
        assert len(journal) == 3 - (missing > 0) - (missing == 60)
        journal.add("b.jpg", MASKS["b.jpg"])
    with opened_journal(path, METHOD) as journal:
        assert journal.find("b.jpg") == MASKS["b.jpg"]


def test_a_damaged_entry_is_not_used(path):
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with opened_journal(path, METHOD) as journal:
        assert journal.find("b.jpg") is None


def test_other_settings_are_another_method(path):
    other = MaskMethod(name="own", version=3, labels_involved=False, settings={"a": 0.6})
    with pytest.raises(ValueError, match="of other settings than now"), opened_journal(path, other):
        pass


@pytest.mark.parametrize(
    ("sha256", "way"),
    [(None, "go on with --saliency own,"), ("ab", "go on with its --saliency-model,")],
)
def test_another_name_says_how_to_go_on(tmp_path, sha256, way):
    """As where `--saliency auto` meant another method before."""
    path = tmp_path / "out.masks"
    with opened_journal(path, replace(METHOD, model_sha256=sha256)) as journal:
        journal.add("b.jpg", MASKS["b.jpg"])
    with (
        pytest.raises(ValueError, match=way),
        opened_journal(path, replace(METHOD, name="new")),
    ):
        pass


def test_another_version_of_a_method_says_how_to_go_on(path):
    later = replace(METHOD, version=METHOD.version + 1)
    with (
        pytest.raises(ValueError, match="go on with the version of this project that began it, or"),
        opened_journal(path, later),
    ):
        pass


def test_nothing_stays_of_a_conversion_that_made_no_mask(tmp_path):
    with opened_journal(tmp_path / "out.masks", METHOD):
        assert (tmp_path / "out.masks").exists()
    assert list(tmp_path.iterdir()) == []


class Counting:
    """Makes the same mask of everything and counts how often."""

    method = METHOD

    def __init__(self):
        self.count = 0

    def mask(self, picture):
        self.count += 1
        return picture[..., 0]


def test_a_known_mask_is_used_only_for_the_same_picture():
    maker = Counting()
    settings = PrepareSettings(masks=maker)
    one, two = records_of(Slow(), ["001.jpg", "002.jpg"])
    made = prepare(one, settings)
    assert prepare(one, settings, made.estimated) == made
    assert maker.count == 1
    other = prepare(two, settings, made.estimated)
    assert maker.count == 2
    assert other.jpeg == jpeg(seed=2)
    assert other.estimated != made.estimated
    reduced = PrepareSettings(masks=maker, short_side=10)
    prepare(one, reduced, made.estimated)  # its mask is made of other pixels
    assert maker.count == 3
