"""Changes of photos: what they keep, how far they go."""

import numpy as np

from pipeline.saliency.refine.augment import cropped, jittered, mirrored


def photos(count: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(60, 160, (count, 9, 9, 3), dtype=np.uint8)


def test_only_those_named_are_mirrored():
    images = photos(3)
    turned = mirrored(images, np.array([True, False, True]))
    np.testing.assert_array_equal(turned[1], images[1])
    np.testing.assert_array_equal(turned[[0, 2]], images[[0, 2]][:, :, ::-1])
    np.testing.assert_array_equal(images, photos(3))  # not in place
    maps = images[..., 0]
    np.testing.assert_array_equal(mirrored(maps, np.array([0, 1, 0], bool))[1], maps[1, :, ::-1])


def test_a_photo_and_its_map_lose_the_same_margins():
    """Maps are a channel of their photos: they stay so, and are whole at 1 but for the mirror."""
    rows, columns = np.mgrid[:40, :40].astype(np.uint8)
    images = np.stack([np.stack([rows, columns, rows + columns], axis=2) * 3] * 60)
    parts, both = cropped(images, images[..., 1:], 0.7, np.random.default_rng(3))
    assert parts.shape == images.shape
    np.testing.assert_array_equal(parts[..., 1:], both)
    _, one = cropped(images, images[..., 1:2], 0.7, np.random.default_rng(3))
    np.testing.assert_array_equal(both[..., :1], one)
    maps = both[..., 0]
    tops, lefts = parts[:, 0, :, 0].min(axis=1) // 3, maps[:, 0].min(axis=1) // 3
    heights = (parts[:, -1, 0, 0] - parts[:, 0, 0, 0]) / 3 + 1
    assert 27 <= heights.min() < 29 < 38 < heights.max() <= 40
    assert tops.max() > 6
    assert lefts.max() > 6
    np.testing.assert_allclose(heights, np.ptp(maps, axis=(1, 2)) / 3 + 1, atol=1)  # squares
    mirrored_ones = maps[:, 0, 0] > maps[:, 0, -1]
    assert 15 < mirrored_ones.sum() < 45
    whole, _ = cropped(images, images[..., 1:2], 1.0, np.random.default_rng(3))
    for one in whole:
        assert any((one == image).all() for image in (images[0], images[0][:, ::-1]))


def test_no_jitter_changes_nothing():
    images = photos()
    assert jittered(images, 0.0, np.random.default_rng(1)) is images


def test_each_photo_gets_its_own_colours_within_the_strength():
    images = photos(200)
    changed = jittered(images, 0.3, np.random.default_rng(1))
    assert changed.dtype == np.uint8
    ratios = changed.mean(axis=(1, 2)) / images.mean(axis=(1, 2))
    assert ratios.min() > 0.7 * 0.85 - 0.05
    assert ratios.max() < 1.3 * 1.15 + 0.05
    assert ratios.mean(axis=1).std() > 0.1  # of photos
    assert np.ptp(ratios, axis=1).mean() > 0.05  # of channels
    gray = (np.ptp(changed.astype(int), axis=3) == 0).all(axis=(1, 2))
    assert 0.07 < gray.mean() < 0.25  # 0.15 asked for


def test_the_same_chance_gives_the_same_photos():
    twice = [jittered(photos(), 0.3, np.random.default_rng(5)) for _ in range(2)]
    np.testing.assert_array_equal(*twice)
