"""The whole way on generated pictures: what it learns, what it leaves, how it goes on."""

import json
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.saliency.refine.config import PhaseOneConfig, PhaseTwoConfig, StudentConfig
from pipeline.saliency.refine.handcrafted import HandCrafted
from pipeline.saliency.refine.maps import read_map, to_bytes
from pipeline.saliency.refine.network import NetworkConfig
from pipeline.saliency.refine.predict import predict_masks
from pipeline.saliency.refine.predictor import load_predictor
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


def run(out, *, records=None, methods=None, config=TINY, report=silent, threads=1):
    return train_masks(
        demo_records(COUNT) if records is None else records,
        stand_ins(COUNT) if methods is None else methods,
        config,
        encoder=None,
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
    assert facts["version"] == 1
    assert facts["methods"] == ["left", "right"]
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
    with pytest.raises(ValueError, match=r"student\.share .* need a hand-crafted fusion"):
        run(tmp_path / "alone", methods=alone)


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
