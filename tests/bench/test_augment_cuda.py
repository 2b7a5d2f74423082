"""The GPU's rung: its rows and ratios with a stand-in for the device, all of it on a real one."""

import json

import pytest
import torch
from click.testing import CliRunner

from bench import augment_cuda
from bench.__main__ import bench
from bench.augment_cuda import cuda_candidates, cuda_ratios, memory_over
from bench.harness import Candidate, Measured
from bench.pictures import bytes_to_move, generated
from pipeline.augment.recipe import MultiCropRecipe

RECIPE = MultiCropRecipe()
NAMES = [
    "fused (bf16)",
    "fused (bf16) graph",
    "fused (bf16) upload",
    "fused (fp32)",
    "fused (fp32) graph",
    "kornia",
    "DALI stock",
]


class CountingViews:
    """The two calls of the fused executor, counted."""

    def __init__(self):
        self.prepared, self.launched = [], []

    def prepare(self, decoded, params):
        self.prepared.append(params.flip.tobytes())
        return len(self.prepared)

    def launch(self, work):
        self.launched.append(work)


@pytest.fixture
def candidates(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return cuda_candidates(generated(2), RECIPE, {})


def test_rows_are_fused_in_both_types_and_the_peers(candidates):
    assert [c.name for c in candidates] == NAMES
    assert [c.name for c in candidates if c.peer] == ["kornia", "DALI stock"]


def test_bf16_moves_half_the_bytes_of_the_views(candidates):
    moved = {c.name: c.bytes_per_image for c in candidates}
    assert moved["fused (bf16)"] == bytes_to_move(generated(2), RECIPE, element_size=2)
    assert moved["fused (fp32)"] == moved["kornia"] == bytes_to_move(generated(2), RECIPE)


def test_a_launch_prepares_once_and_an_upload_each_time_anew():
    views = CountingViews()
    launch = augment_cuda._launch(views, generated(2), RECIPE)
    for _ in range(3):
        launch()
    assert (len(views.prepared), views.launched) == (1, [1, 1, 1])
    views = CountingViews()
    upload = augment_cuda._upload(views, generated(2), RECIPE)
    for _ in range(3):
        upload()
    assert len(set(views.prepared)) == 3
    assert views.launched == [1, 2, 3]


def test_memory_is_read_before_and_after_many_launches(monkeypatch):
    launches = []
    monkeypatch.setattr(augment_cuda, "_memory", lambda: {"allocated": len(launches)})
    found = memory_over(lambda: launches.append(1))
    assert found == {
        "launches": 2000,
        "before": {"allocated": 1},
        "after": {"allocated": 2001},
    }


def test_ratios_name_each_form_of_ours_and_each_peer():
    def measured(name, seconds):
        made = Candidate(name=name, what="", build=list, images=1, bytes_per_image=1)
        return Measured(candidate=made, seconds=(seconds,))

    found = cuda_ratios([measured(name, 1.0 + i) for i, name in enumerate(NAMES)])
    assert found["fused (bf16)/kornia"] == 6.0
    assert found["fused (fp32) graph/DALI stock"] == pytest.approx(7 / 5)
    assert found["fused (bf16) graph/fused (bf16)"] == 0.5
    assert len(found) == 10


@pytest.mark.gpu
def test_the_rung_runs_on_a_gpu_and_its_memory_does_not_grow():
    words = ["augment", "--device", "cuda", "--images", "4", "--rounds", "2", "--json"]
    result = CliRunner().invoke(bench, [*words, "--no-peers"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout.splitlines()[-1])["rows"]
    assert [row["name"] for row in rows] == NAMES[:5]
    watched = [row["memory"] for row in rows if "memory" in row]
    assert len(watched) == 2
    assert all(memory["before"] == memory["after"] for memory in watched)
