"""Tars as sources: pictures are read in place, also from tars in a tar."""

import gzip
import pickle
import tarfile

import pytest

from pipeline.sources import list_records
from tests.pipeline.sources.support import tar_of


def listed(path, data, **options):
    path.write_bytes(data)
    return list_records(str(path), **options)


def contents(source):
    return {record.key: (record.label_name, record.read()[0]) for record in source.records}


def test_class_folders_in_a_tar(tmp_path):
    files = {"dog/b.jpg": b"DB", "cat/a.png": b"CA" * 700, "cat/readme.txt": b"no"}
    source = listed(tmp_path / "x.tar", tar_of(files))
    assert contents(source) == {"cat/a.png": ("cat", b"CA" * 700), "dog/b.jpg": ("dog", b"DB")}
    assert [record.key for record in source.records] == ["cat/a.png", "dog/b.jpg"]
    assert source.label_names == ("cat", "dog")
    assert source.num_ignored == 1


def test_a_flat_tar_has_no_labels(tmp_path):
    source = listed(tmp_path / "x.tar", tar_of({"./b.jpg": b"B", "./a.jpg": b"A"}))
    assert contents(source) == {"a.jpg": (None, b"A"), "b.jpg": (None, b"B")}


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_in_a_tar_are_classes_and_read_in_place(tmp_path, format):
    inner = {
        label: {f"{label}_{n}.JPEG": f"{label} {n} ".encode() * 300 for n in range(3)}
        for label in ("n02", "n01")
    }
    outer = {f"{label}.tar": tar_of(files, format=format) for label, files in inner.items()}
    source = listed(tmp_path / "train.tar", tar_of(outer, format=format))
    assert contents(source) == {
        f"{label}/{name}": (label, data)
        for label, files in inner.items()
        for name, data in files.items()
    }
    assert source.label_names == ("n01", "n02")
    assert list(tmp_path.iterdir()) == [tmp_path / "train.tar"]


def test_long_names_are_read(tmp_path):
    name = "deep/" + "very_" * 40 + "long.jpg"
    source = listed(tmp_path / "x.tar", tar_of({name: b"A"}, format=tarfile.PAX_FORMAT))
    assert contents(source) == {name: ("deep", b"A")}


def test_labels_of_a_webdataset_come_from_its_cls_files(tmp_path):
    files = {}
    for number, label in enumerate([b"10", b"9\n", b"-1"]):
        files |= {f"{number:04d}.jpg": b"%d" % number, f"{number:04d}.cls": label}
    source = listed(tmp_path / "x.tar", tar_of(files))
    assert [record.label_name for record in source.records] == ["10", "9", None]
    assert source.label_names == ("9", "10")


def test_the_last_of_two_members_of_a_name_counts(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of({"a.jpg": b"old"}))
    with tarfile.open(path, "a") as archive:
        (tmp_path / "new").write_bytes(b"newer")
        archive.add(tmp_path / "new", "a.jpg")
    assert contents(list_records(str(path))) == {"a.jpg": (None, b"newer")}


def test_records_travel_between_processes(tmp_path):
    source = listed(tmp_path / "x.tar", tar_of({"c/a.jpg": b"A", "c/b.jpg": b"B"}))
    records = pickle.loads(pickle.dumps(source.records))
    assert [record.read()[0] for record in records] == [b"A", b"B"]
    assert len(pickle.dumps(source.records[0])) < 500


def test_a_limit_spreads_over_a_tar(tmp_path):
    files = {f"{label}/{n}.jpg": b"x" for label in "abc" for n in range(5)}
    source = listed(tmp_path / "x.tar", tar_of(files), limit=3)
    assert [record.label_name for record in source.records] == list("abc")


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tar"])
def test_a_compressed_tar_is_refused_with_a_way_out(tmp_path, name):
    with pytest.raises(ValueError, match="gzip has no random access; unpack it"):
        listed(tmp_path / name, gzip.compress(tar_of({"a.jpg": b"A"})))


def test_what_is_no_tar_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a tar archive"):
        listed(tmp_path / "x.tar", b"hello" * 1000)


def test_a_truncated_tar_is_refused(tmp_path):
    data = tar_of({"a.jpg": b"A" * 5000, "b.jpg": b"B" * 5000})
    with pytest.raises(ValueError, match=r"middle of b\.jpg|damaged"):
        listed(tmp_path / "x.tar", data[: 512 * 14])


def test_a_tar_with_a_damaged_header_is_refused(tmp_path):
    data = bytearray(tar_of({"a.jpg": b"A" * 5000, "b.jpg": b"B" * 5000}))
    data[512 * 11 : 512 * 11 + 300] = b"\xff" * 300
    with pytest.raises(ValueError, match="damaged at byte 5632"):
        listed(tmp_path / "x.tar", bytes(data))


def test_an_inner_tar_with_a_damaged_header_is_refused(tmp_path):
    inner = bytearray(tar_of({"a.jpg": b"A"}))
    inner[:300] = b"\xff" * 300
    with pytest.raises(ValueError, match="damaged"):
        listed(tmp_path / "x.tar", tar_of({"n01.tar": bytes(inner)}))


def test_a_tar_without_pictures_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no pictures there"):
        listed(tmp_path / "x.tar", tar_of({"a.txt": b""}))
