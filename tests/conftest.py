"""Options and fixtures of all tests: where the real photos are, and what is skipped without them.

`real_data` is a folder that holds one folder per name of `REAL_SETS`. Tests that use it are marked
`real`; they run where `--real-data=DIR` is given or `../shared/data` lies beside the checkout. DIR
holds the sets as zip files, as unpacked folders, or as a mixture of both. (With a blank instead of
`=`, name the tests as well: `pytest tests --real-data DIR`; pytest looks for its settings beside
the first path it sees, before it knows this option.)
"""

import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# the same examples in every run, and none failed by a busy machine; new ones are drawn with
# --hypothesis-profile=default
settings.register_profile("steady", derandomize=True, deadline=None)
settings.load_profile("steady")

REAL_SETS = ("clothing_cc0_200", "ecssd", "imagenet_sample_400", "imagenette128", "odd")
BESIDE_CHECKOUT = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--real-data",
        type=Path,
        metavar="DIR",
        help=f"folder with {', '.join(REAL_SETS)}, as zips or unpacked (default: ../shared/data)",
    )
    parser.addoption(
        "--mutations",
        type=int,
        default=400,
        metavar="N",
        help="how many damaged files are given to the conversion (default: 400; 50000: 2 minutes)",
    )


def missing_sets(folder: Path) -> list[str]:
    """Names of `REAL_SETS` that `folder` holds neither as a folder nor as a zip."""
    return [
        name
        for name in REAL_SETS
        if not (folder / name).is_dir() and not (folder / f"{name}.zip").is_file()
    ]


def real_source(config: pytest.Config) -> Path:
    return config.getoption("--real-data") or BESIDE_CHECKOUT


def pytest_configure(config: pytest.Config) -> None:
    _interpret_triton_without_a_gpu()
    asked: Path | None = config.getoption("--real-data")
    if asked is not None and (missing := missing_sets(asked)):
        raise pytest.UsageError(
            f"--real-data {asked}: no folder or zip named {', '.join(missing)} there"
        )


def _interpret_triton_without_a_gpu() -> None:
    """Triton decides at its import whether kernels are compiled, or run step by step on the CPU."""
    if _why_no_gpu():
        os.environ["TRITON_INTERPRET"] = "1"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    _skip_marked(items, "real", _why_no_photos(config))
    if any(item.get_closest_marker("gpu") for item in items):
        _skip_marked(items, "gpu", _why_no_gpu())


def _why_no_photos(config: pytest.Config) -> str | None:
    missing = missing_sets(real_source(config))
    if not missing:
        return None
    return f"no {', '.join(missing)}: give --real-data=DIR or put the photos in ../shared/data"


def _why_no_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "no CUDA device on this machine"


def _skip_marked(items: list[pytest.Item], marker: str, reason: str | None) -> None:
    if reason is None:
        return
    for item in items:
        if item.get_closest_marker(marker):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def real_data(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Folder with one unpacked folder per name of `REAL_SETS`; read only, kept for one session."""
    source = real_source(pytestconfig)
    assert not missing_sets(source), "a test that uses real_data must be marked `real`"
    if all((source / name).is_dir() for name in REAL_SETS):
        yield source
        return
    folder = tmp_path_factory.mktemp("real_data")
    for name in REAL_SETS:
        if (source / name).is_dir():
            (folder / name).symlink_to((source / name).resolve(), target_is_directory=True)
        else:
            with zipfile.ZipFile(source / f"{name}.zip") as archive:
                archive.extractall(folder)
    yield folder
    shutil.rmtree(folder)  # 155 MB, which pytest would keep for three sessions


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `shards` of 24 demo pictures and `tiny.toml`, a preset for them."""
    from tests.journey import TINY, command  # here: tests copy this file without that one

    folder = tmp_path_factory.mktemp("journey")
    words = ["--source", "demo", "--limit", 24, "--out", folder / "shards"]
    made = command("convert_dataset.py", *words)
    assert made.returncode == 0, made.stderr
    (folder / "tiny.toml").write_text(TINY)
    return folder


@pytest.fixture(scope="session")
def undisturbed(home: Path) -> list:
    """What each step of the runs of tests/elastic.py is fed when nothing happens: its rows."""
    import json

    from bench.trace import TraceRequest, trace_rank
    from tests.elastic import MOST_STEPS, SETTINGS
    from training.config import apply_settings
    from training.presets import load_preset

    config = apply_settings(load_preset(str(home / "tiny.toml")), SETTINGS)
    request = TraceRequest(
        data=home / "shards", config=config, start_step=0, num_steps=MOST_STEPS, processes=1
    )
    steps = json.loads(json.dumps(trace_rank(request, 0)))  # as a record that was read
    assert len({str(rows) for rows in steps}) == MOST_STEPS
    return steps
