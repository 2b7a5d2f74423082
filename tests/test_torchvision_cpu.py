"""torchvision beside CPU torch: imported in fresh interpreters, since an import happens once."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchvision_cpu import needs_operators

ROOT = Path(__file__).resolve().parents[1]


def run_python(code):
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_transforms_and_models_work_and_a_second_call_changes_nothing():
    result = run_python(
        "from torchvision_cpu import import_torchvision\n"
        "torchvision = import_torchvision()\n"
        "assert import_torchvision() is torchvision\n"
        "import torch\n"
        "from torchvision.transforms import v2\n"
        "view = v2.RandomResizedCrop(8)(torch.zeros(3, 32, 24, dtype=torch.uint8))\n"
        "model = torchvision.models.resnet18().eval()\n"
        "print(tuple(view.shape), model(torch.zeros(1, 3, 32, 32)).shape[1])"
    )
    assert result.stdout == "(3, 8, 8) 1000\n", result.stderr


def test_an_import_that_failed_before_is_mended():
    result = run_python(
        "try:\n"
        "    import torchvision\n"
        "except RuntimeError:\n"
        "    pass\n"
        "from torchvision_cpu import import_torchvision\n"
        "print(import_torchvision().__name__)"
    )
    assert result.stdout == "torchvision\n", result.stderr


def test_operators_are_declared_only_for_a_cuda_wheel_under_cpu_torch(tmp_path, monkeypatch):
    package = tmp_path / "torchvision"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert not needs_operators(package)
    libraries = tmp_path / "torchvision.libs"
    libraries.mkdir()
    (libraries / "libcudart.faf08d9a.so.13").touch()
    assert needs_operators(package)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert not needs_operators(package)


def test_a_torchvision_of_another_torch_is_named_as_such():
    result = run_python(
        "import sys, types, torch, torchvision_cpu\n"
        "torchvision_cpu.declare_operators = lambda: None\n"
        "torch.version.cuda = 'none'\n"
        "torchvision_cpu.import_torchvision()"
    )
    if torch.version.cuda is not None:
        pytest.skip("the compiled part of torchvision can be loaded here")
    assert "ImportError: torchvision does not fit torch" in result.stderr
    assert "requirements.txt" in result.stderr
