"""Tars as sources: pictures are read in place, also from tars in a tar."""

import gzip
import io
import os
import pickle
import shutil
import subprocess
import tarfile

import pytest

from pipeline.sources import check_no_splits, list_records
from pipeline.sources.record import (
    ABOVE,
    CIRCLE,
    HIDDEN,
    NO_IMAGES,
    NO_TARGET,
    OTHER,
    SECOND_NAME,
    SPECIAL,
)
from tests.pipeline.sources.support import tar_of, write_files


def listed(path, data, **options):
    path.write_bytes(data)
    return list_records(str(path), **options)


def contents(source):
    return {record.key: (record.label_name, record.read()[0]) for record in source.records}


def reasons(source):
    return {entry.reason: (entry.count, list(entry.names)) for entry in source.ignored}


def test_an_inner_archive_that_is_empty_or_none_is_named(tmp_path):
    inner = tar_of({"a.jpg": b"A"})
    source = listed(tmp_path / "x.tar", tar_of({"n01.tar": inner, "n02.tar": b""}))
    assert contents(source) == {"n01/a.jpg": ("n01", b"A")}
    assert reasons(source) == {"archive of 0 bytes": (1, ["n02.tar"])}
    with pytest.raises(ValueError, match=r"y\.tar: n03\.tar in it: "):
        listed(tmp_path / "y.tar", tar_of({"n01.tar": inner, "n03.tar": b"garbage" * 200}))


def test_samples_with_several_images_are_told(tmp_path):
    files = {"1.jpg": b"A", "1.seg.png": b"B", "1.cls": b"3", "2.jpg": b"C", "2.cls": b"4"}
    source = listed(tmp_path / "x.tar", tar_of(files))
    assert "1 samples have several images and each is taken, such as 1.jpg, 1.seg.png" in (
        source.description
    )


def test_class_folders_in_a_tar(tmp_path):
    files = {"dog/b.jpg": b"DB", "cat/a.png": b"CA" * 700, "cat/readme.txt": b"no"}
    source = listed(tmp_path / "x.tar", tar_of(files))
    assert contents(source) == {"cat/a.png": ("cat", b"CA" * 700), "dog/b.jpg": ("dog", b"DB")}
    assert [record.key for record in source.records] == ["cat/a.png", "dog/b.jpg"]
    assert source.label_names == ("cat", "dog")
    assert reasons(source) == {OTHER: (1, ["cat/readme.txt"])}


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


def test_a_sample_of_a_webdataset_ends_at_the_first_dot_of_the_base_name(tmp_path):
    files = {
        "v1.0/a.jpg": b"1",
        "v1.0/a.cls": b"x",
        "v2.0/a.left.png": b"2",
        "v2.0/a.right.jpg": b"3",
        "v2.0/a.CLS": b"y",
        "v2.0/b.jpg": b"4",
        "v2.0/b.json": b"",
    }
    source = listed(tmp_path / "x.tar", tar_of(files))
    assert contents(source) == {
        "v1.0/a.jpg": ("x", b"1"),
        "v2.0/a.left.png": ("y", b"2"),
        "v2.0/a.right.jpg": ("y", b"3"),
        "v2.0/b.jpg": (None, b"4"),  # and not the class "v2.0"
    }
    assert reasons(source) == {OTHER: (1, ["v2.0/b.json"])}


def test_each_picture_has_its_own_label_where_names_have_dots(tmp_path):
    files = {}
    for number in range(3):
        files |= {f"img.{number}.jpg": b"", f"img.{number}.cls": b"%d" % number}
    source = listed(tmp_path / "x.tar", tar_of(files))
    assert [record.label_name for record in source.records] == ["0", "1", "2"]
    assert source.ignored == ()


def test_a_label_that_is_no_label_is_named(tmp_path):
    files = {"a.jpg": b"", "a.cls": b"1" * 1025, "b.jpg": b"", "b.cls": b"2" * 1024}
    source = listed(tmp_path / "x.tar", tar_of(files))
    assert [record.label_name for record in source.records] == [None, "2" * 1024]
    assert reasons(source) == {"label of more than 1024 bytes": (1, ["a.cls"])}


@pytest.mark.parametrize("before", ["/", "./", "../", "/./x/..//", "//"])
def test_what_stands_before_a_name_is_dropped(tmp_path, before):
    files = {f"{before}cat/a.jpg": b"A", f"{before}dog/.//b.jpg": b"B"}
    source = listed(tmp_path / "x.tar", tar_of(files))
    assert contents(source) == {"cat/a.jpg": ("cat", b"A"), "dog/b.jpg": ("dog", b"B")}
    assert source.ignored == ()


def test_a_top_folder_that_holds_everything_is_no_class(tmp_path):
    files = {"./val/rose/a.jpg": b"", "./val/tulip/b.jpg": b"", "./val/c.jpg": b"", "./x.txt": b""}
    source = listed(tmp_path / "x.tar", tar_of(files | {"val/lily/notes.txt": b""}))
    assert [record.label_name for record in source.records] == [None, "rose", "tulip"]
    assert [record.key for record in source.records][1] == "val/rose/a.jpg"
    assert "all in val/ which is taken for no class" in source.description
    assert reasons(source)[NO_IMAGES] == (1, ["val/lily/"])
    check_no_splits(source, str(tmp_path / "x.tar"))
    as_it_is = list_records(str(tmp_path / "x.tar"), first_folder_is_class=True)
    assert as_it_is.label_names == ("val",)


@pytest.mark.parametrize(
    "files",
    [
        {"set/train/a/1.jpg": b"", "set/val/a/2.jpg": b""},
        {"set/train.tar": tar_of({"a/1.jpg": b""}), "set/val.tar": tar_of({"a/1.jpg": b""})},
        {"set/train/a.tar": tar_of({"1.jpg": b""}), "set/val/a.tar": tar_of({"1.jpg": b""})},
    ],
)
def test_splits_in_a_tar_are_not_taken_for_classes(tmp_path, files):
    source = listed(tmp_path / "x.tar", tar_of(files))
    assert len(source.records) == 2
    with pytest.raises(ValueError, match=r"unpack it and give .*: set/train or set/val; or take"):
        check_no_splits(source, str(tmp_path / "x.tar"))


def test_labels_beside_the_images_of_splits_are_taken(tmp_path):
    files = {"train/1.jpg": b"", "train/1.cls": b"train", "val/1.jpg": b"", "val/1.cls": b"val"}
    source = listed(tmp_path / "x.tar", tar_of(files))
    check_no_splits(source, str(tmp_path / "x.tar"))
    assert source.label_names == ("train", "val")


def test_hidden_and_system_folders_are_no_classes(tmp_path):
    names = ["a/1.jpg", "a/._1.jpg", ".Trash-1/a.jpg", ".Trash-1/b.jpg", "__MACOSX/a/1.jpg"]
    files = dict.fromkeys([*names, "b/.ipynb_checkpoints/1.jpg", "._n01.tar", "._a"], b"no tar")
    source = listed(tmp_path / "x.tar", tar_of(files))
    assert contents(source) == {"a/1.jpg": ("a", b"no tar")}
    assert reasons(source) == {
        HIDDEN: (6, ["a/._1.jpg", ".Trash-1/", "__MACOSX/", "b/.ipynb_checkpoints/", "._n01.tar"]),
        NO_IMAGES: (1, ["b/"]),
    }


def with_links(files, links):
    """A tar of files, then of links: (name, type, target)."""
    out = io.BytesIO(tar_of(files))
    with tarfile.open(fileobj=out, mode="a") as archive:
        for name, kind, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return out.getvalue()


def test_links_to_files_of_the_same_tar_are_followed(tmp_path):
    links = [
        ("./dog/hard.jpg", tarfile.LNKTYPE, "./cat/a.jpg"),
        ("dog/soft.jpg", tarfile.SYMTYPE, "../cat/a.jpg"),
        ("dog/chain.jpg", tarfile.SYMTYPE, "soft.jpg"),
        ("owl/deep.jpg", tarfile.SYMTYPE, "../way/a.jpg"),
        ("owl/hard.jpg", tarfile.LNKTYPE, "dog/chain.jpg"),
        ("owl/absolute.jpg", tarfile.SYMTYPE, "/cat/a.jpg"),
        ("owl/stored.jpg", tarfile.SYMTYPE, "../.store/x"),
        ("way", tarfile.SYMTYPE, "cat"),
        ("fox", tarfile.SYMTYPE, ".store/fox"),
        ("gnu", tarfile.SYMTYPE, ".store/fox"),
    ]
    files = {"cat/a.jpg": b"A", ".store/x": b"X", ".store/fox/f.jpg": b"F"}
    source = listed(tmp_path / "x.tar", with_links(files, links))
    assert contents(source) == {
        "cat/a.jpg": ("cat", b"A"),
        **{f"dog/{name}.jpg": ("dog", b"A") for name in ("chain", "hard", "soft")},
        **{f"owl/{name}.jpg": ("owl", b"A") for name in ("absolute", "deep", "hard")},
        "owl/stored.jpg": ("owl", b"X"),
        "fox/f.jpg": ("fox", b"F"),
    }
    assert reasons(source) == {SECOND_NAME: (2, ["gnu/", "way/"]), HIDDEN: (1, [".store/"])}


def test_a_tar_is_listed_as_the_folder_that_was_packed(tmp_path):
    root = write_files(
        tmp_path / "set",
        {
            "photos/cat/a.jpg": b"A",
            "photos/cat/.h/b.jpg": b"B",
            "photos/dog/c.jpg": b"C",
            "photos/empty/notes.txt": b"",
            ".store/x/d.jpg": b"D",
            ".store/x/sub/e.jpg": b"E",
            "Thumbs.db": b"",
        },
    )
    os.link(root / "photos/cat/a.jpg", root / "photos/dog/hard.jpg")
    for name, target in {
        "photos/dog/soft.jpg": "../cat/a.jpg",
        "photos/dog/up": "..",
        "photos/0": "cat",
        "photos/fox": "../.store/x",
        "photos/gnu": "../.store/x",
        "photos/hen": "../.store/x/sub",
        "photos/nothing": "/no/such/disk",
        "photos/self": "self",
        ".store/x/sub/again": "..",
        ".store/x/f.jpg": "sub/e.jpg",
        ".store/x/self": "self",
        ".store/x/.hidden": "d.jpg",
    }.items():
        (root / name).symlink_to(target)
    archive = tmp_path / "set.tar"
    with tarfile.open(archive, "w") as file:
        file.add(root, arcname="")
    packed, folder = list_records(str(archive)), list_records(str(root))
    assert contents(packed) == contents(folder)
    assert {record.label_name for record in packed.records} == {"cat", "dog", "fox"}
    assert packed.top == folder.top == "photos/"
    counts = [{entry.reason: entry.count for entry in one.ignored} for one in (packed, folder)]
    assert counts[0] == counts[1]


def test_a_hard_link_means_what_had_the_name_before_it(tmp_path):
    data = with_links({"a.jpg": b"old"}, [("b.jpg", tarfile.LNKTYPE, "a.jpg")])
    (tmp_path / "x.tar").write_bytes(data)
    with tarfile.open(tmp_path / "x.tar", "a") as archive:
        info = tarfile.TarInfo("a.jpg")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"newer"))
    source = list_records(str(tmp_path / "x.tar"))
    assert contents(source) == {"a.jpg": (None, b"newer"), "b.jpg": (None, b"old")}


def test_all_other_members_are_named(tmp_path):
    links = [
        ("d/nothing.jpg", tarfile.SYMTYPE, "no.jpg"),
        ("d/hard.jpg", tarfile.LNKTYPE, "no.jpg"),
        ("d/away.jpg", tarfile.SYMTYPE, "../../etc/a.jpg"),
        ("d/self.jpg", tarfile.SYMTYPE, "self.jpg"),
        ("d/one.jpg", tarfile.SYMTYPE, "two.jpg"),
        ("d/two.jpg", tarfile.SYMTYPE, "one.jpg"),
        ("d/up", tarfile.SYMTYPE, ".."),
        ("d/same", tarfile.SYMTYPE, "../d"),
        ("d/pipe.jpg", tarfile.FIFOTYPE, ""),
        ("d/disk.jpg", tarfile.BLKTYPE, ""),
    ]
    source = listed(tmp_path / "x.tar", with_links({"d/a.jpg": b"A"}, links))
    assert contents(source) == {"d/a.jpg": ("d", b"A")}
    assert reasons(source) == {
        NO_TARGET: (2, ["d/hard.jpg", "d/nothing.jpg"]),
        "link out of the archive": (1, ["d/away.jpg"]),
        CIRCLE: (3, ["d/one.jpg", "d/self.jpg", "d/two.jpg"]),
        ABOVE: (2, ["d/same/", "d/up/"]),
        SPECIAL: (2, ["d/pipe.jpg", "d/disk.jpg"]),
    }


def test_a_sparse_member_is_named(tmp_path):
    tar = shutil.which("tar")
    with (tmp_path / "a.jpg").open("wb") as file:
        file.truncate(1 << 20)
        file.write(b"A")
    (tmp_path / "b.jpg").write_bytes(b"B")
    subprocess.run([tar, "--sparse", "-cf", "x.tar", "a.jpg", "b.jpg"], cwd=tmp_path, check=True)
    source = list_records(str(tmp_path / "x.tar"))
    assert contents(source) == {"b.jpg": (None, b"B")}
    assert reasons(source) == {"sparse file": (1, ["a.jpg"])}


def test_joined_archives_are_one_and_what_follows_is_named(tmp_path):
    data = tar_of({"a.jpg": b"A"}) + tar_of({"b.jpg": b"B"})
    assert set(contents(listed(tmp_path / "x.tar", data))) == {"a.jpg", "b.jpg"}
    source = listed(tmp_path / "y.tar", data + b"more" * 200)
    assert set(contents(source)) == {"a.jpg", "b.jpg"}
    assert reasons(source) == {"after the end of the archive": (1, [f"byte {len(data)}"])}


def test_names_that_are_not_utf_8_are_read(tmp_path):
    files = {"caf\udce9/\u00fc.jpg": b"A", "plain/a.jpg": b"B"}
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        data = tar_of(files, format=format, encoding="utf-8", errors="surrogateescape")
        source = listed(tmp_path / "x.tar", data)
        assert [record.key for record in source.records] == ["caf\udce9/\u00fc.jpg", "plain/a.jpg"]


def test_the_last_of_two_members_of_a_name_counts(tmp_path):
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of({"a.jpg": b"old"}))
    with tarfile.open(path, "a") as archive:
        (tmp_path / "new").write_bytes(b"newer")
        archive.add(tmp_path / "new", "a.jpg")
    source = list_records(str(path))
    assert contents(source) == {"a.jpg": (None, b"newer")}
    assert reasons(source) == {"replaced by a later member of its name": (1, ["a.jpg"])}


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
