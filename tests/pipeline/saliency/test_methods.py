"""Every method through its one door: a map of the picture's size, whatever the picture."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.saliency.finish import finished
from pipeline.saliency.methods import FINISH, METHODS, SINGLE, estimate, estimate_all
from pipeline.saliency.otsu import otsu
from pipeline.sources.demo import render
from tests.pipeline.saliency.support import disc_picture

GROUND = np.random.default_rng(0).integers(0, 256, (90, 120, 1), dtype=np.uint8)
ODD = {
    "one pixel": np.full((1, 1, 3), 7, np.uint8),
    "two pixels": np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8),
    "a row": np.random.default_rng(1).integers(0, 256, (1, 333, 3), dtype=np.uint8),
    "a column": np.random.default_rng(2).integers(0, 256, (333, 1, 3), dtype=np.uint8),
    "a strip": np.random.default_rng(3).integers(0, 256, (2500, 12, 3), dtype=np.uint8),
    "gray": np.repeat(GROUND, 3, axis=2),
    "half black": np.repeat(
        np.where(np.arange(120)[None, :, None] < 60, GROUND * 0, 255), 3, axis=2
    )
    .repeat(90, axis=0)[:90]
    .astype(np.uint8),
    "black with one white pixel": np.zeros((80, 60, 3), np.uint8),
}
ODD["black with one white pixel"][40, 30] = 255


def iou(found, truth):
    return (found & truth).sum() / (found | truth).sum()


def check(saliency, image):
    assert saliency.dtype == np.float32
    assert saliency.shape == image.shape[:2]
    assert ((saliency >= 0) & (saliency <= 1)).all()  # also false for NaN


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.45, 0.35)])
def test_a_bright_disc_on_textured_ground_is_found(method, centre):
    image, mask = disc_picture(225, 300, centre=centre)
    saliency = estimate(image, method)
    check(saliency, image)
    found = saliency >= otsu(saliency.ravel(), np.ones(saliency.size))
    # HS is bright in the middle of the picture and has no sharp end
    assert iou(found, mask) > (0.6 if method == "hs" else 0.85)


def test_fusion_is_right_at_one_half():
    image, mask = disc_picture(225, 300, centre=(0.45, 0.4))
    assert iou(estimate(image) > 0.5, mask) > 0.9


def test_fusion_finds_the_generated_objects():
    scores = []
    for index in range(0, 400, 17):
        image, alpha = render("demo", 0, index)
        scores.append(iou(estimate(np.ascontiguousarray(image)) > 0.5, alpha > 127))
    assert np.mean(scores) > 0.75


@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_have_maps(name):
    found = estimate_all(ODD[name])
    assert tuple(found) == METHODS
    for one in found.values():
        check(one.saliency, ODD[name])
        assert one.seconds > 0


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_one_colour_has_no_saliency(shade):
    for one in estimate_all(np.full((40, 70, 3), shade, np.uint8)).values():
        assert one.saliency.shape == (40, 70)
        assert (one.saliency == 0).all()


@settings(max_examples=15)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_small_pictures_of_few_colours_have_maps(height, width, colours, seed):
    rng = np.random.default_rng(seed)
    palette = rng.integers(0, 256, (colours, 3), dtype=np.uint8)
    image = palette[rng.integers(0, colours, (height, width))]
    for one in estimate_all(image).values():
        check(one.saliency, image)


@pytest.mark.parametrize("method", METHODS)
def test_a_mirrored_picture_has_the_mirrored_map(method):
    image, _ = disc_picture(150, 200, centre=(0.4, 0.4))
    mirrored = estimate(np.ascontiguousarray(image[:, ::-1]), method)[:, ::-1]
    # superpixels differ a little: SLIC goes from left to right
    assert np.abs(mirrored - estimate(image, method)).mean() < 0.05


def test_a_larger_copy_has_the_same_map():
    image, _ = disc_picture(225, 300)
    large = image.repeat(3, axis=0).repeat(3, axis=1)
    assert np.abs(estimate(large)[1::3, 1::3] - estimate(image)).mean() < 0.02


def test_the_same_picture_has_the_same_map_and_is_not_changed():
    image, _ = disc_picture(seed=4)
    before = image.copy()
    assert (estimate(image) == estimate(image)).all()
    assert (image == before).all()


def test_a_method_alone_gives_what_it_gives_among_all():
    image, _ = disc_picture()
    together = estimate_all(image)
    for method in METHODS:
        assert (estimate(image, method) == together[method].saliency).all()


def test_fusion_counts_the_time_of_what_it_is_made_of():
    found = estimate_all(disc_picture()[0])
    assert found["fusion"].seconds > max(found[m].seconds for m in SINGLE)
    assert found["finished"].seconds > found["fusion"].seconds


def test_the_finished_map_is_the_fusion_s_at_the_size_of_masks():
    image, mask = disc_picture(225, 300, centre=(0.45, 0.4))
    found = estimate_all(image)
    small = [
        cv2.resize(values, (128, 128), interpolation=cv2.INTER_AREA)
        for values in (image, found["fusion"].saliency)
    ]
    wanted = cv2.resize(finished(small[0], small[1].clip(0, 1), FINISH), (300, 225))
    # the fusion was painted at another size, so its 128 x 128 differ a little
    assert np.abs(found["finished"].saliency - wanted).mean() < 0.01
    assert iou(found["finished"].saliency > 0.5, mask) > 0.9


def test_an_unknown_method_is_named():
    with pytest.raises(ValueError, match="no method 'rbf'; there are rbd, mr"):
        estimate(np.zeros((4, 4, 3), np.uint8), "rbf")
