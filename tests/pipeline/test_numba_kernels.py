"""numba's cache of kernels: what is wrong with it is said once, and no call fails by it."""

import importlib.util
import os

import pytest

from pipeline import numba_kernels

SOURCE = "def plus(a, b):\n    return a + b\n\n\ndef times(a, b):\n    return a * b\n"


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A module of functions in a folder of its own, where numba keeps what it compiles."""
    monkeypatch.setattr(numba_kernels, "_has_warned", False)
    path = tmp_path / "functions.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("functions", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def warned(caplog):
    return [record.getMessage() for record in caplog.records]


def test_kernels_are_kept_beside_their_source(source, tmp_path, caplog):
    assert numba_kernels.kernel(source.plus)(1, 2) == 3
    (kept,) = (tmp_path / "__pycache__").glob("functions.plus-*.nbc")
    before = kept.stat().st_mtime_ns
    again = numba_kernels.kernel(source.plus)
    assert again(1, 2) == 3
    assert sum(again.stats.cache_hits.values()) == 1
    assert kept.stat().st_mtime_ns == before
    assert warned(caplog) == []


def test_without_a_place_for_its_cache_numba_compiles_and_says_so_once(
    source, tmp_path, monkeypatch, caplog
):
    (tmp_path / "__pycache__").write_text("in the way of a folder")
    (tmp_path / "home").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home" / "cache"))
    assert numba_kernels.kernel(source.plus)(1, 2) == 3
    assert numba_kernels.kernel(source.times)(2, 3) == 6
    (line,) = warned(caplog)
    assert "no locator available" in line
    assert "set NUMBA_CACHE_DIR to a folder that can be written" in line
    assert "\n" not in line


@pytest.mark.parametrize("damage", ["index cut", "data cut", "disk full"])
def test_a_cache_that_cannot_be_used_is_compiled_around(
    source, tmp_path, monkeypatch, caplog, damage
):
    if damage == "disk full":

        def full(*_):
            raise OSError(28, os.strerror(28))

        monkeypatch.setattr(numba_kernels.FunctionCache, "save_overload", full)
    else:
        numba_kernels.kernel(source.plus)(1, 2)
        for path in (tmp_path / "__pycache__").glob("*.nbi" if "index" in damage else "*.nbc"):
            path.write_bytes(path.read_bytes()[:40])
    assert numba_kernels.kernel(source.plus)(1, 2) == 3
    (line,) = warned(caplog)
    assert f"its cache {tmp_path / '__pycache__'} cannot be used" in line
