"""What train.py refuses: one line, exit status 2, no traceback, nothing written or lost."""

import errno
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from tests.journey import ROOT, command, train, train_arguments
from train import main


def in_process(*arguments):
    """Run train.py's command here: what is refused is refused before any process starts."""
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return subprocess.CompletedProcess(arguments, result.exit_code, result.stdout, result.stderr)


def assert_refused(done, *fragments):
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    for fragment in fragments:
        assert fragment in line


@pytest.mark.parametrize(
    ("settings", "options", "fragments"),
    [
        (
            ["global_batch_size=25"],
            {},
            ["24 samples do not fill one global batch of 25; give --set global_batch_size=16"],
        ),
        (
            ["global_batch_size=4096"],
            {},
            ["--preset small-images --set global_batch_size=16 --set num_negatives=15"],
        ),
        (["loss.heat=1"], {}, ["unknown setting 'loss.heat'", "temperature"]),
        (["global_batch_size"], {}, ["--set takes name=value"]),
        ([], {"gpus": 8}, ["--gpus 8, but this machine has"]),
        ([], {"gpus": 0, "processes": 3}, ["cannot be divided among 3 processes"]),
        ([], {"gpus": 0, "processes": 0}, ["--processes >= 1"]),
        (["loss.num_negatives=8"], {}, ["num_negatives=8 needs a batch of at least 9"]),
        (
            ["loss.num_negatives=7"],
            {"gpus": 0, "processes": 2},
            ["num_negatives=7 needs a batch of at least 8, got 4", "loss.negatives=global"],
        ),
        (
            ["accumulate=3"],
            {"gpus": 0, "processes": 2},
            ["accumulate=3 does not divide the 4 samples", "to a multiple of 6"],
        ),
        (
            ["accumulate=4"],
            {},
            ["num_negatives=3 needs a batch of at least 4, got 2", "or lower accumulate=4"],
        ),
        (["accumulate=8", "num_negatives=0"], {}, ["needs a batch of at least 2, got 1"]),
        (["accumulate=0"], {}, ["accumulate must be at least 1, got 0"]),
        (["max_skipped=0"], {}, ["max_skipped must be at least 1, got 0"]),
        (
            ["patience_seconds=300"],
            {"gpus": 0, "processes": 2},
            ["patience_seconds=300 must be above loader.stall_seconds=300"],
        ),
        (["loader.decoder=magic"], {}, ["unknown decoder 'magic'"]),
        (["loader.executor=magic"], {}, ["unknown executor 'magic'"]),
        (["loader.executor=fused"], {}, ["executor fused makes views on CUDA devices, not on"]),
        (["decoder=dali-gpu"], {"gpus": 0}, ["decoder dali-gpu decodes on CUDA devices, not on"]),
        (
            ["recipe.mask_fill=other-image", "loss.negatives=global"],
            {"gpus": 0, "processes": 8},
            ["mask_fill=other-image needs an even number of images per process, got 1"],
        ),
        (["recipe.num_large=1", "loss.same_view_pairs=false"], {}, ["pair"]),
        (["recipe.mean=nan,0,0"], {}, ["recipe.mean takes a finite number, got nan"]),
        (["optimizer.base_learning_rate=inf"], {}, ["takes a finite number, got inf"]),
        (["recipe.large_even.blur_divider=1e-300"], {}, ["blur_divider must be at least 0.5"]),
        (["recipe.large_size=100000"], {}, ["view sizes must lie in 1..2048"]),
        (["optimizer.warmup_epochs=4"], {}, ["epochs=4 end within the warm-up"]),
    ],
)
def test_wrong_wishes_end_at_once(home, tmp_path, settings, options, fragments):
    if torch.cuda.device_count() >= 8 and "gpus" in options:
        pytest.skip("this machine has 8 GPUs")
    done = in_process(*train_arguments(home, tmp_path / "run", *settings, **options)[1:])
    assert_refused(done, *fragments)
    assert not (tmp_path / "run").exists()


def test_missing_or_foreign_shards_end_at_once(home, tmp_path):
    for data in (tmp_path / "nowhere", tmp_path):
        done = in_process("--data", data, "--out", tmp_path / "run")
        assert_refused(done, str(data))


def test_a_cut_off_shard_ends_at_once(home, tmp_path):
    shards = tmp_path / "cut"
    shards.mkdir()
    for path in (home / "shards").iterdir():
        content = path.read_bytes()
        keep = len(content) // 2 if path.suffix == ".beton" else len(content)
        (shards / path.name).write_bytes(content[:keep])
    done = in_process("--data", shards, "--out", tmp_path / "run")
    assert_refused(done, "data.beton")


def test_a_folder_of_something_else_is_left_alone(home, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    done = in_process(*train_arguments(home, tmp_path)[1:])
    assert_refused(done, "is not a run directory; give another --out")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_run_is_not_resumed_with_other_settings_or_data(home, tmp_path):
    out = tmp_path / "run"
    assert train(home, out, "max_steps=8").returncode == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert_refused(
        in_process(*train_arguments(home, out, "seed=5")[1:]), "seed was 0, is 5", "another --out"
    )
    other = tmp_path / "other"
    made = command("convert_dataset.py", "--source", "demo-val", "--limit", 24, "--out", other)
    assert made.returncode == 0, made.stderr
    words = train_arguments(home, out, "max_steps=8")[1:]
    words[words.index("--data") + 1] = other
    done = in_process(*words)
    assert_refused(done, "was started on other shards")
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_a_run_without_a_checkpoint_takes_corrected_settings(home, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.json").write_text("half a con")
    (out / "metrics.jsonl").write_bytes(b'5\n[]\n{"loss": 1}\n\xff\xfe\n{"step": 1')
    assert train(home, out, "max_steps=1", "seed=9").returncode == 0
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("option", ["--data", "--out"])
def test_a_path_that_the_file_system_refuses_ends_at_once(home, tmp_path, option):
    words = train_arguments(home, tmp_path / "run")[1:]
    words[words.index(option) + 1] = tmp_path / ("x" * 300)
    done = in_process(*words)
    assert_refused(done, f"cannot use {tmp_path / 'xxx'}", "file name too long", "another path")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("processes", [1, 2])
def test_shards_that_may_not_be_read_end_at_once(home, tmp_path, processes):
    shards = tmp_path / "shards"
    shutil.copytree(home / "shards", shards)
    (shards / "data.beton").chmod(0)
    words = train_arguments(home, tmp_path / "run", gpus=0, processes=processes)
    words[words.index("--data") + 1] = shards
    # root reads whatever it likes; without this capability it does not
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if not os.getuid() else []
    done = subprocess.run(
        [*drop, sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )
    assert_refused(done, f"cannot use {shards / 'data.beton'}: permission denied")


@pytest.mark.parametrize("out", ["file/run", "file"])
def test_an_out_that_cannot_be_written_ends_at_once(home, tmp_path, out):
    (tmp_path / "file").write_text("")
    done = in_process(*train_arguments(home, tmp_path / out)[1:])
    assert_refused(done, "another --out")


def test_damaged_checkpoints_end_in_one_line_in_every_number_of_processes(home, tmp_path):
    out = tmp_path / "run"
    assert train(home, out, "max_steps=2").returncode == 0
    for path in out.glob("checkpoint-*.pt"):
        path.write_bytes(path.read_bytes()[:100])
    for processes in (1, 2):
        done = train(home, out, "max_steps=2", gpus=0, processes=processes)
        assert_refused(done, "checkpoint")


@pytest.mark.parametrize(
    ("name", "fragments"),
    [
        ("notes.txt", ["notes.txt has no ending of an image", ".png"]),
        ("views", ["views has no ending of an image"]),
        ("nowhere/views.png", ["the folder", "nowhere does not exist"]),
        ("folder.png", ["folder.png is a folder"]),
    ],
)
def test_views_are_shown_in_a_new_image_only(home, tmp_path, name, fragments):
    (tmp_path / "notes.txt").write_text("precious")
    (tmp_path / "folder.png").mkdir()
    words = ("--data", home / "shards", "--preset", home / "tiny.toml")
    done = in_process(*words, "--show-views", tmp_path / name)
    assert_refused(done, *fragments)
    assert (tmp_path / "notes.txt").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.png", "notes.txt"]


def test_views_that_cannot_be_written_or_shown_are_one_line(home, tmp_path, monkeypatch):
    words = ("--data", home / "shards", "--preset", home / "tiny.toml", "--show-views")
    assert_refused(in_process(*words, tmp_path / "views.png", "--plan"), "--plan and --show-views")
    monkeypatch.setattr("files.os.fsync", full_disk)
    done = in_process(*words, tmp_path / "views.png")
    assert_refused(done, "cannot write", "views.png: No space left on device")
    assert list(tmp_path.iterdir()) == []


def full_disk(_):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_without_views_to_show_a_run_needs_its_folder(home):
    done = in_process("--data", home / "shards")
    assert done.returncode == 2
    assert "Missing option '--out'" in done.stderr


def test_settings_that_can_hardly_be_meant_are_warned_of(home, tmp_path):
    done = train(home, tmp_path / "run", "max_steps=1", "base_learning_rate=1e9")
    assert "warning: optimizer.base_learning_rate=1e+09 times" in done.stdout
    assert "Traceback" not in done.stderr


def test_without_a_preset_a_run_goes_on_with_its_own_settings(home, tmp_path):
    out = tmp_path / "run"
    assert train(home, out, "max_steps=4", "seed=9").returncode == 0
    (out / "checkpoint-00000004.pt").unlink()
    (out / "encoder.pt").unlink()
    done = command("train.py", "--out", out, "--gpus", 0)  # the run knows its shards, too
    assert done.returncode == 0, done.stderr
    assert "going on after step 2" in done.stdout
    assert "finished: 2 steps in" in done.stdout
    assert f"; encoder: {out}/encoder.pt\n" in done.stdout
    assert (
        f"evaluate: python evaluate.py knn --checkpoint {out} --train {home}/shards\n"
        in done.stdout
    )
    assert (out / "encoder.pt").exists()
    before = (out / "metrics.jsonl").read_text()
    done = command("train.py", "--out", out, "--data", home / "shards", "--gpus", 0)
    assert done.returncode == 0, done.stderr
    assert f"finished already: all of its 4 steps are done; encoder: {out}" in done.stdout
    assert "evaluate: python evaluate.py knn" in done.stdout
    assert (out / "metrics.jsonl").read_text() == before
    assert_refused(in_process("--out", out, "--set", "seed=8", "--gpus", 0), "seed was 9, is 8")
    description = json.loads((out / "config.json").read_text())
    del description["data"]["path"]  # a run of an older version
    (out / "config.json").write_text(json.dumps(description))
    assert_refused(in_process("--out", out), "does not say where the shards", "give --data")
