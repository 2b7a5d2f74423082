"""What counts as the same picture: libjpeg-turbo's own settings do, wrong decoders do not."""

import numpy as np
import pytest
import simplejpeg

from pipeline.loader.tolerance import TOLERANCE, difference
from tests.pipeline.loader.gpu_support import pictures
from tests.support import textured_image


def fault(pixels, expected):
    return difference(pixels, expected).beyond(TOLERANCE)


def jpeg(image, sampling="420"):
    return simplejpeg.encode_jpeg(image, quality=90, colorspace="RGB", colorsubsampling=sampling)


@pytest.mark.parametrize("sampling", ["420", "422", "444"])
def test_every_setting_of_libjpeg_turbo_is_within(sampling):
    for image in pictures(6):
        data = jpeg(image, sampling)
        expected = simplejpeg.decode_jpeg(data)
        for fast in ({"fastdct": True}, {"fastupsample": True}):
            assert fault(simplejpeg.decode_jpeg(data, **fast), expected) == ""
        assert fault(expected, expected) == ""


def test_numbers_are_those_of_the_definition():
    expected = np.full((64, 48, 3), 100, np.uint8)
    pixels = expected.copy()
    pixels[:8, :16] += np.uint8(50)  # half of one of 4 x 3 tiles
    found = difference(pixels, expected)
    assert found.brightness == pytest.approx(50 / 24)
    assert found.detail == pytest.approx(25)
    assert found.color == pytest.approx(50 / 24)
    assert found.largest == pytest.approx(50)
    red = expected.copy()
    red[..., 0] -= np.uint8(10)
    assert difference(red, expected).brightness == pytest.approx(2.99)
    assert difference(red, expected).color == pytest.approx(10 / 3)


@pytest.mark.parametrize("levels", [-3, -2, 2, 3])
def test_a_shift_of_two_levels_is_named(levels):
    expected = np.clip(textured_image(120, 90), 5, 250)
    shifted = (expected.astype(int) + levels).astype(np.uint8)
    assert fault(shifted, expected) == (
        f"brightness is off by {abs(levels)}.0 levels of 255 (1 allowed)"
    )
    assert fault((expected.astype(int) + 1).astype(np.uint8), expected) == ""


def test_swapped_channels_a_missing_strip_and_a_missing_block_are_found():
    expected = textured_image(240, 320)
    expected[..., 0] //= 2  # colours that can be told apart
    assert fault(expected[..., ::-1], expected)
    strip = expected.copy()
    strip[-16:] = strip[-16:, ::-1]  # as bright on the whole
    assert "brightness of a part is off" in fault(strip, expected)
    bright = np.full((240, 320, 3), 200, np.uint8)
    block = bright.copy()
    block[100:101, 100:101] = 0
    assert (
        fault(block, bright) == "brightness of a pixel is off by 200.0 levels of 255 (128 allowed)"
    )


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 300, 3), (17, 16, 3)])
def test_small_pictures_have_tiles_too(shape):
    expected = np.full(shape, 90, np.uint8)
    assert fault(expected, expected) == ""
    assert "brightness" in fault(expected + np.uint8(4), expected)


@pytest.mark.real
def test_the_roughest_setting_on_real_photos_is_within(real_data):
    seen = 0
    for name in ("imagenet_sample_400", "ecssd", "imagenette128"):
        files = sorted(path for path in (real_data / name).rglob("*") if is_jpeg(path))[::20]
        for path in files:
            data = path.read_bytes()
            try:
                expected = simplejpeg.decode_jpeg(data, "RGB")
            except ValueError:
                continue
            rough = simplejpeg.decode_jpeg(data, "RGB", fastdct=True, fastupsample=True)
            assert fault(rough, expected) == "", path
            seen += 1
    assert seen > 50


def is_jpeg(path):
    return path.suffix.lower() in (".jpg", ".jpeg")
