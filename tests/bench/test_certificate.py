"""`python -m bench certificate` from end to end on a tiny training; what it measures is not judged
here, since other work may share the cores, but for the control, which starves on purpose."""

import json

import pytest
from click.testing import CliRunner

from bench.__main__ import bench
from tests.journey import command

STEPS = 30
COUNTED = {"FULL": 3, "SYNTHETIC": 4, "COLD": 1, "SYNTHETIC after COLD": 1}  # blocks


def arguments(home, out, *more):
    words = ["--data", home / "shards", "--preset", home / "tiny.toml", "--out", out, "--gpus", 0]
    settings = ["--set", "checkpoint_every=17", "--set", "epochs=2"]
    return ["certificate", *words, *settings, "--steps", STEPS, *more]


def certify(home, out, *more):
    return command("-m", "bench", *arguments(home, out, *more))


@pytest.fixture(scope="module")
def certified(home, tmp_path_factory):
    out = tmp_path_factory.mktemp("certificate")
    done = certify(home, out, "--json")
    assert done.returncode == 1, done.stdout + done.stderr  # 30 steps are too few for a PASS
    return done.stdout.splitlines(), json.loads((out / "certificate.json").read_text())


def test_every_line_of_the_table_is_printed_with_its_result(certified):
    lines, kept = certified
    found = {line["key"]: line["result"] for line in kept["lines"]}
    assert found.pop("p99_over_p50") == "needs 500 steps"
    assert found.pop("cold_full_over_synthetic") == "reported"
    assert set(found.values()) <= {"PASS", "FAIL"}
    for line in kept["lines"]:
        (shown,) = [text for text in lines if text.startswith(line["title"] + "  ")]
        assert line["result"] in shown
    assert any(text == f"verdict: {kept['verdict']}" for text in lines)
    assert kept["verdict"] in ("FAIL", "INCOMPLETE")


def test_the_seconds_of_every_step_are_kept(certified):
    _, kept = certified
    (rank,) = kept["ranks"]
    for kind, number in COUNTED.items():
        blocks = [block for block in rank["blocks"] if block["kind"] == kind]
        assert len(blocks) == number
        assert all(seconds > 0 for block in blocks for seconds in block["seconds"])
        if kind in ("FULL", "SYNTHETIC"):
            assert [len(block["seconds"]) for block in blocks] == [10] * number
    assert rank["reading"]["images"] == 3 * 8  # an epoch: the next would come from memory
    assert 0 <= rank["reading"]["pages_stayed"] <= 1
    assert set(rank["cold"]) == {"disk_bytes_per_second", "disk_bytes", "pages_stayed"}


def test_full_crosses_ends_of_epochs_and_checkpoints_as_the_training_does(certified):
    _, kept = certified
    assert kept["steps"] == {
        "full": STEPS,
        "block": 10,
        "epochs_crossed": kept["steps"]["epochs_crossed"],
        "checkpoints": 1,
    }
    assert kept["steps"]["epochs_crossed"] >= 6  # 3 steps an epoch
    saved = [(b["kind"], b["checkpoints"]) for b in kept["ranks"][0]["blocks"] if b["checkpoints"]]
    assert saved == [("SYNTHETIC", 1), ("FULL", 1)]  # in turn, and alike


def test_the_last_line_is_json_without_the_raw_steps(certified):
    lines, kept = certified
    last = json.loads(lines[-1])
    assert last == {name: value for name, value in kept.items() if name != "ranks"}
    assert last["environment"]["versions"]["torch"]
    assert last["config"]["global_batch_size"] == 8
    assert (last["device"], last["processes"], last["throttle"]) == ("cpu", 1, 0.0)


def test_the_control_starves_and_must_fail(home, tmp_path):
    done = certify(home, tmp_path, "--throttle", 0.5)
    assert done.returncode == 1, done.stdout + done.stderr
    kept = json.loads((tmp_path / "certificate.json").read_text())
    found = {line["key"]: line["result"] for line in kept["lines"]}
    assert kept["verdict"] == "FAIL"
    assert kept["bottleneck"] == "read"
    for key in ("full_over_synthetic", "stall_share", "io_over_demand", "occupancy"):
        assert found[key] == "FAIL", key
    assert "CONTROL: reading is throttled to 0.5 of the demand" in done.stdout


@pytest.mark.slow
def test_two_processes_are_measured_together(home, tmp_path):
    words = ["--processes", 2, "--set", "num_negatives=2", "--steps", 6]
    done = certify(home, tmp_path, *words)
    assert done.returncode == 1, done.stdout + done.stderr
    kept = json.loads((tmp_path / "certificate.json").read_text())
    assert [rank["rank"] for rank in kept["ranks"]] == [0, 1]
    assert all(rank["images_per_step"] == 4 for rank in kept["ranks"])
    kinds = ["SYNTHETIC", "FULL"] * 2 + ["SYNTHETIC", "COLD", "SYNTHETIC after COLD"]
    assert all([block["kind"] for block in rank["blocks"]] == kinds for rank in kept["ranks"])
    assert kept["processes"] == 2


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--set", "global_batch_size=64"), "24 samples do not fill one global batch of 64"),
        (("--processes", 3), "global_batch_size=8 cannot be divided among 3 processes"),
        (("--set", "epoch=3"), "unknown setting 'epoch'"),
        (("--gpus", 7000), "--gpus 7000, but this machine has"),
    ],
)
def test_what_cannot_be_done_is_one_line(home, tmp_path, words, reason):
    done = CliRunner().invoke(bench, [str(word) for word in arguments(home, tmp_path, *words)])
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    assert reason in done.stderr.splitlines()[-1]
    assert not (tmp_path / "certificate.json").exists()
