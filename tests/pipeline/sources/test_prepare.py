"""Preparing pictures: plain JPEGs keep their bytes, all others come out as upright RGB JPEGs."""

import csv
import io
import struct
import zlib
from collections import Counter
from random import Random

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from pipeline.saliency.codec import decode_mask, encode_mask
from pipeline.sources import list_records
from pipeline.sources.masks import parse_foreground
from pipeline.sources.prepare import BadPicture, PrepareSettings, prepare, read_mask_file
from tests.pipeline.sources.mutations import mutated, whole_files
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
    pixels, doubt = read_mask_file(MASKS[name], 1, (40, 30))
    assert (pixels == MASK).all()
    assert doubt == ""


HALF = np.zeros((30, 40), np.uint8)
HALF[:, :20] = 1
VOC = np.repeat(np.array([0, 1, 255, 15], np.uint8), 10)[None].repeat(30, axis=0)


def indexed(indices: np.ndarray, *colours: int) -> bytes:
    image = Image.fromarray(indices).convert("P")
    image.putpalette([*colours, *[0] * (768 - len(colours))])
    return encoded(image, "PNG")


def foreground_of(data: bytes, rule: str = "auto") -> tuple[np.ndarray, str]:
    return read_mask_file(data, 1, (40, 30), parse_foreground(rule))


def test_indexed_colours_are_foreground_but_index_0_and_a_border_counts_half():
    voc = [0, 0, 0, 128, 0, 0] + [0, 128, 0] * 253 + [224, 224, 192]
    assert (foreground_of(indexed(HALF, *voc))[0] == HALF * 255).all()
    expected = np.where(VOC == 255, 127, (VOC > 0) * np.uint8(255))
    assert (foreground_of(indexed(VOC, *voc))[0] == expected).all()
    # 255 alone is no border; palettes of gray mean their gray
    assert (foreground_of(indexed(HALF * 255, *voc))[0] == HALF * 255).all()
    assert (foreground_of(indexed(HALF, 255, 255, 255, 0, 0, 0))[0] == 255 - HALF * 255).all()


@pytest.mark.parametrize(
    ("values", "rule", "expected"),
    [
        (HALF + 1, "2", HALF),  # a trimap of 1 and 2
        (HALF + 1, "2-4,9", HALF),
        (HALF * 3, "nonzero", HALF),
        (HALF * 100, "bright", HALF * 0),
        (HALF * 200, "bright", HALF),
        (VOC, "1-20", (VOC > 0) & (VOC < 255)),
        (HALF.astype(np.uint16) * 300, "300", HALF),
        (HALF.astype(np.float32) * 7, "7", HALF),
        (HALF.astype(bool), "1", HALF),
    ],
)
def test_foreground_is_what_the_option_says(values, rule, expected):
    format = "TIFF" if values.dtype == np.float32 else "PNG"
    pixels, doubt = foreground_of(encoded(Image.fromarray(values), format), rule)
    assert ((pixels > 127) == (expected > 0)).all()
    assert doubt == ""


def test_numbers_are_not_looked_for_in_colours():
    with pytest.raises(BadPicture, match="its mask: has colours"):
        foreground_of(encoded(smooth(30, 40), "PNG"), "1")


@pytest.mark.parametrize(
    ("values", "doubt"),
    [
        (HALF + 1, "has the values 1, 2"),
        (HALF * 5, "has the values 0, 5"),
        (VOC, "has the values 0, 1, 15, 255"),  # numbers of classes as gray, and a bright border
        (HALF + 250, "has the values 250, 251"),
        (HALF.astype(np.uint16) * 3, "has the values 0, 3"),
        (HALF, ""),
        (HALF * 0, ""),
        (HALF * 0 + 255, ""),
        (HALF * 200, ""),
        (np.arange(1200, dtype=np.uint16).reshape(30, 40).astype(np.uint8), ""),
    ],
)
def test_a_mask_that_comes_out_empty_or_full_although_it_is_not_is_doubtful(values, doubt):
    assert foreground_of(encoded(values, "PNG"))[1] == doubt


def test_an_empty_mask_covers_nothing_and_a_full_one_everything():
    for value in (0, 255):
        mask = encoded(np.full((20, 20), value, np.uint8), "PNG")
        prepared = prepare(record_of(PLAIN, mask), KEEP)
        assert prepared.coverage == value / 255
        assert len(prepared.mask) > 1


def test_metadata_that_could_turn_an_upright_image_is_cut_out_of_its_bytes():
    data = jpeg(seed=5)
    tag = struct.pack("<HHII", 0x0112, 1, 1, 6)  # a BYTE: Pillow sees none, others turn the image
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0" + tag + bytes(4)
    turned = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    prepared = prepare(record_of(turned), KEEP)
    assert prepared.jpeg == data
    assert not prepared.unchanged
    assert "cut out" in prepared.warning


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_marker_is_repaired(mode, progressive):
    data = encoded(Image.fromarray(SMOOTH).convert(mode), "JPEG", progressive=progressive)
    prepared = prepare(record_of(data[:-2]), KEEP)
    assert "end marker" in prepared.warning
    assert prepared.jpeg == prepare(record_of(data), KEEP).jpeg
    assert (prepared.jpeg == data) == (mode == "RGB")
    assert not prepared.unchanged
    with pytest.raises(BadPicture, match="truncated"):
        prepare(record_of(data[:-40]), KEEP)


def with_size(data: bytes, height: int, width: int) -> bytes:
    """A JPEG whose header claims another size."""
    at = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


@pytest.fixture
def low_limit(monkeypatch):
    """An image of more than 200 x 300 pixels is beyond the limit."""
    monkeypatch.setattr("pipeline.sources.prepare._MAX_PIXELS", 60000)
    monkeypatch.setattr("pipeline.sources.prepare._MAX_COEFFICIENTS", 300000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60000)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_beyond_the_limit_is_read_reduced(low_limit, mode):
    image = Image.fromarray(smooth(800, 1000)).convert(mode)
    data = encoded(image, "JPEG", quality=95)
    for whole in (data, data[:-2]):
        prepared = prepare(record_of(whole), PrepareSettings(short_side=80))
        assert (prepared.height, prepared.width) == (80, 100)
        assert ("end marker" in prepared.warning) == (whole != data)
        assert distance(prepared, np.asarray(image.convert("RGB").resize((100, 80)))) < 4


def test_what_is_beyond_the_limit_is_refused_unless_it_can_be_read_in_bounded_memory(low_limit):
    image = smooth(800, 1000)
    whole = encoded(image, "JPEG")
    small = PrepareSettings(short_side=80)
    for data, settings, message in (
        (whole, KEEP, "1000 x 800 pixels are more than 60000; give --short-side"),
        (whole, PrepareSettings(short_side=500), "give --short-side"),
        (encoded(image, "JPEG", progressive=True), small, "progressive: reading it takes"),
        (encoded(image, "PNG"), small, "bomb, or too large: more than 60000 pixels; only JPEGs"),
        (whole[:-400], small, "cannot be decoded"),
    ):
        with pytest.raises(BadPicture, match=message):
            prepare(record_of(data), settings)
    with pytest.raises(BadPicture, match="its mask: more than 60000 pixels"):
        prepare(record_of(PLAIN, whole), KEEP)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_header_that_lies_about_the_size_is_refused(mode, progressive):
    image = Image.fromarray(SMOOTH).convert(mode)
    data = with_size(encoded(image, "JPEG", progressive=progressive), 30000, 30000)
    with pytest.raises(BadPicture, match=r"progressive|fault|cannot be decoded"):
        prepare(record_of(data), PrepareSettings(short_side=64))


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("deep"), AssertionError()])
@pytest.mark.parametrize("place", ["encode_mask", "_read_picture", "_read"])
def test_whatever_is_raised_for_a_record_makes_it_bad_in_one_line(monkeypatch, error, place):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(f"pipeline.sources.prepare.{place}", fail)
    with pytest.raises(BadPicture, match=r"^cannot be used: [^\n]+$"):
        prepare(record_of(PLAIN, MASKS["L"]), KEEP)


@pytest.mark.parametrize("mode", ["LAB", "CMYK", "YCbCr"])
def test_a_mask_of_any_colour_space_is_read_as_brightness(mode):
    mask = Image.fromarray(np.repeat(MASK[:, :, None], 3, axis=2)).convert(mode)
    data = encoded(mask, "TIFF")
    pixels, _ = read_mask_file(data, 1, (40, 30))
    assert ((pixels > 127) == (MASK > 127)).mean() > 0.98


def test_no_damage_to_a_file_of_any_kind_raises_anything_else(pytestconfig, capfd):
    files, rng, settings = whole_files(), Random(0), []
    assert len(files) > 300
    for rule in ("auto", "bright", "nonzero", "1-9"):
        for short_side, white_level in ((0, 0), (8, 4095)):
            settings.append(
                PrepareSettings(
                    short_side=short_side,
                    white_level=white_level,
                    foreground=parse_foreground(rule),
                )
            )
    capfd.readouterr()  # what writing the files has said
    outcomes = Counter()
    for number in range(len(files) + pytestconfig.getoption("--mutations")):
        data = files[number] if number < len(files) else mutated(rng, files)
        record = record_of(data) if number % 2 else record_of(PLAIN, data)
        try:
            prepared = prepare(record, rng.choice(settings))
        except BadPicture:
            outcomes["bad"] += 1
            continue
        outcomes["good"] += 1
        pixels = simplejpeg.decode_jpeg(prepared.jpeg, strict=True)
        assert pixels.shape == (prepared.height, prepared.width, 3)
    assert min(outcomes["good"], outcomes["bad"]) > 50
    assert capfd.readouterr() == ("", "")


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
        decodes |= key == "truncated/truncated_jpeg.jpg"  # lacks only its end marker
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
