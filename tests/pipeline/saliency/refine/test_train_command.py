"""The command train: from generated pictures to a student that predict can use; its refusals."""

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from pipeline.saliency import train_command
from pipeline.saliency.__main__ import main
from pipeline.saliency.refine.maps import read_map
from pipeline.sources.demo import render

TINY = [
    *("--set", "network.width=0.0625", "--set", "network.size=32"),
    *("--set", "phase_one.learning_rates=[1e-3]", "--set", "start.epochs=1"),
    *("--set", "phase_one.epochs=2", "--set", "phase_two.epochs=1", "--set", "student.epochs=1"),
    *("--set", "student.network.side=128", "--set", "student.network.channels=4"),
]
PHOTOS = ["--photos", "demo", "--limit", "6", "--methods", "rbd,mr", "--threads", "1"]


def command(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("masks") / "out"
    result = command("train", *PHOTOS, "--out", out, *TINY, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout.strip().splitlines()[-1])
    assert facts == {"student": str(out / "student.pt"), "photos": 6, "bad": 0}
    return out


def test_what_it_trains_is_what_predict_takes(trained, tmp_path):
    Image.fromarray(render("demo-val", 0, 0)[0]).save(tmp_path / "a.png")
    (tmp_path / "one.txt").write_text("a.png\n")
    out = tmp_path / "masks"
    photos = ("--photos", tmp_path / "one.txt", "--model", trained / "student.pt")
    result = command("predict", *photos, "--out", out)
    assert result.exit_code == 0, result.output
    assert read_map(out / "a.png").shape == render("demo-val", 0, 0)[1].shape


def test_it_leaves_every_stage_and_where_it_comes_from(trained):
    facts = json.loads((trained / "saliency.json").read_text())
    assert facts["methods"] == ["rbd", "mr"]
    assert facts["settings"]["network"]["size"] == 32
    names = sorted(
        path.relative_to(trained / "maps/fused") for path in trained.glob("maps/fused/*/*")
    )
    assert len(names) == 6
    for stage in ("rbd", "mr", "fusion", "rbd-round1", "mr-round1"):
        assert all((trained / "maps" / stage / name).is_file() for name in names)
    assert read_map(trained / "maps/fused" / names[0]).shape == (32, 32)


def test_a_finished_training_is_done_in_no_time_and_stays_as_it_is(trained):
    before = (trained / "student.pt").stat().st_mtime_ns
    result = command("train", *PHOTOS, "--out", trained, *TINY)
    assert result.exit_code == 0
    assert (trained / "student.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--methods", "rbd,magic"], "no method 'magic'"),
        (["--methods", ","], "--methods names none; there are rbd"),
        (["--set", "speed=9"], "unknown setting 'speed'"),
        (["--encoder", "nowhere.pt"], "nowhere.pt: cannot be read"),
        (["--device", "tpu"], "tpu: unknown"),
        (["--photos", "nowhere"], "nowhere: no such folder or file"),
        (["--seed-photos"], "No such option"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, arguments, reason):
    result = command("train", *PHOTOS, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert reason in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("budget", "teachers", "fusion"),
    [("small", ("rbd", "mr", "mc", "mbd"), "fusion"), ("paper", ("mc", "hs", "dsr", "rbd"), None)],
)
def test_each_budget_has_its_teachers(tmp_path, monkeypatch, budget, teachers, fusion):
    class Noted(Exception):
        pass

    def note(records, methods, config, **rest):
        raise Noted(methods)

    monkeypatch.setattr(train_command, "train_masks", note)
    arguments = ("--photos", "demo", "--limit", "2", "--out", tmp_path / "out")
    result = command("train", *arguments, "--budget", budget)
    [methods] = result.exception.args
    assert methods.names == teachers
    assert methods.fusion == fusion
    maps = methods.estimate(render("demo", 0, 0)[0])
    assert set(maps) == {*teachers, fusion} - {None}


def test_a_folder_of_other_settings_is_refused(trained):
    result = command("train", *PHOTOS, "--out", trained, *TINY, "--set", "seed=1")
    assert result.exit_code == 2
    assert "settings.seed was 0, is 1" in result.stderr
