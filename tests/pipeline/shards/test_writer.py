"""The folder that is being written: where it lies, and what it may replace."""

from pathlib import Path

import pytest

from pipeline.shards.writer import check_free, new_folder, partial_of


def fill(out):
    with new_folder(out) as folder:
        (folder / "data").write_bytes(b"x")
        assert folder == partial_of(out)


@pytest.mark.parametrize("exists", [False, True])
def test_a_link_is_followed_so_that_renaming_stays_on_one_disk(tmp_path, exists):
    goal = tmp_path / "disk" / "goal"
    goal.parent.mkdir()
    if exists:
        goal.mkdir()
    (tmp_path / "out").symlink_to(goal, target_is_directory=True)
    assert partial_of(tmp_path / "out") == goal.with_name("goal.partial")
    fill(tmp_path / "out")
    assert (goal / "data").read_bytes() == b"x"
    assert (tmp_path / "out").is_symlink()
    assert [path.name for path in goal.parent.iterdir()] == ["goal"]


def test_the_folder_one_is_in_may_be_filled(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    out = Path()
    with new_folder(out) as folder:
        assert folder == tmp_path / "here.partial"
    assert (tmp_path / "here").is_dir()


def test_a_link_in_a_circle_is_refused(tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(ValueError, match="leads in a circle"):
        check_free(tmp_path / "a")


def test_an_empty_mount_point_is_refused(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "mounted")
    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: str(path) == str(tmp_path / "mounted"))
    for name in ("mounted", "link"):
        with pytest.raises(ValueError, match=f"a mount point.* inside it.*{name}/shards"):
            fill(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "mounted"]
