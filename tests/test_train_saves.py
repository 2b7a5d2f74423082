"""Saves of a run, as a user meets them: beside the training, on bad disks, and what is kept.

Every fault ends in a run that goes on from the checkpoint before, says so with the path, and comes
to the very bits of a run without it.
"""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from model.checkpoint import load_encoder
from tests.journey import ROOT, train, train_arguments
from tests.test_train import assert_same_weights, metrics, weights

# Runs train.py with another torch.save; `count` is the number of the file.
CHANGED = """
import os, signal, sys, time
import torch
import train

save, count = torch.save, 0

def changed(content, file):
    global count
    count += 1
    {change}

torch.save = changed
if __name__ == "__main__":
    train.main(sys.argv[1:])
"""
SLOWLY = "time.sleep(1.5); save(content, file)"
KILLED = """
    if count < 3:
        return save(content, file)
    save({"half": torch.ones(1000)}, file)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""
UNLINKED = """
    save(content, file)
    if count >= 3:
        os.unlink(file.name)
"""
FULL = """
    if count == 3:
        file = open("/dev/full", "wb", buffering=0)
    save(content, file)
"""
WAITING = """
import sys
import train
from training.saving import CheckpointWriter

save = CheckpointWriter.save

def save_and_wait(self, *arguments):
    save(self, *arguments)
    self.wait()

CheckpointWriter.save = save_and_wait
if __name__ == "__main__":
    train.main(sys.argv[1:])
"""
SETTINGS = ("max_steps=8", "keep_checkpoints=9")


def changed(change):
    return CHANGED.replace("    {change}", change if "\n" in change else f"    {change}")


def run(code, home, out, **options):
    """Run a script, which processes of the run import again, with the words of train.py."""
    script = out.with_suffix(".py")
    script.write_text(code)
    words = train_arguments(home, out, *SETTINGS, **options)
    return subprocess.run(
        [sys.executable, script, *map(str, words[1:])],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def checkpoints(out):
    return {path.name: path.read_bytes() for path in sorted(out.glob("checkpoint-*.pt"))}


@pytest.fixture(scope="module")
def whole(home):
    out = home / "saved-whole"
    done = train(home, out, *SETTINGS)
    assert done.returncode == 0, done.stderr
    assert "done again" not in done.stdout
    return out


def assert_ends_like(home, whole, out, *said):
    """The next start says all of `said`, and ends with the weights of the whole run."""
    again = train(home, out, *SETTINGS)
    assert again.returncode == 0, again.stderr
    for words in said:
        assert re.search(words, again.stdout + again.stderr), again.stdout + again.stderr
    assert "Traceback" not in again.stderr
    assert_same_weights(weights(out, 8), weights(whole, 8))
    assert [line["step"] for line in metrics(out)] == list(range(1, 9))
    assert not (out / ".unfinished.pt").exists()


@pytest.mark.parametrize("code", [WAITING, changed(SLOWLY)], ids=["waiting", "slow disk"])
def test_saving_beside_the_training_writes_the_bytes_of_saving_that_it_waits_for(
    home, whole, tmp_path, code
):
    done = run(code, home, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert list(checkpoints(whole)) == [f"checkpoint-{step:08d}.pt" for step in (2, 4, 6, 8)]
    assert checkpoints(tmp_path / "run") == checkpoints(whole)
    assert done.stdout.count("is slower than checkpoint_every=2 asks") == (code != WAITING)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "deleted"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(home, whole, tmp_path, damage):
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    newest = out / "checkpoint-00000008.pt"
    content = bytearray(newest.read_bytes())
    said = ["the run had come to step 8, and the newest whole checkpoint in .* is of step 6"]
    if damage == "deleted":
        newest.unlink()
    else:
        content[len(content) // 2] ^= 4
        newest.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
        said.append(f"cannot read {newest}: .*; going on from checkpoint-00000006.pt")
    assert_ends_like(home, whole, out, *said, "going on after step 6")


def test_a_run_killed_while_it_writes_goes_on_from_the_checkpoint_before(home, whole, tmp_path):
    out = tmp_path / "run"
    done = run(changed(KILLED), home, out)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(checkpoints(out)) == ["checkpoint-00000002.pt", "checkpoint-00000004.pt"]
    left = out / ".unfinished.pt"
    assert left.stat().st_size > 1000
    said = f"a save was cut off: {left} was half a file, and is removed"
    assert_ends_like(home, whole, out, said, "going on after step 4")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [(UNLINKED, r"No such file or directory: '.*\.unfinished\.pt'"), (FULL, "No space left")],
    ids=["unlinked", "full"],
)
def test_a_file_lost_while_it_is_written_ends_the_run(home, whole, tmp_path, change, complaint):
    out = tmp_path / "run"
    done = run(changed(change), home, out)
    assert done.returncode == 2, done.stderr
    assert re.search(f"Error: step 6 is not saved in {out}: .*{complaint}", done.stderr)
    assert "run again to go on" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(checkpoints(out)) == ["checkpoint-00000002.pt", "checkpoint-00000004.pt"]
    assert not (out / "encoder.pt").exists()
    assert_ends_like(home, whole, out, "is of step 4: the steps since are done again")


def test_a_file_lost_once_while_it_is_written_is_written_again(home, whole, tmp_path):
    done = run(changed(UNLINKED.replace(">=", "==")), home, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert checkpoints(tmp_path / "run") == checkpoints(whole)


# The directory is removed before the fifth step; the seventh is killed when something is saved.
REMOVED = """
import os, shutil, signal, sys, time
from pathlib import Path
import train

good, calls, out = train.train_step, [], Path({out!r})

def train_step(*arguments):
    calls.append(1)
    if len(calls) == 5:
        shutil.rmtree(out)
    if len(calls) == 7:
        deadline = time.monotonic() + 60
        while not list(out.glob("checkpoint-*.pt")) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    return good(*arguments)

train.train_step = train_step
if __name__ == "__main__":
    train.main(sys.argv[1:])
"""


def test_a_directory_that_is_removed_is_saved_into_at_once_and_can_be_resumed(
    home, whole, tmp_path
):
    out = tmp_path / "run"
    code = REMOVED.replace("{out!r}", repr(str(out)))
    done = run(code, home, out, set="checkpoint_every=100")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout.count(f"WARNING: {out} was removed while the run is at work") == 1
    assert list(checkpoints(out)) == ["checkpoint-00000005.pt"]
    again = train(home, out, *SETTINGS)
    assert again.returncode == 0, again.stderr
    assert "going on after step 5" in again.stdout
    assert_same_weights(weights(out, 8), weights(whole, 8))


def test_a_run_goes_on_without_what_lay_beside_its_checkpoints_and_to_more_steps(
    home, whole, tmp_path
):
    out = tmp_path / "run"
    assert train(home, out, "max_steps=4").returncode == 0
    (out / "config.json").write_text("")
    (out / "bad_samples.json").write_text("{")
    (out / "metrics.jsonl").unlink()
    other = train(home, out, "max_steps=8", "seed=5")
    assert other.returncode == 2
    assert "seed was 0, is 5" in other.stderr
    more = train(home, out, *SETTINGS)
    assert more.returncode == 0, more.stderr
    for name in ("config.json", "bad_samples.json"):
        assert f"{out / name} is damaged" in more.stdout
        assert (out / f"{name}.damaged").exists()
    assert f"{out / 'metrics.jsonl'} has nothing of the 4 steps" in more.stdout
    assert_same_weights(weights(out, 8), weights(whole, 8))
    fewer = train(home, out, "max_steps=7")
    assert fewer.returncode == 2
    assert f"max_steps=7 lies before step 8, to which the run in {out} has come" in fewer.stderr


def test_a_full_disk_ends_every_process_alike(home, tmp_path):
    out = tmp_path / "run"
    done = run(changed(FULL), home, out, gpus=0, processes=2)
    assert done.returncode == 2, done.stderr
    assert len(re.findall("Error: ", done.stderr)) == 1
    assert "Error: step 6 is not saved in" in done.stderr
    assert "stopped by an error; what was saved before is kept" in done.stdout
    assert "Traceback" not in done.stderr
    assert list(checkpoints(out)) == ["checkpoint-00000002.pt", "checkpoint-00000004.pt"]


def test_milestones_are_saved_at_the_ends_of_their_epochs_and_stay(home, whole, tmp_path):
    out = tmp_path / "run"
    done = train(home, out, "max_steps=8", "keep_checkpoints=1", "milestone_every=1")
    assert done.returncode == 0, done.stderr
    assert list(checkpoints(out)) == [f"checkpoint-{step:08d}.pt" for step in (3, 6, 8)]
    assert sorted(path.name for path in out.glob("encoder*")) == [
        "encoder-00000003.json",
        "encoder-00000003.pt",
        "encoder-00000006.json",
        "encoder-00000006.pt",
        "encoder.json",
        "encoder.pt",
    ]
    assert_same_weights(weights(out, 8), weights(whole, 8))  # watching a run does not change it
    early, last = (load_encoder(out / name) for name in ("encoder-00000003.pt", "encoder.pt"))
    assert (early.conv1.weight != last.conv1.weight).any()
    more = train(home, out, "max_steps=8", "keep_checkpoints=1")  # free to change
    assert more.returncode == 0, more.stderr


def test_the_log_tells_how_far_apart_embeddings_are_whatever_the_processes(home, whole, tmp_path):
    lines = metrics(whole)
    for line in lines:
        assert 0 < line["embedding_std"] < 1.2
        assert 1 <= line["rank_me"] <= 8  # D of this preset, and its batch
    done = train(
        home, tmp_path / "two", "max_steps=2", "loss.negatives=global", gpus=0, processes=2
    )
    assert done.returncode == 0, done.stderr
    first, _ = metrics(tmp_path / "two")
    for name in ("embedding_std", "rank_me"):  # of the global batch, before the first update
        assert first[name] == pytest.approx(lines[0][name], rel=1e-3)
