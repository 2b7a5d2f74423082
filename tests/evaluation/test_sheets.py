"""`draw_views`: what stands in the image of `train.py --show-views`."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from evaluation.sheets import _CAPTION, _EDGE, _GAP, _LONGEST, _MARGIN, _columns, draw_views
from pipeline.augment.params import sample_view_params
from pipeline.augment.recipe import MultiCropRecipe, ViewRecipe
from pipeline.loader import LoaderConfig, training_views
from pipeline.saliency.codec import encode_mask
from pipeline.sampler import Sampler
from pipeline.shards import open_shards
from pipeline.shards.index import Sample
from pipeline.shards.memory import MemoryShards
from pipeline.sources import list_records
from pipeline.sources.prepare import PrepareSettings, prepare
from tests.pipeline.shards.support import write_folder

MASKED = ViewRecipe(mask_probability=1.0)
RECIPE = MultiCropRecipe(
    num_large=2, num_small=1, large_size=64, small_size=32, large_even=MASKED, large_odd=MASKED
)


def samples(count, *, masks=True):
    """Generated images; with masks the second has none."""
    for number, record in enumerate(list_records("demo", limit=count).records):
        made = prepare(record, PrepareSettings())
        masked = masks and number != 1
        yield Sample(
            key=record.key,
            label=0,
            jpeg=made.jpeg,
            mask=made.mask if masked else b"",
            height=made.height,
            width=made.width,
            coverage=made.coverage if masked else float("nan"),
            unchanged=True,
        )


def columns(shards, recipe, *, batch_size, seed=3):
    sampler = Sampler(num_samples=len(shards), global_batch_size=batch_size, seed=seed)
    with training_views(
        shards,
        recipe=recipe,
        sampler=sampler,
        seed=seed,
        config=LoaderConfig(threads=1),
        end_step=1,
    ) as views:
        (batch,) = views
    ids = batch.sample_ids
    params = sample_view_params(
        recipe,
        seed=seed,
        epoch=0,
        sample_ids=ids,
        heights=shards.heights[ids],
        widths=shards.widths[ids],
        mask_coverage=shards.mask_coverage[ids],
    )
    return ids, list(_columns(shards, recipe, batch, params))


def kind_of(path):
    with Image.open(path) as image:
        image.load()
        return image.format


@pytest.mark.parametrize("format", ["ffcv", "dali"])
def test_each_image_stands_beside_its_mask_and_its_views(format, tmp_path):
    write_folder(tmp_path / "set", format, list(samples(4)))
    shards = open_shards(tmp_path / "set")
    path = tmp_path / "views.png"
    path.write_bytes(b"an older sheet")
    line = draw_views(shards, RECIPE, seed=3, path=path)
    assert line == (
        f"{path}: 4 of 4 images, 2 large views of 64 x 64 and 1 small one of 32 x 32 pixels; "
        "masks: 3 of 4 samples have one"
    )
    with Image.open(path) as image:
        sheet = np.asarray(image)
    ids, found = columns(shards, RECIPE, batch_size=4)
    assert [column.head for column in found] == ["image", "mask", "large 1", "large 2", "small 1"]
    assert [column.side for column in found] == [_LONGEST] * 4 + [_LONGEST // 2]
    for row, sample_id in enumerate(ids):
        texts = [column.tiles[row].caption for column in found]
        masked = sample_id != 1
        assert texts[0] == shards.key(sample_id)
        assert (texts[1] == "no mask") == (not masked)
        assert texts[2:] == (["masked", "masked", ""] if masked else ["", "", ""])
        assert [column.tiles[row].framed for column in found] == [
            False,
            False,
            masked,
            masked,
            False,
        ]
        # and so it is drawn: rows from the bottom, tiles end above their captions
        step = _LONGEST + _CAPTION + _GAP
        base = sheet.shape[0] - _MARGIN - _CAPTION - step * (3 - row) - 1
        left = _MARGIN + 2 * (_LONGEST + _GAP)
        framed = (sheet[base, left : left + _LONGEST] == _EDGE).all()
        assert framed == masked
        if not masked:
            drawn = sheet[base - _LONGEST + 2 : base, left + 1 : left + _LONGEST - 1]
            assert np.array_equal(drawn, found[2].tiles[row].pixels[1:-1, 1:-1])
    shards.close()


def test_shards_without_masks_have_no_column_of_them(tmp_path):
    shards = MemoryShards(list(samples(3, masks=False)))
    _, found = columns(shards, RECIPE, batch_size=3)
    assert [column.head for column in found] == ["image", "large 1", "large 2", "small 1"]
    assert not any(tile.framed or tile.caption for column in found[1:] for tile in column.tiles)
    line = draw_views(shards, RECIPE, seed=3, path=tmp_path / "views.JPG")
    assert line.endswith("masks: none, no background is ever removed; convert with --saliency auto")
    assert kind_of(tmp_path / "views.JPG") == "JPEG"


def test_the_views_are_those_that_a_training_shows_in_its_first_epoch():
    shards = MemoryShards(list(samples(8)))
    few_ids, few = columns(shards, RECIPE, batch_size=4)
    all_ids, every = columns(shards, RECIPE, batch_size=8)
    for row, sample_id in enumerate(few_ids):
        (other,) = np.flatnonzero(all_ids == sample_id)
        for left, right in zip(few, every, strict=True):
            assert np.array_equal(left.tiles[row].pixels, right.tiles[other].pixels)


def test_a_masked_crop_without_foreground_is_named_and_a_mask_below_the_limit_too():
    mask = np.zeros((128, 128), np.uint8)
    mask[:2, :2] = 255  # a corner that small crops hardly meet
    first = next(samples(1))
    small = replace(first, mask=encode_mask(mask), coverage=4 / 128**2)
    narrow = replace(MASKED, area=(0.01, 0.02))
    recipe = replace(RECIPE, large_even=narrow, large_odd=narrow, mask_min_coverage=0.0)
    _, found = columns(MemoryShards([small]), recipe, batch_size=1)
    assert [column.tiles[0].caption for column in found[1:4]] == [
        "0.0% foreground",
        "no foreground",
        "no foreground",
    ]
    assert found[2].tiles[0].framed
    _, found = columns(MemoryShards([small]), replace(recipe, mask_min_coverage=0.01), batch_size=1)
    assert [column.tiles[0].caption for column in found[1:4]] == ["0.0%, never used", "", ""]


@pytest.mark.parametrize("count", [1, 3])
def test_every_fill_and_one_view_alone_are_drawn(count, tmp_path):
    shards = MemoryShards(list(samples(count, masks=False)))
    for fill in ("random-gray", "image-mean", "other-image") if count > 1 else ("constant",):
        recipe = replace(RECIPE, num_large=1, num_small=0, mask_fill=fill)
        line = draw_views(shards, recipe, seed=0, path=tmp_path / f"{fill}.webp")
        assert "1 large view of 64 x 64 pixels;" in line
        assert kind_of(tmp_path / f"{fill}.webp") == "WEBP"
