"""Tar shards: any tar tool and DALI's own reader see what we wrote, also in several files."""

import subprocess
import tarfile

import numpy as np
import pytest
import simplejpeg

from pipeline.saliency.codec import decode_mask
from pipeline.shards import open_shards
from pipeline.shards.tar import TarWriter
from tests.pipeline.shards.support import write_folder


def read_with_dali(folder, num_samples):
    """(image, mask record, label) of every sample, in order."""
    from nvidia.dali import fn, pipeline_def

    tars = sorted(str(path) for path in folder.glob("*.tar"))

    @pipeline_def(batch_size=num_samples, num_threads=1, device_id=None)
    def read():
        jpeg, mask, label = fn.readers.webdataset(
            paths=tars,
            index_paths=[path.replace(".tar", ".idx") for path in tars],
            ext=["jpg", "mask", "cls"],
            missing_component_behavior="empty",
        )
        return fn.decoders.image(jpeg, device="cpu"), mask, label

    pipeline = read()
    pipeline.build()
    images, masks, labels = pipeline.run()
    return [
        (images.at(i), masks.at(i).tobytes(), int(labels.at(i).tobytes()))
        for i in range(num_samples)
    ]


def assert_dali_reads_the_same(folder):
    shards = open_shards(folder)
    encoded = shards.read(np.arange(len(shards)))
    for row, (image, mask, label) in enumerate(read_with_dali(folder, len(shards))):
        assert (image == simplejpeg.decode_jpeg(encoded.jpegs[row])).all()
        assert mask == encoded.masks[row]
        assert label == shards.labels[row]


def test_dali_reads_the_same(samples, tmp_path):
    write_folder(tmp_path, "dali", samples)
    assert_dali_reads_the_same(tmp_path)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize("name", ["imagenet_sample_400", "ecssd", "odd"])
def test_dali_reads_the_same_photos(real_data, tmp_path, name):
    from convert_dataset import Request, convert
    from pipeline.sources.prepare import PrepareSettings

    has_masks = name == "ecssd"
    request = Request(
        source=str(real_data / name / "images" if has_masks else real_data / name),
        masks=real_data / name / "masks" if has_masks else None,
        format="dali",
        out=tmp_path / "out",
        settings=PrepareSettings(),
        workers=2,
        limit=200,
    )
    assert convert(request).num_samples > 80
    assert_dali_reads_the_same(tmp_path / "out")


def test_a_large_set_is_split_and_read_as_one(samples, tmp_path):
    one = len(samples[0].jpeg) + 8000
    writer = TarWriter(tmp_path, max_shard_bytes=3 * one)
    places = [writer.write(sample) for sample in samples]
    paths = writer.close()
    tars, indices = paths[: len(paths) // 2], paths[len(paths) // 2 :]
    assert len(tars) > 2
    assert [path.suffix for path in indices] == [".idx"] * len(tars)
    assert [place.file for place in places] == sorted(place.file for place in places)
    assert places[-1].file == len(tars) - 1
    for sample, place in zip(samples, places, strict=True):
        data = tars[place.file].read_bytes()
        assert data[place.jpeg_offset :].startswith(sample.jpeg)
        assert data[place.mask_offset :].startswith(sample.mask)
    labels = [label for _, _, label in read_with_dali(tmp_path, len(samples))]
    assert labels == [sample.label for sample in samples]
    for tar, index in zip(tars, indices, strict=True):
        assert index.read_text() == index_by_dali(tar, tmp_path / "theirs.idx")


def index_by_dali(tar, path):
    from wds2idx import IndexCreator

    with IndexCreator(str(tar), str(path), verbose=False) as creator:
        creator.create_index()
    return path.read_text()


def test_members_are_those_of_a_webdataset(samples, tmp_path):
    write_folder(tmp_path, "dali", samples)
    with tarfile.open(tmp_path / "shard-000000.tar") as archive:
        names = archive.getnames()
        assert names[:3] == ["000000000.jpg", "000000000.mask", "000000000.cls"]
        assert "000000003.mask" not in names
        assert archive.extractfile("000000000.cls").read() == b"-1"
        mask = archive.extractfile("000000001.mask").read()
        assert decode_mask(mask).shape == (128, 128)
        assert {(info.mtime, info.uid, info.uname) for info in archive} == {(0, 0, "")}


def test_gnu_tar_reads_the_archive(samples, tmp_path):
    write_folder(tmp_path, "dali", samples)
    listing = subprocess.run(
        ["tar", "-tf", tmp_path / "shard-000000.tar"], capture_output=True, text=True, check=True
    )
    assert len(listing.stdout.split()) == 28
    assert listing.stderr == ""
