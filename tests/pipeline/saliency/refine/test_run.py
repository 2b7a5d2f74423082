"""The whole way on generated pictures: what it learns, what it leaves, how it goes on."""

import json
from contextlib import contextmanager
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from pipeline import folder_lock
from pipeline.saliency.arrays import to_bytes
from pipeline.saliency.refine import distil, fuse, initial, refine_method
from pipeline.saliency.refine import run as run_module
from pipeline.saliency.refine.config import (
    PhaseOneConfig,
    PhaseTwoConfig,
    StartConfig,
    StudentConfig,
)
from pipeline.saliency.refine.handcrafted import HandCrafted
from pipeline.saliency.refine.maps import read_map
from pipeline.saliency.refine.network import NetworkConfig
from pipeline.saliency.refine.predict import predict_masks
from pipeline.saliency.refine.predictor import load_predictor
from pipeline.saliency.refine.resnet import DilatedResNet
from pipeline.saliency.refine.run import train_masks
from pipeline.saliency.refine.u2net import StudentNetworkConfig
from pipeline.sources.record import Record, mask_name
from tests.pipeline.saliency.refine.refine_support import (
    TINY,
    demo_records,
    iou,
    noisy_map,
    silent,
    stand_ins,
    true_mask,
)

COUNT = 6


class Interrupted(Exception):
    pass


def run(out, *, records=None, methods=None, config=TINY, report=silent, threads=1, encoder=None):
    return train_masks(
        demo_records(COUNT) if records is None else records,
        stand_ins(COUNT) if methods is None else methods,
        config,
        encoder=encoder,
        out=out,
        device=torch.device("cpu"),
        threads=threads,
        report=report,
    )


def content(out):
    """Everything that a training leaves, by name."""
    found = {path.relative_to(out): path.read_bytes() for path in out.rglob("*.png")}
    weights = torch.load(out / "student.pt", weights_only=True)["state_dict"]
    return found, {name: value.numpy().tobytes() for name, value in weights.items()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("masks") / "out"
    run(out)
    return out


@pytest.mark.parametrize(
    "at",
    [
        ("hand-crafted maps", 3),
        ("start", 1),
        ("left, round 1", 1),
        ("left, round 2", 2),
        ("right, round 2", 1),
        ("fused", 1),
        ("fused maps", 2),
        ("student", 1),
    ],
    ids=lambda at: f"{at[0]}-{at[1]}",
)
def test_an_interrupted_training_goes_on_to_the_same_bits(tmp_path, uninterrupted, at):
    @contextmanager
    def interrupting(stage, total):
        ticks = iter(range(1, total + 1))

        def tick():
            if (stage, next(ticks)) == at:
                raise Interrupted

        yield tick

    with pytest.raises(Interrupted):
        run(tmp_path, report=interrupting)
    assert not (tmp_path / "student.pt").exists()
    run(tmp_path)
    assert content(tmp_path) == content(uninterrupted)


def test_a_stage_that_is_interrupted_is_not_begun_again(tmp_path):
    totals = {}

    @contextmanager
    def noting(stage, total):
        totals[stage] = total

        def tick():
            if stage == "right, round 1":
                raise Interrupted

        yield tick

    with pytest.raises(Interrupted):
        run(tmp_path, report=noting)
    totals.clear()
    with pytest.raises(Interrupted):
        run(tmp_path, report=noting)
    assert "left, round 1" not in totals
    assert totals["right, round 1"] == 1  # one of two epochs is left
    assert totals["hand-crafted maps"] == 0


def test_the_number_of_threads_does_not_matter(tmp_path, uninterrupted):
    run(tmp_path, threads=3)
    assert content(tmp_path) == content(uninterrupted)


def test_what_is_left_says_where_it_comes_from(uninterrupted):
    facts = json.loads((uninterrupted / "saliency.json").read_text())
    assert facts["labels_involved"] is False
    assert facts["method"] == "deepusps-student"
    assert facts["version"] == 4
    assert facts["methods"] == ["left", "right"]
    assert facts["fusion"] == "both"
    assert facts["num_photos"] == COUNT
    assert facts["initial_weights"] == "random"
    assert facts["settings"]["phase_one"]["learning_rates"] == [1e-3, 2e-3]
    predictor = load_predictor(uninterrupted / "student.pt", torch.device("cpu"))
    assert predictor.description == facts
    assert not list((uninterrupted / "work").iterdir())
    assert not list(uninterrupted.rglob("*.partial"))


def test_a_folder_of_another_training_is_refused_with_the_difference(uninterrupted, tmp_path):
    other = replace(TINY, seed=3)
    with pytest.raises(ValueError, match=r"settings\.seed was 0, is 3"):
        run(uninterrupted, config=other)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and holds no training"):
        run(tmp_path)


def test_photos_that_cannot_be_read_are_named_and_left_out(tmp_path):
    class Broken:
        def read(self, record):
            return b"no picture", None

    broken = Record(key="x.jpg", label_name=None, origin=Broken(), offset=0, size=9)
    trained = run(tmp_path / "out", records=[*demo_records(COUNT), broken])
    assert trained.num_photos == COUNT
    assert [key for key, _ in trained.bad] == ["x.jpg"]
    with pytest.raises(ValueError, match=r"none of 1 photos can be read; x\.jpg"):
        run(tmp_path / "none", records=[broken])


def test_two_photos_with_one_mask_are_refused(tmp_path):
    twin = replace(demo_records(1)[0])
    other = replace(twin, key=twin.key.replace(".jpg", ".png"))
    with pytest.raises(ValueError, match="would both have the mask"):
        run(tmp_path, records=[twin, other])


def test_a_method_that_breaks_its_contract_is_named(tmp_path):
    wrong = HandCrafted(
        names=("left",), estimate=lambda picture: {"left": np.full((2, 2), 3.0)}, fusion="left"
    )
    with pytest.raises(ValueError, match=r"left gave .* from 3\.0 to 3\.0"):
        run(tmp_path, methods=wrong)
    with pytest.raises(ValueError, match="no hand-crafted method"):
        run(tmp_path / "other", methods=HandCrafted(names=(), estimate=lambda picture: {}))
    alone = HandCrafted(names=("left",), estimate=lambda picture: {})
    with pytest.raises(ValueError, match=r"student\.teacher_fusion needs a hand-crafted"):
        run(tmp_path / "alone", methods=alone)


def test_what_a_stage_makes_is_what_the_next_one_gets(tmp_path, monkeypatch):
    """Every network begins with the start; the teacher is blended, and learned."""
    starts, taught, blended = [], [], []

    def noting_start(*words, start=None):
        starts.append(start)
        return initial.fresh_network(*words, start=start)

    def noting_teacher(workshop, teacher, methods):
        taught.append((teacher, methods))
        return distil.distil(workshop, teacher, methods)

    def noting_fusion(network, fusion, workshop):
        blended.append(fusion)
        fuse.write_fused_maps(network, fusion, workshop)

    monkeypatch.setattr(refine_method, "fresh_network", noting_start)
    monkeypatch.setattr(fuse, "fresh_network", noting_start)
    monkeypatch.setattr(run_module, "distil", noting_teacher)
    monkeypatch.setattr(run_module, "write_fused_maps", noting_fusion)
    trained = run(tmp_path / "out")
    weights = torch.load(tmp_path / "out" / "start.pt", weights_only=True)["network"]
    assert len(starts) == 2 * 2 + 1  # methods x rounds, and the fused network
    for start in starts:
        assert all(torch.equal(start[name], value) for name, value in weights.items())
    assert taught == [("fused", ("left", "right"))]
    assert blended == ["both"]
    content = torch.load(trained.student, weights_only=True)
    finish = {"lean": 0.5, "crf": asdict(TINY.crf), "cut": True}
    assert content["mask_settings"] == {"mirrored": True, "finish": finish}


def test_the_start_begins_with_the_encoder(tmp_path):
    trunk = DilatedResNet("resnet18", 0.0625).state_dict()
    encoder = initial.Encoder(path="e.pt", architecture="resnet18", width=0.0625, weights=trunk)
    still = replace(TINY, start=StartConfig(epochs=1, learning_rate=1e-30))
    run(tmp_path / "out", encoder=encoder, config=still)
    network = torch.load(tmp_path / "out" / "start.pt", weights_only=True)["network"]
    for name, value in trunk.items():
        if "running" not in name and "batches" not in name:
            torch.testing.assert_close(network[f"trunk.{name}"], value, rtol=0, atol=1e-6)
    facts = json.loads((tmp_path / "out" / "saliency.json").read_text())
    assert facts["initial_weights"].startswith("encoder sha256:")


def test_two_trainings_in_one_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_lock, "_PATIENCE", 0.0)
    monkeypatch.setattr(folder_lock, "_POLL", 0.0)
    with folder_lock.locked(tmp_path), pytest.raises(ValueError, match="another run is at work in"):
        run(tmp_path)


def test_one_photo_alone_is_refused(tmp_path):
    with pytest.raises(ValueError, match="one photo alone cannot teach"):
        run(tmp_path / "out", records=demo_records(1))


def test_a_start_that_was_killed_is_begun_again(tmp_path, uninterrupted):
    (tmp_path / "config.json.partial").write_text("{")
    run(tmp_path)
    assert content(tmp_path) == content(uninterrupted)


LEARNING = replace(
    TINY,
    batch_size=10,
    network=NetworkConfig(architecture="resnet18", width=0.25, size=64),
    phase_one=PhaseOneConfig(epochs=6, learning_rates=(3e-3, 3e-3), effective_batch=10),
    phase_two=PhaseTwoConfig(epochs=8, learning_rate=3e-3, poly_power=0.9, effective_batch=10),
    student=StudentConfig(
        network=StudentNetworkConfig(side=128, channels=16, inner=8), epochs=14, batch_size=10
    ),
)


@pytest.mark.slow
def test_it_learns_better_masks_than_those_it_was_taught(tmp_path):
    """100 pictures teach; 40 others, which nobody has seen, tell."""
    train, held_out = demo_records(140)[:100], demo_records(140)[100:]
    trained = run(tmp_path / "out", records=train, methods=stand_ins(140), config=LEARNING)
    predictor = load_predictor(trained.student, torch.device("cpu"))
    outcomes = list(predict_masks(held_out, predictor, tmp_path / "masks", batch_size=8, threads=1))
    assert [reason for _, reason in outcomes] == [""] * 40
    student, taught = [], []
    for record in held_out:
        truth = true_mask(record.offset)
        student.append(iou(read_map(tmp_path / "masks" / mask_name(record.key)), truth))
        both = (noisy_map(record.offset, kind) for kind in (0, 1))
        taught.append(max(iou(to_bytes(salient), truth) for salient in both))
    assert np.mean(student) > np.mean(taught) + 0.05
