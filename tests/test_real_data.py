"""The fixture of the real photos: where it looks, what it unpacks, what it says without them."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
SETS = ("clothing_cc0_200", "ecssd", "imagenet_sample_400", "imagenette128", "odd")
MARKED = """
import pytest

@pytest.mark.real
def test_photos(real_data):
    assert sorted(path.name for path in real_data.iterdir()) == {names}
    assert (real_data / "ecssd" / "a.txt").read_text() == "ecssd"
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout with one test of real photos, beside which there is no shared/data."""
    tests = tmp_path / "checkout" / "tests"
    tests.mkdir(parents=True)
    shutil.copy(CONFTEST, tests)
    (tests / "test_photos.py").write_text(MARKED.format(names=list(SETS)))
    (tests.parent / "pytest.ini").write_text("[pytest]\nmarkers =\n real: photos\n gpu: device\n")
    return tests.parent


def run_pytest(checkout, *options):
    command = [sys.executable, "-m", "pytest", "-rs", "tests", *map(str, options)]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True)


def make_folder(folder, name):
    (folder / name).mkdir(parents=True)
    (folder / name / "a.txt").write_text(name)


def make_zip(folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
        archive.writestr(f"{name}/a.txt", name)


def make_either(folder, name):
    (make_zip if name in ("ecssd", "odd") else make_folder)(folder, name)


@pytest.mark.parametrize(
    ("make", "how"),
    [
        (make_folder, "--real-data=DIR"),
        (make_zip, "beside the checkout"),
        (make_either, "--real-data DIR"),
    ],
)
def test_photos_are_found_as_zips_or_folders(checkout, make, how):
    folder = checkout.parent / "shared" / "data"
    if how != "beside the checkout":
        folder = checkout.parent / "elsewhere"
    for name in SETS:
        make(folder, name)
    options = how.replace("DIR", str(folder)).split() if how.startswith("-") else []
    result = run_pytest(checkout, *options)
    assert "1 passed" in result.stdout, result.stdout + result.stderr


def test_without_photos_the_test_is_skipped_with_the_reason(checkout):
    make_zip(checkout.parent / "shared" / "data", "ecssd")
    result = run_pytest(checkout)
    assert "1 skipped" in result.stdout
    assert "no clothing_cc0_200, imagenet_sample_400, imagenette128, odd: give" in result.stdout


def test_a_folder_without_the_photos_is_refused(checkout):
    result = run_pytest(checkout, f"--real-data={checkout}")
    assert result.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"--real-data {checkout}: no folder or zip named clothing_cc0_200" in result.stderr
