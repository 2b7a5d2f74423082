"""`python -m bench order`: the measures of mixing on orders that are known, and what is printed."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench import cold
from bench import order as rung
from bench.__main__ import bench
from bench.shuffle import quality, sorted_labels
from convert_dataset import main as convert
from pipeline.order import OrderConfig
from pipeline.sampler import Sampler, make_sampler

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Fixed:
    """A sampler whose epochs are given."""

    orders: list[list[int]]
    global_batch_size: int

    @property
    def num_samples(self):
        return max(map(max, self.orders)) + 1

    @property
    def steps_per_epoch(self):
        return len(self.orders[0]) // self.global_batch_size

    def batch(self, step):
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self.global_batch_size
        return epoch, np.array(self.orders[epoch][start : start + self.global_batch_size])


def test_the_measures_of_an_order_that_does_not_mix_at_all():
    found = quality(Fixed([list(range(12))] * 2, 4), np.arange(12) // 4, num_epochs=2)
    assert found["neighbours_meet"] == pytest.approx((9 / 11) / (3 / 11))  # 9 of 11 pairs
    assert found["neighbours_apart"] == pytest.approx(1 / 4)
    assert found["label_distance"] == pytest.approx(2 / 3)  # one of three classes
    assert found["epochs_correlate"] == pytest.approx(1)
    assert found["storage_correlates"] == pytest.approx(1)


def test_the_measures_of_an_order_that_deals_classes_out():
    dealt = [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]]
    orders = [np.ravel(dealt).tolist(), np.ravel(dealt[::-1]).tolist()]
    found = quality(Fixed(orders, 3), np.arange(12) // 4, num_epochs=2)
    assert found["neighbours_meet"] == 0
    assert found["label_distance"] == 0
    assert found["epochs_correlate"] < -0.5


def test_samples_left_over_count_as_neither_near_nor_far():
    whole = quality(Fixed([[0, 1, 2, 3]] * 2, 2), np.zeros(4, np.int64), num_epochs=2)
    rest = quality(Fixed([[0, 1, 2, 3, 5]] * 2, 2), np.zeros(6, np.int64), num_epochs=2)
    assert rest == pytest.approx(whole)


def test_the_true_shuffle_measures_as_chance_does_and_a_window_by_its_size():
    labels = np.arange(6000) // 600
    sampler = Sampler(num_samples=6000, global_batch_size=100, seed=1)
    shuffled = quality(sampler, labels, num_epochs=4)
    assert shuffled["neighbours_meet"] == pytest.approx(1, abs=0.15)
    assert shuffled["neighbours_apart"] == pytest.approx(1, abs=0.03)
    assert abs(shuffled["epochs_correlate"]) < 0.03
    order = OrderConfig(window_gigabytes=60_000e-9, block_megabytes=2000e-6)
    sampler = make_sampler(np.full(6000, 100), global_batch_size=100, seed=1, order=order)
    windowed = quality(sampler, labels, num_epochs=4)
    assert 7 < windowed["neighbours_meet"] < 12  # a tenth of the data
    assert windowed["label_distance"] > 1.2 * shuffled["label_distance"]


def test_labels_are_those_of_the_shards_only_where_they_are_sorted():
    stored, source = sorted_labels(np.array([0, 0, 1, 2]))
    assert stored.tolist() == [0, 0, 1, 2]
    assert source == "3 classes as stored"
    for labels in ([-1] * 200, [1, 0] * 100, [0] * 200):
        made_up, source = sorted_labels(np.array(labels))
        assert np.bincount(made_up).tolist() == [2] * 100
        assert source.startswith("100 classes made up")


@pytest.fixture(scope="module", params=["ffcv", "dali"])
def shards(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("order") / request.param
    words = ["--source", "demo", "--limit", "60", "--format", request.param, "--out", str(out)]
    result = CliRunner().invoke(convert, [*words, "--workers", "1"])
    assert result.exit_code == 0, result.output
    return out


def run(*words):
    return CliRunner().invoke(bench, ["order", *map(str, words)])


WINDOW = ("--window", "2e-4", "--block", "0.02", "--batch", "4")
ROWS = ["files read along", "shuffled", "shuffled, hints"]
ROWS += [name + hints for name in ("window 0.0002 GB",) for hints in ("", ", hints")]


def test_the_last_line_is_one_object_with_mixing_rows_and_ratios(shards):
    words = ["--data", str(shards), *WINDOW, "--rounds", "2", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "bench", "order", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["rung"] == "order"
    assert result["environment"]["versions"]["numpy"] == np.__version__
    assert [found["name"] for found in result["quality"]] == ["shuffled", "window 0.0002 GB"]
    assert [found["name"] for found in result["rows"]] == ROWS
    for found in result["rows"]:
        if "skipped" in found:  # a file system that keeps its pages
            assert "of the pages stay in the page cache" in found["skipped"]
            continue
        assert found["images"] == 60
        assert found["images_per_second"]["p20"] <= found["images_per_second"]["p80"]
        assert found["pages_kept"] < 0.01
    measured = {found["name"] for found in result["rows"] if "skipped" not in found}
    for one, other in (
        ("window 0.0002 GB, hints", "shuffled, hints"),
        ("window 0.0002 GB, hints", "window 0.0002 GB"),
        ("window 0.0002 GB, hints", "files read along"),
    ):
        assert (f"{one}/{other}" in result["ratios"]) == ({one, other} <= measured)
    assert "round 2 of 2" in done.stderr


def test_a_part_of_the_data_is_read_and_windows_keep_their_share(shards):
    words = ("--data", shards, *WINDOW, "--images", "30", "--rounds", "1", "--json")
    result = json.loads(run(*words).stdout.splitlines()[-1])
    names = [found["name"] for found in result["rows"]]
    assert len(names) == 5
    share = float(names[3].split()[1]) / 2e-4
    assert 0.4 < share < 0.6
    assert "cold: an epoch of 30 samples" in result["work"]


def test_the_mixing_alone_needs_no_disk(shards):
    result = json.loads(
        run("--data", shards, *WINDOW, "--no-cold", "--json").stdout.splitlines()[-1]
    )
    assert result["rows"] == []
    assert result["ratios"] == {}
    assert len(result["quality"]) == 2


def test_without_shards_sizes_are_made_up(monkeypatch):
    monkeypatch.setattr(rung, "IMAGENET", (5000, 10))
    result = run("--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["work"].startswith("5000 made-up sizes in 10 classes, 0.55 GB, batches of 100")
    shares = [quality["window_share"] for quality in found["quality"]]
    assert shares == pytest.approx([1, 0.5, 0.2, 0.1, 0.05])
    met = [quality["neighbours_meet"] for quality in found["quality"]]
    assert met == sorted(met)
    assert found["rows"] == []


def test_pages_that_stay_in_memory_are_said_and_not_measured(shards, monkeypatch):
    monkeypatch.setattr(cold, "drop", lambda _: 0.5)
    result = run("--data", shards, *WINDOW, "--rounds", "1", "--json")
    assert result.exit_code == 0, result.output
    for found in json.loads(result.stdout.splitlines()[-1])["rows"]:
        assert found["skipped"].startswith("50% of the pages stay in the page cache")
        assert found["pages_kept"] == 0.5


def test_a_damaged_sample_fails_the_rows_that_read_it(shards, tmp_path, monkeypatch):
    monkeypatch.setattr(cold, "drop", lambda _: 0.0)
    copied = shutil.copytree(shards, tmp_path / "shards")
    offset = int(np.load(copied / "index.npz")["jpeg_offset"][7])
    (path,) = (*copied.glob("*.beton"), *copied.glob("*.tar"))
    with path.open("r+b") as file:
        file.seek(offset + 40)
        file.write(b"\0\1\2\3")
    result = run("--data", copied, *WINDOW, "--rounds", "1", "--json")
    assert result.exit_code == 1
    rows = json.loads(result.stdout.splitlines()[-1])["rows"]
    assert "skipped" not in rows[0]
    assert all("the bytes of its JPEG have changed" in found["skipped"] for found in rows[1:])
    assert "no figures of row 'shuffled'" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "61"], "--images 61: there are 60 samples"),
        (["--window", "1e-5"], "holds no two blocks"),
        (["--window", "1e-4", "--block", "0.001", "--batch", "30"], "less than two global batches"),
        (["--data", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_what_cannot_be_measured_is_one_line(shards, words, message):
    result = run("--data", shards, *words)
    assert result.exit_code == 2
    lines = [line for line in result.stderr.strip().splitlines() if line.startswith("Error")]
    assert len(lines) == 1
    assert message in lines[0]


def test_what_the_disk_gave_is_told_by_the_system_or_unknown(monkeypatch):
    before = cold.bytes_from_disk()
    assert before is None or before >= 0
    monkeypatch.setattr(Path, "read_text", lambda _: "rchar: 5\nread_bytes: 4096\n")
    assert cold.bytes_from_disk() == 4096
