"""Pictures as upright pixels: sizes, turns, fractions of large JPEGs."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.sources.demo import render
from pipeline.sources.pixels import as_in_file, as_upright, read_square, read_within
from pipeline.sources.prepare import TRANSPOSE, BadPicture
from pipeline.sources.record import Record


class Bytes:
    def __init__(self, data: bytes):
        self.data = data

    def read(self, record):
        if not self.data:
            raise OSError("gone")
        return self.data, None


def record(data: bytes) -> Record:
    return Record(key="a.jpg", label_name=None, origin=Bytes(data), offset=0, size=len(data))


def jpeg(image: Image.Image, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "JPEG", quality=100, subsampling=0, exif=exif)
    return file.getvalue()


@pytest.fixture
def image():
    return Image.fromarray(render("demo", 0, 0)[0]).resize((90, 60))


def test_a_square_has_its_side_whatever_the_shape(image):
    picture = read_square(record(jpeg(image)), 32)
    assert picture.pixels.shape == (32, 32, 3)
    assert picture.pixels.dtype == np.uint8
    assert picture.size == (90, 60)


@pytest.mark.parametrize(
    ("side", "shape"), [(45, (30, 45, 3)), (90, (60, 90, 3)), (400, (60, 90, 3))]
)
def test_within_a_side_the_shape_is_kept_and_nothing_is_enlarged(image, side, shape):
    assert read_within(record(jpeg(image)), side).pixels.shape == shape


def test_a_large_jpeg_is_read_at_a_fraction_that_is_as_good(image):
    large = image.resize((1440, 960), Image.Resampling.BICUBIC)
    found = read_within(record(jpeg(large)), 90).pixels.astype(int)
    whole = np.asarray(large.resize((90, 60), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(found - whole).mean() < 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_upright_and_masks_go_back(image, orientation):
    found = read_within(record(jpeg(image, orientation)), 400)
    turn = TRANSPOSE.get(orientation)
    expected = image.transpose(turn) if turn is not None else image
    assert found.size == expected.size
    assert found.orientation == orientation
    assert np.abs(found.pixels.astype(int) - np.asarray(expected)).mean() < 2
    mask = np.asarray(image)[:, :, 0]
    upright = np.asarray(expected)[:, :, 0]
    np.testing.assert_array_equal(as_in_file(upright, orientation), mask)
    np.testing.assert_array_equal(as_upright(mask, orientation), upright)


@pytest.mark.parametrize("data", [b"", b"no picture"], ids=["gone", "text"])
def test_a_bad_picture_says_so(data):
    with pytest.raises(BadPicture):
        read_square(record(data), 32)
