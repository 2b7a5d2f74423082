"""What the student learns from: the fused maps, and with a weight the methods' own beside them."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.saliency.refine.distil import STAGE, distil, distillation_loss, methods_loss
from pipeline.saliency.refine.maps import read_map, write_map
from tests.pipeline.saliency.refine.refine_support import TINY, workshop_with

METHODS = ("left", "right")


@pytest.fixture
def workshop(tmp_path):
    """With fused maps, which are those of a third kind."""
    with workshop_with(tmp_path, 6, (*METHODS, "fused")) as made:
        yield made


def learned(workshop, weight: float, **phase_one) -> torch.Tensor:
    """The student's weights in one row."""
    config = replace(
        TINY,
        student=replace(TINY.student, methods_weight=weight),
        phase_one=replace(TINY.phase_one, **phase_one),
    )
    workshop.state(STAGE).unlink(missing_ok=True)
    student = distil(replace(workshop, config=config), "fused", METHODS)
    return torch.cat([value.flatten().double() for value in student.state_dict().values()])


def change(workshop, stage: str) -> None:
    for name in workshop.names:
        path = workshop.maps(stage) / name
        write_map(path, 255 - read_map(path))


def test_without_a_weight_methods_are_not_even_read(workshop):
    before = learned(workshop, 0.0)
    for method in METHODS:
        shutil.rmtree(workshop.maps(method))
    assert torch.equal(learned(workshop, 0.0), before)
    change(workshop, "fused")
    assert not torch.equal(learned(workshop, 0.0), before)
    with pytest.raises(ValueError, match="cannot be read"):
        learned(workshop, 0.5)


@pytest.mark.parametrize("stage", ["left", "right", "fused"])
def test_with_a_weight_all_maps_teach(workshop, stage):
    before = learned(workshop, 0.5)
    assert torch.equal(learned(workshop, 0.5), before)
    assert not torch.equal(learned(workshop, 0.0), before)
    assert not torch.equal(learned(workshop, 0.25), before)
    change(workshop, stage)
    assert not torch.equal(learned(workshop, 0.5), before)


def test_each_method_has_its_own_threshold(workshop):
    """0.6 for one of them, then for the other: ignored, they would be the same."""
    left, right = (learned(workshop, 0.5, thresholds=((name, 0.6),)) for name in METHODS)
    assert not torch.equal(left, right)
    assert not torch.equal(left, learned(workshop, 0.5))


def test_the_loss_is_that_of_the_fused_map_and_the_weighted_one_of_the_methods(
    workshop, monkeypatch
):
    """What reaches the two losses: one map and the rest, in the order of the methods."""
    fused, methods = [], []

    def noting_fused(maps, target):
        fused.append(target.clone())
        return distillation_loss(maps, target)

    def noting_methods(maps, targets, thresholds, beta):
        methods.append((targets.clone(), thresholds, beta))
        return methods_loss(maps, targets, thresholds, beta)

    monkeypatch.setattr("pipeline.saliency.refine.distil.distillation_loss", noting_fused)
    monkeypatch.setattr("pipeline.saliency.refine.distil.methods_loss", noting_methods)
    levels = {"fused": 10, "left": 20, "right": 30}
    for stage, level in levels.items():
        for name in workshop.names:
            write_map(workshop.maps(stage) / name, np.full((400, 100), level, np.uint8))
    learned(workshop, 0.5, thresholds=(("right", 0.6),))
    assert len(fused) == len(methods) == 4  # two epochs of two batches
    for target, (targets, thresholds, beta) in zip(fused, methods, strict=True):
        assert target.shape == (3, 128, 128)
        assert (target * 255).unique().tolist() == pytest.approx([10])
        assert (targets[:, 0] * 255).unique().tolist() == pytest.approx([20])
        assert (targets[:, 1] * 255).unique().tolist() == pytest.approx([30])
        assert thresholds == [TINY.phase_one.other_threshold, 0.6]
        assert beta == TINY.phase_two.beta
