"""The journey: shards -> train -> kill -> resume, as a user runs it, in processes of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from pipeline.shards import open_shards
from train import main

ROOT = Path(__file__).resolve().parents[1]
TINY = """
base = "demo"
epochs = 4
global_batch_size = 8
log_every = 1
checkpoint_every = 2
monitor_every = 0
[recipe]
num_large = 2
num_small = 1
large_size = 32
small_size = 16
[model]
hidden_size = 16
embedding_size = 8
[model.encoder]
width = 0.125
[loss]
num_negatives = 3
[optimizer]
warmup_epochs = 1
[loader]
threads = 1
"""


def command(script, *arguments, env=None):
    return subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | (env or {}),
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with shards of 24 demo pictures and a tiny preset."""
    folder = tmp_path_factory.mktemp("journey")
    made = command(
        "convert_dataset.py", "--source", "demo", "--limit", 24, "--out", folder / "shards"
    )
    assert made.returncode == 0, made.stderr
    (folder / "tiny.toml").write_text(TINY)
    return folder


def train_arguments(home, out, *settings, **options):
    words = ["train.py", "--data", home / "shards", "--out", out, "--preset", home / "tiny.toml"]
    for name, value in options.items():
        words += [f"--{name}", value]
    for setting in settings:
        words += ["--set", setting]
    return words


def train(home, out, *settings, **options):
    return command(*train_arguments(home, out, *settings, **options))


def weights(out, step):
    state = torch.load(out / f"checkpoint-{step:08d}.pt", weights_only=True)
    return {name: value for name, value in flat(state) if isinstance(value, torch.Tensor)}


def flat(value, prefix=""):
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flat(inner, f"{prefix}/{name}")
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from flat(inner, f"{prefix}/{number}")
    else:
        yield prefix, value


def assert_same_weights(left, right):
    assert len(left) > 50
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole_run(home):
    out = home / "whole"
    done = train(home, out, "max_steps=8")
    assert done.returncode == 0, done.stderr
    return out, done


def test_a_run_leaves_what_it_promises(home, whole_run):
    out, done = whole_run
    assert {"config.json", "metrics.jsonl", "encoder.pt", "tensorboard"} <= {
        path.name for path in out.iterdir()
    }
    records = metrics(out)
    assert [record["step"] for record in records] == list(range(1, 9))
    for record in records:
        assert record["images_per_second"] > 0
        assert 0 <= record["wait_share"] <= 1
        assert record["loss"] == pytest.approx(record["contrastive"] + record["invariance"], 1e-4)
    assert records[0]["learning_rate"] == 0
    assert records[-1]["target_decay"] > 0.99
    description = json.loads((out / "config.json").read_text())
    assert description["config"]["recipe"]["large_size"] == 32
    assert description["data"]["num_samples"] == 24
    assert "torch" in description["versions"]
    assert re.search(r"step 8/8  loss \d\.\d+  [\d.]+ images/s  waiting [\d.]+ %", done.stdout)
    assert "Traceback" not in done.stderr


def test_the_exported_encoder_is_the_online_one(whole_run):
    from model.checkpoint import load_encoder

    out, _ = whole_run
    encoder = load_encoder(out / "encoder.pt")
    trained = torch.load(out / "checkpoint-00000008.pt", weights_only=True)
    names = [name for name, _ in flat(trained) if name.endswith("online.encoder.conv1.weight")]
    assert len(names) == 1
    assert torch.equal(encoder.state_dict()["conv1.weight"], dict(flat(trained))[names[0]])


def test_the_same_seed_gives_the_same_run_and_another_another(home, whole_run):
    again, other = home / "again", home / "other"
    assert train(home, again, "max_steps=8").returncode == 0
    assert train(home, other, "max_steps=8", "seed=1").returncode == 0
    assert_same_weights(weights(again, 8), weights(whole_run[0], 8))
    assert metrics(other)[-1]["loss"] != metrics(whole_run[0])[-1]["loss"]


def test_threads_and_executors_of_feeding_do_not_change_the_run(home, whole_run):
    out = home / "threads"
    assert train(home, out, "max_steps=8", "loader.threads=3", "loader.prefetch=5").returncode == 0
    assert_same_weights(weights(out, 8), weights(whole_run[0], 8))


def wait_for(path, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_killed_run_resumes_to_the_same_bits(home, whole_run):
    out = home / "killed"
    arguments = [*map(str, train_arguments(home, out, "max_steps=8"))]
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_for(out / "checkpoint-00000004.pt", process)
    process.kill()
    process.wait()
    assert not (out / "encoder.pt").exists()
    resumed = train(home, out, "max_steps=8")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_weights(weights(out, 8), weights(whole_run[0], 8))
    assert [record["step"] for record in metrics(out)] == list(range(1, 9))
    assert [record["loss"] for record in metrics(out)] == [
        record["loss"] for record in metrics(whole_run[0])
    ]


@pytest.mark.parametrize("processes", [1, 2])
def test_sigterm_saves_and_leaves(home, processes):
    out = home / f"terminated-{processes}"
    arguments = train_arguments(
        home, out, "epochs=400", "checkpoint_every=100000", gpus=0, processes=processes
    )
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    wait_for(out / "metrics.jsonl", process)
    deadline = time.monotonic() + 120
    while not (out / "metrics.jsonl").read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    step = int(re.search(r"stopped by signal 15; step (\d+) is saved", said).group(1))
    assert (out / f"checkpoint-{step:08d}.pt").exists()
    assert metrics(out)[-1]["step"] == step


def test_two_processes_train_like_one_with_global_negatives(home, whole_run):
    one, two = home / "one", home / "two"
    settings = ("max_steps=3", "loss.negatives=global", "optimizer.warmup_epochs=0")
    assert train(home, one, *settings).returncode == 0
    done = train(home, two, *settings, gpus=0, processes=2)
    assert done.returncode == 0, done.stderr
    alone, together = weights(one, 3), weights(two, 3)
    assert alone.keys() == together.keys()
    # Same samples, views, negatives and batch statistics; sums are rounded in another order, and
    # Adam turns the rounding of a gradient near zero into a step of the learning rate.
    first_losses = [metrics(out)[0]["contrastive"] for out in (one, two)]
    assert first_losses[0] != 0
    differences = [
        (alone[name].float() - together[name].float()).abs().mean()
        / (alone[name].float().abs().mean() + 1e-6)
        for name in alone
        if "online" in name and "weight" in name
    ]
    assert max(differences) < 0.02


def test_torchrun_joins_in_place(home):
    out = home / "torchrun"
    words = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--master-port=0",
        "--rdzv-backend=c10d",
        "--rdzv-endpoint=127.0.0.1:0",
        *map(str, train_arguments(home, out, "max_steps=2", gpus=0)),
    ]
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "config.json").read_text())["world_size"] == 2
    assert (out / "checkpoint-00000002.pt").exists()


def test_knn_is_monitored_when_there_are_labels(home):
    out = home / "monitored"
    assert train(home, out, "max_steps=6", "monitor_every=1").returncode == 0
    measured = [record["step"] for record in metrics(out) if "knn_top1" in record]
    assert measured == [3, 6]
    assert_same_weights(weights(out, 6), weights_of_six(home))


def weights_of_six(home):
    out = home / "unmonitored"
    assert train(home, out, "max_steps=6").returncode == 0
    return weights(out, 6)


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
        (["global_batch_size=25"], {}, ["24 samples do not fill one global batch of 25"]),
        (["loss.heat=1"], {}, ["unknown setting 'loss.heat'", "temperature"]),
        (["global_batch_size"], {}, ["--set takes path=value"]),
        ([], {"gpus": 8}, ["--gpus 8, but this machine has"]),
        ([], {"gpus": 0, "processes": 3}, ["cannot be divided among 3 processes"]),
        ([], {"gpus": 0, "processes": 0}, ["--processes >= 1"]),
        (["loss.num_negatives=8"], {}, ["num_negatives=8 needs a batch of at least 9"]),
        (
            ["loss.num_negatives=7"],
            {"gpus": 0, "processes": 2},
            ["num_negatives=7 needs a batch of at least 8, got 4", "loss.negatives=global"],
        ),
        (["loader.decoder=magic"], {}, ["unknown decoder 'magic'"]),
        (["loader.executor=magic"], {}, ["unknown executor 'magic'"]),
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


def test_a_run_is_not_resumed_with_other_settings_or_data(home, whole_run, tmp_path):
    out, _ = whole_run
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


def test_a_finished_run_started_again_changes_nothing(home, whole_run):
    out, _ = whole_run
    before = metrics(out)
    done = train(home, out, "max_steps=8")
    assert done.returncode == 0, done.stderr
    assert metrics(out) == before


def test_a_diverging_run_stops_and_keeps_no_broken_checkpoint(home):
    out = home / "diverged"
    done = train(home, out, "optimizer.base_learning_rate=1e30", "optimizer.warmup_epochs=0")
    assert done.returncode == 1
    assert "the last checkpoint is kept. Lower optimizer.base_learning_rate" in done.stderr
    assert "Traceback" not in done.stderr
    for path in out.glob("checkpoint-*.pt"):
        state = torch.load(path, weights_only=True)
        tensors = [value for _, value in flat(state) if isinstance(value, torch.Tensor)]
        assert all(tensor.isfinite().all() for tensor in tensors if tensor.is_floating_point())


def test_help_names_the_options():
    done = command("train.py", "--help")
    assert done.returncode == 0
    for option in ("--data", "--out", "--gpus", "--processes", "--preset", "--set"):
        assert option in done.stdout


def test_the_shards_of_the_journey_have_masks(home):
    shards = open_shards(home / "shards")
    assert (shards.mask_coverage > 0.01).mean() > 0.9
