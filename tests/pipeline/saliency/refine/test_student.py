"""The student: its size, its maps, the loss it learns by, and its folded form."""

import cv2
import numpy as np
import pytest
import torch

from pipeline.saliency.crf import CrfConfig, refine_by_crf
from pipeline.saliency.finish import Finish
from pipeline.saliency.refine.chance import torch_generator
from pipeline.saliency.refine.distil import distillation_loss, methods_loss
from pipeline.saliency.refine.f_loss import f_measure_loss
from pipeline.saliency.refine.network import draw_weights
from pipeline.saliency.refine.predictor import (
    MaskSettings,
    Predictor,
    load_predictor,
    save_student,
)
from pipeline.saliency.refine.states import save_state
from pipeline.saliency.refine.u2net import Student, StudentNetworkConfig

TINY = StudentNetworkConfig(side=128, channels=8, inner=4)
CPU = torch.device("cpu")
PLAIN = MaskSettings()


def pictures(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def drawn(config: StudentNetworkConfig) -> Student:
    student = Student(config)
    draw_weights(student, torch_generator(0, "test"))
    return student


def test_it_has_under_five_million_parameters():
    assert sum(weight.numel() for weight in Student(StudentNetworkConfig()).parameters()) < 5e6


@pytest.mark.parametrize("side", [128, 115])  # the second: a crop
def test_seven_maps_of_half_the_side_come_out(side):
    maps = drawn(TINY)(torch.from_numpy(pictures(2, side)))
    half = (side + 1) // 2
    assert [tuple(logits.shape) for logits in maps] == [(2, half, half)] * 7
    assert all(logits.dtype == torch.float32 for logits in maps)


def test_the_loss_is_the_sum_of_seven_binary_cross_entropies():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(7, 2, 4, 4))
    target = rng.random((2, 8, 8))
    small = target.reshape(2, 4, 2, 4, 2).mean(axis=(2, 4))
    p = 1 / (1 + np.exp(-logits))
    expected = -(small * np.log(p) + (1 - small) * np.log(1 - p)).mean(axis=(1, 2, 3)).sum()
    maps = [torch.from_numpy(part) for part in logits]
    assert float(distillation_loss(maps, torch.from_numpy(target))) == pytest.approx(expected)


def test_the_loss_of_methods_is_the_mean_over_methods_of_the_sum_over_maps():
    rng = np.random.default_rng(2)
    maps = [torch.from_numpy(rng.normal(size=(2, 4, 4))) for _ in range(7)]
    targets = torch.from_numpy(rng.random((2, 3, 8, 8)))
    thresholds = (0.25, 0.3, 0.45)
    expected = 0.0
    for logits in maps:
        for method, threshold in enumerate(thresholds):
            small = targets[:, method].reshape(2, 4, 2, 4, 2).mean(dim=(2, 4))
            p = 1 / (1 + torch.exp(-logits))
            expected += float(f_measure_loss(p, small, threshold=threshold, beta=4.0)) / 3
    assert float(methods_loss(maps, targets, thresholds, 4.0)) == pytest.approx(expected)


def test_the_folded_student_predicts_what_the_trained_one_does():
    student = drawn(TINY)
    for _ in range(3):  # statistics of BatchNorm away from their start
        student(torch.from_numpy(pictures(4, 128)))
    student.eval()
    with torch.no_grad():
        expected = student(torch.from_numpy(pictures(3, 128)))[0].sigmoid().numpy()
    predictor = Predictor(student, PLAIN, {}, CPU)
    found = predictor.probabilities(pictures(3, 128))
    assert found.shape == (3, 64, 64)
    assert np.ptp(found) > 0.02  # else a constant would pass
    np.testing.assert_allclose(found, expected, atol=1e-4)
    masks = predictor.masks(pictures(3, 128))
    assert masks.dtype == np.uint8
    for mask, salient in zip(masks, expected, strict=True):
        large = cv2.resize(salient, (128, 128), interpolation=cv2.INTER_LINEAR)
        assert np.abs(mask - 255 * large).max() <= 0.6


def test_a_mirrored_test_is_the_mean_of_two_passes_with_the_cues_of_one():
    seen = pictures(3, 128)
    predictor = Predictor(drawn(TINY).eval(), MaskSettings(mirrored=True), {}, CPU)
    found = predictor.probabilities(seen)
    turned = np.ascontiguousarray(seen[:, :, ::-1])
    student = drawn(TINY).eval()
    with torch.no_grad():
        cues = student.cues(torch.from_numpy(seen))
        one = student(torch.from_numpy(seen), cues)[0].sigmoid()
        other = student(torch.from_numpy(turned), cues.flip(3))[0].sigmoid().flip(2)
    assert (one - other).abs().max() > 1e-3  # else there would be nothing to average
    np.testing.assert_allclose(found, (one + other) / 2, atol=1e-5)


def test_cues_that_are_given_are_those_it_would_have_made():
    student = drawn(TINY).eval()
    seen = torch.from_numpy(pictures(2, 128))
    cues = student.cues(seen)
    for given, own in zip(student(seen, cues), student(seen), strict=True):
        assert torch.equal(given, own)
    assert not torch.equal(student(seen, cues.flip(3))[0], student(seen)[0])


def test_masks_pass_the_crf_at_their_own_size():
    seen, crf = pictures(1, 256), CrfConfig()
    seen[0, 40:200, 60:180] = (200, 30, 30)
    predictor = Predictor(drawn(TINY).eval(), MaskSettings(finish=Finish(crf=crf)), {}, CPU)
    salient = predictor.probabilities(seen)[0]
    small = cv2.resize(seen[0], (128, 128), interpolation=cv2.INTER_AREA)
    wanted = refine_by_crf(small, salient, crf)
    assert np.abs(wanted - salient).max() > 0.05  # else nothing would have been passed
    assert np.abs(predictor.masks(seen)[0] - 255 * wanted).max() <= 0.6


def test_masks_are_not_stretched_picture_by_picture():
    student = drawn(TINY)
    torch.nn.init.zeros_(student.all_sides.weight)
    torch.nn.init.constant_(student.all_sides.bias, -1.0)
    masks = Predictor(student, PLAIN, {}, CPU).masks(pictures(2, 128))
    np.testing.assert_array_equal(masks, round(255 / (1 + np.e)))


def test_a_saved_student_is_read_back(tmp_path):
    student, mask_settings = (
        drawn(TINY).eval(),
        MaskSettings(mirrored=True, finish=Finish(lean=0.7, crf=CrfConfig(iterations=2), cut=True)),
    )
    save_student(tmp_path / "student.pt", student, mask_settings, {"labels_involved": False})
    predictor = load_predictor(tmp_path / "student.pt", CPU)
    assert predictor.description == {"labels_involved": False}
    masks = predictor.masks(pictures(2, 128))
    own = Predictor(student, mask_settings, {}, CPU).masks(pictures(2, 128))
    np.testing.assert_array_equal(masks, own)


def test_other_files_are_refused_in_one_line(tmp_path):
    other, damaged, later, earlier = (tmp_path / f"{number}.pt" for number in range(4))
    save_state(other, {"state_dict": {}})
    damaged.write_bytes(b"PK\x03\x04 nothing")
    later_content = {key: {} for key in ("description", "network", "mask_settings", "state_dict")}
    save_state(later, later_content | {"format": 5})
    del later_content["mask_settings"]
    save_state(earlier, later_content | {"format": 3})
    for path, reason in (
        (other, "holds no student"),
        (damaged, "damaged"),
        (later, "format 5, this version reads 4; train it again"),
        (earlier, "format 3, this version reads 4; train it again"),
        (tmp_path / "missing.pt", "No such file"),
    ):
        with pytest.raises(ValueError, match=reason):
            load_predictor(path, CPU)


@pytest.mark.parametrize("level", [0, 7, 255])
def test_a_picture_of_one_colour_gives_finite_maps(level):
    flat = torch.full((2, 128, 128, 3), level, dtype=torch.uint8)
    assert all(torch.isfinite(logits).all() for logits in drawn(TINY)(flat))


@pytest.mark.parametrize(("name", "value"), [("side", 100), ("side", 64), ("channels", 0)])
def test_a_size_that_cannot_be_is_refused(name, value):
    with pytest.raises(ValueError, match=str(value)):
        StudentNetworkConfig(**{name: value})
