import copy
import dataclasses
import importlib.util
import json
import random
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from model import checkpoint
from model.lars import OptimizerConfig, make_optimizer
from model.loss import LossConfig
from model.relicv2 import ReLICv2, ReLICv2Config
from model.resnet import ResNetConfig
from model.step import backward
from torchvision_cpu import import_torchvision

CONFIG = {"seed": 3, "loss": {"temperature": 0.2}, "sizes": [1, 2], "areas": (0.08, 1.0)}


def make_model(seed=0, hidden=8, **encoder):
    settings = {"architecture": "resnet18", "width": 0.0625, "stem": "small"} | encoder
    config = ReLICv2Config(encoder=ResNetConfig(**settings), hidden_size=hidden, embedding_size=6)
    return ReLICv2(config, generator=torch.Generator().manual_seed(seed))


def train(model, optimizer, start, end):
    for step in range(start, end):
        generator = torch.Generator().manual_seed(step)
        large = torch.randn(2, 4, 3, 16, 16, generator=generator)
        small = torch.randn(1, 4, 3, 8, 8, generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (step + 1)
        optimizer.zero_grad()
        backward(model, large, small, None, LossConfig())
        optimizer.step()
        model.update_target(0.9)


def assert_equal_states(first, second):
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_equal_states(first[key], second[key])
    elif isinstance(first, list | tuple):
        assert type(first) is type(second)
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert_equal_states(a, b)
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


def save_steps(folder, steps, **settings):
    for step in steps:
        checkpoint.save(folder, step, {"step": step, "values": torch.full((50,), step)}, **settings)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["lars", "adamw"])
def test_resumed_run_is_bit_identical(tmp_path, name):
    config = OptimizerConfig(name=name)
    straight = make_model()
    optimizer = make_optimizer(straight, config)
    train(straight, optimizer, 0, 4)

    first = make_model()
    first_optimizer = make_optimizer(first, config)
    train(first, first_optimizer, 0, 2)
    state = checkpoint.capture(first, first_optimizer, step=2, config=CONFIG)
    checkpoint.save(tmp_path, 2, state)

    second = make_model(seed=9)
    second_optimizer = make_optimizer(second, config)
    found = checkpoint.restore(tmp_path)
    assert found.warning == ""
    assert found.state["config"] == CONFIG
    step = checkpoint.apply(found.state, second, second_optimizer)
    assert step == 2
    train(second, second_optimizer, step, 4)

    assert_equal_states(
        checkpoint.capture(straight, optimizer, step=4, config=CONFIG),
        checkpoint.capture(second, second_optimizer, step=4, config=CONFIG),
    )
    assert not torch.equal(straight.online.encoder.conv1.weight, first.online.encoder.conv1.weight)


def test_empty_or_missing_folder_has_no_checkpoint(tmp_path):
    assert checkpoint.restore(tmp_path) is None
    assert checkpoint.restore(tmp_path / "none") is None
    assert checkpoint.latest(tmp_path / "none") is None


def test_newest_is_the_one_of_the_highest_step(tmp_path):
    save_steps(tmp_path, [5, 100_000_000, 99_999_999], keep=9)
    assert checkpoint.latest(tmp_path).name == "checkpoint-100000000.pt"
    found = checkpoint.restore(tmp_path)
    assert (found.path.name, found.state["step"]) == ("checkpoint-100000000.pt", 100_000_000)


def test_oldest_are_pruned_but_milestones_stay(tmp_path):
    save_steps(tmp_path, range(1, 8), keep=2, milestones={2, 4})
    assert names(tmp_path) == [f"checkpoint-{step:08d}.pt" for step in (2, 4, 6, 7)]


def test_other_files_are_neither_read_nor_removed(tmp_path):
    for name in ("checkpoint-best.pt", "notes.txt", "checkpoint-00000009.pt.bak"):
        (tmp_path / name).write_text("mine")
    save_steps(tmp_path, [1, 2], keep=1)
    assert names(tmp_path) == [
        "checkpoint-00000002.pt",
        "checkpoint-00000009.pt.bak",
        "checkpoint-best.pt",
        "notes.txt",
    ]
    assert checkpoint.restore(tmp_path).state["step"] == 2


def test_a_run_that_fell_back_keeps_what_it_writes(tmp_path):
    save_steps(tmp_path, [4, 8], keep=1)
    (tmp_path / "checkpoint-00000008.pt").write_bytes(b"damaged")
    save_steps(tmp_path, [6], keep=1)
    found = checkpoint.restore(tmp_path)
    assert found.state["step"] == 6


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        lambda content: b"not a checkpoint at all",
        lambda content: content.replace(bytes([7]) + bytes(7), bytes([9]) + bytes(7)),
    ],
    ids=["empty", "half", "cut", "foreign", "flipped"],
)
def test_damaged_newest_falls_back_with_a_warning(tmp_path, damage):
    save_steps(tmp_path, [6, 7])
    newest = tmp_path / "checkpoint-00000007.pt"
    content = newest.read_bytes()
    assert damage(content) != content
    newest.write_bytes(damage(content))
    found = checkpoint.restore(tmp_path)
    assert (found.path.name, found.state["step"]) == ("checkpoint-00000006.pt", 6)
    assert "cannot read" in found.warning
    assert str(newest) in found.warning
    assert found.warning.endswith("going on from checkpoint-00000006.pt")
    assert "\n" not in found.warning


def test_no_flipped_byte_goes_unnoticed(tmp_path):
    """Either the very state is read, or the one before."""
    save_steps(tmp_path, [1, 2])
    newest = tmp_path / "checkpoint-00000002.pt"
    content = newest.read_bytes()
    expected = checkpoint.restore(tmp_path).state
    outcomes = set()
    for place in random.Random(0).sample(range(len(content)), 400):
        newest.write_bytes(content[:place] + bytes([content[place] ^ 0x41]) + content[place + 1 :])
        found = checkpoint.restore(tmp_path)
        outcomes.add(found.state["step"])
        if found.state["step"] == 2:  # it hit what pads the records
            assert_equal_states(found.state, expected)
    assert outcomes == {1, 2}


def test_if_none_can_be_read_all_are_named(tmp_path):
    save_steps(tmp_path, [1, 2])
    for name in names(tmp_path):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"no checkpoint in .*00000002\.pt.*00000001\.pt") as error:
        checkpoint.restore(tmp_path)
    assert "\n" not in str(error.value)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    torch.save({"step": Harmful()}, tmp_path / "checkpoint-00000001.pt")
    with pytest.raises(ValueError, match="no checkpoint in"):
        checkpoint.restore(tmp_path)
    assert not (tmp_path / "harm").exists()


def test_interrupted_writing_leaves_the_old_checkpoints(tmp_path, monkeypatch):
    save_steps(tmp_path, [1])

    def run_out_of_space(content, file):
        file.write(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", run_out_of_space)
    with pytest.raises(OSError, match="No space left"):
        save_steps(tmp_path, [2])
    assert names(tmp_path) == ["checkpoint-00000001.pt"]
    assert checkpoint.restore(tmp_path).state["step"] == 1


def test_an_error_of_the_disk_that_torch_hides_is_told(tmp_path, monkeypatch):
    """torch 2.13 ends its zip after an error of the file: "unexpected pos 704 vs 598"."""

    def fail(content, file):
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space left"):
        save_steps(tmp_path, [2])
    monkeypatch.setattr(torch, "save", lambda content, file: [][content])
    with pytest.raises(TypeError):  # an error of another kind stays what it is
        save_steps(tmp_path, [2])


def test_what_a_killed_run_left_is_ignored_and_overwritten(tmp_path, monkeypatch):
    save_steps(tmp_path, [1])
    with monkeypatch.context() as patch:
        # as SIGKILL does: nothing after the write happens
        patch.setattr("pathlib.Path.replace", lambda self, to: (_ for _ in ()).throw(KeyError()))
        patch.setattr("pathlib.Path.unlink", lambda self, **_: None)
        with pytest.raises(KeyError):
            save_steps(tmp_path, [2])
    assert names(tmp_path) == [".unfinished.pt", "checkpoint-00000001.pt"]
    assert checkpoint.restore(tmp_path).state["step"] == 1
    save_steps(tmp_path, [3])
    assert names(tmp_path) == ["checkpoint-00000001.pt", "checkpoint-00000003.pt"]


def test_files_are_plain_torch_files(tmp_path):
    path = checkpoint.save(tmp_path, 1, {"step": 1})
    assert torch.load(path) == {"step": 1}
    assert zipfile.is_zipfile(path)


def test_keeping_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="keep must be at least 1"):
        save_steps(tmp_path, [1], keep=0)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: s | {"format": 2}, "format 2, this version reads 1"),
        (lambda s: {"step": 1}, "format None"),
        (lambda s: s | {"model": make_model(hidden=9).state_dict()}, r"hidden.weight is \(9, 32\)"),
        (lambda s: s | {"model": {}}, "another model: online.encoder.conv1.weight is missing"),
        (
            lambda s: (
                s
                | {
                    "optimizer": make_optimizer(
                        make_model(), OptimizerConfig(name="adamw")
                    ).state_dict()
                }
            ),
            "another optimizer",
        ),
    ],
)
def test_foreign_state_is_refused_and_nothing_is_loaded(change, complaint):
    model = make_model()
    optimizer = make_optimizer(model, OptimizerConfig())
    state = checkpoint.capture(make_model(seed=5), optimizer, step=1, config={})
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=complaint):
        checkpoint.apply(change(state), model, optimizer)
    assert_equal_states(model.state_dict(), before)


def test_exported_encoder_is_the_online_one(tmp_path):
    model = make_model(padding="same")
    train(model, make_optimizer(model, OptimizerConfig()), 0, 2)
    checkpoint.export_encoder(tmp_path / "new" / "encoder.pt", model)
    encoder = checkpoint.load_encoder(tmp_path / "new" / "encoder.pt")
    assert encoder.config == model.config.encoder
    assert not encoder.training
    views = torch.randn(2, 3, 16, 16)
    assert torch.equal(encoder(views), model.eval().features(views))


def wrapped(weights, width=1.0):
    """What older versions wrote: one file, with the configuration in it."""
    config = {"architecture": "resnet18", "width": width, "stem": "small", "padding": "symmetric"}
    config["zero_init_last_bn"] = False
    return {"format": 1, "config": config, "state_dict": weights}


@pytest.mark.parametrize("milestone", [False, True])
def test_exported_encoder_is_a_state_dict_of_torchvision(tmp_path, milestone):
    model = make_model(architecture="resnet18", width=1.0, stem="imagenet")
    path = tmp_path / "encoder.pt"
    if milestone:
        state = checkpoint.capture(model, torch.optim.SGD(model.parameters()), step=4, config={})
        path = checkpoint.export_milestone(tmp_path, 4, state, model.config.encoder)
    else:
        checkpoint.export_encoder(path, model)
    other = import_torchvision().models.resnet18(weights=None)
    other.fc = nn.Identity()
    other.load_state_dict(torch.load(path), strict=True)
    views = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(other.eval()(views), model.eval().features(views))
    config = json.loads(path.with_suffix(".json").read_text())
    assert config == dataclasses.asdict(model.config.encoder)
    assert torch.equal(checkpoint.load_encoder(path).conv1.weight, other.conv1.weight)


def test_encoder_of_an_older_version_is_read(tmp_path):
    model = make_model()
    torch.save(wrapped(model.online.encoder.state_dict(), 0.0625), tmp_path / "encoder.pt")
    encoder = checkpoint.load_encoder(tmp_path / "encoder.pt")
    assert encoder.config == model.config.encoder
    assert_equal_states(encoder.state_dict(), model.online.encoder.state_dict())


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("missing", r"cannot read .*encoder\.pt"),
        ("damaged", r"cannot read .*encoder\.pt"),
        ("checkpoint", r"encoder\.pt is no exported encoder \(it holds step\)"),
        ("alone", r"encoder\.json is not beside it; copy it there"),
        ("half", r"cannot read .*encoder\.json"),
        ("list", r"encoder\.pt holds no encoder"),
        ("foreign", r"encoder\.pt holds no encoder"),
        ("changed", r"another model: conv1.weight is \(4, 3, 3, 3\)"),
        ("wrapped", r"the names begin with 'module\.'; take that away"),
        ("meta", r"encoder\.pt holds no encoder"),
        ("older, changed", r"another model: conv1.weight is \(4, 3, 3, 3\)"),
        ("older, foreign", r"encoder\.pt holds no encoder"),
    ],
)
def test_file_that_is_no_encoder_is_named(tmp_path, kind, complaint):
    path, beside = tmp_path / "encoder.pt", tmp_path / "encoder.json"
    checkpoint.export_encoder(path, make_model())
    weights, config = torch.load(path), json.loads(beside.read_text())
    if kind == "missing":
        path.unlink()
    elif kind == "damaged":
        path.write_bytes(path.read_bytes()[:1000])
    elif kind == "checkpoint":
        shutil.move(checkpoint.save(tmp_path, 1, {"step": 1}), path)
    elif kind == "alone":
        beside.unlink()
    elif kind == "half":
        beside.write_text('{"architecture": "res')
    elif kind == "list":
        beside.write_text("[1]")
    elif kind == "foreign":
        beside.write_text('{"depth": 18}')
    elif kind == "changed":
        beside.write_text(json.dumps(config | {"width": 0.125}))
    elif kind == "wrapped":
        torch.save({f"module.{name}": weight for name, weight in weights.items()}, path)
    elif kind == "meta":
        torch.save({name: weight.to("meta") for name, weight in weights.items()}, path)
    elif kind == "older, changed":
        torch.save(wrapped(weights, 0.125), path)
    else:
        torch.save({"config": {"depth": 18}, "state_dict": weights}, path)
    with pytest.raises(ValueError, match=complaint):
        checkpoint.load_encoder(path)


def readme_code(name):
    """The python block of README that follows the line `name`."""
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    return text.split(f"\n{name}")[1].split("```python\n")[1].split("```")[0]


def test_the_lines_of_the_readme_use_the_encoder(tmp_path, monkeypatch, capsys):
    import_torchvision()
    model = make_model(architecture="resnet50", width=1.0, stem="imagenet").eval()
    checkpoint.export_encoder(tmp_path / "runs" / "rn50" / "encoder.pt", model)
    monkeypatch.chdir(tmp_path)
    images = torch.randn(4, 3, 32, 32)
    names = ["This project", "torchvision:"]
    names += ["timm:"] if importlib.util.find_spec("timm") else []
    for name in names:
        space = {}
        exec(readme_code(name), space)
        features = space["encoder"](images).detach()
        torch.testing.assert_close(features, model.features(images).detach())
    space |= {"images": images, "test_images": images, "labels": [0, 1, 0, 1]}
    space["test_labels"] = space["labels"]
    exec(readme_code("scikit-learn"), space)
    assert 0 <= float(capsys.readouterr().out.split()[-1]) <= 1
