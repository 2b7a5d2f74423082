"""The `.beton`: FFCV's own Loader reads what we wrote, across pages and with missing masks."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import simplejpeg

from pipeline.saliency.codec import NO_MASK, decode_mask
from pipeline.shards import open_shards
from pipeline.shards.beton import HEADER, METADATA, page_size_for
from tests.pipeline.shards.support import write_folder

# in a process of its own: Numba complains when functions that FFCV compiled are collected
READ_WITH_FFCV = """
import sys
import numpy as np
from ffcv.fields.basics import IntDecoder
from ffcv.fields.bytes import BytesDecoder
from ffcv.fields.rgb_image import CenterCropRGBImageDecoder
from ffcv.loader import Loader, OrderOption

loader = Loader(
    sys.argv[1],
    batch_size=int(sys.argv[2]),
    num_workers=1,
    order=OrderOption.SEQUENTIAL,
    drop_last=False,
    pipelines={
        "image": [CenterCropRGBImageDecoder((64, 64), ratio=1.0)],
        "mask": [BytesDecoder()],
        "label": [IntDecoder()],
    },
)
batches = [[np.array(part) for part in batch] for batch in loader]
np.savez(sys.argv[3], *[np.concatenate(parts) for parts in zip(*batches)])
"""


def read_with_ffcv(path, batch_size):
    """Images cropped to squares of 64, masks as padded bytes, labels: all in order."""
    out = path.parent / "read.npz"
    arguments = [str(path), str(batch_size), str(out)]
    run = subprocess.run(
        [sys.executable, "-c", READ_WITH_FFCV, *arguments], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    with np.load(out) as parts:
        return [parts[name] for name in parts.files]


def centre_square(jpeg):
    """What FFCV makes of a picture, with an exact decoder."""
    import cv2

    image = simplejpeg.decode_jpeg(jpeg)
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    square = image[top : top + side, left : left + side]
    return cv2.resize(square, (64, 64), interpolation=cv2.INTER_AREA).astype(int)


def assert_ffcv_reads_the_same(folder, batch_size):
    shards = open_shards(folder)
    images, masks, labels = read_with_ffcv(folder / "data.beton", batch_size)
    encoded = shards.read(np.arange(len(shards)))
    assert labels[:, 0].tolist() == shards.labels.tolist()
    for image, jpeg in zip(images, encoded.jpegs, strict=True):
        # FFCV decodes with the fast, inexact transform: a level on average, more in a single block
        block = min(simplejpeg.decode_jpeg_header(jpeg)[:2]) <= 8
        assert np.abs(image - centre_square(jpeg)).mean() < (6 if block else 2)
    for theirs, ours in zip(masks, encoded.masks, strict=True):
        if len(ours):
            assert (decode_mask(theirs.tobytes()) == decode_mask(ours)).all()
        else:
            assert theirs[0] == NO_MASK[0]


def test_ffcv_loader_reads_the_same(samples, tmp_path):
    write_folder(tmp_path, "ffcv", samples, capacity=17)
    assert_ffcv_reads_the_same(tmp_path, batch_size=5)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", ["imagenet_sample_400", "ecssd", "odd"])
def test_ffcv_loader_reads_the_same_photos(real_data, tmp_path, name):
    from convert_dataset import Request, convert
    from pipeline.sources.prepare import PrepareSettings

    has_masks = name == "ecssd"
    request = Request(
        source=str(real_data / name / "images" if has_masks else real_data / name),
        masks=real_data / name / "masks" if has_masks else None,
        format="ffcv",
        out=tmp_path / "out",
        settings=PrepareSettings(),
        workers=2,
        limit=200,
    )
    assert convert(request).num_samples > 80
    assert_ffcv_reads_the_same(tmp_path / "out", batch_size=20)


def test_records_that_do_not_fit_start_a_new_page(samples, tmp_path):
    filler = bytes((8 << 20) - 20000)  # two of these never share a page
    large = [replace(sample, jpeg=filler + sample.jpeg) for sample in samples[:4]]
    write_folder(tmp_path, "ffcv", [*samples[:2], *large, *samples[2:]])
    encoded = open_shards(tmp_path).read(np.arange(14))
    assert [bytes(jpeg) for jpeg in encoded.jpegs] == [
        sample.jpeg for sample in [*samples[:2], *large, *samples[2:]]
    ]


def test_ffcv_finds_every_record_by_its_first_byte(samples, tmp_path):
    from ffcv.reader import Reader

    write_folder(tmp_path, "ffcv", samples, capacity=17)
    reader = Reader(str(tmp_path / "data.beton"))
    assert reader.num_samples == 10
    assert list(reader.handlers) == ["image", "mask", "label"]
    assert len(set(reader.alloc_table["ptr"].tolist())) == 20
    assert reader.alloc_table["size"].min() > 0


def test_a_beton_of_another_conversion_is_refused(samples, tmp_path):
    write_folder(tmp_path / "a", "ffcv", samples)
    write_folder(tmp_path / "b", "ffcv", [samples[1], samples[0], *samples[2:]])
    (tmp_path / "b" / "data.beton").replace(tmp_path / "a" / "data.beton")
    with pytest.raises(ValueError, match="differ from the index"):
        open_shards(tmp_path / "a")


def test_a_beton_of_another_version_is_refused(samples, tmp_path):
    write_folder(tmp_path, "ffcv", samples)
    with (tmp_path / "data.beton").open("r+b") as file:
        file.write(b"\x03")
    with pytest.raises(ValueError, match=r"not a \.beton of version 2"):
        open_shards(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("alloc_table_ptr", 2**64 - 1),
        ("alloc_table_ptr", 2**63 - 1),
        ("alloc_table_ptr", 0),
        ("page_size", 0),
        ("page_size", 2**32 - 1),
        ("page_size", (8 << 20) + 1),
    ],
)
def test_a_damaged_header_is_refused_in_one_line(samples, tmp_path, field, value):
    write_folder(tmp_path, "ffcv", samples)
    header = np.memmap(tmp_path / "data.beton", HEADER, mode="r+", shape=1)
    header[field] = value
    header.flush()
    with pytest.raises(ValueError, match=rf"header is damaged .*\b{value}\b.*convert the source"):
        open_shards(tmp_path)


def test_our_layout_is_that_of_ffcv():
    from ffcv.fields import BytesField, IntField, RGBImageField
    from ffcv.types import CURRENT_VERSION, FieldDescType, HeaderType, get_metadata_type

    from pipeline.shards import beton

    def shape(dtype):
        return [(dtype.fields[name][0].itemsize, dtype.fields[name][1]) for name in dtype.names]

    theirs = get_metadata_type([RGBImageField(), BytesField(), IntField()])
    assert shape(METADATA) == shape(theirs)
    assert METADATA["image"] == theirs["f0"]
    assert METADATA["mask"] == theirs["f1"]
    assert HeaderType == HEADER
    assert FieldDescType == beton.FIELD
    assert beton._VERSION == CURRENT_VERSION


@pytest.mark.parametrize(
    ("largest", "expected"),
    [(0, 8 << 20), (8 << 20, 16 << 20), (100 << 20, 128 << 20), (10**12, 256 << 20)],
)
def test_a_page_has_room_for_the_largest_picture(largest, expected):
    assert page_size_for(largest) == expected
