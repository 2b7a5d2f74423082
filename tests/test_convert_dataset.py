"""convert_dataset.py as a user runs it: what it makes, what it says, and what it refuses."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from convert_dataset import parse_max_bad
from pipeline.saliency.codec import decode_mask, encode_mask
from pipeline.shards import open_shards
from pipeline.shards.manifest import Ignored
from tests.convert_support import refusal, run
from tests.pipeline.sources.support import encoded, jpeg, tar_of, write_files

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def pictures(tmp_path):
    """Six good pictures of two classes, one broken, and masks of three."""
    files = {f"{label}/{n}.jpg": jpeg(seed=n) for label in ("ant", "bee") for n in range(3)}
    write_files(tmp_path / "images", files | {"bee/9.jpg": b"broken"})
    masks = {}
    for number, name in enumerate(("ant/0.png", "bee/1.png", "bee/2.png")):
        mask = np.zeros((30, 45), np.uint8)
        mask[: 10 * (number + 1)] = 255
        masks[name] = encoded(mask, "PNG")
    write_files(tmp_path / "masks", masks)
    return tmp_path


@pytest.mark.parametrize("format", ["ffcv", "dali"])
def test_pictures_labels_masks_and_skipped_ones(pictures, format):
    out = pictures / "made" / "shards"  # its parent is made too
    printed, progress = run(
        *("--source", pictures / "images", "--masks", pictures / "masks"),
        *("--format", format, "--out", out, "--max-bad", "1", "--json"),
    )
    shards = open_shards(out)
    assert [shards.key(i) for i in range(6)] == [
        f"{label}/{n}.jpg" for label in ("ant", "bee") for n in range(3)
    ]
    assert shards.labels.tolist() == [0, 0, 0, 1, 1, 1]
    encoded_batch = shards.read(np.arange(6))
    for row in range(6):
        file = pictures / "images" / shards.key(row)
        assert encoded_batch.jpegs[row] == file.read_bytes()
    assert [len(mask) > 0 for mask in encoded_batch.masks] == [
        True,
        False,
        False,
        False,
        True,
        True,
    ]
    assert shards.mask_coverage[[0, 4, 5]] == pytest.approx([1 / 3, 2 / 3, 1], abs=0.01)
    assert np.isnan(shards.mask_coverage[[1, 2, 3]]).all()
    full = np.full((30, 45), 255, np.uint8)
    assert (decode_mask(encoded_batch.masks[5]) == decode_mask(encode_mask(full))).all()

    summary = json.loads(printed.splitlines()[-1])
    assert summary["num_samples"] == 6
    assert summary["label_names"] == ["ant", "bee"]
    assert summary["skipped"] == [
        {"key": "bee/9.jpg", "reason": "no picture that Pillow knows, 6 bytes"}
    ]
    assert summary["masks"]["num_missing"] == 3
    assert "skipped bee/9.jpg: no picture" in printed
    assert "3 of 7 pictures have a mask" in progress
    assert sorted(path.name for path in out.parent.iterdir()) == ["shards"]


@pytest.mark.parametrize(("max_bad", "status"), [("0", 1), ("1", 0), ("10%", 1), ("20%", 0)])
def test_skipped_pictures_show_in_the_exit_status_only_above_max_bad(pictures, max_bad, status):
    out = pictures / "out"
    arguments = ("--source", pictures / "images", "--out", out, "--format", "dali")
    _, err = run(*arguments, "--max-bad", max_bad, status=status)
    assert ("--max-bad" in err) == (status == 1)
    assert len(open_shards(out)) == 6
    assert open_shards(out).manifest.num_skipped == 1


def test_both_formats_hold_the_same(tmp_path):
    for format in ("ffcv", "dali"):
        run("--source", "demo", "--limit", "12", "--format", format, "--out", tmp_path / format)
    one, two = open_shards(tmp_path / "ffcv"), open_shards(tmp_path / "dali")
    assert one.manifest.label_names == two.manifest.label_names
    assert (one.labels == two.labels).all()
    assert (one.mask_coverage == two.mask_coverage).all()
    left, right = one.read(np.arange(12)), two.read(np.arange(12))
    assert left.jpegs == right.jpegs
    assert left.masks == right.masks
    assert [one.key(i) for i in range(12)] == [two.key(i) for i in range(12)]
    assert one.manifest.masks.origin == "demo"


def test_workers_do_not_change_a_byte(tmp_path):
    for workers in ("0", "2"):
        subprocess.run(
            [
                *(sys.executable, ROOT / "convert_dataset.py", "--source", "demo-val"),
                *("--limit", "30", "--format", "dali"),
                *("--out", tmp_path / workers, "--workers", workers),
            ],
            check=True,
            capture_output=True,
            cwd=tmp_path,
        )
    for path in (tmp_path / "0").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes()


@pytest.mark.parametrize("packed", [False, True])
def test_hash_seed_and_locale_do_not_change_a_byte(tmp_path, packed):
    names = [f"set/{label}/0.jpg" for label in ("\u00fc", "\U0001f408", "caf\udce9", "1", "01")]
    source = write_files(tmp_path / "\u00e9", dict.fromkeys(names, jpeg(30, 45)))
    if packed:
        with tarfile.open(tmp_path / "\u00e9.tar", "w") as archive:
            archive.add(source, arcname="")
        source = tmp_path / "\u00e9.tar"
    mask = encoded(np.full((30, 45), 255, np.uint8), "PNG")
    masks = write_files(tmp_path / "\u00fc masks", {"\u00fc/0.png": mask, "1/0.png": mask})
    for number, environment in enumerate(
        [
            {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONHASHSEED": "1"},
            {"LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "2"},
        ]
    ):
        subprocess.run(
            [
                *(sys.executable, ROOT / "convert_dataset.py", "--source", source),
                *("--masks", masks, "--workers", "0", "--out", tmp_path / str(number)),
            ],
            check=True,
            capture_output=True,
            env={**os.environ, **environment},
        )
    assert open_shards(tmp_path / "0").manifest.masks.num_masks == 2
    for path in (tmp_path / "0").iterdir():
        assert path.read_bytes() == (tmp_path / "1" / path.name).read_bytes()


def test_a_tar_of_tars_becomes_the_same_shards_as_its_folder(tmp_path):
    files = {label: {f"{label}_{n}.JPEG": jpeg(seed=n) for n in range(3)} for label in ("n1", "n2")}
    archive = tmp_path / "train.tar"
    archive.write_bytes(tar_of({f"{label}.tar": tar_of(inner) for label, inner in files.items()}))
    for label, inner in files.items():
        write_files(tmp_path / "folder" / label, inner)
    run("--source", archive, "--format", "dali", "--out", tmp_path / "a")
    run("--source", tmp_path / "folder", "--format", "dali", "--out", tmp_path / "b")
    names = {path.name for path in (tmp_path / "a").iterdir()}
    for name in names - {"manifest.json"}:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert open_shards(tmp_path / "a").manifest.label_names == ("n1", "n2")


def test_flat_pictures_are_unlabelled_and_can_be_reduced(tmp_path):
    write_files(tmp_path / "flat", {"a.jpg": jpeg(300, 400), "b.jpg": jpeg(50, 60)})
    run("--source", tmp_path / "flat", "--out", tmp_path / "out", "--short-side", "100")
    shards = open_shards(tmp_path / "out")
    assert shards.labels.tolist() == [-1, -1]
    assert list(zip(shards.heights.tolist(), shards.widths.tolist(), strict=True)) == [
        (100, 133),
        (50, 60),
    ]
    assert shards.manifest.short_side == 100
    assert shards.manifest.sizes.num_unchanged == 1


def test_bad_input_is_refused_in_one_line_and_writes_nothing(pictures):
    images, out = pictures / "images", pictures / "out"
    empty = pictures / "empty"
    empty.mkdir()
    (pictures / "x.tar.gz").write_bytes(b"\x1f\x8b" + bytes(100))
    (pictures / "file").write_bytes(b"")
    write_files(pictures / "other masks", {"z.png": b""})
    write_files(pictures / "broken", {"a.jpg": b"", "b.jpg": b"x"})
    (pictures / "circle").symlink_to("circle")
    write_files(pictures / "splits", {"set/train/a.jpg": jpeg(), "set/val/a.jpg": jpeg()})
    before = sorted(pictures.rglob("*"))
    cases = {
        "no such folder or file": ["--source", pictures / "nothing", "--out", out],
        "no pictures there": ["--source", empty, "--out", out],
        "unpack it": ["--source", pictures / "x.tar.gz", "--out", out],
        "looked for ant/0.png": [
            *("--source", images, "--masks", pictures / "other masks", "--out", out)
        ],
        "no such folder of masks": ["--source", images, "--masks", pictures / "no", "--out", out],
        "exists and is not empty": ["--source", images, "--out", pictures / "masks"],
        "choose ffcv or dali": ["--source", images, "--format", "zip", "--out", out],
        "circle: no such folder or file": ["--source", pictures / "circle", "--out", out],
        f"--source {pictures}/splits/set/train or --source {pictures}/splits/set/val": [
            *("--source", pictures / "splits", "--out", out)
        ],
        "give a number": ["--source", images, "--out", out, "--max-bad", "many"],
        "Not a directory": ["--source", images, "--out", pictures / "file" / "out"],
        "none of 2 pictures can be decoded; a.jpg": [
            *("--source", pictures / "broken", "--out", out, "--format", "dali")
        ],
    }
    for message, arguments in cases.items():
        assert message in refusal(*arguments)
    assert sorted(pictures.rglob("*")) == before


@pytest.mark.parametrize("limit", [12, 20])
def test_too_few_open_files_are_refused_with_the_limit(pictures, limit):
    command = [ROOT / "convert_dataset.py", "--source", pictures / "images", "--workers", "4"]
    command += ["--out", pictures / "out"]
    result = subprocess.run(
        ["bash", "-c", f'ulimit -n {limit}; exec "$0" "$@"', sys.executable, *command],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    line = result.stderr.splitlines()[-1]
    assert "Too many open files" in line
    assert f"this shell allows {limit} (`ulimit -n`)" in line
    assert "Traceback" not in result.stderr
    assert not (pictures / "out").exists()


@pytest.mark.parametrize("shell", ["> /dev/full", "| head -c 0", "> /dev/null 2> /dev/full"])
def test_output_that_is_lost_does_not_lose_the_shards(pictures, shell):
    command = [ROOT / "convert_dataset.py", "--source", pictures / "images", "--workers", "0"]
    command += ["--max-bad", "1", "--json", "--format", "dali", "--out", pictures / "out"]
    result = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$0" "$@" {shell}', sys.executable, *command],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert len(open_shards(pictures / "out")) == 6
    assert "Traceback" not in result.stderr


def test_an_unwritable_place_is_refused(pictures):
    assert "Error: " in refusal("--source", pictures / "images", "--out", "/proc/shards")


def test_an_empty_folder_may_be_filled(pictures):
    (pictures / "out").mkdir()
    run("--source", pictures / "images", "--out", pictures / "out", "--max-bad", "1")
    assert len(open_shards(pictures / "out")) == 6


def test_a_link_to_an_empty_folder_may_be_filled(pictures):
    real = pictures / "disk" / "real"
    real.mkdir(parents=True)
    (pictures / "out").symlink_to(real, target_is_directory=True)
    run("--source", pictures / "images", "--out", pictures / "out", "--max-bad", "1")
    assert len(open_shards(real)) == 6
    assert (pictures / "out").is_symlink()
    assert [path.name for path in real.parent.iterdir()] == ["real"]


def test_a_mount_point_is_refused_before_any_work(pictures, monkeypatch):
    out = pictures / "mounted"
    out.mkdir()
    monkeypatch.setattr("os.path.ismount", lambda path: Path(path) == out)
    line = refusal("--source", pictures / "nothing", "--out", out)
    assert (
        f"mount point, which cannot be replaced; give a folder inside it, such as --out {out}/"
        in line
    )
    run("--source", pictures / "images", "--out", out / "shards", "--max-bad", "1")
    assert len(open_shards(out / "shards")) == 6


def test_what_is_seen_in_a_source_is_said_before_and_after(tmp_path):
    files = {f"{label}/{n}.jpg": jpeg() for n, label in enumerate("aabbbcdefg")}
    source = write_files(tmp_path / "in", files | {"b/x.txt": b"", "b/new\nline.txt": b""})
    (source / "h").symlink_to("/no/such/disk")
    arguments = ("--source", source, "--format", "dali", "--out", tmp_path / "out", "--json")
    printed, err = run(*arguments)
    before = err.splitlines()[:2]
    assert before[0].startswith("folder of 10 pictures, 7 class folders, 3 entries ignored")
    assert before[1] == ("classes, with their images: a (2), b (3), c (1), d (1), e (1) and 2 more")
    assert "ignored 2, not named like an image: b/new\\nline.txt, b/x.txt\n" in printed
    assert "ignored 1, link to nothing: h\n" in printed
    manifest = open_shards(tmp_path / "out").manifest
    assert manifest.num_ignored == 3
    assert manifest.ignored == (
        Ignored(reason="link to nothing", count=1, names=("h",)),
        Ignored(reason="not named like an image", count=2, names=("b/new\nline.txt", "b/x.txt")),
    )
    assert json.loads(printed.splitlines()[-1])["ignored"][0]["names"] == ["h"]


def test_splits_can_be_taken_as_classes(tmp_path):
    files = {f"{split}/{label}/0.jpg": jpeg() for split in ("train", "val") for label in "ab"}
    source = write_files(tmp_path / "in", files)
    out = tmp_path / "out"
    _, err = run("--source", source, "--out", out, "--first-folder-is-class", "--format", "dali")
    assert "classes, with their images: train (2), val (2)" in err
    assert open_shards(out).manifest.label_names == ("train", "val")


@pytest.mark.parametrize("place", ["masks", "masks/photos"])
def test_masks_are_found_with_and_without_the_top_folder(tmp_path, place):
    files = {f"photos/{label}/0.jpg": jpeg(30, 45) for label in "ab"}
    (tmp_path / "in.tar").write_bytes(tar_of(files))
    write_files(tmp_path / "in", files)
    mask = encoded(np.full((30, 45), 255, np.uint8), "PNG")
    write_files(tmp_path / place, {"a/0.png": mask, "b/0.png": mask})
    for name in ("in", "in.tar"):
        out = tmp_path / f"{name} out"
        run("--source", tmp_path / name, "--masks", tmp_path / "masks", "--out", out)
        manifest = open_shards(out).manifest
        assert (manifest.masks.num_masks, manifest.label_names) == (2, ("a", "b"))


def test_masks_among_the_pictures_are_no_pictures(pictures):
    write_files(
        pictures / "images",
        {f"{p.parent.name}/{p.name}": p.read_bytes() for p in (pictures / "masks").rglob("*.png")},
    )
    arguments = ("--source", pictures / "images", "--masks", pictures / "images", "--json")
    printed, progress = run(*arguments, "--out", pictures / "out", "--max-bad", "1")
    summary = json.loads(printed.splitlines()[-1])
    assert summary["num_samples"] == 6
    assert summary["masks"]["num_masks"] == 3
    assert "3 masks of other pictures left out" in progress


@pytest.fixture
def numbered(tmp_path):
    """Six images whose masks are trimaps: 1 inside, 2 outside."""
    inside = np.full((30, 45), 2, np.uint8)
    inside[:, :15] = 1
    write_files(tmp_path / "images", {f"a/{n}.jpg": jpeg(seed=n) for n in range(6)})
    write_files(tmp_path / "masks", {f"a/{n}.png": encoded(inside, "PNG") for n in range(6)})
    return tmp_path


def test_masks_that_are_misread_stop_the_conversion_and_an_option_reads_them(numbered):
    words = ("--source", numbered / "images", "--masks", numbered / "masks", "--format", "dali")
    message = refusal(*words, "--out", numbered / "out")
    assert "6 of 6 masks come out empty or full" in message
    assert "a/0.jpg has the values 1, 2" in message
    assert "--mask-foreground" in message
    assert not (numbered / "out").exists()
    printed, _ = run(*words, "--out", numbered / "out", "--mask-foreground", "1")
    assert "(--mask-foreground 1): the values 1" in printed
    shards = open_shards(numbered / "out")
    assert shards.mask_coverage == pytest.approx([1 / 3] * 6, abs=0.01)
    assert shards.manifest.masks.foreground == "1"
    run(*words, "--out", numbered / "bright", "--mask-foreground", "bright")
    assert (open_shards(numbered / "bright").mask_coverage == 0).all()


def test_masks_that_are_all_empty_stop_the_conversion(numbered):
    empty = encoded(np.zeros((30, 45), np.uint8), "PNG")
    write_files(numbered / "masks", {f"a/{n}.png": empty for n in range(6)})
    words = ("--source", numbered / "images", "--masks", numbered / "masks")
    assert "all 6 masks come out empty" in refusal(*words, "--out", numbered / "out")


@pytest.mark.parametrize("text", ["", "white", "3-1", "-1", "1,,2", "70000"])
def test_other_values_of_mask_foreground_are_refused(numbered, text):
    words = ("--source", numbered / "images", "--out", numbered / "out")
    assert "--mask-foreground" in refusal(*words, "--mask-foreground", text)


def test_images_with_little_of_their_depth_are_counted_and_a_level_is_taken(tmp_path):
    dark = np.tile(np.arange(4096, dtype=np.uint16), (8, 1))[:, ::64]
    write_files(tmp_path / "images", {f"{n}.png": encoded(dark, "PNG") for n in range(2)})
    write_files(tmp_path / "images", {"z.jpg": jpeg()})
    words = ("--source", tmp_path / "images", "--format", "dali")
    printed, _ = run(*words, "--out", tmp_path / "dark")
    assert "2 images of more than 8 bits may be too dark" in printed
    assert "the first is 0.png: values from 0 to 4032" in printed
    assert "--white-level" in printed
    manifest = open_shards(tmp_path / "dark").manifest
    assert [note.key for note in manifest.scaled] == ["0.png", "1.png"]
    printed, _ = run(*words, "--out", tmp_path / "right", "--white-level", "4095")
    assert "more than 8 bits" not in printed
    assert open_shards(tmp_path / "right").manifest.white_level == 4095


def test_a_class_without_a_usable_picture_keeps_its_label(pictures):
    write_files(pictures / "images", {"cat/0.jpg": b"bad", "cat/1.jpg": b""})
    out = pictures / "out"
    run("--source", pictures / "images", "--out", out, "--format", "dali", status=1)
    shards = open_shards(out)
    assert shards.manifest.label_names == ("ant", "bee", "cat")
    assert shards.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [note.key for note in shards.manifest.skipped] == ["bee/9.jpg", "cat/0.jpg", "cat/1.jpg"]


def test_a_folder_in_the_way_that_is_not_ours_is_left_alone(pictures):
    write_files(pictures / "out.partial", {"precious": b"data"})
    line = refusal("--source", pictures / "images", "--out", pictures / "out")
    assert "not of this command's making" in line
    assert (pictures / "out.partial" / "precious").read_bytes() == b"data"


@pytest.mark.parametrize(
    ("text", "total", "allowed"), [("0", 9, 0), ("12", 9, 12), ("0.5%", 1000, 5), ("100%", 7, 7)]
)
def test_max_bad_is_a_number_or_a_share(text, total, allowed):
    assert parse_max_bad(text)(total) == allowed


@pytest.mark.parametrize("text", ["", "-1", "1.5", "%", "101%", "-3%", "nan%"])
def test_other_values_of_max_bad_are_refused(text):
    with pytest.raises(ValueError, match="give a number of pictures"):
        parse_max_bad(text)


def test_progress_lines_have_rate_and_time_left(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.sources.progress.SECONDS_BETWEEN_LINES", 0.01)
    source = write_files(tmp_path / "in", {f"{n}.jpg": jpeg() for n in range(99)})
    _, err = run("--source", source, "--out", tmp_path / "out", "--format", "dali")
    assert " pictures/s, 00:00:0" in err
    assert "converting: " in err


@pytest.mark.real
@pytest.mark.parametrize("format", ["ffcv", "dali"])
def test_photos_with_masks(real_data, tmp_path, format):
    printed, _ = run(
        *("--source", real_data / "ecssd" / "images", "--masks", real_data / "ecssd" / "masks"),
        *("--format", format, "--out", tmp_path / "out", "--json"),
    )
    summary = json.loads(printed.splitlines()[-1])
    assert summary["num_samples"] == summary["masks"]["num_masks"] == 1000
    assert summary["sizes"]["mask_bytes"] / 1000 <= 3 * 1024
    shards = open_shards(tmp_path / "out")
    for sample_id in (0, 499, 999):
        encoded_batch = shards.read(np.array([sample_id]))
        original = real_data / "ecssd" / "images" / shards.key(sample_id)
        assert encoded_batch.jpegs[0] == original.read_bytes()
    shutil.rmtree(tmp_path / "out")  # 40 MB
