"""The run directory: metrics that survive a restart, and a directory that belongs to one run."""

import errno
import json
import os
import shutil
import subprocess
import threading

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

from model import checkpoint
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.batch import MultiCropBatch
from pipeline.shards.memory import MemoryShards
from pipeline.stats import OTHER_WORK
from tests.support import textured_image
from training.claim import claimed
from training.config import TrainConfig, apply_settings, to_dict
from training.launch import World
from training.runlog import (
    DescribedRun,
    RunLog,
    _described,
    check_same_run,
    checkout_commit,
    described,
    described_run,
    last_values,
)


def lines(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def opened(out, *, start_step=0, total_steps=10, description=None, renew=lambda: False):
    return RunLog(
        out,
        start_step=start_step,
        total_steps=total_steps,
        name="test",
        description=description or {},
        renew=renew,
    )


def log_steps(out, start, steps, total=10):
    with opened(out, start_step=start, total_steps=total) as log:
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


def test_tags_of_tensorboard_stand_in_groups(tmp_path):
    recipe = MultiCropRecipe(num_large=2, num_small=0)
    views = torch.zeros(2, 3, 3, 4, 5)
    with opened(tmp_path) as log:
        log.show_views(
            MultiCropBatch(large=views, small=views[:0], labels=None, sample_ids=None, epoch=0),
            recipe,
            0,
        )
        log.write(1, loss=1.0, accuracy=0.5, rank_me=2.0, learning_rate=0.1, wait_share=0.1)
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    tags = ["loss/total", "loss/contrastive_accuracy", "features/rank_me"]
    tags += ["schedule/learning_rate", "feed/wait_share"]
    assert sorted(found.Tags()["scalars"]) == sorted(tags)
    (image,) = found.Images("views/large")
    assert (image.height, image.width) == (3 * 4, 2 * 5)


def test_a_live_line_keeps_what_matters_most():
    values = {"loss": 3.941, "knn_top1": 45.6, "images_per_second": 167.0, "wait_share": 0.0}
    busy, step = ({"bottleneck": name} for name in (OTHER_WORK, "step"))
    whole = "loss 3.9410  kNN 45.6 %  167.0 images/s  waiting 0.0 %  limited by step"
    assert _described(values | step) == whole
    assert _described(values | step, 60) == whole.replace("  waiting 0.0 %", "")
    assert _described(values | step, 50) == "loss 3.9410  kNN 45.6 %  167.0 images/s"
    assert _described(values | busy, 60) == f"loss 3.9410  kNN 45.6 %  {OTHER_WORK}"
    assert _described(values | step, 1) == "loss 3.9410"


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
    with opened(tmp_path) as log:
        for step, spread in enumerate((0.9, 0.2, 0.05, 0.01), 1):
            log.write(step, loss=1.0, embedding_std=spread, rank_me=3.0)
    said = capsys.readouterr().out
    assert said.count("WARNING: embeddings have collapsed") == 1
    assert "step 3: WARNING: embeddings have collapsed: embedding_std is 0.05, below 0.1" in said
    assert [line["embedding_std"] for line in lines(tmp_path)] == [0.9, 0.2, 0.05, 0.01]


def test_the_description_has_the_command_and_the_commit(tmp_path, manifest, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "--data", "my shards"])
    monkeypatch.setattr("training.runlog.checkout_commit", lambda: "abc123-dirty")
    found = described(TrainConfig(), manifest, World(), data=tmp_path)
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


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_lines_that_a_full_disk_refuses_are_written_when_it_can(tmp_path, monkeypatch, capsys):
    metrics = tmp_path / "metrics.jsonl"
    with opened(tmp_path) as log:
        log.write(1, loss=1.0)
        metrics.rename(tmp_path / "room")
        metrics.symlink_to("/dev/full")
        for step in (2, 3):
            log.write(step, loss=1.0)
        log.keep_bad_samples({})
        said = capsys.readouterr().out
        assert said.count("WARNING") == 1
        assert f"the log in {tmp_path} cannot be written" in said
        assert "No space left" in said
        (tmp_path / "room").replace(metrics)
        log.write(4, loss=1.0)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]
    assert "WARNING" not in capsys.readouterr().out


def test_lines_that_were_never_written_are_told(tmp_path, capsys):
    with opened(tmp_path) as log:
        (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
        log.write(1, loss=1.0)
        log.write(2, loss=1.0)
    assert "2 lines of" in capsys.readouterr().out


def test_lists_that_a_full_disk_refuses_are_written_when_it_can(tmp_path, monkeypatch, capsys):
    import training.runlog

    write, full = training.runlog.write_text_whole, [True]

    def perhaps(path, text):
        if full:
            raise FULL
        write(path, text)

    with opened(tmp_path) as log:
        monkeypatch.setattr(training.runlog, "write_text_whole", perhaps)
        log.keep_bad_samples({3: "cat.jpg"})
        log.keep_skipped_steps({1: [4, 5]})
        assert capsys.readouterr().out.count("WARNING") == 1
        full.clear()
        log.write(2, loss=1.0)
    assert json.loads((tmp_path / "bad_samples.json").read_text()) == {"3": "cat.jpg"}
    assert json.loads((tmp_path / "skipped_steps.json").read_text()) == {"2": [4, 5]}


def test_tensorboard_that_cannot_write_ends_alone(tmp_path, monkeypatch, capfd):
    def refuse(*_):
        raise FULL

    hook = threading.excepthook
    with opened(tmp_path) as log:
        log.write(1, loss=1.0)
        monkeypatch.setattr(LocalFileSystem, "append", refuse)
        for step in range(2, 60):  # its queue has room for ten; its thread writes beside this
            log.write(step, loss=1.0)
    shown = capfd.readouterr()
    assert shown.out.count("TensorBoard's file cannot be written") == 1
    assert "Traceback" not in shown.err
    assert len(lines(tmp_path)) == 59
    assert threading.excepthook is hook


def test_tensorboard_that_cannot_begin_is_done_without(tmp_path, capsys):
    (tmp_path / "tensorboard").write_text("in the way")
    log_steps(tmp_path, 0, (1, 2))
    assert capsys.readouterr().out.count("TensorBoard's file cannot be written") == 1
    assert len(lines(tmp_path)) == 2


@pytest.mark.parametrize("emptied", [False, True])
def test_a_removed_directory_is_made_again_with_what_is_known(tmp_path, capsys, emptied):
    out = tmp_path / "run"
    with claimed(out) as claim, opened(out, description={"a": 1}, renew=claim.renew) as log:
        log.write(1, loss=1.0)
        log.keep_bad_samples({3: "cat.jpg"})
        log.keep_skipped_steps({0: [4, 5]})
        assert not log.take_removal()
        shutil.rmtree(out)
        if emptied:
            out.mkdir()
        for step in (2, 3):
            log.write(step, loss=1.0)
        assert log.take_removal()
        assert not log.take_removal()
    assert (
        capsys.readouterr().out.count(f"WARNING: {out} was removed while the run is at work") == 1
    )
    assert [line["step"] for line in lines(out)] == [2, 3]
    assert json.loads((out / "config.json").read_text()) == {"a": 1}
    assert json.loads((out / "bad_samples.json").read_text()) == {"3": "cat.jpg"}
    assert json.loads((out / "skipped_steps.json").read_text()) == {"1": [4, 5]}
    assert list((out / "tensorboard").iterdir())


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": "b"}', '{"1": 2}', "\0" * 50])
@pytest.mark.parametrize("name", ["bad_samples.json", "skipped_steps.json"])
def test_a_damaged_list_is_set_aside_by_name(tmp_path, capsys, name, content):
    (tmp_path / name).write_text(content)
    with opened(tmp_path, start_step=4) as log:
        assert (log.bad_samples, log.skipped_steps) == ({}, {})
    said = capsys.readouterr().out
    assert f"{tmp_path / name} is damaged" in said
    assert f"set aside as {name}.damaged; the list begins anew" in said
    assert (tmp_path / f"{name}.damaged").read_text() == content
    assert not (tmp_path / name).exists()


def test_damaged_metrics_are_set_aside_and_their_other_lines_kept(tmp_path, capsys):
    log_steps(tmp_path, 0, range(1, 5))
    path = tmp_path / "metrics.jsonl"
    first, *others = path.read_text().splitlines(keepends=True)
    content = first + "\0\0\0\n" + "".join(others)
    path.write_text(content)
    assert last_values(tmp_path)["step"] == 4
    log_steps(tmp_path, 4, [5])
    assert "metrics.jsonl is damaged (1 lines are not records): set" in capsys.readouterr().out
    assert (tmp_path / "metrics.jsonl.damaged").read_text() == content
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4, 5]


def test_metrics_that_were_emptied_are_told(tmp_path, capsys):
    log_steps(tmp_path, 0, range(1, 5))
    (tmp_path / "metrics.jsonl").write_text("")
    assert last_values(tmp_path) == {}
    log_steps(tmp_path, 4, [5])
    assert "has nothing of the 4 steps that were done" in capsys.readouterr().out


@pytest.fixture
def manifest():
    return MemoryShards.from_images([textured_image(8, 8)]).manifest


def write_description(out, config, manifest):
    description = described(config, manifest, World(), data=out)
    (out / "config.json").write_text(json.dumps(description))


@pytest.mark.parametrize("name", ["config.json.partial", ".unfinished.pt"])
def test_what_a_killed_start_leaves_is_no_other_directory(tmp_path, manifest, name):
    (tmp_path / name).write_text("half")
    check_same_run(tmp_path, TrainConfig(), manifest)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not a run directory"):
        check_same_run(tmp_path, TrainConfig(), manifest)


def test_a_new_or_an_own_directory_is_accepted(tmp_path, manifest):
    config = TrainConfig()
    check_same_run(tmp_path / "new", config, manifest)
    check_same_run(tmp_path, config, manifest)
    write_description(tmp_path, config, manifest)
    check_same_run(tmp_path, config, manifest)
    check_same_run(tmp_path, apply_settings(config, ["loader.threads=7"]), manifest)


def test_another_run_is_refused(tmp_path, manifest):
    write_description(tmp_path, TrainConfig(), manifest)
    (tmp_path / "checkpoint-00000001.pt").touch()
    with pytest.raises(ValueError, match=r"other settings \(seed was 0, is 4\)"):
        check_same_run(tmp_path, apply_settings(TrainConfig(), ["seed=4"]), manifest)


@pytest.mark.parametrize(
    "content", [None, "", "{", "[1]", '{"config": {}}', '{"config": {"a": 1}}']
)
def test_a_damaged_description_is_the_checkpoints(tmp_path, manifest, capsys, content):
    config = apply_settings(TrainConfig(), ["seed=4"])
    checkpoint.save(tmp_path, 8, {"config": to_dict(config), "x": torch.ones(2)})
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    check_same_run(tmp_path, config, manifest)
    assert described_run(tmp_path) == DescribedRun(config=config, data=None)
    with pytest.raises(ValueError, match=r"other settings \(seed was 4, is 5\)"):
        check_same_run(tmp_path, apply_settings(TrainConfig(), ["seed=5"]), manifest)
    description = json.loads(json.dumps(described(config, manifest, World(), data=tmp_path)))
    opened(tmp_path, start_step=8, description=description).close()
    said = capsys.readouterr().out
    path = tmp_path / "config.json"
    assert f"{path} is missing" in said if content is None else f"{path} is damaged" in said
    assert "the settings agree with the checkpoint's" in said
    assert json.loads(path.read_text()) == description
    if content is not None:
        assert (tmp_path / "config.json.damaged").read_text() == content


def test_a_run_whose_settings_are_lost_altogether_is_refused(tmp_path, manifest):
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "checkpoint-00000001.pt").touch()
    with pytest.raises(ValueError, match=r"no checkpoint in .* can be read"):
        check_same_run(tmp_path, TrainConfig(), manifest)
    (tmp_path / "checkpoint-00000001.pt").unlink()
    checkpoint.save(tmp_path, 1, {"config": {"of": "another version"}})
    with pytest.raises(ValueError, match=r"cannot read .*, nor the configuration in .*; give anot"):
        check_same_run(tmp_path, TrainConfig(), manifest)
