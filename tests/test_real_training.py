"""The paper's setting on real photos: ResNet-50, 4x224 + 2x96 views, from both formats."""

import json

import pytest

from tests.journey import command

SETTINGS = (
    "global_batch_size=4",
    "loss.num_negatives=3",
    "max_steps=2",
    "log_every=1",
    "monitor_every=0",
)


@pytest.mark.real
@pytest.mark.slow
def test_resnet50_takes_the_same_steps_from_both_formats(real_data, tmp_path):
    results = {}
    for shard_format in ("ffcv", "dali"):
        shards, out = tmp_path / shard_format, tmp_path / f"run-{shard_format}"
        words = [
            "--source",
            real_data / "ecssd" / "images",
            "--masks",
            real_data / "ecssd" / "masks",
        ]
        words += ["--limit", 16, "--format", shard_format, "--out", shards]
        made = command("convert_dataset.py", *words)
        assert made.returncode == 0, made.stderr
        words = ["--data", shards, "--out", out, "--preset", "imagenet-rn50", "--json"]
        for setting in SETTINGS:
            words += ["--set", setting]
        done = command("train.py", *words)
        assert done.returncode == 0, done.stderr
        results[shard_format] = json.loads(done.stdout.splitlines()[-1])
    assert results["ffcv"]["step"] == 2
    for name in ("loss", "contrastive", "invariance", "accuracy"):
        assert results["ffcv"][name] == results["dali"][name]
