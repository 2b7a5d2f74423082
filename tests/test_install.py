"""The two commands: what is pinned, what apt and pip are asked for, what a second run does.

The scripts run with a PATH of their own, in which apt-get, sudo, g++ and Python are stand-ins that
write down how they were called; nothing is installed.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LISTS = ["requirements.txt", "requirements-dev.txt"]
COMMANDS = ["bash", "cat", "cp", "dirname", "env", "grep", "mkdir", "mktemp", "rm", "sed", "tail"]
COMMANDS += ["timeout", "tr", "true"]
ONE_LINE = "sudo apt-get update && sudo apt-get install -y --no-install-recommends "

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")


def pins(name):
    """Package -> version of a requirements file, which holds nothing but pins and comments."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if line and line[0] != "#"]
    matches = {line: re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)", line) for line in lines}
    assert all(matches.values()), [line for line, match in matches.items() if match is None]
    assert len({match[1] for match in matches.values()}) == len(lines), "a package stands twice"
    return {match[1]: match[2] for match in matches.values()}


def normalised(requirement):
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-")


@pytest.mark.parametrize("name", LISTS)
def test_every_requirement_is_pinned_and_installed_as_pinned(name):
    if not Path(sys.prefix, ".installed-dev").exists():
        pytest.skip("this environment was not made by make")
    installed = {package: importlib.metadata.version(package) for package in pins(name)}
    assert {p: v.partition("+")[0] for p, v in installed.items()} == pins(name)


def test_no_package_stands_in_both_lists():
    assert not pins(LISTS[0]).keys() & pins(LISTS[1]).keys()


def test_requirements_hold_what_ffcv_needs_without_its_opencv():
    if importlib.util.find_spec("ffcv") is None:
        pytest.skip("ffcv is not installed here")
    asked = {normalised(line) for line in importlib.metadata.requires("ffcv") or []}
    assert asked - pins("requirements.txt").keys() == {"opencv-python"}
    assert "opencv-python-headless" in pins("requirements.txt")


def test_settings_name_the_same_python_and_existing_tools():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lowest = settings["project"]["requires-python"].removeprefix(">=")
    assert settings["tool"]["mypy"]["python_version"] == lowest
    assert settings["tool"]["ruff"]["target-version"] == "py" + lowest.replace(".", "")
    assert f"({lowest.replace('.', ', ')})" in (ROOT / "install/system.sh").read_text()
    assert {"ruff", "mypy", "pytest", "pytest-timeout"} <= pins("requirements-dev.txt").keys()
    for path in settings["tool"]["mypy"]["files"]:
        assert (ROOT / path).exists(), f"mypy is to check {path}, which is not there"


@pytest.fixture
def machine(tmp_path):
    """A folder for PATH where all that the install needs is found; calls go to `calls`."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in COMMANDS:
        (tools / name).symlink_to(shutil.which(name))
    stand_in(tools, "python", 'case "$*" in *print*) echo python3.11 ;; esac')
    stand_in(tools, "g++", "echo '\"4.6.0\"'")
    stand_in(tools, "pkg-config")
    stand_in(tools, "id", "echo 1000")
    stand_in(tools, "apt-get", f'echo "apt-get $*" >>{tmp_path}/calls')
    return tools


def stand_in(folder, name, body="true"):
    path = folder / name
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def run(machine, *command, cwd=ROOT, **environment):
    return subprocess.run(
        ["bash", *map(str, command)],
        cwd=cwd,
        env={"PATH": str(machine), **environment},
        capture_output=True,
        text=True,
    )


def calls(machine):
    log = machine.parent / "calls"
    return log.read_text().splitlines() if log.exists() else []


def test_apt_is_left_alone_when_nothing_is_missing(machine):
    result = run(machine, "install/system.sh", "python")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert calls(machine) == []


@pytest.mark.parametrize("reason", ["no sudo", "sudo asks for a password", "APT=no", "no apt-get"])
def test_without_apt_the_one_line_is_printed_and_the_status_is_not_zero(machine, reason):
    (machine / "pkg-config").unlink()
    stand_in(machine, "id", "echo 0" if reason in ("APT=no", "no apt-get") else "echo 1000")
    if reason == "sudo asks for a password":
        stand_in(machine, "sudo", "exit 1")
    if reason == "no apt-get":
        (machine / "apt-get").unlink()
    allowed = {"APT": "no"} if reason == "APT=no" else {}
    result = run(machine, "install/system.sh", "python", **allowed)
    assert result.returncode == 1
    assert result.stderr.splitlines()[1:] == [ONE_LINE + "pkg-config"]
    assert calls(machine) == []


def test_each_missing_piece_has_its_package(machine):
    stand_in(
        machine,
        "python",
        'case "$*" in *print*) echo python3.12 ;; *Python.h*|*venv*) exit 1; esac',
    )
    stand_in(machine, "g++", "exit 1")
    result = run(machine, "install/system.sh", "python")
    assert result.stderr.splitlines()[-1] == (
        ONE_LINE + "python3.12-venv python3.12-dev libturbojpeg0-dev libopencv-core-dev "
        "libopencv-imgproc-dev"
    )


@pytest.mark.parametrize("runner", ["root", "sudo"])
def test_apt_installs_only_what_is_missing(machine, runner):
    pkg_config = (machine / "pkg-config").rename(machine.parent / "pkg-config")
    stand_in(
        machine,
        "apt-get",
        f'echo "$*" >>{machine.parent}/calls\n[ $1 = update ] || cp {pkg_config} {machine}/',
    )
    stand_in(machine, "id", "echo 0" if runner == "root" else "echo 1000")
    stand_in(machine, "sudo", '[ "$1" = -n ] && shift\nexec "$@"')
    result = run(machine, "install/system.sh", "python")
    assert result.returncode == 0, result.stderr
    assert calls(machine) == [
        "update -qq",
        "install -qq -y --no-install-recommends pkg-config",
    ]


def test_a_package_that_did_not_help_is_named(machine):
    (machine / "pkg-config").unlink()
    stand_in(machine, "id", "echo 0")
    result = run(machine, "install/system.sh", "python")
    assert result.returncode == 1
    assert "still not usable: pkg-config" in result.stderr


def test_an_old_or_missing_python_is_refused(machine):
    stand_in(machine, "python", 'case "$*" in --version) echo Python 3.10.13 ;; *) exit 1; esac')
    for name, what in (("python", "Python 3.10.13"), ("python9", "not there")):
        result = run(machine, "install/system.sh", name)
        assert result.returncode == 1
        assert f"Python 3.11 or newer is needed; '{name}' is {what}" in result.stderr


@pytest.fixture
def venv(machine):
    """An environment whose Python writes down what pip was to install, and with what at hand."""
    folder = machine.parent / "venv"
    (folder / "bin").mkdir(parents=True)
    body = f"""
case "$*" in *"pip install"*) echo "$*" >>{machine.parent}/calls; echo Successfully ;; esac
for word; do [ -f "$word" ] && cp "$word" {machine.parent}/asked; done
[ -z "${{PKG_CONFIG_PATH:-}}" ] || cp $PKG_CONFIG_PATH/opencv4.pc {machine.parent}/
exit 0"""
    stand_in(folder / "bin", "python", body)
    return folder


def test_ffcv_is_installed_apart_and_without_its_dependencies(machine, venv):
    result = run(machine, "install/packages.sh", "python", venv)
    assert result.returncode == 0, result.stderr
    everything, ffcv = calls(machine)
    assert "--no-deps" not in everything
    asked = (machine.parent / "asked").read_text()
    assert set((ROOT / "requirements.txt").read_text().splitlines()) - set(asked.splitlines()) == {
        f"ffcv=={pins('requirements.txt')['ffcv']}"
    }
    assert "--no-deps" in ffcv
    assert ffcv.endswith(f"ffcv=={pins('requirements.txt')['ffcv']}")
    assert "Version: 4.6.0\n" in (machine.parent / "opencv4.pc").read_text()


def test_a_failing_pip_fails_the_install(machine, venv):
    stand_in(venv / "bin", "python", 'case "$*" in *"pip install"*) exit 3 ;; esac')
    assert run(machine, "install/packages.sh", "python", venv).returncode == 3


@pytest.fixture
def tree(tmp_path):
    """A checkout whose .venv is complete: the lists are older than the stamps."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("install", ".ci"):
        shutil.copytree(ROOT / name, tree / name)
    for name in ("Makefile", *LISTS):
        shutil.copy(ROOT / name, tree / name)
    stamps = [tree / ".venv" / name for name in (".installed", ".installed-dev")]
    (tree / ".venv/bin").mkdir(parents=True)
    stand_in(tree / ".venv/bin", "python")
    for path in tree.rglob("*"):
        os.utime(path, (1000, 1000))
    for seconds, stamp in enumerate(stamps, start=2000):
        stamp.touch()
        os.utime(stamp, (seconds, seconds))
    return tree


def dry_run(tree, *targets):
    command = ["make", "--dry-run", "--no-print-directory", *targets]
    # the make that runs these tests hands its own variables down
    result = subprocess.run(
        command, cwd=tree, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@needs_make
def test_a_second_run_installs_nothing(tree):
    assert [line.strip() for line in dry_run(tree, "demo", "test").splitlines()] == [
        ".venv/bin/python -m evaluation.demo --out runs/demo",
        ".venv/bin/python -m pytest",
    ]


@needs_make
@pytest.mark.parametrize(
    ("touched", "expected"), [(LISTS[0], "install/packages.sh"), (LISTS[1], "pip install")]
)
def test_a_changed_list_is_installed_again(tree, touched, expected):
    (tree / touched).touch()
    assert expected in dry_run(tree, "test")


@pytest.mark.parametrize("stale", ["", ".venv/.installed-dev", "requirements.txt"])
def test_ci_starts_from_nothing_when_the_environment_is_stale(machine, tree, stale):
    if stale.startswith(".venv"):
        (tree / stale).unlink()
    elif stale:
        (tree / stale).touch()
    stand_in(machine, "make", f'echo "make $*" >>{machine.parent}/calls')
    result = run(machine, ".ci/run", cwd=tree)
    assert result.returncode == 0, result.stderr
    assert (tree / ".venv").exists() == (stale == "")
    assert calls(machine) == ["make lint test"]


def test_ci_fails_when_a_check_fails(machine, tree):
    stand_in(machine, "make", "exit 2")
    assert run(machine, ".ci/run", cwd=tree).returncode == 2
