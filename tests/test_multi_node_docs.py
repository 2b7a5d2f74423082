"""docs/multi_node.md, slurm.sh and Containerfile: what they run exists, as they write it."""

import os
import re
import shlex
import shutil
import subprocess

import pytest
from torch.distributed.run import parse_args

import train
from tests.journey import ROOT
from training import DEFAULT_PRESET
from training.config import TrainConfig, apply_settings
from training.presets import load_preset

PAGE = (ROOT / "docs" / "multi_node.md").read_text()
CONTAINER = (ROOT / "docs" / "Containerfile").read_text()
README = (ROOT / "README.md").read_text()


def commands(text):
    """The shell commands in a page's indented and fenced blocks, continued lines joined."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if re.match(r"(torchrun|python train\.py) ", line)]


def assert_train_takes(words):
    values = train.main.make_context("train.py", list(words)).params
    apply_settings(load_preset(values["preset"] or DEFAULT_PRESET), values["settings"])


def assert_can_be_run(words):
    if words[0] == "torchrun":
        started = parse_args(words[1:])
        assert started.training_script == "train.py"
        assert_train_takes(started.training_script_args)
    else:
        assert_train_takes(words[2:])


@pytest.mark.parametrize("page", [PAGE, README], ids=["multi_node.md", "README.md"])
def test_the_commands_have_options_that_exist(page):
    found = commands(page)
    assert {"torchrun", "python"} <= {words[0] for words in found}
    for words in found:
        assert_can_be_run(words)


def test_the_settings_and_options_in_the_text_exist():
    settings = re.findall(r"--set ([a-z_.]+=[0-9]+)", PAGE)
    assert len(settings) == 2
    apply_settings(load_preset("imagenet-rn50"), settings)
    for options in re.findall(r"`(--(?:shutdown|rdzv|local|nnodes|max)[^`]*)`", PAGE):
        if options.startswith("--shutdown-timeout") and _older_than("2.12"):
            continue
        words = shlex.split(options)
        assert parse_args([*words, "train.py"] if len(words) > 1 else [words[0], "1", "train.py"])


def _older_than(version):
    import torch

    return tuple(map(int, torch.__version__.split(".")[:2])) < tuple(map(int, version.split(".")))


def test_the_times_in_the_text_are_those_of_the_code():
    config = TrainConfig()
    assert f"`patience_seconds` ({config.patience_seconds:g})" in PAGE
    assert f"`loader.stall_seconds` ({config.loader.stall_seconds:g})" in PAGE


@pytest.fixture
def slurm(tmp_path):
    """Stand-ins for SLURM's commands: `srun` writes down how it was called."""
    for name, body in {
        "scontrol": "printf 'node7\\nnode8\\n'",
        "srun": f'printf "%s\\n" "$@" >{tmp_path}/called',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_the_slurm_script_starts_torchrun_on_each_machine(slurm):
    job = {"SLURM_JOB_ID": "123456", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[7-8]"}
    environment = {"PATH": f"{slurm}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(ROOT), **job}
    done = subprocess.run(
        ["bash", "docs/slurm.sh", "--set", "epochs=300"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    words = (slurm / "called").read_text().splitlines()
    python = words.index(".venv/bin/python")
    assert words[python + 1 : python + 3] == ["-m", "torch.distributed.run"]
    started = parse_args(words[python + 3 :])
    assert (started.nnodes, started.rdzv_id) == ("2", "123456")
    assert re.fullmatch(r"node7:[23]\d{4}", started.rdzv_endpoint)
    assert (ROOT / started.training_script).exists()
    assert_train_takes(started.training_script_args)
    assert started.training_script_args[-1] == "epochs=300"


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck on this machine")
def test_the_slurm_script_is_clean():
    subprocess.run(["shellcheck", "docs/slurm.sh"], cwd=ROOT, check=True)


def test_the_container_holds_the_project_and_what_it_needs():
    copied = set()
    for line in re.findall(r"^COPY (.+)$", CONTAINER, re.MULTILINE):
        *sources, target = line.split()
        copied |= set(sources)
        assert target == "./" or sources == [target]
    assert all((ROOT / name).exists() for name in copied)
    project = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert project | {path.name for path in ROOT.glob("*.py")} <= copied
    assert {"install", "requirements.txt"} <= copied
    (image,) = re.findall(r"^FROM .*/python:(3\.\d+)-slim-bookworm$", CONTAINER, re.MULTILINE)
    assert image in ("3.11", "3.12")  # what requirements.txt says
