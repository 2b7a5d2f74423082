"""The rules of who may know whom, checked on the syntax trees of all Python files.

The rules are the tables below; a new folder gets a line in `MAY_IMPORT`. Each rule is a function
from one file to what it finds wrong, and each has a planted violation that it must catch.
"""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOT_OURS = {"build", "data", "runs"}
FORBIDDEN_NAMES = {"utils.py"}

# part (a folder, or a module at the top) -> the other parts that it may import
SHARED = {"console", "files"}  # how commands refuse and print; files written whole
HALVES = {"pipeline", "model", *SHARED}
EVERYTHING = {"bench", "convert_dataset", "evaluate", "evaluation", "torchvision_cpu", "train"}
MAY_IMPORT = {
    "console": set(),
    "files": set(),
    "pipeline": SHARED,
    "model": SHARED,
    "torchvision_cpu": set(),
    "evaluation": HALVES,
    "training": HALVES | {"evaluation"},
    "train": HALVES | {"evaluation", "training"},
    "evaluate": HALVES | {"evaluation", "training"},
    "convert_dataset": {"pipeline", *SHARED},
    "bench": HALVES | {"torchvision_cpu", "train", "training"},
    "tests": HALVES | EVERYTHING | {"training"},
}

# inside pipeline, bottom to top: a module imports its own layer and those below
PIPELINE_LAYERS = [
    [
        "pipeline.batch",
        "pipeline.devices",
        "pipeline.folder_lock",
        "pipeline.numba_kernels",
        "pipeline.rng",
        "pipeline.stats",
        "pipeline.threads",
    ],
    [
        "pipeline.order",
        "pipeline.readahead",
        "pipeline.sampler",
        "pipeline.shards",
        "pipeline.saliency",
        "pipeline.augment.recipe",
    ],
    ["pipeline.sources", "pipeline.augment.params"],
    [
        "pipeline.augment",
        "pipeline.saliency.refine",
        "pipeline.saliency.evaluate_command",
        "pipeline.saliency.train_command",
        "pipeline.saliency.predict_command",
        "pipeline.saliency.sheet_command",
        "pipeline.saliency.__main__",
    ],
    ["pipeline.loader"],
    ["pipeline"],
]

# package -> files that may import it; tests may import all of them
ENTRY_POINTS = [
    "console.py",
    "train.py",
    "convert_dataset.py",
    "evaluate.py",
    "evaluation/demo.py",
    "pipeline/saliency/__main__.py",
    "bench/*",
]
SALIENCY_COMMANDS = ["pipeline/saliency/console.py", "pipeline/saliency/*_command.py"]
HOMES = {
    "cv2": ["pipeline/sources/*", "pipeline/saliency/*", "pipeline/augment/*"],
    "click": [*ENTRY_POINTS, *SALIENCY_COMMANDS, "pipeline/sources/progress.py"],
    "ffcv": ["pipeline/shards/beton*.py", "bench/peers/ffcv*.py"],
    "kornia": ["bench/peers/kornia*.py"],
    "matplotlib": ["evaluation/*", "bench/plot.py"],
    "numba": ["pipeline/numba_kernels.py", "pipeline/augment/compiled*.py"],
    "nvidia": ["*dali*.py", "pipeline/shards/tar*.py"],
    "PIL": [
        "pipeline/sources/*",
        "evaluation/*",
        "bench/generated.py",
        "bench/outlines/*",
        "bench/peers/*",
    ],
    "rich": [
        *(*ENTRY_POINTS, *SALIENCY_COMMANDS),
        *("pipeline/sources/progress.py", "training/runlog.py"),
    ],
    "scipy": [],
    "simplejpeg": [
        *("pipeline/loader/turbojpeg.py", "pipeline/shards/*", "pipeline/sources/*"),
        "bench/peers/*",
    ],
    "skimage": ["pipeline/saliency/*"],
    "sklearn": ["evaluation/*"],
    "tensorboard": ["training/runlog.py"],
    "torch.utils.tensorboard": ["training/runlog.py"],
    "threadpoolctl": ["pipeline/saliency/*"],
    "torchvision": ["torchvision_cpu.py"],
    "triton": ["pipeline/augment/fused*.py"],
}
READS_ENVIRONMENT = [*ENTRY_POINTS, "training/launch.py"]
SEEDS_TORCH = ["train.py"]  # the initial weights
LEGACY_NUMPY = set(dir(np.random.RandomState))  # the functions of one hidden RandomState


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """One Python file: `path` relative to the root, `modules`: the dotted names of all files."""

    path: str
    source: str
    modules: frozenset[str]

    @property
    def module(self) -> str:
        return module_name(self.path)

    @property
    def part(self) -> str:
        return self.module.partition(".")[0]

    def nodes(self) -> Iterator[ast.AST]:
        return ast.walk(ast.parse(self.source))

    def is_one_of(self, patterns: list[str]) -> bool:
        return any(fnmatch(self.path, pattern) for pattern in patterns)


def module_name(path: str) -> str:
    parts = PurePosixPath(path).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def all_files() -> list[File]:
    found = [
        path.relative_to(ROOT)
        for top in ROOT.iterdir()
        if not top.name.startswith(".") and top.name not in NOT_OURS
        for path in ([top] if top.is_file() else top.rglob("*.py"))
        if path.suffix == ".py"
    ]
    sources = {path.as_posix(): (ROOT / path).read_text() for path in sorted(found)}
    modules = frozenset(module_name(path) for path in sources)
    return [File(path=p, source=s, modules=modules) for p, s in sources.items()]


def imported(file: File) -> Iterator[str]:
    """Dotted names of what a file imports, at whatever depth, also by import_module("name")."""
    for node in file.nodes():
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*enclosing_package(file, node.level), *filter(None, [node.module])])
            for alias in node.names:
                name = f"{base}.{alias.name}"
                yield name if name in file.modules or name in HOMES else base
        elif isinstance(node, ast.Call) and called_name(node) in ("import_module", "__import__"):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant))


def enclosing_package(file: File, level: int) -> list[str]:
    """The package that a relative import of this level starts from; empty for absolute ones."""
    parts = PurePosixPath(file.path).parts
    return list(parts[: len(parts) - level]) if level else []


def called_name(node: ast.Call) -> str:
    return ast.unparse(node.func).rpartition(".")[2]


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def layer(module: str) -> int:
    """Index of the layer whose longest name encloses the module."""
    names = {name: i for i, names in enumerate(PIPELINE_LAYERS) for name in names}
    return names[max((name for name in names if is_within(module, name)), key=len)]


def strangers(file: File) -> Iterator[str]:
    """Parts that import what they must not know."""
    if file.part not in MAY_IMPORT:
        yield f"{file.part} has no line in MAY_IMPORT"
        return
    parts = {module.partition(".")[0] for module in file.modules} - {file.part}
    for name in imported(file):
        other = name.partition(".")[0]
        if other in parts and other not in MAY_IMPORT[file.part]:
            yield f"{file.part} must not import {name}"


def upward_imports(file: File) -> Iterator[str]:
    """Modules of the pipeline that import a layer above their own."""
    if file.part == "pipeline":
        for name in imported(file):
            if is_within(name, "pipeline") and layer(name) > layer(file.module):
                yield f"{file.module} must not import {name}, which lies above it"


def engines_away_from_home(file: File) -> Iterator[str]:
    """Optional and heavy packages imported outside the files that are named for them."""
    if file.part == "tests":
        return
    for name in imported(file):
        for package, homes in HOMES.items():
            if is_within(name, package) and not file.is_one_of(homes):
                yield f"{package} is imported outside {', '.join(homes) or 'the tests'}"


def prints(file: File) -> Iterator[str]:
    if not file.is_one_of([*ENTRY_POINTS, "tests/*"]):
        for node in file.nodes():
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
                yield f"line {node.lineno}: print() outside the entry points"


def environment_reads(file: File) -> Iterator[str]:
    if not file.is_one_of([*READS_ENVIRONMENT, "tests/*"]):
        for node in file.nodes():
            name = node.attr if isinstance(node, ast.Attribute) else None
            name = node.name if isinstance(node, ast.alias) else name
            if name in ("environ", "getenv", "putenv"):
                yield f"os.{name} below the entry points"


def global_random_state(file: File) -> Iterator[str]:
    """Random streams that belong to the process and not to whoever draws from them."""
    if file.part == "tests":
        return
    if "random" in imported(file):
        yield "module random draws from a global state"
    for node in file.nodes():
        name = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if name == "torch.manual_seed" and not file.is_one_of(SEEDS_TORCH):
            yield f"torch.manual_seed outside {', '.join(SEEDS_TORCH)}"
        module, _, function = name.rpartition(".")
        if module in ("np.random", "numpy.random") and function in LEGACY_NUMPY:
            yield f"{name} draws from a global state"


def shapeless_files(file: File) -> Iterator[str]:
    if PurePosixPath(file.path).name in FORBIDDEN_NAMES:
        yield "a file is named for what it is about"


RULES: list[Callable[[File], Iterator[str]]] = [
    strangers,
    upward_imports,
    engines_away_from_home,
    prints,
    environment_reads,
    global_random_state,
    shapeless_files,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds_in_every_file(rule):
    files = all_files()
    assert {"pipeline", "tests"} <= {file.part for file in files}
    wrong = [f"{file.path}: {finding}" for file in files for finding in rule(file)]
    assert not wrong, "\n" + "\n".join(wrong)


PLANTED = [
    (strangers, "pipeline/batch.py", "from model.loss import relic_loss"),
    (strangers, "model/loss.py", "def f():\n    import pipeline"),
    (strangers, "model/loss.py", "from ..pipeline import rng"),
    (strangers, "convert_dataset.py", "import model.loss"),
    (strangers, "evaluation/knn.py", "import train"),
    (strangers, "train.py", "from tests import support"),
    (strangers, "training/config.py", 'importlib.import_module("bench.trace")'),
    (strangers, "helpers/thing.py", "import math"),
    (upward_imports, "pipeline/rng.py", "from pipeline import sampler"),
    (upward_imports, "pipeline/augment/recipe.py", "from pipeline.augment.params import x"),
    (upward_imports, "pipeline/augment/recipe.py", "from . import params"),
    (upward_imports, "pipeline/shards/tar.py", "import pipeline.loader"),
    (engines_away_from_home, "pipeline/loader/ring.py", "from nvidia.dali import fn"),
    (engines_away_from_home, "pipeline/shards/tar.py", "def f():\n    import ffcv.writer"),
    (engines_away_from_home, "pipeline/sampler.py", "from numba import njit"),
    (engines_away_from_home, "model/step.py", "from torch.utils import tensorboard"),
    (engines_away_from_home, "pipeline/loader/__init__.py", "import torchvision.io"),
    (prints, "model/loss.py", "def f():\n    print(1)"),
    (environment_reads, "pipeline/rng.py", 'import os\nos.environ["SEED"]'),
    (environment_reads, "training/config.py", "from os import getenv"),
    (global_random_state, "pipeline/rng.py", "import random"),
    (global_random_state, "evaluation/linear.py", "torch.manual_seed(0)"),
    (global_random_state, "pipeline/sampler.py", "np.random.shuffle(ids)"),
    (shapeless_files, "pipeline/utils.py", "import math"),
]
KNOWN = frozenset(
    ["model", "model.loss", "tests", "tests.support", "train", "bench.trace", "pipeline"]
) | {f"pipeline.{name}" for name in ("rng", "sampler", "loader", "augment.params")}


@pytest.mark.parametrize(("rule", "path", "source"), PLANTED)
def test_planted_violation_is_caught_by_its_rule_alone(rule, path, source):
    file = File(path=path, source=source, modules=KNOWN)
    assert [other for other in RULES if list(other(file))] == [rule]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "train.py",
            "import click\nfrom model import loss\nfrom pipeline.loader import x\nprint()",
        ),
        ("training/launch.py", "import os\nfrom pipeline import rng\nos.environ['RANK']"),
        ("pipeline/augment/compiled.py", "import numba\nfrom pipeline.augment import params"),
        ("pipeline/shards/beton.py", "def f():\n    import ffcv.writer"),
        ("pipeline/loader/dali.py", "from nvidia.dali import fn\nconsole.print(1)"),
        ("pipeline/sources/demo.py", "import numpy as np\nnp.random.default_rng(3)"),
        ("bench/trace.py", "import train\nfrom torchvision_cpu import import_torchvision"),
    ],
)
def test_what_is_allowed_is_not_reported(path, source):
    file = File(path=path, source=source, modules=KNOWN)
    assert [finding for rule in RULES for finding in rule(file)] == []


def test_packages_import_no_optional_engine():
    code = (
        "import sys, numpy, torch\n"
        "before = set(sys.modules)\n"
        "import pipeline, pipeline.augment, pipeline.loader, pipeline.shards, model\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.split())
    assert {"model", "pipeline"} <= loaded
    assert not loaded & {package.partition(".")[0] for package in HOMES if package[:5] != "torch."}
