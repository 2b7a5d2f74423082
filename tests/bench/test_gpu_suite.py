"""The suite for machines with a GPU: what it says without one, and how it runs its parts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from bench import gpu_parts, gpu_suite
from bench.__main__ import bench
from bench.gpu_parts import learned, wrong_with
from bench.gpu_suite import CALLS, PARTS, Part, main, run_part

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
        "import bench.gpu_suite, bench.gpu_parts, bench.augment_cuda, bench.loader_cuda\n"
        "from bench.__main__ import bench as commands\n"
        "for name in commands.list_commands(None):\n"
        "    commands.get_command(None, name)\n"
        "from bench.peers import dali_stock, ffcv_stock, kornia_batched, torchvision_v2\n"
        "from bench.peers import dali_loader, ffcv_loader, kornia_dali_loader, libjpeg_loop\n"
        "import bench.peers.torchvision_loader, bench.step.rung\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def part(*codes, name="part", **others):
    commands = tuple((sys.executable, "-c", code) for code in codes)
    return Part(name=name, commands=commands, **{"limit_seconds": 60.0, **others})


def pretended(monkeypatch, *parts):
    """A machine with a GPU, for which these parts are there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200 NVL")
    monkeypatch.setattr(gpu_suite, "environment", lambda: {"gpu": "pretended"})
    monkeypatch.setattr(gpu_suite, "PARTS", parts)


def test_a_part_gives_its_last_line():
    result = run_part(part('print("noise")\nprint(\'{"rung": "x"}\')'))
    assert (result["status"], result["exit_status"]) == ("ok", 0)
    assert result["result"] == {"rung": "x"}


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


@pytest.mark.parametrize(
    ("verdict", "status"), [("PASS", "failed"), ("FAIL", "failed"), ("INCOMPLETE", "incomplete")]
)
def test_a_certificate_of_too_few_steps_is_no_failure(verdict, status):
    code = f'print(\'{{"verdict": "{verdict}"}}\')\nraise SystemExit(1)'
    assert run_part(part(code))["status"] == status


def test_a_part_that_hangs_is_ended_with_its_children():
    child = "import time; time.sleep(600)"
    code = (
        "import subprocess, sys\nprint('begun', flush=True)\n"
        f"subprocess.run([sys.executable, '-c', {child!r}])"
    )
    result = run_part(part(code, limit_seconds=1.5))
    assert (result["status"], result["exit_status"]) == ("timeout", None)
    assert result["output_tail"] == "begun\n"
    assert result["seconds"] < 60


def test_commands_of_a_part_run_at_once_and_one_that_fails_is_seen(tmp_path):
    def waits_for(other, own, status):
        return (
            "import pathlib, sys, time\n"
            f"pathlib.Path({str(tmp_path)!r}, {own!r}).touch()\n"
            f"while not pathlib.Path({str(tmp_path)!r}, {other!r}).exists(): time.sleep(0.01)\n"
            f"print({own!r})\nsys.exit({status})"
        )

    both = part(waits_for("b", "a", 0), waits_for("a", "b", 5), prints_json=False)
    result = run_part(both)
    assert (result["status"], result["exit_status"]) == ("failed", 5)
    assert result["output_tail"] == "a\nb\n"


def test_lines_are_shown_while_a_part_runs(monkeypatch, tmp_path):
    told, seen = [], tmp_path / "seen"

    def tell(line):
        told.append(line)
        seen.touch()

    code = (
        "import pathlib, time\nprint('one')\n"
        f"while not pathlib.Path({str(seen)!r}).exists(): time.sleep(0.01)\nprint('two')"
    )
    monkeypatch.setattr(gpu_suite, "_tell", tell)
    result = run_part(part(code, prints_json=False))
    assert result["status"] == "ok"
    assert told == ["[part] one", "[part] two"]


def test_what_is_not_installed_is_named_and_its_part_skipped(monkeypatch, tmp_path):
    pretended(monkeypatch, part("raise SystemExit(1)", needs="no-such-program"))
    result = CliRunner().invoke(main, ["first", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "part: skipped (no-such-program is not installed)" in result.stderr
    (summary,) = json.loads(result.stdout.splitlines()[-1])["parts"].values()
    assert summary["status"] == "skipped"


def test_with_a_gpu_each_part_has_a_file_and_a_failure_leaves_the_others(monkeypatch, tmp_path):
    pretended(
        monkeypatch,
        part("raise SystemExit(1)", name="one"),
        part("print('{\"b\": 2}')", name="two"),
        part("print('{}')", name="three", call="second"),
    )
    result = CliRunner().invoke(main, ["first", "--out", str(tmp_path)])
    assert result.exit_code == 1
    begin = result.stderr.splitlines()[0]
    assert "one 60 s, two 60 s; together at most 120 s" in begin
    assert "three" not in begin
    summary = json.loads(result.stdout.splitlines()[-1])
    assert summary["gpu"] == "NVIDIA H200 NVL"
    assert {k: v["status"] for k, v in summary["parts"].items()} == {"one": "failed", "two": "ok"}
    (line,) = (tmp_path / "two-nvidia-h200-nvl.json").read_text().splitlines()
    written = json.loads(line)
    assert (written["result"], written["environment"]) == ({"b": 2}, {"gpu": "pretended"})
    assert json.loads((tmp_path / "one-nvidia-h200-nvl.json").read_text())["status"] == "failed"


def test_only_names_parts_of_either_call():
    assert CliRunner().invoke(main, []).exit_code == 2  # neither a call nor parts
    assert set(CALLS) == {part.call for part in PARTS}


def test_data_are_handed_to_the_part_that_learns(monkeypatch, tmp_path):
    show = "import json, sys; print(json.dumps({'a': sys.argv[1:]}))"
    pretended(monkeypatch, part(show, name="one"), part(show, name="two", takes_data=True))
    words = ["first", "--data", str(tmp_path), "--out", str(tmp_path)]
    assert CliRunner().invoke(main, words).exit_code == 0
    given = [
        json.loads((tmp_path / f"{name}-nvidia-h200-nvl.json").read_text())["result"]["a"]
        for name in ("one", "two")
    ]
    assert given == [[], ["--data", str(tmp_path)]]
    assert [part.name for part in PARTS if part.takes_data] == ["learning"]


@pytest.mark.parametrize("call", CALLS)
def test_the_parts_of_a_call_leave_ten_seconds_of_its_time(call):
    limits = [part.limit_seconds for part in PARTS if part.call == call]
    assert sum(limits) <= CALLS[call] - 10
    assert len({part.name for part in PARTS}) == len(PARTS)


def test_four_processes_share_the_files_with_gpu_tests():
    found = gpu_suite.gpu_tests()
    assert "tests/evaluation/test_knn.py" in found
    assert "tests/test_architecture.py" not in found
    (tests,) = (part for part in PARTS if part.name == "tests")
    shared = [word for command in tests.commands for word in command if word.endswith(".py")]
    assert len(tests.commands) == 4
    assert sorted(shared) == sorted(found)


@pytest.mark.parametrize("one", [part for part in PARTS if part.name != "tests"])
def test_every_command_is_one_that_there_is(one):
    (command,) = one.commands
    module, *words = command[command.index("-m") + 1 :]
    commands = {"bench": bench, "bench.gpu_parts": gpu_parts.parts}[module]
    helped = CliRunner().invoke(commands, [*words, "--help"])
    assert helped.exit_code == 0, helped.output
    assert all(word in helped.stdout for word in words if word.startswith("--"))


def test_what_a_run_has_learned_is_read_from_its_files(tmp_path):
    lines = [
        {"step": 0, "knn_top1": 40.0, "knn_standard_error": 1.0},
        {"step": 5, "loss": 2.0, "images_per_second": 9.0},
        {"step": 8, "knn_top1": 50.0, "knn_standard_error": 1.1},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = {"loader": {"executor": "fused"}, "precision": "auto"}
    (tmp_path / "config.json").write_text(json.dumps({"config": config, "gpu_check": None}))
    found = learned(tmp_path)
    assert found["knn"] == [[0, 40.0, 1.0], [8, 50.0, 1.1]]
    assert (found["losses"], found["executor"]) == ([2.0], "fused")
    assert wrong_with(found, 0) == ""
    assert "status 3" in wrong_with(found, 3)
    assert "not finite" in wrong_with(found | {"is_finite": False}, 0)
    assert "no epoch" in wrong_with(found | {"knn": found["knn"][:1]}, 0)


def test_images_that_cannot_be_converted_are_refused_in_a_line(tmp_path):
    done = CliRunner().invoke(gpu_parts.parts, ["learning", "--data", str(tmp_path), "--gpus", "0"])
    assert done.exit_code == 2
    assert f"no shards of {tmp_path}" in done.stderr
