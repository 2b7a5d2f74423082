"""Both formats through the one reader: what goes in comes out, and damage is refused by name."""

import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest

from pipeline.shards import open_shards
from pipeline.shards.index import INDEX_NAME
from pipeline.shards.manifest import MANIFEST_NAME, Manifest
from pipeline.shards.mapped import find_damaged
from pipeline.shards.memory import MemoryShards
from tests.pipeline.shards.support import write_folder


@pytest.fixture
def copied(written, tmp_path):
    """Shards that may be damaged."""
    return shutil.copytree(written, tmp_path / "shards")


def data_file(folder):
    (path,) = (*folder.glob("*.beton"), *folder.glob("*.tar"))
    return path


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


def test_views_outlive_the_shards(written, samples):
    shards = open_shards(written)
    encoded = shards.read(np.array([5]))
    shards.close()
    with pytest.raises(ValueError, match="closed"):
        shards.read(np.array([5]))
    del shards
    assert bytes(encoded.jpegs[0]) == samples[5].jpeg


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
    place = open_shards(copied).index.rows[7]
    with data_file(copied).open("r+b") as file:
        file.seek(int(place["jpeg_offset"]) + 100)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
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
