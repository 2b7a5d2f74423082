"""Progressive resizing: which size views have in an epoch, and who makes them."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.augment import make_executor
from pipeline.augment.params import sample_view_params
from pipeline.augment.progressive import ProgressiveViews
from pipeline.augment.recipe import MultiCropRecipe
from tests.pipeline.loader.loader_support import RECIPE, assert_same, collected, shards_of, views

GROWING = replace(RECIPE, large_size=48, small_size=20, progressive_epochs=3)
STEPS_PER_EPOCH = 3  # 24 samples, 8 a step


def test_sizes_of_the_paper_by_epoch():
    """Worked out by hand: 224 and 96 from half, over four epochs."""
    recipe = MultiCropRecipe(progressive_epochs=4)
    sizes = [(recipe.at(e).large_size, recipe.at(e).small_size) for e in range(6)]
    assert sizes == [(112, 48), (144, 64), (176, 80), (208, 96), (224, 96), (224, 96)]
    assert recipe.full_size == replace(recipe, progressive_epochs=0)


def test_without_it_every_epoch_has_the_recipe_itself():
    recipe = MultiCropRecipe()
    assert recipe.at(0) == recipe.at(1000) == recipe.full_size == recipe


def test_a_share_that_is_a_whole_number_of_steps_is_not_rounded_up():
    recipe = MultiCropRecipe(large_size=160, progressive_start=0.2, progressive_epochs=2)
    assert (0.2 + 0.8 * 0.5) * 160 > 96  # in floating point
    assert recipe.at(1).large_size == 96


@given(
    large=st.integers(1, 512),
    small=st.integers(1, 512),
    start=st.floats(0.01, 1),
    epochs=st.integers(1, 50),
)
def test_views_grow_and_end_with_their_full_size(large, small, start, epochs):
    recipe = MultiCropRecipe(
        large_size=large, small_size=small, progressive_start=start, progressive_epochs=epochs
    )
    grown = [recipe.at(epoch) for epoch in range(epochs + 2)]
    for name, full in (("large_size", large), ("small_size", small)):
        sizes = [getattr(one, name) for one in grown]
        assert sizes == sorted(sizes)
        assert sizes[-2:] == [full, full]
        assert all(size == full or size % 16 == 0 for size in sizes)
        assert all(start * full - 1e-3 <= size <= full for size in sizes)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"progressive_epochs": -1}, "got -1 and 0.5"),
        ({"progressive_start": 0.0}, "got 0 and 0.0"),
        ({"progressive_start": 1.5}, "got 0 and 1.5"),
    ],
)
def test_what_cannot_be_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        MultiCropRecipe(**settings)


def test_params_do_not_depend_on_the_size():
    shards = shards_of()
    ids = np.array([0, 5, 7])

    def params(recipe):
        return sample_view_params(
            recipe,
            seed=1,
            epoch=0,
            sample_ids=ids,
            heights=shards.heights[ids],
            widths=shards.widths[ids],
            mask_coverage=shards.mask_coverage[ids],
        )

    small, full = params(GROWING.at(0)), params(GROWING)
    for field in fields(full):
        assert np.array_equal(getattr(small, field.name), getattr(full, field.name)), field.name


def test_each_epoch_has_the_views_of_an_executor_of_its_size():
    steps = 5 * STEPS_PER_EPOCH
    grown = collected(views(steps=steps, recipe=GROWING))
    assert [batch.large.shape[-1] for batch in grown[::STEPS_PER_EPOCH]] == [32, 32, 48, 48, 48]
    assert [batch.small.shape[-1] for batch in grown[::STEPS_PER_EPOCH]] == [16, 16, 20, 20, 20]
    for recipe in {GROWING.at(epoch) for epoch in range(5)}:
        alone = collected(views(steps=steps, recipe=recipe))
        rows = [i for i in range(steps) if grown[i].large.shape == alone[i].large.shape]
        assert rows
        assert_same([grown[i] for i in rows], [alone[i] for i in rows])


def test_a_later_start_has_the_sizes_of_its_epoch():
    steps = 4 * STEPS_PER_EPOCH
    whole = collected(views(steps=steps, recipe=GROWING))
    assert_same(whole[7:], collected(views(steps=steps, start=7, recipe=GROWING)))


def test_an_executor_is_closed_with_the_first_batch_of_another_size():
    events = []

    class Recorder:
        def __init__(self, recipe):
            self.size = recipe.large_size
            events.append(f"open {self.size}")

        def __call__(self, decoded, params):
            return self.size

        def close(self):
            events.append(f"close {self.size}")

    class Batch:
        def __init__(self, epoch):
            self.epoch = epoch

    executor = ProgressiveViews(GROWING, Recorder)
    assert [executor(Batch(epoch), None) for epoch in (0, 0, 1, 2, 3)] == [32, 32, 32, 48, 48]
    executor.close()
    executor.close()
    assert events == ["open 32", "close 32", "open 48", "close 48"]


def test_a_recipe_that_does_not_grow_has_a_plain_executor():
    assert not isinstance(make_executor("reference", RECIPE), ProgressiveViews)
    assert isinstance(make_executor("reference", GROWING), ProgressiveViews)
