"""Command lines: help and plain mistakes are answered without torch, whose import takes seconds."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

import convert_dataset
import train
from tests.journey import ROOT

WITHOUT_TORCH = """
import runpy, sys
sys.modules["torch"] = None  # importing it is an error
sys.path.insert(0, "")
what, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = what
if what.endswith(".py"):
    runpy.run_path(what, run_name="__main__")
else:
    runpy.run_module(what, run_name="__main__", alter_sys=True)
"""


def without_torch(*words):
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train.py"], "--preset"),
        (["convert_dataset.py"], "--source"),
        (["evaluate.py"], "linear"),
        (["evaluate.py", "knn"], "--checkpoint"),
        (["bench"], "certificate  PASS or FAIL"),
        (["pipeline.saliency"], "Draw images with their final masks"),
    ],
)
def test_help_needs_no_torch(words, said):
    done = without_torch(*words, "--help")
    assert done.returncode == 0, done.stderr
    assert said in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train.py", "--data", "x"], "Missing option '--out'"),
        (["train.py", "--out", "x", "--gpus", "many"], "'many' is not a valid integer"),
        (["train.py", "--data", "--out", "x"], "--data needs a value, and --out is an option"),
        (["convert_dataset.py", "--source", "x", "--masks", "--out", "y"], "--masks needs a value"),
        (["evaluate.py", "knm"], "No such command 'knm'"),
        (["evaluate.py", "knn", "--train", "--test", "x"], "--train needs a value"),
        (["evaluate.py", "linear", "--checkpoint", "x"], "Missing option '--train'"),
        (["bench", "plam"], "No such command 'plam'"),
        (["pipeline.saliency", "draw"], "No such command 'draw'"),
    ],
)
def test_plain_mistakes_need_no_torch(words, said):
    done = without_torch(*words)
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        (("--saliency", "--out", "x"), "auto"),
        (("--out", "x", "--saliency"), "auto"),
        (("--saliency", "rbd", "--out", "x"), "rbd"),
        (("--out", "x"), None),
    ],
)
def test_saliency_alone_means_auto(monkeypatch, words, asked):
    seen = []

    def convert(request):
        seen.append((request.saliency, str(request.out)))
        raise ValueError("enough")

    monkeypatch.setattr(convert_dataset, "convert", convert)
    done = CliRunner().invoke(convert_dataset.main, ["--source", "demo", *words])
    assert "enough" in done.stderr
    assert seen == [(asked, "x")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--epochs", "3"], "no option --epochs; it is a setting: --set epochs=3"),
        (["--out", "x", "--lr=0.1"], "--set optimizer.base_learning_rate=0.1"),
        (["--batch-size", "32"], "--set global_batch_size=32"),
        (["--gpu", "0"], "No such option '--gpu'. (Did you mean one of: '--gpus'"),
    ],
)
def test_a_setting_given_as_an_option_says_how_it_is_set(words, said):
    done = CliRunner().invoke(train.main, words)
    assert done.exit_code == 2
    assert said in done.stderr


def test_all_settings_are_listed_without_a_run():
    done = CliRunner().invoke(train.main, ["--settings", "--preset", "demo", "--set", "lr=1"])
    assert done.exit_code == 2
    assert "did you mean optimizer.base_learning_rate?" in done.stderr
    done = CliRunner().invoke(train.main, ["--settings", "--preset", "demo", "--set", "epochs=3"])
    assert done.exit_code == 0, done.stderr
    assert "epochs = 3  (default 1000)\n    passes over the data set [recalled]" in done.stdout
    done = CliRunner().invoke(train.main, ["--settings", "--json"])
    paths = [each["path"] for each in json.loads(done.stdout)["settings"]]
    assert "recipe.large_even.blur_sigma" in paths
