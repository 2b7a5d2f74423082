"""`python -m bench decode`: the loops decode the same pixels, and the form of what is printed."""

import json

import numpy as np
import pytest
import simplejpeg
from click.testing import CliRunner

from bench.__main__ import bench
from bench.decode import DecodeRequest, build_loop, build_ours, decode_candidates, decode_ratios
from bench.generated import generated_shards
from bench.harness import Candidate, Measured, Unavailable
from bench.peers import libjpeg_loop
from pipeline.shards import open_shards


@pytest.fixture(scope="module")
def shards():
    with generated_shards(("dali",), count=5, height=72, width=96) as made:
        yield made["dali"]


@pytest.fixture(scope="module")
def jpeg(shards):
    opened = open_shards(shards)
    data = bytes(opened.read(np.array([3])).jpegs[0])
    opened.close()
    return data


def run(shards, *words):
    fixed = ["--data", str(shards), "--images", "5", "--rounds", "2"]
    return CliRunner().invoke(bench, ["decode", *fixed, *words])


def system_decoder():
    try:
        return libjpeg_loop._by_ctypes()
    except Unavailable as error:
        pytest.skip(str(error))


def test_the_system_library_gives_the_exact_pixels(jpeg):
    room = np.zeros((72, 96, 3), np.uint8)
    system_decoder()(jpeg, room)
    assert (room == simplejpeg.decode_jpeg(jpeg)).all()


def test_the_system_library_says_what_it_cannot_decode():
    with pytest.raises(ValueError, match="JPEG"):
        system_decoder()(b"no picture at all", np.zeros((8, 8, 3), np.uint8))


def test_a_missing_system_library_is_a_skipped_row(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(libjpeg_loop.ctypes, "CDLL", missing)
    with pytest.raises(Unavailable, match="not installed: libturbojpeg"):
        libjpeg_loop.make_debian([(b"", 1, 1)], threads=1)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_loop_decodes_every_picture_once_into_room_of_its_size(threads):
    pictures = [(b"%d" % n, 4 + n, 7) for n in range(8)]
    seen = []

    def decode(data, room):
        seen.append((data, *room.shape))

    built = libjpeg_loop._looped(pictures, [decode] * threads)
    built.run()
    built.close()
    assert sorted(seen) == sorted((data, height, 7, 3) for data, height, _ in pictures)


@pytest.mark.parametrize("threads", [1, 2])
def test_ours_and_the_loop_run_on_the_samples_of_shards(shards, threads):
    ours = build_ours(shards, 5, threads=threads)
    loop = build_loop(libjpeg_loop.make_simplejpeg, shards, 5, threads=threads)
    for built in (ours, loop):
        built.run()
        built.close()
    assert ours.note == "TurboJpegDecoder"


def test_rows_are_ours_and_both_loops_on_one_core_and_several(shards):
    request = DecodeRequest(images=5, rounds=1, threads=2)
    rows = decode_candidates(request, {"dali": shards})
    names = ["decode (dali)", "libjpeg-turbo (simplejpeg)", "libjpeg-turbo (Debian)"]
    assert [row.name for row in rows] == [*names, *(f"{name} x2" for name in names)]
    assert [row.cores for row in rows] == [1] * 3 + [2] * 3
    assert [row.peer for row in rows] == [False, True, True] * 2


def test_a_ratio_is_against_the_faster_loop_on_as_many_cores():
    def measured(name, seconds):
        made = Candidate(name=name, what="", build=list, images=1, bytes_per_image=1)
        return Measured(candidate=made, seconds=(seconds,))

    rows = [
        measured("decode (ffcv)", 2.0),
        measured("libjpeg-turbo (simplejpeg)", 1.8),
        measured("libjpeg-turbo (Debian)", 1.9),
        measured("decode (ffcv) x2", 1.0),
        measured("libjpeg-turbo (simplejpeg) x2", 1.0),
        measured("libjpeg-turbo (Debian) x2", 0.5),
    ]
    assert decode_ratios(rows, ["ffcv"], 2) == {
        "decode (ffcv)/libjpeg-turbo": 0.9,
        "decode (ffcv) x2/libjpeg-turbo": 0.5,
    }


def test_the_command_prints_rows_and_the_ratio(shards):
    words = ["--only", "decode (dali)", "--only", "libjpeg-turbo (simplejpeg)", "--json"]
    result = run(shards, *words)
    assert result.exit_code == 0, result.output
    made = json.loads(result.stdout.splitlines()[-1])
    assert made["rung"] == "decode"
    assert [row["name"] for row in made["rows"]] == words[1:4:2]
    assert made["rows"][0]["what"].endswith("TurboJpegDecoder")
    assert made["rows"][1]["version"].startswith("simplejpeg ")
    assert list(made["ratios"]) == ["decode (dali)/libjpeg-turbo"]


def test_more_pictures_than_there_are_are_refused(shards):
    result = run(shards, "--images", "6")
    assert result.exit_code == 2
    assert "holds 5 samples; ask for no more --images" in result.stderr
