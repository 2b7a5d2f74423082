"""The journey: shards -> train -> kill -> resume, as a user runs it, in processes of its own."""

import json
import math
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from pipeline.shards import open_shards
from tests.journey import ROOT, command, damaged_shards, train, train_arguments


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
    assert all(1e8 < record["peak_host_bytes"] < 1e10 for record in records)
    assert records[0]["learning_rate"] == 0
    # Step 7 of the 12 that the schedule counts on (spec section 2, EMA schedule; base 0.9).
    decay = 1 - 0.1 * (math.cos(math.pi * 7 / 12) + 1) / 2
    assert records[-1]["target_decay"] == pytest.approx(decay)
    description = json.loads((out / "config.json").read_text())
    assert description["config"]["recipe"]["large_size"] == 32
    assert description["config"]["loader"]["executor"] == "compiled"  # what `auto` stands for
    assert "views by compiled" in done.stdout
    assert description["data"]["num_samples"] == 24
    masks = "masks: 24 of 24 samples have one"
    assert masks in done.stdout.splitlines()
    assert description["data"]["masks"] == masks
    assert "torch" in description["versions"]
    assert re.search(r"step 8/8  loss \d\.\d+  [\d.]+ images/s  waiting [\d.]+ %", done.stdout)
    assert "Traceback" not in done.stderr


def test_views_are_shown_before_a_training_and_nothing_else_is_written(home, tmp_path):
    path = tmp_path / "views.png"
    words = ["--data", home / "shards", "--preset", home / "tiny.toml", "--show-views", path]
    done = command("train.py", *words, "--set", "seed=5", "--json")
    assert done.returncode == 0, done.stderr
    said, last = done.stdout.splitlines()
    assert said.startswith(f"{path}: 6 of 24 images, 2 large views of 32 x 32 and 1 small")
    assert json.loads(last) == {"status": 0, "views": str(path)}
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


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


def test_threads_and_prefetch_do_not_change_the_run(home, whole_run):
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


@pytest.mark.parametrize(
    ("processes", "number", "said"),
    [
        (1, signal.SIGTERM, "by SIGTERM"),
        (2, signal.SIGTERM, "by SIGTERM"),
        (1, signal.SIGINT, "by Ctrl-C"),
    ],
)
def test_a_signal_saves_and_leaves(home, processes, number, said):
    out = home / f"stopped-{processes}-{number}"
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
    process.send_signal(number)
    shown, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    step = int(re.search(rf"stopped {said}; step (\d+) is saved", shown).group(1))
    assert (out / f"checkpoint-{step:08d}.pt").exists()
    assert metrics(out)[-1]["step"] == step


@pytest.mark.parametrize("parts", [1, 2])
def test_two_processes_train_like_one_with_global_negatives(home, parts):
    one, two = home / f"one-{parts}", home / f"two-{parts}"
    # LARS, not Adam: its update is smooth in the gradient, also where that is near zero. A small
    # rate: with batches of 8 rounding grows tenfold a step at a large one.
    settings = (
        *("max_steps=3", "loss.negatives=global", "optimizer.warmup_epochs=0"),
        *("optimizer.name=lars", "optimizer.base_learning_rate=0.1", f"accumulate={parts}"),
        f"global_batch_size={8 * parts}",
    )
    start = home / f"start-{parts}"
    assert train(home, start, *settings[1:], "max_steps=1").returncode == 0
    assert train(home, one, *settings).returncode == 0
    done = train(home, two, *settings, gpus=0, processes=2)
    assert done.returncode == 0, done.stderr
    losses = [[record["loss"] for record in metrics(out)] for out in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    first, alone, together = weights(start, 1), weights(one, 3), weights(two, 3)
    assert alone.keys() == together.keys()
    online = [name for name in alone if "model/online" in name and name.endswith("weight")]
    assert len(online) > 20
    for name in online:  # the same samples, views, negatives, batch statistics: the same updates
        moved, difference = alone[name] - first[name], alone[name] - together[name]
        assert difference.norm() <= 0.01 * moved.norm() + 1e-6, name


@pytest.fixture(scope="module")
def damaged(home):
    """The shards with two pictures overwritten after the conversion."""

    def overwrite(content, start, end):
        content[start + 20 : end] = bytes(end - start - 20)

    return damaged_shards(home, home / "damaged", [4, 17], overwrite)


@pytest.mark.parametrize("processes", [1, 2])
def test_bad_samples_of_every_rank_are_named_and_counted(damaged, tmp_path, processes):
    options = {"gpus": 0, "processes": processes}
    done = train(damaged, tmp_path / "run", "max_steps=3", **options)
    assert done.returncode == 0, done.stderr
    assert metrics(tmp_path / "run")[-1]["bad_samples"] == 2
    named = re.findall(r"replaced: sample (\d+) \((.+?\.jpg): the bytes of its JPEG", done.stdout)
    assert sorted(int(number) for number, _ in named) == [4, 17]
    stopped = train(damaged, tmp_path / "strict", "loader.max_bad=1", **options)
    assert stopped.returncode == 1
    assert "more than loader.max_bad=1" in stopped.stderr
    assert "Traceback" not in stopped.stderr


def test_json_is_the_last_line(home):
    done = command(*train_arguments(home, home / "json", "max_steps=2"), "--json")
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["status"] == 0
    assert result["step"] == 2
    assert result["loss"] == metrics(home / "json")[-1]["loss"]


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
    assert measured == [0, 3, 6]  # 0: untrained
    assert_same_weights(weights(out, 6), weights_of_six(home))


def weights_of_six(home):
    out = home / "unmonitored"
    assert train(home, out, "max_steps=6").returncode == 0
    return weights(out, 6)


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
