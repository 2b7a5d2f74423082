"""The cut by colour models, and the mean that a mask is."""

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from pipeline.saliency.arrays import as_square
from pipeline.saliency.crf import CrfConfig, refine_by_crf
from pipeline.saliency.finish import Finish, finished, finished_mask
from pipeline.saliency.grab_cut import grab_cut
from pipeline.sources.demo import render

CRF = CrfConfig()


def scene(noise: int = 25) -> tuple[np.ndarray, np.ndarray]:
    """An orange ring on grass, with noise, and where it is: a shape that no blob has."""
    rows, columns = np.mgrid[:64, :64]
    radius = np.hypot(rows - 30, columns - 34)
    ring = (radius > 8) & (radius < 20)
    picture = np.where(ring[..., None], (220, 120, 40), (60, 130, 60)).astype(np.int16)
    picture += np.random.default_rng(0).integers(-noise, noise + 1, picture.shape)
    return picture.clip(0, 255).astype(np.uint8), ring


def blob() -> np.ndarray:
    """A rough map of the ring: a disc beside its middle, 0.2 to 0.8."""
    rows, columns = np.mgrid[:64, :64]
    return np.where(np.hypot(rows - 27, columns - 38) < 18, 0.8, 0.2).astype(np.float32)


def demo_scene(index: int) -> tuple[np.ndarray, np.ndarray]:
    """A generated picture of 96 x 96 with noise, and its true mask, moved and 0.1 to 0.9."""
    pixels, truth = render("demo", 0, index)[:2]
    small = cv2.resize(pixels, (96, 96), interpolation=cv2.INTER_AREA).astype(np.int16)
    small += np.random.default_rng(index).integers(-25, 26, small.shape).astype(np.int16)
    mask = cv2.resize(truth, (96, 96)).astype(np.float32) / 255
    return small.clip(0, 255).astype(np.uint8), np.roll(mask, (7, -9), (0, 1)).clip(0.1, 0.9)


def test_a_cut_finds_the_object_that_a_rough_map_points_at():
    picture, ring = scene()
    rough = (blob() > 0.5) != ring
    assert rough.mean() > 0.14  # else there would be nothing to find
    cut = grab_cut(picture, blob())
    assert cut.dtype == np.float32
    assert set(np.unique(cut)) == {0.0, 1.0}
    assert ((cut > 0.5) != ring).mean() < 0.02


def test_a_cut_is_the_same_in_any_thread_and_at_any_time():
    """Whatever came before: the models of demo pictures 7 and 11 depend on where k-means begins."""
    for index in (7, 11):
        picture, salient = demo_scene(index)
        first = grab_cut(picture, salient)

        def again(seed: int, picture=picture, salient=salient) -> np.ndarray:
            cv2.setRNGSeed(seed)
            return grab_cut(picture, salient)

        def unseeded(seed: int, picture=picture, salient=salient) -> np.ndarray:
            cv2.setRNGSeed(seed)
            sides = np.where(salient > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
            models = np.zeros((2, 1, 65))
            cv2.grabCut(picture, sides, None, models[0], models[1], 1, cv2.GC_INIT_WITH_MASK)
            return sides

        assert len({unseeded(seed).tobytes() for seed in range(1, 9)}) > 1
        with ThreadPoolExecutor(3) as pool:
            for other in pool.map(again, range(1, 13)):
                np.testing.assert_array_equal(other, first)


@pytest.mark.parametrize("level", [0.0, 0.4, 1.0])
def test_where_one_side_has_hardly_a_pixel_a_cut_is_the_map(level):
    picture, _ = scene()
    salient = np.full((64, 64), level, np.float32)
    salient[0, :15] = 1 - level
    np.testing.assert_array_equal(grab_cut(picture, salient), salient > 0.5)


def test_from_16_pixels_on_a_side_is_modelled():
    picture, ring = scene()
    salient = np.zeros((64, 64), np.float32)
    salient[ring & (np.arange(64) == 20)] = 1
    salient[np.nonzero(salient)[0][:-16]] = 0
    assert salient.sum() == 16
    assert (grab_cut(picture, salient) != salient).any()


def drawn_maps() -> st.SearchStrategy[np.ndarray]:
    """Blocks, so that both sides of 0.5 have many pixels more often than not."""
    blocks = arrays.arrays(
        np.float32, (3, 4), elements=st.floats(0, 1, width=32), fill=st.nothing()
    )
    return blocks.map(lambda values: values.repeat(4, axis=0).repeat(4, axis=1))


def drawn_pictures() -> st.SearchStrategy[np.ndarray]:
    """Of one colour, of few colours, in blocks or pixel by pixel."""
    levels = st.sampled_from([0, 1, 128, 254, 255])
    pixels = arrays.arrays(np.uint8, (12, 16, 3), elements=levels, fill=st.nothing())
    blocks = arrays.arrays(np.uint8, (3, 4, 3), elements=levels, fill=st.nothing())
    flat = levels.map(lambda level: np.full((12, 16, 3), level, np.uint8))
    return pixels | blocks.map(lambda b: b.repeat(4, axis=0).repeat(4, axis=1)) | flat


@settings(max_examples=60, deadline=None)
@given(drawn_pictures(), drawn_maps(), st.booleans(), st.booleans())
def test_whatever_comes_a_finished_map_lies_in_0_to_1(picture, salient, crf, cut):
    before = picture.copy(), salient.copy()
    found = finished(picture, salient, Finish(crf=CRF if crf else None, cut=cut))
    assert found.shape == (12, 16)
    assert found.dtype == np.float32
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_array_equal(picture, before[0])
    np.testing.assert_array_equal(salient, before[1])


def test_a_finished_map_is_the_mean_of_the_opinions():
    picture, salient = demo_scene(11)
    sharp = refine_by_crf(picture, salient, CRF)
    own, later = grab_cut(picture, salient), grab_cut(picture, sharp)
    assert (own != later).mean() > 0.05  # else it would not matter where the cut begins
    assert min(own.mean(), later.mean()) > 0.2
    for finish, wanted in (
        (Finish(), salient),
        (Finish(crf=CRF), sharp),
        (Finish(cut=True), (salient + own) / 2),
        (Finish(crf=CRF, cut=True), (salient + sharp + later) / 3),
    ):
        np.testing.assert_allclose(finished(picture, salient, finish), wanted, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.floats(-5, 5), st.floats(0, 1, width=32))
def test_a_lean_adds_to_the_log_odds(lean, value):
    picture, salient = np.zeros((4, 4, 3), np.uint8), np.full((4, 4), value, np.float32)
    found = finished(picture, salient, Finish(lean=lean))[0, 0]
    wanted = 1 / (1 + np.exp(-lean) * (1 - value) / value) if value > 0 else 0.0
    assert found == pytest.approx(wanted, abs=1e-6)


def test_what_follows_sees_the_map_that_leans():
    picture, salient = demo_scene(11)
    leaned = finished(picture, salient, Finish(lean=1.0))
    assert np.abs(leaned - salient).max() > 0.1
    own = finished(picture, salient, Finish(lean=1.0, crf=CRF, cut=True))
    np.testing.assert_allclose(own, finished(picture, leaned, Finish(crf=CRF, cut=True)), atol=1e-5)
    for lean in (-6.0, float("nan")):
        with pytest.raises(ValueError, match=f"got {lean}"):
            Finish(lean=lean)


def test_a_mask_is_finished_at_its_own_size():
    picture, ring = scene()
    large = picture.repeat(4, axis=0).repeat(4, axis=1)
    finish = Finish(crf=CRF, cut=True)
    mask = finished_mask(large, blob(), finish)
    assert mask.shape == (128, 128)
    assert mask.dtype == np.float32
    truth = ring.repeat(2, axis=0).repeat(2, axis=1)
    assert ((mask > 0.5) != truth).mean() < 0.05


def test_picture_and_map_come_to_the_size_of_a_mask_in_the_same_way():
    """A strip, striped finer than a mask: the CRF must see its mean, not one stripe in twenty."""
    rng = np.random.default_rng(0)
    strip = np.where(np.arange(2500)[None, :, None] % 2, 40, 200) * np.ones((12, 1, 3))
    strip = (strip + rng.normal(scale=4, size=strip.shape)).astype(np.uint8)
    salient = np.broadcast_to(np.linspace(0.2, 0.8, 2500, dtype=np.float32), (12, 2500)).copy()
    wanted = finished(as_square(strip, 128), as_square(salient, 128), Finish(crf=CRF))
    np.testing.assert_array_equal(finished_mask(strip, salient, Finish(crf=CRF)), wanted)
    assert as_square(strip, 128).std() < 5
    assert np.diff(wanted.mean(axis=0)).min() > -0.05  # no stripes in the mask
