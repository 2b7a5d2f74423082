"""HS: regions that are large enough, cues by loops, and the least energy of the tree."""

import math

import numpy as np
import pytest

from pipeline.saliency.hierarchical import hierarchical, layer_cue, merged
from pipeline.saliency.superpixels import SceneSettings, make_scene
from tests.pipeline.saliency.support import TINY, disc_picture, tiny_scene


def square_fits(inside, width):
    """Whether a square around some pixel is True all over; it may hang over the picture's edge."""
    before, after = width // 2, width - width // 2
    return any(
        inside[max(y - before, 0) : y + after, max(x - before, 0) : x + after].all()
        for y in range(inside.shape[0])
        for x in range(inside.shape[1])
    )


@pytest.mark.parametrize("width", [3, 7, 11])
def test_no_region_is_left_in_which_no_square_fits(width):
    scene = tiny_scene()
    start = np.arange(len(scene.areas))
    region = merged(scene, start, width)
    assert set(region) == set(range(region.max() + 1))
    for r in range(region.max() + 1):
        inside = (region == r)[scene.labels]
        assert square_fits(inside, width) or region.max() == 0


def test_regions_merge_with_the_neighbour_of_nearest_colour():
    image = np.zeros((48, 48, 3), np.uint8)
    image[:, :22], image[:, 22:26], image[:, 26:] = (200, 40, 40), (200, 80, 40), (40, 40, 200)
    scene = make_scene(image, TINY)
    dominant = [np.bincount(scene.labels[:, x]).argmax() for x in (10, 24, 40)]
    region = merged(scene, np.arange(len(scene.areas)), 14)
    left, strip, right = region[dominant]
    assert strip == left != right


def test_the_cue_of_a_layer_is_contrast_by_nearness_and_size_times_place():
    scene = tiny_scene()
    region = np.arange(len(scene.areas)) // 3
    groups = [np.flatnonzero(region == r) for r in range(region.max() + 1)]
    areas = [scene.areas[g].sum() for g in groups]
    means = [np.average(scene.means[g], axis=0, weights=scene.areas[g]) for g in groups]
    centres = [np.average(scene.centres[g], axis=0, weights=scene.areas[g]) for g in groups]
    expected = []
    for i, group in enumerate(groups):
        contrast = sum(
            areas[j] / sum(areas)
            * math.exp(-(math.dist(centres[i], centres[j]) ** 2) / 0.2)
            * math.dist(means[i], means[j])
            for j in range(len(groups))
        )  # fmt: skip
        place = sum(
            scene.areas[n] * math.exp(-9 * math.dist(scene.centres[n], (0.5, 0.5)) ** 2)
            for n in group
        )
        expected.append(contrast * place / areas[i])
    expected = (np.array(expected) - min(expected)) / (max(expected) - min(expected))
    assert layer_cue(scene, region) == pytest.approx(expected)


def test_inference_has_the_least_energy():
    settings = SceneSettings(longer_side=96, superpixels=150)
    scene = make_scene(disc_picture(72, 96)[0], settings)
    size = max(scene.labels.shape)
    regions = [np.arange(len(scene.areas))]
    for scale in (17, 33):
        regions.append(merged(scene, regions[-1], max(round(scale * size / 400), 2)))
    assert regions[2].max() < regions[1].max() <= regions[0].max()
    cues = [layer_cue(scene, region) for region in regions]
    # coordinate descent: each node at the weighted mean of its cue, its parent and its children
    values = [cue.copy() for cue in cues]
    betas = (0.5, 4.0, 2.0)
    for _ in range(100):
        for layer in range(3):
            for node in range(len(cues[layer])):
                members = np.flatnonzero(regions[layer] == node)
                total, weight = betas[layer] * cues[layer][node], betas[layer]
                if layer < 2:
                    total += 4 * values[layer + 1][regions[layer + 1][members[0]]]
                    weight += 4
                if layer > 0:
                    for child in set(regions[layer - 1][members]):
                        total += 4 * values[layer - 1][child]
                        weight += 4
                values[layer][node] = total / weight
    finest = values[0]
    expected = (finest - finest.min()) / (finest.max() - finest.min())
    assert hierarchical(scene) == pytest.approx(expected, abs=1e-5)


def test_a_disc_stands_out_at_all_sizes():
    image, _ = disc_picture()
    scene = make_scene(image)
    saliency = hierarchical(scene)
    offsets = np.hypot(*(scene.centres - 0.5).T)
    assert saliency[offsets < 0.1].min() > 0.6 > 0.3 > saliency[scene.border].max()
