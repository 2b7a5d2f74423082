"""Folders as sources: labels, order, what is not a picture, and limits."""

import errno
import os
import subprocess
import sys

import pytest

from pipeline.sources import check_no_splits, is_image_name, list_records
from pipeline.sources.record import (
    ABOVE,
    CIRCLE,
    HIDDEN,
    NO_IMAGES,
    NO_TARGET,
    OTHER,
    SECOND_NAME,
    SPECIAL,
    sort_label_names,
)
from tests.pipeline.sources.support import write_files


def keys(source):
    return [record.key for record in source.records]


def reasons(source):
    return {entry.reason: (entry.count, list(entry.names)) for entry in source.ignored}


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
    os.mkfifo(tmp_path / "pipe.jpg")
    source = list_records(str(tmp_path))
    assert keys(source) == ["a.jpg"]
    assert reasons(source) == {
        HIDDEN: (2, ["._a.jpg", "x/.hidden.png"]),
        OTHER: (2, ["jpg", "notes.txt"]),
        SPECIAL: (1, ["pipe.jpg"]),
        NO_IMAGES: (1, ["x/"]),
    }
    assert "6 entries ignored" in source.description
    assert "2 not named like an image" in source.description


def test_of_many_ignored_entries_only_the_first_are_named(tmp_path):
    write_files(tmp_path, {"a.jpg": b""} | {f"{number:04d}.txt": b"" for number in range(300)})
    (ignored,) = list_records(str(tmp_path)).ignored
    assert ignored.count == 300
    assert ignored.names == tuple(f"{number:04d}.txt" for number in range(5))


def test_hidden_and_system_folders_are_no_classes(tmp_path):
    names = ["a/1.jpg", "b/1.jpg", "b/.ipynb_checkpoints/1.jpg", ".Trash-1000/files/old.jpg"]
    names += ["__MACOSX/a/1.jpg", "a/@eaDir/1.jpg/thumb.jpg", "a/Thumbs.db", "a/._1.jpg"]
    write_files(tmp_path, dict.fromkeys([*names, "lost+found/x.jpg"], b""))
    source = list_records(str(tmp_path))
    assert keys(source) == ["a/1.jpg", "b/1.jpg"]
    assert source.label_names == ("a", "b")
    (ignored,) = source.ignored
    assert (ignored.reason, ignored.count) == (HIDDEN, 7)
    assert set(ignored.names) <= {
        *(".Trash-1000/", "__MACOSX/", "lost+found/", "b/.ipynb_checkpoints/"),
        *("a/@eaDir/", "a/Thumbs.db", "a/._1.jpg"),
    }


def test_links_are_followed_but_not_in_circles(tmp_path):
    write_files(tmp_path, {"real/a.jpg": b"a"})
    outside = write_files(tmp_path / ".." / f"{tmp_path.name}-outside", {"b.jpg": b"b"})
    (tmp_path / "linked").symlink_to(outside, target_is_directory=True)
    (tmp_path / "real" / "c.jpg").symlink_to("a.jpg")
    (tmp_path / "real" / "up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "real" / "above").symlink_to(tmp_path.parent, target_is_directory=True)
    (outside / "itself").symlink_to(".")
    (tmp_path / "real" / "self").symlink_to("self")
    source = list_records(str(tmp_path))
    assert keys(source) == ["linked/b.jpg", "real/a.jpg", "real/c.jpg"]
    assert source.records[0].read()[0] == b"b"
    assert reasons(source) == {
        ABOVE: (3, ["linked/itself/", "real/above/", "real/up/"]),
        CIRCLE: (1, ["real/self"]),
    }


def test_links_to_nothing_are_named(tmp_path):
    write_files(tmp_path, {"real/a.jpg": b"a"})
    (tmp_path / "real" / "b.jpg").symlink_to("/no/such/disk/b.jpg")
    (tmp_path / "real" / "c.jpg").symlink_to("a.jpg/c.jpg")
    (tmp_path / "unmounted").symlink_to("/no/such/disk")
    source = list_records(str(tmp_path))
    assert keys(source) == ["real/a.jpg"]
    assert reasons(source) == {NO_TARGET: (3, ["unmounted", "real/b.jpg", "real/c.jpg"])}


@pytest.mark.parametrize("link", ["0", "z"])
def test_a_class_folder_keeps_its_class_when_a_link_leads_to_it(tmp_path, link):
    write_files(tmp_path, {"cat/a.jpg": b"", "dog/puppies/b.jpg": b""})
    (tmp_path / link).symlink_to("cat")
    (tmp_path / "cat" / link).symlink_to("../dog/puppies")
    source = list_records(str(tmp_path))
    assert {r.key: r.label_name for r in source.records} == {
        "cat/a.jpg": "cat",
        "dog/puppies/b.jpg": "dog",
    }
    assert reasons(source) == {SECOND_NAME: (2, sorted([f"{link}/", f"cat/{link}/"], key=len))}


def test_of_two_links_to_a_folder_outside_the_first_counts(tmp_path):
    outside = write_files(tmp_path / "outside", {"sub/a.jpg": b""})
    root = write_files(tmp_path / "root", {"x/b.jpg": b""})
    for name in ("m", "n", "a/deeper"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).symlink_to(outside)
    source = list_records(str(root))
    assert keys(source) == ["m/sub/a.jpg", "x/b.jpg"]
    assert reasons(source) == {SECOND_NAME: (2, ["n/", "a/deeper/"]), NO_IMAGES: (1, ["a/"])}


def test_a_link_to_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    outside = write_files(tmp_path / "outside", {"a.jpg": b""})
    root = write_files(tmp_path / "root", {"x/b.jpg": b""})
    (root / "away").symlink_to(outside)
    real = os.scandir
    broken = [b"away"]

    def scandir(path):
        if any(name in path for name in broken):
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    source = list_records(str(root))
    assert keys(source) == ["x/b.jpg"]
    assert reasons(source) == {"link to what cannot be read (stale file handle)": (1, ["away/"])}
    broken.append(b"x")  # its own images are there, and must not be left out
    with pytest.raises(ValueError, match=r"/x: cannot be listed: Stale file handle"):
        list_records(str(root))


@pytest.mark.parametrize("top", ["photos/", "photos/2024/", "train/"])
def test_a_top_folder_that_holds_everything_is_no_class(tmp_path, top):
    names = [f"{top}{label}/a.jpg" for label in "cb"]
    write_files(tmp_path, dict.fromkeys([*names, f"{top}beside.jpg", "readme.txt"], b""))
    (tmp_path / top / "empty").mkdir()
    source = list_records(str(tmp_path))
    assert keys(source) == sorted([*names, f"{top}beside.jpg"])
    assert [record.label_name for record in source.records] == ["b", None, "c"]
    assert f"all in {top} which is taken for no class" in source.description
    assert reasons(source)[NO_IMAGES] == (1, [f"{top}empty/"])
    as_it_is = list_records(str(tmp_path), first_folder_is_class=True)
    assert as_it_is.label_names == (top.partition("/")[0],)


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["rose/a.jpg", "rose/b.jpg"], ["rose", "rose"]),
        (["set/rose/a.jpg", "set/rose/b.jpg"], ["rose", "rose"]),
        (["rose/a.jpg", "rose/more/b.jpg"], ["rose", "rose"]),
        (["train/a.jpg", "train/b.jpg"], [None, None]),
        (["set/val/a.jpg"], [None]),
        (["ab/x/1.jpg", "ac/x/1.jpg"], ["ab", "ac"]),
    ],
)
def test_a_single_class_keeps_its_name_unless_it_is_a_split(tmp_path, names, labels):
    write_files(tmp_path, dict.fromkeys(names, b""))
    assert [record.label_name for record in list_records(str(tmp_path)).records] == labels


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["train", "val"], "train, val are splits"),
        (["Training", "TEST", "validation"], r"--source \S+/set/TEST or --source \S+/set/Training"),
        (["train2017", "val2017", "unlabeled"], "train2017, val2017 are splits"),
        (["train", "bus", "car"], None),
        (["test", "trial"], None),
    ],
)
def test_splits_are_not_taken_for_classes(tmp_path, names, wanted):
    write_files(tmp_path / "set", {f"{name}/cat/a.jpg": b"" for name in names})
    source = list_records(str(tmp_path))
    if wanted is None:
        check_no_splits(source, str(tmp_path))
    else:
        with pytest.raises(ValueError, match=wanted):
            check_no_splits(source, f"{tmp_path}/")
        with pytest.raises(ValueError, match="--first-folder-is-class"):
            check_no_splits(source, str(tmp_path))


def test_equal_numbers_have_one_order(tmp_path):
    assert sort_label_names({"1", "01", "001", "2", "02"}) == ("001", "01", "1", "02", "2")
    assert sort_label_names({"1", "01", "x"}) == ("01", "1", "x")


def test_the_order_in_which_a_file_system_lists_does_not_matter(tmp_path, monkeypatch):
    names = [f"{label}/{number}.jpg" for label in "cab" for number in range(3)]
    write_files(tmp_path, dict.fromkeys(names, b""))
    (tmp_path / "0").symlink_to("a")
    (tmp_path / "9").symlink_to("a")
    real, listings = os.scandir, []

    class Shuffled:
        def __init__(self, path):
            with real(path) as found:
                self.entries = sorted(found, key=lambda entry: entry.name, reverse=bool(listings))

        def __enter__(self):
            return iter(self.entries)

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(os, "scandir", Shuffled)
    for _ in range(2):
        source = list_records(str(tmp_path))
        listings.append((keys(source), source.label_names, source.ignored, source.description))
    assert listings[0] == listings[1]


def test_keys_and_their_order_do_not_depend_on_the_locale(tmp_path):
    for name in (b"caf\xe9", "\u00fc".encode(), "\U0001f408".encode(), b"plain"):
        os.makedirs(os.fsencode(tmp_path) + b"/" + name)
        with open(os.fsencode(tmp_path) + b"/" + name + b"/a.jpg", "wb") as file:
            file.write(name)
    code = (
        "import sys; from pipeline.sources import list_records\n"
        "for record in list_records(sys.argv[1]).records:\n"
        "    print(ascii((record.key, record.label_name, record.read())))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code, tmp_path],
            env={**os.environ, "LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": utf8},
            check=True,
            capture_output=True,
        ).stdout
        for locale, utf8 in (("C", "0"), ("C.UTF-8", "1"))
    ]
    assert outputs[0] == outputs[1]
    assert len(outputs[0].splitlines()) == 4


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
    with pytest.raises(
        ValueError, match=r"no pictures there, 3 entries .*2 not named like an image"
    ):
        list_records(str(tmp_path))
