"""The suite for machines with a GPU: what it says without one, and how it runs its parts."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bench import gpu_suite
from bench.gpu_suite import PARTS, Part, main, run_part

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_GPU = pytest.mark.skipif(
    torch.cuda.is_available(), reason="there is a CUDA device on this machine"
)


@WITHOUT_GPU
@pytest.mark.parametrize("how", [["bench/gpu_suite.py"], ["-m", "bench.gpu_suite"]])
def test_without_a_gpu_it_says_so_and_exits_with_zero(how, tmp_path):
    words = [sys.executable, *how, "--only", "augment", "--out", str(tmp_path / "results")]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, last = done.stdout.splitlines()
    assert first == "no CUDA device on this machine: no figures"
    assert json.loads(last) == {"suite": "gpu", "gpu": None, "parts": {}}
    assert not (tmp_path / "results").exists()


def test_the_suite_and_the_rung_import_nothing_that_a_bare_gpu_machine_lacks():
    absent = ["nvidia", "ffcv", "kornia", "torchvision", "numba", "cv2", "simplejpeg", "rich"]
    code = (
        f"import sys\nsys.modules.update(dict.fromkeys({absent}))\n"
        "import bench.gpu_suite, bench.augment_cuda, bench.loader_cuda\n"
        "from bench.__main__ import bench as commands\n"
        "for name in commands.list_commands(None):\n"
        "    commands.get_command(None, name)\n"
        "from bench.peers import dali_stock, ffcv_stock, kornia_batched, torchvision_v2\n"
        "from bench.peers import dali_loader, ffcv_loader, kornia_dali_loader, libjpeg_loop\n"
        "import bench.peers.torchvision_loader, bench.step.rung\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def part(code, *, prints_json=True, limit=60.0):
    return Part(name="part", arguments=("-c", code), limit_seconds=limit, prints_json=prints_json)


def test_a_part_gives_its_last_line_with_the_environment():
    result = run_part(part('print("noise")\nprint(\'{"rung": "x"}\')'))
    assert (result["status"], result["exit_status"]) == ("ok", 0)
    assert result["result"] == {"rung": "x"}
    assert result["environment"]["versions"]["torch"] == torch.__version__


def test_a_part_without_json_keeps_the_end_of_its_output():
    result = run_part(part('print("3 passed")', prints_json=False))
    assert result["status"] == "ok"
    assert result["output_tail"] == "3 passed\n"


def test_a_part_that_fails_keeps_its_figures_and_its_errors():
    code = 'import sys\nprint(\'{"a": 1}\')\nsys.stderr.write("sad")\nsys.exit(3)'
    result = run_part(part(code))
    assert (result["status"], result["exit_status"]) == ("failed", 3)
    assert (result["result"], result["errors_tail"]) == ({"a": 1}, "sad")


def test_a_part_that_promised_figures_and_gave_none_is_not_ok():
    assert run_part(part('print("no object")'))["status"] == "no figures"


def test_a_part_that_hangs_is_ended_with_its_children():
    child = "import time; time.sleep(600)"
    code = (
        "import subprocess, sys\nprint('begun', flush=True)\n"
        f"subprocess.run([sys.executable, '-c', {child!r}])"
    )
    result = run_part(part(code, limit=1.5))
    assert (result["status"], result["exit_status"]) == ("timeout", None)
    assert result["output_tail"] == "begun\n"
    assert result["seconds"] < 60


def test_with_a_gpu_each_part_has_a_file_and_a_failure_leaves_the_others(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200 NVL")
    monkeypatch.setattr(gpu_suite, "environment", lambda: {"gpu": "pretended"})
    parts = (part("raise SystemExit(1)"), part("print('{\"b\": 2}')"))
    named = tuple(
        Part(name=name, arguments=p.arguments, limit_seconds=60, prints_json=True)
        for name, p in zip(("first", "second"), parts, strict=True)
    )
    monkeypatch.setattr(gpu_suite, "PARTS", named)
    result = CliRunner().invoke(main, ["--out", str(tmp_path)])
    assert result.exit_code == 1
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["gpu"] == "NVIDIA H200 NVL"
    assert {k: v["status"] for k, v in summary["parts"].items()} == {
        "first": "failed",
        "second": "ok",
    }
    (line,) = (tmp_path / "second-nvidia-h200-nvl.json").read_text().splitlines()
    assert json.loads(line)["result"] == {"b": 2}
    assert json.loads((tmp_path / "first-nvidia-h200-nvl.json").read_text())["status"] == "failed"


def test_all_parts_together_end_within_ten_minutes():
    usual = [part for part in PARTS if not part.on_request]
    assert [part.name for part in usual] == ["tests", "augment", "ladder", "certificate"]
    assert sum(part.limit_seconds for part in usual) < 600


def test_the_step_is_measured_on_request_within_eight_minutes():
    (part,) = (part for part in PARTS if part.on_request)
    assert part.name == "step"
    assert part.limit_seconds < 480
    assert part.prints_json


def test_what_runs_on_request_runs_only_where_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(gpu_suite, "environment", lambda: {"gpu": "pretended"})
    usual, asked = part("print('{}')"), part("print('{}')")
    parts = (replace(usual, name="tests"), replace(asked, name="step", on_request=True))
    monkeypatch.setattr(gpu_suite, "PARTS", parts)
    for words, ran in (((), ["tests"]), (("--only", "step"), ["step"])):
        result = CliRunner().invoke(main, [*words, "--out", str(tmp_path)])
        assert result.exit_code == 0, result.output
        assert list(json.loads(result.stdout.splitlines()[-1])["parts"]) == ran


def test_the_files_with_gpu_tests_are_found():
    found = gpu_suite._gpu_tests()
    assert "tests/evaluation/test_knn.py" in found
    assert "tests/test_architecture.py" not in found
