"""Superpixels: a partition with the right neighbours, borders and means, at any size of picture."""

import numpy as np
import pytest

from pipeline.saliency.arrays import normalised, pairwise_distances
from pipeline.saliency.graph import border_linked, two_rings
from pipeline.saliency.superpixels import SceneSettings, make_scene
from tests.pipeline.saliency.support import disc_picture, tiny_scene


def test_a_scene_is_a_partition_with_its_means_and_centres():
    scene = tiny_scene()
    height, width = scene.labels.shape
    assert scene.areas.sum() == height * width
    for n in range(len(scene.areas)):
        y, x = np.nonzero(scene.labels == n)
        assert len(y) == scene.areas[n] > 0
        assert scene.means[n] == pytest.approx(scene.lab[y, x].mean(axis=0), abs=1e-3)
        assert scene.centres[n] == pytest.approx(
            [(y + 0.5).mean() / height, (x + 0.5).mean() / width]
        )


def test_neighbours_share_an_edge_of_a_pixel():
    scene = tiny_scene()
    height, width = scene.labels.shape
    expected = set()
    for y in range(height):
        for x in range(width):
            for other_y, other_x in ((y + 1, x), (y, x + 1)):
                if other_y < height and other_x < width:
                    a, b = scene.labels[y, x], scene.labels[other_y, other_x]
                    if a != b:
                        expected |= {(a, b), (b, a)}
    assert set(zip(*np.nonzero(scene.adjacent), strict=True)) == expected


def test_two_rings_are_ways_of_at_most_two_steps_where_the_border_is_one_neighbourhood():
    scene = tiny_scene()
    count = len(scene.areas)
    near = [
        {j for j in range(count) if scene.adjacent[i, j] or (scene.border[i] and scene.border[j])}
        for i in range(count)
    ]
    linked = two_rings(border_linked(scene))
    for i in range(count):
        within = near[i].union(*(near[j] for j in near[i])) - {i}
        assert set(np.flatnonzero(linked[i])) == within
    assert not linked.all()


def test_sides_are_the_four_lines_of_the_picture():
    scene = tiny_scene()
    lines = (scene.labels[0], scene.labels[-1], scene.labels[:, 0], scene.labels[:, -1])
    for side, line in zip(scene.sides, lines, strict=True):
        assert set(np.flatnonzero(side)) == set(line)
    assert set(np.flatnonzero(scene.border)) == set(np.concatenate(lines))
    assert not scene.border.all()


def test_superpixels_keep_to_the_edge_of_a_disc():
    image, mask = disc_picture(225, 300)
    scene = make_scene(image)
    share = scene.pool(mask.astype(np.float32))
    assert (scene.areas * np.minimum(share, 1 - share)).sum() / mask.sum() < 0.03
    assert 150 <= len(scene.areas) <= 260


def test_pooling_a_painted_map_gives_its_values():
    scene = tiny_scene()
    values = np.random.default_rng(1).random(len(scene.areas))
    assert scene.pool(scene.paint(values)) == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (2, 3), (3000, 40), (40, 3000)])
def test_any_size_is_cut(size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    scene = make_scene(image)
    assert max(scene.labels.shape) == SceneSettings().longer_side
    assert min(scene.labels.shape) >= 16
    assert set(np.unique(scene.labels)) == set(range(len(scene.areas)))


def test_one_colour_is_flat_and_a_disc_is_not():
    assert make_scene(np.full((50, 70, 3), 99, np.uint8)).flat
    assert not tiny_scene().flat


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)],
)
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(ValueError, match=r"uint8 \[height, width, 3\], got"):
        make_scene(image)


def test_distances_are_euclidean():
    points = np.random.default_rng(0).normal(0, 30, (17, 3))
    naive = [[np.linalg.norm(a - b) for b in points] for a in points]
    assert pairwise_distances(points) == pytest.approx(np.array(naive), abs=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normalised_fills_0_to_1_or_is_zero(dtype):
    stretched = normalised(np.array([3, 7, 5], dtype))
    assert stretched.dtype == dtype
    assert stretched.tolist() == [0, 1, 0.5]
    assert (normalised(np.full(5, 0.1, dtype)) == 0).all()
    assert (normalised(np.array([1, 1 + np.finfo(dtype).eps], dtype)) == 0).all()
