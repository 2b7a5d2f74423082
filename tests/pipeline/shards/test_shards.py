"""Both formats through the one reader: what goes in comes out, and damage is refused by name."""

import errno
import os
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

from pipeline.shards import ReadMemory, open_shards
from pipeline.shards.files import find_damaged
from pipeline.shards.index import INDEX_NAME
from pipeline.shards.manifest import MANIFEST_NAME, Manifest
from pipeline.shards.memory import MemoryShards
from tests.pipeline.shards.support import write_folder


@pytest.fixture
def copied(written, tmp_path):
    """Shards that may be damaged."""
    return shutil.copytree(written, tmp_path / "shards")


def data_file(folder):
    (path,) = (*folder.glob("*.beton"), *folder.glob("*.tar"))
    return path


def flip_bit(folder, sample_id, column="jpeg_offset", byte_number=100):
    place = int(open_shards(folder).index.rows[column][sample_id]) + byte_number
    with data_file(folder).open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


def assert_holds(shards, samples):
    assert len(shards) == len(samples)
    order = np.random.default_rng(0).permutation(len(samples))
    encoded = shards.read(order)
    assert encoded.sample_ids.tolist() == order.tolist()
    for row, sample_id in enumerate(order):
        sample = samples[sample_id]
        assert bytes(encoded.jpegs[row]) == sample.jpeg
        assert bytes(encoded.masks[row]) == sample.mask
        assert encoded.heights[row] == shards.heights[sample_id] == sample.height
        assert encoded.widths[row] == shards.widths[sample_id] == sample.width
        assert encoded.labels[row] == shards.labels[sample_id] == sample.label
        assert shards.stored_bytes[sample_id] == len(sample.jpeg) + len(sample.mask)
        assert shards.key(int(sample_id)) == sample.key
        assert shards.mask_coverage[sample_id] == pytest.approx(sample.coverage, nan_ok=True)


def test_what_goes_in_comes_out(written, samples):
    assert_holds(open_shards(written), samples)


def test_memory_shards_hold_the_same(samples):
    assert_holds(MemoryShards(samples), samples)


def test_arrays_have_the_promised_types(written):
    shards = open_shards(written)
    assert {a.dtype for a in (shards.heights, shards.widths, shards.labels)} == {np.dtype("i4")}
    assert shards.mask_coverage.dtype == np.float32
    encoded = shards.read(np.array([2, 1]))
    assert encoded.sample_ids.dtype == np.int64
    assert {a.dtype for a in (encoded.heights, encoded.labels)} == {np.dtype("i4")}
    assert all(view.readonly for view in encoded.jpegs)


def test_a_file_in_the_folder_stands_for_the_folder(written):
    assert open_shards(data_file(written)).path == written


def test_names_outside_ascii_survive(samples, tmp_path):
    key = "Käfer/Größe \udcff.jpg"  # a file name that is not UTF-8
    write_folder(tmp_path / "out", "dali", [replace(samples[0], key=key)])
    assert open_shards(tmp_path / "out").key(0) == key


def test_bytes_outlive_the_shards(written, samples):
    shards = open_shards(written)
    encoded = shards.read(np.array([5]))
    shards.close()
    with pytest.raises(ValueError, match="closed"):
        shards.read(np.array([5]))
    del shards
    assert bytes(encoded.jpegs[0]) == samples[5].jpeg


def test_memory_that_is_given_is_used_again(written, samples):
    shards, memory = open_shards(written), ReadMemory()
    first = shards.read(np.array([0, 1, 2]), memory)
    place = np.frombuffer(first.jpegs[0], np.uint8).ctypes.data
    again = shards.read(np.array([3]), memory)
    assert np.frombuffer(again.jpegs[0], np.uint8).ctypes.data == place
    assert bytes(again.jpegs[0]) == samples[3].jpeg
    everything = shards.read(np.arange(10), memory)
    assert [bytes(jpeg) for jpeg in everything.jpegs] == [sample.jpeg for sample in samples]


def test_a_reader_is_told_of_each_sample_before_it_is_read(written):
    told = []
    open_shards(written).read(np.array([4, 2, 4]), None, told.append)
    assert told == [4, 2, 4]


def test_expecting_samples_changes_nothing(written, samples):
    shards = open_shards(written)
    shards.expect(np.arange(10))
    assert_holds(shards, samples)
    with pytest.raises(ValueError, match="of 10 samples"):
        shards.expect(np.array([10]))


def test_closing_lets_go_of_the_files(written):
    before = len(os.listdir("/proc/self/fd"))
    shards = open_shards(written)
    assert len(os.listdir("/proc/self/fd")) > before
    shards.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_flipped_bit_is_a_fault_of_its_sample_alone(copied, samples):
    flip_bit(copied, 7)
    encoded = open_shards(copied).read(np.array([6, 7, 8, 7]))
    assert encoded.faults.keys() == {1, 3}
    assert "the bytes of its JPEG have changed" in encoded.faults[1]
    assert bytes(encoded.jpegs[2]) == samples[8].jpeg


def test_a_changed_mask_is_a_fault(copied):
    flip_bit(copied, 2, "mask_offset", 3)
    encoded = open_shards(copied).read(np.array([2]))
    assert "the bytes of its mask have changed" in encoded.faults[0]


def test_checksums_are_compared_once(copied):
    shards = open_shards(copied)
    assert not shards.read(np.array([7])).faults
    flip_bit(copied, 7)
    assert not shards.read(np.array([7])).faults  # it was good when this process first read it
    assert open_shards(copied).read(np.array([7])).faults


def test_a_file_that_is_cut_short_while_it_is_open_is_a_fault(copied, samples):
    shards = open_shards(copied)
    middle = int(shards.index.rows["jpeg_offset"][5]) + 10
    os.truncate(data_file(copied), middle)
    encoded = shards.read(np.arange(10))
    assert "its file is cut short: 10 of its" in encoded.faults[5]
    whole = [i for i in range(10) if i not in encoded.faults]
    assert whole
    assert all(bytes(encoded.jpegs[i]) == samples[i].jpeg for i in whole)


def test_a_disk_that_fails_is_a_fault(written, monkeypatch):
    shards = open_shards(written)

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "preadv", fail)
    assert shards.read(np.array([1])).faults == {0: "it cannot be read: Input/output error"}


def test_reading_in_many_threads_gives_the_same(written, samples):
    shards = open_shards(written)
    wrong = []

    def read(seed):
        for ids in np.random.default_rng(seed).integers(0, len(samples), (50, 4)):
            jpegs = shards.read(ids).jpegs
            wrong.extend(i for i, jpeg in zip(ids, jpegs, strict=True) if jpeg != samples[i].jpeg)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("ids", [[-1], [10], [0, 99]])
def test_ids_out_of_range_are_refused(written, samples, ids):
    for shards in (open_shards(written), MemoryShards(samples)):
        with pytest.raises(ValueError, match="of 10 samples"):
            shards.read(np.array(ids))


@pytest.mark.parametrize("format", ["ffcv", "dali"])
def test_the_same_samples_give_the_same_bytes(format, samples, tmp_path):
    for name in ("one", "two"):
        write_folder(tmp_path / name, format, samples)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_manifest_says_what_is_there(written, samples):
    manifest = open_shards(written).manifest
    assert manifest.num_samples == 10
    assert manifest.masks.num_masks == 8
    assert manifest.masks.num_missing == 2
    covered = [sample.coverage for sample in samples if sample.mask]
    assert manifest.masks.coverage_mean == pytest.approx(np.mean(covered), abs=1e-5)
    assert manifest.masks.coverage_quantiles["0.5"] == pytest.approx(np.median(covered), abs=1e-5)
    assert manifest.sizes.jpeg_bytes == sum(len(sample.jpeg) for sample in samples)
    assert manifest.sizes.max_width == max(sample.width for sample in samples)
    assert manifest.sizes.num_unchanged == 10
    assert manifest.files[0].num_samples == 10
    assert {entry.name for entry in manifest.files} | {INDEX_NAME, MANIFEST_NAME} == {
        path.name for path in written.iterdir()
    }
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_intact_shards_have_no_damaged_samples(written):
    assert list(find_damaged(open_shards(written))) == [(i, False) for i in range(10)]


def test_a_flipped_bit_is_found_and_its_sample_named(copied):
    flip_bit(copied, 7)
    damaged = find_damaged(open_shards(copied))
    assert [sample_id for sample_id, is_damaged in damaged if is_damaged] == [7]


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no such folder; make shards with convert_dataset\.py"):
        open_shards(tmp_path / "nothing")


def test_a_folder_without_manifest_is_refused(copied):
    (copied / MANIFEST_NAME).unlink()
    with pytest.raises(ValueError, match="not shards or only half of them"):
        open_shards(copied)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"format_version": 1', '"format_version": 2', "format version 2"),
        ('"num_skipped": 0,', "", "num_skipped"),
        ('"num_missing": 2,', "", "num_missing"),
        ('"format": "', '"format": "x', "unknown format"),
        ("{", "", "not a manifest"),
    ],
)
def test_a_foreign_manifest_is_refused(copied, old, new, message):
    path = copied / MANIFEST_NAME
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as refusal:
        open_shards(copied)
    assert str(copied) in str(refusal.value)


def test_a_short_file_is_refused(copied):
    path = data_file(copied)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size - 1000)
    with pytest.raises(ValueError, match=f"{size - 1000} bytes, but the manifest says {size}"):
        open_shards(copied)


@pytest.mark.parametrize("name", [INDEX_NAME, "data"])
def test_a_missing_file_is_refused(copied, name):
    path = copied / name if name == INDEX_NAME else data_file(copied)
    path.unlink()
    with pytest.raises(ValueError, match=f"{path.name}: missing"):
        open_shards(copied)


def test_a_changed_index_is_refused(copied):
    data = bytearray((copied / INDEX_NAME).read_bytes())
    data[len(data) // 2] ^= 1
    (copied / INDEX_NAME).write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        open_shards(copied)


def test_a_sample_too_large_for_the_format_is_refused_and_leaves_no_trace(samples, tmp_path):
    from pipeline.shards.writer import FolderWriter
    from tests.pipeline.shards.support import PROVENANCE

    huge = replace(samples[0], jpeg=bytes(9 << 20))
    with FolderWriter(tmp_path, format="ffcv", capacity=3, largest=1000) as writer:
        writer.add(samples[1])
        with pytest.raises(ValueError, match="do not fit a page"):
            writer.add(huge)
        writer.add(samples[2])
        writer.finish(PROVENANCE, skipped=[], repaired=[])
    assert_holds(open_shards(tmp_path), samples[1:3])


def test_an_unknown_format_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="unknown format 'zip'"):
        write_folder(tmp_path, "zip", [], capacity=1)
