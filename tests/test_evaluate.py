"""evaluate.py as a user runs it: checkpoints and shards on disk, what is printed and written."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from click.testing import CliRunner, Result

from evaluate import main
from evaluation.page import read_sections
from evaluation.report import write_run_report
from evaluation.results import against_untrained, read_results
from model import checkpoint
from model.relicv2 import ReLICv2, ReLICv2Config
from model.resnet import ResNetConfig
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.saliency.codec import coverage, decode_mask, encode_mask
from pipeline.shards.index import Sample
from pipeline.shards.writer import FolderWriter, Provenance
from training.config import TrainConfig, to_dict

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("red", "green", "blue")
CONFIG = TrainConfig(
    name="tiny",
    recipe=MultiCropRecipe(large_size=16, small_size=8),
    model=ReLICv2Config(
        encoder=ResNetConfig(architecture="resnet18", width=1 / 16, stem="small"),
        hidden_size=8,
        embedding_size=4,
    ),
    seed=3,
)


def write_shards(
    folder: Path,
    count: int,
    *,
    seed: int,
    names: tuple[str, ...] = NAMES,
    labelled: bool = True,
    masked: bool = False,
) -> Path:
    """Noise whose class is the strongest channel."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    mask = encode_mask(np.full((20, 24), 255, np.uint8)) if masked else b""
    with FolderWriter(folder, format="dali", capacity=count, largest=10_000) as writer:
        for i in range(count):
            noise = rng.normal(110, 30, (20, 24, 3)) + 60 * np.eye(3)[i % 3]
            pixels = noise.clip(0, 255).astype(np.uint8)
            writer.add(
                Sample(
                    key=f"{names[i % 3] if names else 'flat'}/{i}.jpg",
                    label=i % 3 if labelled else -1,
                    jpeg=simplejpeg.encode_jpeg(pixels, quality=95, colorspace="RGB"),
                    mask=mask,
                    height=20,
                    width=24,
                    coverage=coverage(decode_mask(mask)) if masked else float("nan"),
                    unchanged=False,
                )
            )
        writer.finish(
            Provenance(
                label_names=names if labelled else (),
                source="test",
                description="noise",
                short_side=0,
                quality=95,
                mask_origin="none",
            ),
            skipped=[],
            repaired=[],
        )
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("shards")
    return {
        "train": write_shards(root / "train", 48, seed=1, masked=True),
        "test": write_shards(root / "test", 24, seed=2),
        "unlabelled": write_shards(root / "unlabelled", 6, seed=3, labelled=False),
        "other": write_shards(root / "other", 6, seed=4, names=("red", "lime", "blue")),
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with one checkpoint, whose weights differ from the initial ones."""
    folder = tmp_path / "run"
    model = ReLICv2(CONFIG.model, generator=torch.Generator().manual_seed(7))
    optimizer = torch.optim.SGD(model.online.parameters(), lr=0.1)
    state = checkpoint.capture(model, optimizer, step=12, config=to_dict(CONFIG))
    checkpoint.save(folder, 12, state)
    checkpoint.export_encoder(folder / "encoder.pt", model)
    return folder


def describe(run: Path) -> None:
    """Write what train.py writes beside the checkpoints."""
    data = {"num_samples": 48, "source": "test", "index_sha256": "0"}
    data["masks"] = "48 images have a mask"
    description = {"config": to_dict(CONFIG), "data": data, "world_size": 1, "device": "cpu"}
    description |= {"python": "3", "platform": "test", "versions": {"torch": "2"}}
    description |= {"command": "python train.py --out run", "commit": "abc123"}
    (run / "config.json").write_text(json.dumps(description))
    metrics = [
        {"step": i, "seconds": 10.0 * i, "loss": 2.0 / i, "images_per_second": 50.0}
        for i in range(1, 13)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))


def evaluate(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments), "--threads", "1"])


def refused(result: Result) -> str:
    """Return the one line of an error, having checked that it is one, with exit status 2."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_knn_prints_a_table_and_json_and_writes_both_files(
    run: Path, shards: dict[str, Path]
) -> None:
    sides = ("--train", shards["train"], "--test", shards["test"])
    result = evaluate("knn", "--checkpoint", run, *sides, "--k", 5, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["protocol"] == "knn"
    assert told["step"] == 12
    assert told["view_size"] == 16
    assert (told["train"]["samples"], told["test"]["samples"]) == (48, 24)
    assert [row["k"] for row in told["table"]] == [5, 10]
    assert told["chance"] == pytest.approx(100 / 3)
    assert f"top-1 {told['top1']:.1f} %" in result.stdout
    assert "equal votes" in result.stdout
    (written,) = read_results(run)
    assert written.top1 == told["top1"]
    sections = {section.key: section for section in read_sections(run / "report.html")}
    assert list(sections) == ["evaluation", "neighbours"]
    assert sections["neighbours"].body.count("<img") == 8 * (1 + 5)
    assert "top-5" not in result.stdout + sections["evaluation"].body  # of three classes
    error = told["top1_standard_error"]
    assert error == pytest.approx((told["top1"] * (100 - told["top1"]) / 24) ** 0.5)
    assert f"top-1 {told['top1']:.1f} % ± {error:.1f}" in result.stdout


def test_untrained_weights_stand_beside_the_trained_ones(
    run: Path, shards: dict[str, Path]
) -> None:
    describe(run)
    arguments = ("knn", "--checkpoint", run, "--train", shards["train"], "--k", 5)
    assert evaluate(*arguments).exit_code == 0
    result = evaluate(*arguments, "--untrained", "--json")
    assert json.loads(result.stdout.splitlines()[-1])["step"] == 0
    untrained, trained = read_results(run)
    assert (untrained.untrained, trained.untrained) == (True, False)
    assert untrained.test is None
    keys = [section.key for section in read_sections(run / "report.html")]
    assert keys == ["summary", "evaluation", "curves", "throughput", "neighbours"]
    told = against_untrained(read_results(run), "knn")
    assert told.startswith("Trained is ")
    assert told in result.stdout  # whichever of the two comes second
    again = evaluate(*arguments)
    assert told in again.stdout
    assert told in read_sections(run / "report.html")[0].lead
    page = (run / "report.html").read_text()
    assert "<h1>run: ReLICv2, tiny</h1>" in page
    for shown in ("python train.py --out run", "abc123", "0 h 02 min 00 s", "48 images have"):
        assert shown in page
    assert "leave-one-out" in page


def test_a_run_directory_its_checkpoint_and_its_export_are_the_same_encoder(
    run: Path, shards: dict[str, Path], tmp_path: Path
) -> None:
    found = []
    for index, path in enumerate((run, run / "checkpoint-00000012.pt", run / "encoder.pt")):
        out = tmp_path / f"out{index}"
        sizes = ("--size", 16) if path.name == "encoder.pt" else ()
        arguments = ("--train", shards["train"], "--k", 5, "--out", out, *sizes)
        assert evaluate("knn", "--checkpoint", path, *arguments).exit_code == 0
        (result,) = read_results(out)
        found.append((result.top1, result.table))
    assert found[0] == found[1] == found[2]


def test_both_linear_protocols_run_and_meet_in_one_report(
    run: Path, shards: dict[str, Path]
) -> None:
    sides = ("--checkpoint", run, "--train", shards["train"], "--test", shards["test"])
    quick = evaluate("linear", *sides, "--set", "l2=0.1,0.001", "--json")
    assert quick.exit_code == 0, quick.output
    assert json.loads(quick.stdout.splitlines()[-1])["chosen"]["l2"] in (0.1, 0.001)
    released = evaluate(
        *("linear", *sides, "--protocol", "released"),
        *("--set", "epochs=2", "--set", "learning_rates=0.1,0.3", "--json"),
    )
    assert released.exit_code == 0, released.output
    told = json.loads(released.stdout.splitlines()[-1])
    assert told["settings"]["epochs"] == 2
    assert "batch of 1024 is reduced to the 48" in released.stdout
    (section,) = read_sections(run / "report.html")
    assert "Linear, quick" in section.body
    assert "Linear, released protocol" in section.body


def test_the_whole_report_of_a_run_has_sheets_of_views_and_masks(
    run: Path, shards: dict[str, Path], tmp_path: Path
) -> None:
    describe(run)
    arguments = ("knn", "--checkpoint", run, "--train", shards["train"], "--k", 5)
    told = evaluate(*arguments, "--json").stdout.splitlines()[-1]
    path = write_run_report(run, data=shards["train"], results=[json.loads(told)], out=tmp_path)
    sections = {section.key: section for section in read_sections(path)}
    numbers = ["summary", "evaluation", "curves", "throughput"]
    assert list(sections) == [*numbers, "neighbours", "views", "masks"]
    assert sections["views"].body.count("<img") == 6 * 7
    assert sections["masks"].body.count("<img") == 12 * 3
    assert "red/0.jpg" in sections["masks"].body
    assert "100 % salient" in sections["masks"].body
    without = write_run_report(run, data=shards["test"], results=[], out=tmp_path)
    assert "masks" not in [section.key for section in read_sections(without)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--checkpoint": "none"}, "none: no such checkpoint; give a run directory"),
        ({"--checkpoint": "empty"}, "holds no checkpoint"),
        ({"--checkpoint": "foreign.pt"}, "cannot read"),
        ({"--checkpoint": "half.pt"}, "cannot read"),
        ({"--checkpoint": "other.pt"}, "neither a checkpoint of train.py nor"),
        ({"--checkpoint": "bare.pt"}, "weights alone, and bare.json is not beside it; copy it"),
        ({"--checkpoint": "old.pt"}, "of another version of this project"),
        ({"--checkpoint": "run/encoder.pt"}, "does not say how large its views were"),
        ({"--train": "none"}, "no such folder"),
        ({"--train": "empty"}, "manifest.json"),
        ({"--train": "unlabelled"}, "has no labels"),
        ({"--test": "other"}, "has images of classes that"),
        ({"--test": "other"}, "has none of ('lime'); leave them out of the test images"),
        ({"--k": "100"}, "k=100 neighbours need as many labelled samples, there are 48"),
        ({"--k": "0"}, "k must be at least 1"),
        ({"--size": "0"}, "must be positive, got 0"),
        ({"--set": "colour=3"}, "unknown setting 'colour'"),
        ({"--out": "foreign.pt"}, "is a file; give a folder"),
        ({"--out": "foreign.pt/deep/er"}, "foreign.pt/deep/er (Not a directory); give --out"),
        ({"--out": "new/deep", "--k": "100"}, "k=100 neighbours need"),
        ({"--out": "old"}, "evaluation-knn.json: no result of an evaluation"),
        ({"--out": "foreign"}, "not a report that this program wrote"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line_and_nothing_is_written(
    run: Path,
    shards: dict[str, Path],
    tmp_path: Path,
    changes: dict[str, str],
    message: str,
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "report.html").write_text("mine")
    (tmp_path / "foreign.pt").write_text("text")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "evaluation-knn.json").write_text('{"protocol": "knn"}')
    whole = (run / "checkpoint-00000012.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"weights": [0.0]}, tmp_path / "other.pt")
    torch.save(torch.load(run / "encoder.pt"), tmp_path / "bare.pt")
    torch.save({"config": {}, "model": {}, "step": 1}, tmp_path / "old.pt")
    places = {**shards, "run/encoder.pt": run / "encoder.pt"}
    arguments = {"--checkpoint": "run", "--train": "train", "--test": "test", "--k": "5"}
    before = sorted(tmp_path.rglob("*"))
    options = []
    for name, value in {**arguments, **changes}.items():
        is_path = name in ("--checkpoint", "--train", "--test", "--out")
        options += [name, places.get(value, tmp_path / value) if is_path else value]
    assert message in refused(evaluate("knn", *options))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("setting", ["seed=-1", "learning_rates=nan"])
def test_impossible_settings_of_the_released_protocol_are_refused_at_once(
    run: Path, shards: dict[str, Path], setting: str
) -> None:
    sides = ("--checkpoint", run, "--train", shards["train"], "--test", shards["test"])
    told = refused(evaluate("linear", *sides, "--protocol", "released", "--set", setting))
    assert setting.partition("=")[2] in told


def test_a_place_that_cannot_be_written_is_refused_before_features_are_computed(
    run: Path, shards: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**options: object) -> None:
        raise OSError(28, "No space left on device")

    def never(*arguments: object, **options: object) -> None:
        raise AssertionError("computed first")

    monkeypatch.setattr("evaluate.NamedTemporaryFile", full)
    monkeypatch.setattr("evaluate.evaluate_knn", never)
    out = tmp_path / "new" / "deep"
    told = refused(
        evaluate("knn", "--checkpoint", run, "--train", shards["train"], "--out", out, "--k", 5)
    )
    assert f"cannot write into {out} (No space left on device); give --out" in told
    assert not out.parent.exists()


def test_nothing_is_kept_that_no_report_can_show(
    run: Path, shards: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ValueError("cannot be drawn")

    monkeypatch.setattr("evaluation.report.evaluation_section", broken)
    before = sorted(run.rglob("*"))
    arguments = ("knn", "--checkpoint", run, "--train", shards["train"], "--k", 5)
    result = evaluate(*arguments)
    assert result.exit_code == 2
    assert result.stderr.endswith("Error: cannot be drawn\n")  # after the line of progress
    assert sorted(run.rglob("*")) == before


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(
    run: Path, shards: dict[str, Path]
) -> None:
    (run / "checkpoint-00000020.pt").write_bytes(b"cut off")
    result = evaluate("knn", "--checkpoint", run, "--train", shards["train"], "--k", 5, "--json")
    assert json.loads(result.stdout.splitlines()[-1])["step"] == 12
    assert "going on from checkpoint-00000012.pt" in result.stderr


def test_initial_weights_are_those_of_the_seed(run: Path) -> None:
    from evaluation.encoders import initial_encoder, open_encoder

    opened = open_encoder(run)
    first, again = initial_encoder(opened), initial_encoder(opened)
    other = initial_encoder(replace(opened, seed=4))
    weights = [one.encoder.conv1.weight for one in (first, again, other, opened)]
    assert opened.seed == 3
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])


def test_script_ends_with_status_two_and_no_traceback(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "evaluate.py"), "knn"]
    command += ["--checkpoint", str(tmp_path / "none"), "--train", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("Error: ")
