"""What a manifest says of its masks: of estimated ones, and of those of older manifests."""

import json
from dataclasses import replace

import pytest

from pipeline.augment.recipe import MultiCropRecipe, ViewRecipe
from pipeline.saliency.provenance import MaskMethod
from pipeline.shards import open_shards
from pipeline.shards.described import described, mask_summary
from pipeline.shards.manifest import MANIFEST_NAME, Manifest
from pipeline.shards.writer import FolderWriter
from tests.pipeline.shards.support import PROVENANCE

METHOD = MaskMethod(
    name="own", version=2, labels_involved=False, settings={"a": [1, 0.5]}, model_sha256="f0"
)


def test_a_method_and_what_was_refused_come_back(samples, tmp_path):
    with FolderWriter(tmp_path, format="dali", capacity=len(samples), largest=1 << 16) as writer:
        for sample in samples:
            writer.add(sample)
        made = writer.finish(
            replace(PROVENANCE, mask_origin="estimated", mask_method=METHOD),
            skipped=[],
            repaired=[],
            refused={"split": 1, "small": 1},
        )
    masks = open_shards(tmp_path).manifest.masks
    assert masks == made.masks
    assert masks.method == METHOD
    assert masks.labels_involved is False
    assert masks.refused == {"small": 1, "split": 1}
    assert masks.refused_share == pytest.approx(2 / len(samples))


def test_of_given_masks_nobody_says_how_they_were_made(written):
    masks = open_shards(written).manifest.masks
    assert (masks.method, masks.labels_involved) == (None, None)
    assert (masks.refused, masks.refused_share) == ({}, 0)


def test_a_manifest_from_before_masks_were_estimated_is_read(written):
    text = (written / MANIFEST_NAME).read_text()
    values = json.loads(text)
    for name in ("method", "labels_involved", "refused", "refused_share"):
        del values["masks"][name]
    assert Manifest.from_json(json.dumps(values)) == Manifest.from_json(text)


def with_masks(manifest, **values):
    return replace(manifest, num_samples=50, masks=replace(manifest.masks, **values))


def test_one_line_says_how_many_samples_have_a_mask(written):
    manifest = with_masks(open_shards(written).manifest, num_masks=47, num_degenerate=2)
    line = "masks: 47 of 50 samples have one, 2 of them cover less than 1%"
    assert mask_summary(manifest) == mask_summary(manifest, MultiCropRecipe()) == line
    whole = with_masks(manifest, num_masks=50, num_degenerate=0)
    assert mask_summary(whole) == "masks: 50 of 50 samples have one"
    plain = ViewRecipe(mask_probability=0.0)
    unmasked = MultiCropRecipe(large_even=plain, large_odd=plain)
    assert mask_summary(whole, unmasked).endswith(
        "; no background is ever removed, since mask_probability is 0 for every view"
    )


def test_shards_without_masks_say_what_follows_and_the_cure(written, tmp_path):
    manifest = open_shards(written).manifest
    none = with_masks(manifest, num_masks=0, num_degenerate=0, coverage_mean=None)
    line = "masks: none, no background is ever removed; convert with --saliency auto"
    assert mask_summary(none, MultiCropRecipe()) == line
    assert line in list(described(none, tmp_path, 1.0))
    refused = with_masks(none, num_masks=0, method=METHOD, refused={"small": 30, "split": 20})
    assert mask_summary(refused) == (
        "masks: none (all 50 estimates were refused), no background is ever removed"
    )
