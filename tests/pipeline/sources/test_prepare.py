"""Preparing pictures: plain JPEGs keep their bytes, all others come out as upright RGB JPEGs."""

import csv
import io
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from pipeline.saliency.codec import decode_mask, encode_mask
from pipeline.sources import list_records
from pipeline.sources.prepare import BadPicture, PrepareSettings, decode_mask_file, prepare
from tests.pipeline.sources.support import encoded, jpeg, record_of, with_orientation
from tests.support import textured_image

KEEP = PrepareSettings(quality=95)
IMAGE = textured_image(48, 64)
# what a viewer does with pixels of this EXIF orientation (EXIF 2.3, table of tag 0x0112)
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a.swapaxes(0, 1)[:, ::-1],
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    8: lambda a: a.swapaxes(0, 1)[::-1],
}


def smooth(height, width):
    """A picture that survives JPEG almost unchanged, different in every corner."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([255 * y / height, 255 * x / width, 128 + 100 * (y > x)], -1).astype(np.uint8)


def pixels_of(prepared):
    pixels = simplejpeg.decode_jpeg(prepared.jpeg)
    assert pixels.shape == (prepared.height, prepared.width, 3)
    return pixels.astype(int)


def distance(prepared, expected):
    return np.abs(pixels_of(prepared) - expected.astype(int)).mean()


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
def test_a_plain_jpeg_keeps_its_bytes(subsampling):
    data = jpeg(seed=3, subsampling=subsampling)
    prepared = prepare(record_of(data), KEEP)
    assert prepared.unchanged
    assert prepared.jpeg == data
    assert (prepared.height, prepared.width) == (40, 60)
    assert prepared.mask == b""
    assert np.isnan(prepared.coverage)


def test_progressive_jpegs_and_neutral_orientation_keep_their_bytes():
    exif = Image.Exif()
    exif[0x0112] = 1
    data = encoded(IMAGE, "JPEG", progressive=True, exif=exif)
    assert prepare(record_of(data), KEEP).jpeg == data


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_and_masks_are_turned_upright_together(orientation):
    stored = smooth(48, 80)
    mask = np.zeros((96, 160), np.uint8)  # another size than the picture
    mask[:40, :30] = 255
    picture = record_of(with_orientation(stored, orientation), encoded(mask, "PNG"))
    prepared = prepare(picture, KEEP)
    assert distance(prepared, UPRIGHT[orientation](stored)) < 3
    expected = encode_mask(np.ascontiguousarray(UPRIGHT[orientation](mask)))
    assert (decode_mask(prepared.mask) == decode_mask(expected)).all()
    assert prepared.unchanged == (orientation == 1)
    if orientation > 1:
        assert Image.open(io.BytesIO(prepared.jpeg)).getexif().get(0x0112) is None


def test_a_mask_of_the_upright_size_is_not_turned():
    upright = np.zeros((80, 48), np.uint8)
    upright[:20] = 255
    data = with_orientation(smooth(48, 80), 6)
    prepared = prepare(record_of(data, encoded(upright, "PNG")), KEEP)
    assert prepared.mask == encode_mask(upright)


def gray_of(image):
    return np.repeat(np.asarray(Image.fromarray(image).convert("L"))[:, :, None], 3, axis=2)


SMOOTH = smooth(64, 72)
RGBA = np.dstack([SMOOTH, np.full(SMOOTH.shape[:2], 255, np.uint8)])
RGBA[:20, :, 3] = 0
ODD_PICTURES = {
    "gray jpeg": (encoded(Image.fromarray(SMOOTH).convert("L"), "JPEG"), gray_of(SMOOTH)),
    "png": (encoded(SMOOTH, "PNG"), SMOOTH),
    "gray png": (encoded(Image.fromarray(SMOOTH).convert("L"), "PNG"), gray_of(SMOOTH)),
    "16 bit png": (
        encoded(SMOOTH[:, :, 0].astype(np.uint16) * 256 + 90, "PNG"),
        np.repeat(SMOOTH[:, :, :1], 3, axis=2),
    ),
    "1 bit": (
        encoded(Image.fromarray(SMOOTH[:, :, 2] > 128), "PNG"),
        np.repeat((SMOOTH[:, :, 2:] > 128) * np.uint8(255), 3, axis=2),
    ),
    "palette": (encoded(Image.fromarray(SMOOTH).quantize(256), "GIF"), SMOOTH),
    "transparent": (
        encoded(RGBA, "PNG"),
        np.where(RGBA[:, :, 3:] == 0, np.uint8(255), SMOOTH),
    ),
    "webp": (encoded(SMOOTH, "WEBP", quality=95), SMOOTH),
    "bmp": (encoded(SMOOTH, "BMP"), SMOOTH),
    "tiff": (encoded(SMOOTH, "TIFF"), SMOOTH),
    "float tiff": (
        encoded(Image.fromarray(SMOOTH[:, :, 0].astype(np.float32) / 255), "TIFF"),
        np.repeat(SMOOTH[:, :, :1], 3, axis=2),
    ),
    "RGB jpeg": (encoded(SMOOTH, "JPEG", keep_rgb=True, quality=95), SMOOTH),
    "several frames": (
        encoded(SMOOTH, "MPO", save_all=True, append_images=[Image.new("RGB", (72, 64))]),
        SMOOTH,
    ),
    "cmyk": (
        encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=95),
        np.asarray(Image.fromarray(SMOOTH).convert("CMYK").convert("RGB")),
    ),
}


@pytest.mark.parametrize("name", list(ODD_PICTURES))
def test_other_pictures_become_rgb_jpegs(name):
    data, expected = ODD_PICTURES[name]
    prepared = prepare(record_of(data, key="misnamed.JPEG"), KEEP)
    assert not prepared.unchanged
    assert prepared.warning == ""
    assert distance(prepared, expected) < 6
    header = simplejpeg.decode_jpeg_header(prepared.jpeg)
    assert header == (64, 72, "YCbCr", "420")


def test_quality_decides_about_the_size_of_what_is_encoded_anew():
    data = encoded(IMAGE, "PNG")
    sizes = [
        len(prepare(record_of(data), PrepareSettings(quality=quality)).jpeg)
        for quality in (30, 60, 95)
    ]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2] / 2


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((300, 400), 150, (150, 200)),
        ((400, 300), 64, (85, 64)),
        ((300, 400), 300, (300, 400)),
        ((300, 400), 900, (300, 400)),
        ((300, 400), 0, (300, 400)),
        ((1, 700), 1, (1, 700)),
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_only_larger_pictures_are_reduced(size, short_side, expected, format):
    data = encoded(smooth(*size), format)
    prepared = prepare(record_of(data), PrepareSettings(short_side=short_side))
    assert (prepared.height, prepared.width) == expected
    assert prepared.unchanged == (format == "JPEG" and size == expected)
    if min(size) > 1:
        small = Image.fromarray(smooth(*size)).resize(expected[::-1], Image.Resampling.BOX)
        assert distance(prepared, np.asarray(small)) < 4


def test_a_reduced_picture_is_turned_as_well():
    data = with_orientation(smooth(300, 400), 6)
    prepared = prepare(record_of(data), PrepareSettings(short_side=75))
    assert (prepared.height, prepared.width) == (100, 75)
    small = Image.fromarray(smooth(300, 400)).resize((100, 75), Image.Resampling.BOX)
    assert distance(prepared, UPRIGHT[6](np.asarray(small))) < 4


PLAIN = jpeg(seed=1)
BROKEN = {
    "empty": b"",
    "text": b"hello " * 100,
    "truncated jpeg": PLAIN[: len(PLAIN) // 2],
    "cut jpeg header": PLAIN[:30],
    "truncated png": encoded(IMAGE, "PNG")[:2000],
}


@pytest.mark.parametrize("name", list(BROKEN))
def test_what_cannot_be_decoded_is_bad_with_a_reason(name):
    with pytest.raises(BadPicture, match=r"cannot be decoded|no picture"):
        prepare(record_of(BROKEN[name]), KEEP)


def test_a_file_that_is_gone_is_bad(tmp_path):
    (tmp_path / "a.jpg").write_bytes(PLAIN)
    (record,) = list_records(str(tmp_path)).records
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(BadPicture, match="cannot be read"):
        prepare(record, KEEP)


def test_a_bomb_is_bad_and_not_decoded():
    png = encoded(IMAGE, "PNG")
    header = b"IHDR" + struct.pack(">II", 30000, 30000) + png[24:29]
    bomb = png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]
    with pytest.raises(BadPicture, match="bomb"):
        prepare(record_of(bomb), KEEP)


def test_a_jpeg_with_a_small_fault_is_stored_as_decoded_with_a_warning():
    data = encoded(IMAGE, "JPEG", restart_marker_rows=1)
    end = data.rindex(b"\xff\xd1")
    faulty = data[:end] + b"\x12" * 50 + data[end:]
    prepared = prepare(record_of(faulty), KEEP)
    assert "extraneous" in prepared.warning
    assert not prepared.unchanged
    simplejpeg.decode_jpeg(prepared.jpeg, strict=True)
    assert np.abs(pixels_of(prepared)[:30] - IMAGE[:30]).mean() < 30


def test_a_bad_mask_makes_a_bad_picture():
    with pytest.raises(BadPicture, match="its mask: no picture that Pillow knows"):
        prepare(record_of(PLAIN, b"no png"), KEEP)


MASK = (smooth(30, 40)[:, :, 2] > 128) * np.uint8(255)
MASKS = {
    "L": encoded(MASK, "PNG"),
    "1": encoded(Image.fromarray(MASK > 0), "PNG"),
    "zeros and ones": encoded(MASK // 255, "PNG"),
    "RGB": encoded(np.repeat(MASK[:, :, None], 3, axis=2), "PNG"),
    "16 bit": encoded(MASK.astype(np.uint16) * 257, "PNG"),
    "palette": encoded(Image.fromarray(MASK).quantize(2), "PNG"),
    "cut-out": encoded(np.dstack([smooth(30, 40), MASK]), "PNG"),
    "opaque": encoded(
        np.dstack([np.repeat(MASK[:, :, None], 3, axis=2), np.full_like(MASK, 255)]), "PNG"
    ),
}


@pytest.mark.parametrize("name", list(MASKS))
def test_masks_of_any_kind_mean_the_same(name):
    assert (decode_mask_file(MASKS[name], 1, (40, 30)) == MASK).all()


def test_an_empty_mask_covers_nothing_and_a_full_one_everything():
    for value in (0, 255):
        mask = encoded(np.full((20, 20), value, np.uint8), "PNG")
        prepared = prepare(record_of(PLAIN, mask), KEEP)
        assert prepared.coverage == value / 255
        assert len(prepared.mask) > 1


@pytest.mark.real
def test_the_odd_collection_is_sorted_into_kept_encoded_anew_and_bad(real_data):
    folder = real_data / "odd"
    with (folder / "manifest.csv").open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    outcomes = {}
    for record in list_records(str(folder)).records:
        try:
            prepared = prepare(record, KEEP)
        except BadPicture as error:
            outcomes[record.key] = f"bad: {error}"
            continue
        simplejpeg.decode_jpeg(prepared.jpeg, strict=True)
        outcomes[record.key] = "kept" if prepared.unchanged else "new"
        if prepared.unchanged:
            assert prepared.jpeg == (folder / record.key).read_bytes()
            assert rows[record.key]["exif_orientation"] in ("", "1")
    assert set(outcomes) == set(rows)
    outcome_column = next(name for name in rows["cmyk/cymk.jpg"] if name.endswith("_outcome"))
    partly_decoded = {"corrupt/broken_data_stream.png", "truncated/truncated_end_chunk.png"}
    for key, outcome in outcomes.items():
        decodes = rows[key][outcome_column].startswith("ok") and key not in partly_decoded
        assert (not outcome.startswith("bad: ")) == decodes, key
    by_folder = {name: Counter() for name in ("cmyk", "gray", "mpo", "huge_header", "progressive")}
    for key, outcome in outcomes.items():
        by_folder.get(key.partition("/")[0], Counter())[outcome[:4]] += 1
    assert set(by_folder["cmyk"]) == set(by_folder["gray"]) == set(by_folder["mpo"]) == {"new"}
    assert by_folder["progressive"] == {"kept": 5}
    assert by_folder["huge_header"]["bad:"] == 5


@pytest.mark.real
def test_real_photos_of_all_orientations_look_alike(real_data):
    folder = real_data / "odd" / "exif_orientation"
    small = []
    for orientation in range(1, 9):
        (record,) = [
            record
            for record in list_records(str(folder)).records
            if record.key == f"Landscape_{orientation}.jpg"
        ]
        prepared = prepare(record, PrepareSettings(short_side=150))
        assert (prepared.height, prepared.width) == (150, 225) or orientation < 2
        small.append(pixels_of(prepared))
    for picture in small[1:]:
        # each has its number printed on it, so they are not quite the same
        assert np.abs(picture - small[0]).mean() < 12
