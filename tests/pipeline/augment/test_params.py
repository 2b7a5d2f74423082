"""What is drawn: bounds, neutrality, distributions, and a golden file against silent change."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.augment.params import (
    JITTER_ORDERS,
    Draw,
    ViewParams,
    centre_view_params,
    sample_view_params,
)
from pipeline.augment.recipe import LARGE_EVEN, MultiCropRecipe, ViewRecipe

GOLDEN = Path(__file__).parent.parent.parent / "data" / "params_v1.npz"


def draw(recipe=None, num=4, height=375, width=500, coverage=0.3, seed=1, epoch=0, ids=None):
    ids = np.arange(num) if ids is None else np.asarray(ids)
    return sample_view_params(
        recipe or MultiCropRecipe(),
        seed=seed,
        epoch=epoch,
        sample_ids=ids,
        heights=np.full(len(ids), height, np.int32),
        widths=np.full(len(ids), width, np.int32),
        mask_coverage=np.full(len(ids), coverage, np.float32),
    )


def as_dict(params: ViewParams):
    return {item.name: getattr(params, item.name) for item in fields(params)}


def test_params_never_change_silently():
    params = as_dict(draw(num=6, seed=2022, epoch=3))
    with np.load(GOLDEN) as golden:
        assert set(golden.files) == set(params)
        for name in golden.files:
            assert np.array_equal(golden[name], params[name]), name


def test_draws_are_numbered_for_ever():
    assert [d.name for d in Draw][:4] == ["CROP_AREA", "CROP_ASPECT", "CROP_TOP", "CROP_LEFT"]
    assert [int(d) for d in Draw] == list(range(17))


@given(
    height=st.integers(1, 4000),
    width=st.integers(1, 4000),
    seed=st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 2000),
)
def test_crops_lie_inside_the_image(height, width, seed, epoch):
    params = draw(height=height, width=width, seed=seed, epoch=epoch)
    assert params.crop_height.min() >= 1
    assert params.crop_width.min() >= 1
    assert params.crop_top.min() >= 0
    assert params.crop_left.min() >= 0
    assert (params.crop_top + params.crop_height).max() <= height
    assert (params.crop_left + params.crop_width).max() <= width


def test_rows_do_not_depend_on_world_size():
    whole = as_dict(draw(num=16))
    for world_size in (2, 4, 8):
        for rank in range(world_size):
            share = as_dict(draw(ids=np.arange(16)[rank::world_size]))
            for name, value in share.items():
                assert np.array_equal(value, whole[name][rank::world_size]), name


def test_views_samples_epochs_and_seeds_differ():
    base = draw(num=64)
    other_seed, other_epoch = draw(num=64, seed=2), draw(num=64, epoch=1)
    for other in (other_seed, other_epoch):
        assert (base.crop_top == other.crop_top).mean() < 0.1
    assert (base.blur_sigma[:, 0] == base.blur_sigma[:, 2]).mean() < 0.1
    assert len(np.unique(base.blur_sigma[:, 0])) == 64


def test_a_recipe_that_draws_nothing_gives_neutral_params():
    still = ViewRecipe(
        flip_probability=0,
        jitter_probability=0,
        grayscale_probability=0,
        blur_probability=0,
        solarize_probability=0,
        mask_probability=0,
    )
    params = draw(MultiCropRecipe(large_even=still, large_odd=still, small=still), num=64)
    assert not params.flip.any()
    assert not params.grayscale.any()
    assert not params.solarize.any()
    assert not params.mask.any()
    assert (params.brightness == 0).all()
    assert (params.contrast == 1).all()
    assert (params.saturation == 1).all()
    assert (params.hue == 0).all()
    assert (params.blur_sigma == 0).all()


def test_everything_is_drawn_with_its_probability_and_range():
    params = draw(num=4000)
    share = {
        "flip": (params.flip, [0.5] * 6),
        "jitter": (params.brightness != 0, [0.8] * 6),
        "gray": (params.grayscale, [0.2] * 6),
        "blur": (params.blur_sigma > 0, [1.0, 0.1, 1.0, 0.1, 0.1, 0.1]),
        "solarize": (params.solarize, [0.0, 0.2, 0.0, 0.2, 0.2, 0.2]),
        "mask": (params.mask, [0.1] * 4 + [0.0] * 2),
    }
    for name, (drawn, probability) in share.items():
        p = np.array(probability)
        bound = 5 * np.sqrt(p * (1 - p) / 4000) + 1e-12  # five standard deviations
        assert (np.abs(drawn.mean(axis=0) - p) <= bound).all(), name
    assert np.abs(params.brightness).max() <= 0.4
    assert params.contrast.min() >= 0.6 - 1e-6
    assert params.contrast.max() <= 1.4 + 1e-6
    assert params.saturation.min() >= 0.8 - 1e-6
    assert params.saturation.max() <= 1.2 + 1e-6
    assert np.abs(params.hue).max() <= 0.1 + 1e-7
    sigma = params.blur_sigma[params.blur_sigma > 0]
    assert sigma.min() >= 0.1
    assert sigma.max() <= 2.0
    orders = np.bincount(params.jitter_order[params.brightness != 0], minlength=24)
    assert orders.min() > 0.8 * orders.mean()


def test_crop_areas_and_aspects_follow_the_recipe():
    params = draw(num=4000, height=1000, width=1000)
    area = params.crop_height * params.crop_width / 1e6
    aspect = params.crop_width / params.crop_height
    assert area[:, 4:].min() > 0.049
    assert area[:, 4:].max() < 0.141
    assert aspect.min() > 0.74
    assert aspect.max() < 1.35
    # Uniform area: of the crops that were not clamped, a tenth lies in each tenth of the range.
    assert abs((area[:, 4] < 0.05 + 0.045).mean() - 0.5) < 0.04


def test_sides_are_clamped_not_redrawn():
    params = draw(num=2000, height=100, width=1000)
    assert params.crop_height.max() == 100
    assert (params.crop_height == 100).mean() > 0.2


@pytest.mark.parametrize("coverage", [np.nan, 0.0, 0.005])
def test_views_without_a_usable_mask_stay_unmasked(coverage):
    always = replace(LARGE_EVEN, mask_probability=1.0)
    recipe = MultiCropRecipe(large_even=always, large_odd=always)
    assert not draw(recipe, coverage=coverage).mask.any()
    assert draw(recipe, coverage=0.02).mask[:, :4].all()
    full = replace(recipe, mask_max_coverage=0.9)
    assert not draw(full, coverage=0.95).mask.any()


def test_params_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        draw().crop_top[0, 0] = 1


def test_orders_are_all_permutations():
    assert len(set(JITTER_ORDERS)) == 24
    assert all(sorted(order) == [0, 1, 2, 3] for order in JITTER_ORDERS)
    assert list(JITTER_ORDERS) == sorted(JITTER_ORDERS)


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(375, 500, (24, 86, 328)), (256, 256, (16, 16, 224)), (1, 1, (0, 0, 1)), (9, 2, (4, 1, 1))],
)
def test_evaluation_cuts_the_centre_square(height, width, expected):
    params = centre_view_params(np.array([height], np.int32), np.array([width], np.int32))
    top, left, side = expected
    assert int(params.crop_top[0, 0]) == top
    assert int(params.crop_left[0, 0]) == left
    assert int(params.crop_height[0, 0]) == int(params.crop_width[0, 0]) == side


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"flip_probability": 1.5}, "flip_probability must lie in 0..1, got 1.5"),
        ({"area": (0.5, 0.2)}, "area must be a range"),
        ({"area": (0.5, 1.2)}, "area must not exceed 1"),
        ({"hue": -0.1}, "hue must not be negative"),
        ({"hue": 0.6}, "hue must not exceed 0.5 turns, got 0.6"),
        ({"blur_divider": 0.0}, "blur_divider must be at least 0.5"),
    ],
)
def test_impossible_recipes_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ViewRecipe(**change)
