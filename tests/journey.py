"""The commands as a user runs them, on shards of 24 demo pictures (fixture `home`)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from pipeline.shards import open_shards

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
negatives = "local"
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
        # of a process that is aborted, the stacks are told
        env=os.environ | {"PYTHONFAULTHANDLER": "1"} | (env or {}),
    )


def train_arguments(home, out, *settings, **options):
    words = ["train.py", "--data", home / "shards", "--out", out, "--preset", home / "tiny.toml"]
    for name, value in options.items():
        words += [f"--{name}", value]
    for setting in settings:
        words += ["--set", setting]
    return words


def train(home, out, *settings, **options):
    return command(*train_arguments(home, out, *settings, **options))


def damaged_shards(home, folder, sample_ids, damage):
    """A copy of `home` whose pictures `sample_ids` were changed after the conversion.

    `damage(content, start, end)` changes the bytes of a picture in the bytearray of the whole file.
    """
    shutil.copytree(home / "shards", folder / "shards")
    shutil.copy(home / "tiny.toml", folder)
    data = folder / "shards" / "data.beton"
    content = bytearray(data.read_bytes())
    for jpeg in open_shards(home / "shards").read(np.array(sample_ids)).jpegs:
        start = content.index(jpeg)
        damage(content, start, start + len(jpeg))
    data.write_bytes(content)
    return folder
