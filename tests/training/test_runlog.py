"""The run directory: metrics that survive a restart, and a directory that belongs to one run."""

import json
import subprocess

import pytest

from pipeline.shards.memory import MemoryShards
from tests.support import textured_image
from training.config import TrainConfig, apply_settings
from training.launch import World
from training.runlog import RunLog, check_same_run, checkout_commit, write_description


def lines(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def log_steps(out, start, steps, total=10):
    with RunLog(out, start_step=start, total_steps=total, name="test") as log:
        for step in steps:
            log.write(step, loss=step / 2, images_per_second=100.0, wait_share=0.25)


def test_metrics_are_one_object_a_line(tmp_path, capsys):
    log_steps(tmp_path, 0, range(1, 11))
    fourth = lines(tmp_path)[3]
    assert fourth.pop("seconds") >= 0
    assert fourth == {
        "step": 4,
        "loss": 2.0,
        "images_per_second": 100.0,
        "wait_share": 0.25,
    }
    assert "step 10/10  loss 5.0000  100.0 images/s  waiting 25.0 %" in capsys.readouterr().out
    assert list((tmp_path / "tensorboard").iterdir())


def test_steps_done_again_replace_the_lines_of_the_killed_run(tmp_path):
    log_steps(tmp_path, 0, range(1, 7))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "lo')  # cut off by a kill
    log_steps(tmp_path, 4, range(5, 9))
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 9))


def test_the_time_of_a_run_is_that_of_all_its_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("time.monotonic", iter(range(0, 100_000, 10)).__next__)
    log_steps(tmp_path, 0, range(1, 7))
    before = [line["seconds"] for line in lines(tmp_path)]
    assert before == sorted(before)
    assert before[-1] >= 50
    log_steps(tmp_path, 4, range(5, 9))
    after = [line["seconds"] for line in lines(tmp_path)]
    assert after[:4] == before[:4]
    assert after[4] - after[3] >= 10
    assert after[4] < before[-1]  # step 6 of the start before is not in the run any more


@pytest.mark.parametrize(("start", "found"), [(4, "of step 4"), (0, "none")])
def test_steps_that_are_done_again_are_told(tmp_path, capsys, start, found):
    log_steps(tmp_path, 0, range(1, 7))
    assert "done again" not in capsys.readouterr().out
    log_steps(tmp_path, start, range(start + 1, 9))
    told = f"come to step 6, and the newest whole checkpoint in {tmp_path} is {found}: the steps"
    assert told in capsys.readouterr().out
    log_steps(tmp_path, 8, [])
    assert "done again" not in capsys.readouterr().out


def test_a_collapse_is_told_once(tmp_path, capsys):
    with RunLog(tmp_path, start_step=0, total_steps=9, name="test") as log:
        for step, spread in enumerate((0.9, 0.2, 0.05, 0.01), 1):
            log.write(step, loss=1.0, embedding_std=spread, rank_me=3.0)
    said = capsys.readouterr().out
    assert said.count("WARNING: embeddings have collapsed") == 1
    assert "step 3: WARNING: embeddings have collapsed: embedding_std is 0.05, below 0.1" in said
    assert [line["embedding_std"] for line in lines(tmp_path)] == [0.9, 0.2, 0.05, 0.01]


def test_the_description_has_the_command_and_the_commit(tmp_path, manifest, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--data", "my shards"])
    monkeypatch.setattr("training.runlog.checkout_commit", lambda: "abc123-dirty")
    write_description(tmp_path, TrainConfig(), manifest, World())
    found = json.loads((tmp_path / "config.json").read_text())
    assert found["command"] == "python train.py --data 'my shards'"
    assert found["commit"] == "abc123-dirty"


def test_the_commit_of_a_checkout_is_read_where_git_can_tell(tmp_path, monkeypatch):
    def git(*words):
        identity = ["-c", "user.name=x", "-c", "user.email=x@y.z"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    (tmp_path / "training").mkdir()
    file = tmp_path / "training" / "runlog.py"
    file.write_text("one")
    monkeypatch.setattr("training.runlog.__file__", str(file))
    assert checkout_commit() is None  # no checkout
    git("init", "-q")
    assert checkout_commit() is None  # nor a commit
    git("add", ".")
    git("commit", "-qm", "one")
    commit = checkout_commit()
    assert commit
    assert git("rev-parse", "HEAD").startswith(commit)
    file.write_text("two")
    assert checkout_commit() == f"{commit}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))  # no git
    assert checkout_commit() is None


@pytest.fixture
def manifest():
    return MemoryShards.from_images([textured_image(8, 8)]).manifest


def test_a_new_or_an_own_directory_is_accepted(tmp_path, manifest):
    config = TrainConfig()
    check_same_run(tmp_path / "new", config, manifest)
    check_same_run(tmp_path, config, manifest)
    write_description(tmp_path, config, manifest, World(), data=tmp_path)
    check_same_run(tmp_path, config, manifest)
    check_same_run(tmp_path, apply_settings(config, ["loader.threads=7"]), manifest)


def test_another_run_is_refused(tmp_path, manifest):
    write_description(tmp_path, TrainConfig(), manifest, World(), data=tmp_path)
    (tmp_path / "checkpoint-00000001.pt").touch()
    with pytest.raises(ValueError, match=r"other settings \(seed was 0, is 4\)"):
        check_same_run(tmp_path, apply_settings(TrainConfig(), ["seed=4"]), manifest)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot read"):
        check_same_run(tmp_path, TrainConfig(), manifest)
