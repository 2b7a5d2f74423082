"""The generated set: reproducible, varied, with true masks, and not to be guessed from colours."""

import io
import pickle
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from pipeline.sources import list_records
from pipeline.sources.demo import CLASSES, DEMO_SETS, list_demo, render
from pipeline.sources.prepare import PrepareSettings, prepare


@pytest.fixture(scope="module")
def pictures():
    """[(image, mask, label)] of 200 pictures."""
    return [(*render("demo", 0, index), index % len(CLASSES)) for index in range(200)]


def thumbnails(pictures):
    return np.stack(
        [
            np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BOX)).ravel()
            for image, *_ in pictures
        ]
    ).astype(np.float32)


def knn_accuracy(features, labels, neighbours=5):
    distances = ((features[:, None] - features[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    nearest = labels[np.argsort(distances, axis=1)[:, :neighbours]]
    votes = [np.bincount(row, minlength=len(CLASSES)).argmax() for row in nearest]
    return float(np.mean(votes == labels))


def test_a_picture_is_a_function_of_set_seed_and_index():
    image, mask = render("demo", 0, 7)
    again, mask_again = render("demo", 0, 7)
    assert (image == again).all()
    assert (mask == mask_again).all()
    for other in (("demo", 0, 17), ("demo", 1, 7), ("demo-val", 0, 7)):
        different, _ = render(*other)
        assert different.shape != image.shape or (different != image).mean() > 0.5


def test_sets_are_balanced_and_have_their_sizes():
    for name, count in DEMO_SETS.items():
        source = list_records(name)
        assert len(source.records) == count
        assert set(Counter(record.label_name for record in source.records).values()) == {
            count // 10
        }
        assert len(source.label_names) == 10
        assert source.has_masks
    assert len(list_records("demo", limit=23).records) == 23
    assert len(list_records("demo-val", limit=2000).records) == 2000


def test_every_shape_and_every_texture_belongs_to_two_classes():
    shapes, textures = zip(*CLASSES, strict=True)
    assert set(Counter(shapes).values()) == set(Counter(textures).values()) == {2}
    assert len(set(CLASSES)) == 10


def test_records_are_small_and_read_their_picture_and_its_true_mask():
    record = pickle.loads(pickle.dumps(list_demo("demo", limit=30).records[11]))
    jpeg, png = record.read()
    assert len(jpeg) <= record.size
    image, mask = render("demo", 0, record.offset)
    stored = np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)
    assert np.abs(stored - image).mean() < 6
    assert (np.asarray(Image.open(io.BytesIO(png))) == mask).all()
    prepared = prepare(record, PrepareSettings())
    assert prepared.unchanged
    assert prepared.coverage == pytest.approx((mask > 127).mean(), abs=0.02)


def test_sizes_positions_and_coverage_vary(pictures):
    heights, widths = zip(*[image.shape[:2] for image, *_ in pictures], strict=True)
    assert min(heights + widths) >= 96
    assert max(heights + widths) <= 160
    assert np.std(heights) > 10
    assert np.std(widths) > 10
    coverage = [(mask > 127).mean() for _, mask, _ in pictures]
    assert min(coverage) > 0.05
    assert max(coverage) < 0.7
    centres = [np.argwhere(mask > 127).mean(0) / mask.shape for _, mask, _ in pictures]
    assert np.std(centres, axis=0).min() > 0.1


def test_an_object_stands_out_of_its_background(pictures):
    def roughness(image, where):
        gray = image.astype(float).mean(-1)
        steps = np.abs(np.diff(gray, axis=1))
        return steps[where[:, 1:] & where[:, :-1]].mean()

    inside = [roughness(image, mask > 200) for image, mask, _ in pictures]
    outside = [roughness(image, mask < 20) for image, mask, _ in pictures]
    assert np.mean(np.array(inside) > outside) > 0.8


def test_pixels_and_colours_do_not_tell_the_class(pictures):
    labels = np.array([label for *_, label in pictures])
    assert knn_accuracy(thumbnails(pictures), labels) < 0.4
    colours = np.stack([image.mean((0, 1)) for image, *_ in pictures])
    assert knn_accuracy(colours, labels) < 0.4


def test_backgrounds_belong_to_wrong_classes_more_often_than_to_right_ones():
    from numpy.random import Generator, Philox

    from pipeline.sources.demo import RIGHT_STYLE, WRONG_STYLE, _style_for, _style_of

    styles = {_style_of(label): label for label in range(10)}
    drawn = [styles.get(_style_for(Generator(Philox(key=[0, seed])), 3)) for seed in range(1000)]
    assert np.mean([label == 3 for label in drawn]) == pytest.approx(RIGHT_STYLE, abs=0.04)
    wrong = [label for label in drawn if label not in (None, 3)]
    assert len(wrong) / 1000 == pytest.approx(WRONG_STYLE, abs=0.05)
    assert len(set(wrong)) == 9
