"""Files are there whole or not at all."""

import os

import pytest

from files import write_text_whole, write_whole


def test_a_file_is_replaced_at_once(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"new")
        assert path.read_bytes() == b"old"

    write_whole(path, write)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("error", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path, error):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(type(error)):
        write_whole(path, write)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    path, calls = tmp_path / "a", []
    real_replace, real_fsync = os.replace, os.fsync

    def fsync(descriptor):
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        calls.append(("fsync", name, os.path.getsize(name) if os.path.isfile(name) else None))
        real_fsync(descriptor)

    def replace(source, target):
        calls.append(("replace", os.fspath(source), os.fspath(target)))
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(type(path), "replace", lambda self, target: replace(self, target))
    write_whole(path, lambda file: file.write(b"12345"))
    partial = f"{path}.partial"
    assert calls == [
        ("fsync", partial, 5),
        ("replace", partial, str(path)),
        ("fsync", str(tmp_path), None),
    ]


def test_the_name_until_then_can_be_chosen(tmp_path):
    def write(file):
        assert os.listdir(tmp_path) == ["half"]
        file.write(b"x")

    write_whole(tmp_path / "a", write, partial=tmp_path / "half")
    assert os.listdir(tmp_path) == ["a"]


def test_a_place_that_cannot_be_written_is_an_oserror(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        write_whole(tmp_path / "none" / "a", lambda file: file.write(b""))


def test_text_is_utf_8_and_what_that_lacks_is_escaped(tmp_path):
    write_text_whole(tmp_path / "a", "\u00fc caf\udce9\n")
    assert (tmp_path / "a").read_bytes() == "\u00fc caf\\udce9\n".encode()
