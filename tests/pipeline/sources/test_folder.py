"""Folders as sources: labels, order, what is not a picture, and limits."""

import pytest

from pipeline.sources import is_image_name, list_records
from tests.pipeline.sources.support import write_files


def keys(source):
    return [record.key for record in source.records]


def test_class_folders_are_labels_and_keys_are_sorted(tmp_path):
    names = ["dog/b.jpg", "dog/a.jpg", "ant/x/deep.PNG", "cat/c.jpeg"]
    write_files(tmp_path, {name: name.encode() for name in names})
    source = list_records(str(tmp_path))
    assert keys(source) == sorted(names)
    assert source.label_names == ("ant", "cat", "dog")
    assert [record.label_name for record in source.records] == ["ant", "cat", "dog", "dog"]
    assert [record.read() for record in source.records] == [
        (name.encode(), None) for name in sorted(names)
    ]
    assert [record.size for record in source.records] == [len(name) for name in sorted(names)]


def test_a_flat_folder_has_no_labels(tmp_path):
    write_files(tmp_path, {"b.jpg": b"b", "a.jpg": b"a"})
    source = list_records(str(tmp_path))
    assert source.label_names == ()
    assert [(record.key, record.label_name) for record in source.records] == [
        ("a.jpg", None),
        ("b.jpg", None),
    ]


def test_pictures_beside_class_folders_are_unlabelled(tmp_path):
    write_files(tmp_path, {"cat/a.jpg": b"a", "b.jpg": b"b"})
    source = list_records(str(tmp_path))
    assert [record.label_name for record in source.records] == [None, "cat"]


def test_numbered_classes_are_sorted_as_numbers(tmp_path):
    write_files(tmp_path, {f"{number}/a.jpg": b"a" for number in (10, 9, 0)})
    assert list_records(str(tmp_path)).label_names == ("0", "9", "10")


def test_other_files_are_ignored_and_counted(tmp_path):
    write_files(
        tmp_path,
        {"a.jpg": b"a", "notes.txt": b"", "._a.jpg": b"", "x/.hidden.png": b"", "jpg": b""},
    )
    source = list_records(str(tmp_path))
    assert keys(source) == ["a.jpg"]
    assert source.num_ignored == 4
    assert "4 other files ignored" in source.description


def test_links_are_followed_but_not_in_circles(tmp_path):
    write_files(tmp_path, {"real/a.jpg": b"a"})
    outside = write_files(tmp_path / ".." / f"{tmp_path.name}-outside", {"b.jpg": b"b"})
    (tmp_path / "linked").symlink_to(outside, target_is_directory=True)
    (tmp_path / "real" / "up").symlink_to(tmp_path, target_is_directory=True)
    source = list_records(str(tmp_path))
    assert keys(source) == ["linked/b.jpg", "real/a.jpg"]
    assert source.records[0].read()[0] == b"b"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", True),
        ("x/y/A.JPEG", True),
        ("a.webp", True),
        ("a.b.tiff", True),
        ("a", False),
        ("jpg", False),
        (".jpg", False),
        ("x.jpg/a", False),
        ("a.jpg.txt", False),
        ("x/.a.jpg", False),
    ],
)
def test_pictures_are_known_by_their_ending(name, expected):
    assert is_image_name(name) is expected


def test_a_limit_takes_pictures_of_all_classes(tmp_path):
    write_files(tmp_path, {f"{label}/{n:02d}.jpg": b"" for label in "abcd" for n in range(25)})
    source = list_records(str(tmp_path), limit=8)
    assert len(source.records) == 8
    assert [record.label_name for record in source.records] == list("aabbccdd")
    assert keys(source) == sorted(keys(source))
    assert source.label_names == tuple("abcd")
    assert len(list_records(str(tmp_path), limit=1000).records) == 100


def test_a_missing_source_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no such folder or file; give a folder of pictures"):
        list_records(str(tmp_path / "nothing"))


def test_a_folder_without_pictures_is_refused(tmp_path):
    write_files(tmp_path, {"a.txt": b"", "b/c.doc": b""})
    with pytest.raises(ValueError, match=r"no pictures there \(2 other files\)"):
        list_records(str(tmp_path))
