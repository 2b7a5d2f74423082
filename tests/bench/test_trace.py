"""`python -m bench trace`: the same views for any processes, threads and starting step."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from bench.__main__ import bench
from convert_dataset import main as convert


@pytest.fixture(scope="module", params=["ffcv", "dali"])
def shards(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("trace") / request.param
    words = ["--source", "demo", "--limit", "24", "--format", request.param, "--out", str(out)]
    result = CliRunner().invoke(convert, [*words, "--workers", "1"])
    assert result.exit_code == 0, result.output
    return out


SETTINGS = ["recipe.large_size=32", "recipe.small_size=16", "global_batch_size=8"]


def traced(shards, *options, settings=()):
    words = ["trace", "--data", str(shards), "--preset", "demo", "--json", *map(str, options)]
    for setting in (*SETTINGS, *settings):
        words += ["--set", setting]
    result = CliRunner().invoke(bench, words)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def expected(shards):
    return traced(shards, "--steps", 6)


def test_each_step_has_ids_and_a_hash_for_every_view(expected):
    assert [step["step"] for step in expected["steps"]] == list(range(6))
    assert [step["epoch"] for step in expected["steps"]] == [0, 0, 0, 1, 1, 1]
    for step in expected["steps"]:
        assert np.array(step["views"]).shape == (8, 6)
        assert len(np.unique(step["views"])) == 48
    for epoch in (0, 1):
        ids = [i for s in expected["steps"] if s["epoch"] == epoch for i in s["sample_ids"]]
        assert sorted(ids) == list(range(24))


@pytest.mark.parametrize(("processes", "threads"), [(1, 4), (2, 1), (4, 2)])
def test_processes_and_threads_change_nothing(shards, expected, processes, threads):
    options = ("--steps", 6, "--processes", processes, "--threads", threads)
    assert traced(shards, *options) == expected


def test_a_later_start_changes_nothing(shards, expected):
    later = traced(shards, "--steps", 3, "--start-step", 3)
    assert later["steps"] == expected["steps"][3:]


def test_the_same_seed_gives_the_same_views_and_another_others(shards, expected):
    assert traced(shards, "--steps", 6) == expected
    other = traced(shards, "--steps", 6, settings=["seed=1"])
    hashes = [{h for s in t["steps"] for row in s["views"] for h in row} for t in (expected, other)]
    assert not hashes[0] & hashes[1]


def test_both_formats_and_decoders_give_the_same_views(shards, expected, tmp_path):
    other = traced(shards, "--steps", 6, settings=["loader.decoder=turbojpeg"])
    assert other == expected


WINDOW = ["order.window_gigabytes=1.4e-4", "order.block_megabytes=0.02"]  # 140 of 186 KB


def test_a_windowed_order_is_another_and_the_same_for_processes_and_starts(shards, expected):
    windowed = traced(shards, "--steps", 6, settings=WINDOW)
    ids, shuffled = ([step["sample_ids"] for step in one["steps"]] for one in (windowed, expected))
    assert ids != shuffled
    assert sorted(np.ravel(ids[:3])) == sorted(np.ravel(ids[3:])) == list(range(24))
    later = traced(shards, "--steps", 3, "--start-step", 3, "--processes", 2, settings=WINDOW)
    assert later["steps"] == windowed["steps"][3:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--processes", "2"], "global_batch_size=9 cannot be divided among 2 processes"),
        (["--start-step", "10000000000000"], "epoch must lie in 0..2**32-1"),
        (["--set", "global_batch_size=25"], "24 samples do not fill one global batch of 25"),
        (["--data", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_traced_is_one_line(shards, options, message):
    words = ["trace", "--data", str(shards), "--preset", "demo", "--set", "global_batch_size=9"]
    result = CliRunner().invoke(bench, [*words, *options])
    assert result.exit_code == 2
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
