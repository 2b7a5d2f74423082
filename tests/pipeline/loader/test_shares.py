"""Whether a GPU decodes: what is chosen, what is refused, and what the GPU has for it."""

import shutil
import subprocess
from dataclasses import replace
from functools import partial

import pytest
import torch

import pipeline.loader.gpu_decode as gpu_decode
from pipeline.loader import LoaderConfig, decoder_for
from pipeline.loader.jpeg_engine import hardware_engines, nvjpeg_libraries
from pipeline.loader.shares import GpuShares, check_gpu_decode, choose_decoder
from pipeline.loader.turbojpeg import TurboJpegDecoder
from tests.pipeline.loader.gpu_support import CPU

CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("name", "device", "executor", "threads", "dali", "chosen"),
    [
        ("auto", "cuda", "fused", 2, True, "dali-gpu"),
        ("auto", "cuda", "fused", 3, True, "auto"),
        ("auto", "cuda", "compiled", 1, True, "auto"),
        ("auto", "cuda", "fused", 1, False, "auto"),
        ("auto", "cpu", "fused", 1, True, "auto"),
        ("turbojpeg", "cuda", "fused", 1, True, "turbojpeg"),
        ("dali-gpu", "cuda", "fused", 64, True, "dali-gpu"),
    ],
)
def test_auto_takes_the_gpu_only_where_cores_are_too_few(
    monkeypatch, name, device, executor, threads, dali, chosen
):
    monkeypatch.setattr("pipeline.loader.shares.has_dali", lambda: dali)
    found = choose_decoder(name, device=torch.device(device), executor=executor, threads=threads)
    assert found == chosen


@pytest.mark.parametrize(
    ("device", "executor", "dali", "message"),
    [
        ("cpu", "compiled", True, "decodes on CUDA devices, not on 'cpu'; use turbojpeg"),
        ("cuda", "fused", False, "needs DALI, which is not installed; pip install nvidia-dali"),
        ("cuda", "compiled", True, "where executor compiled cannot read them; use executor fused"),
    ],
)
def test_where_it_cannot_be_tried_one_line_says_what_to_do(
    monkeypatch, device, executor, dali, message
):
    monkeypatch.setattr("pipeline.loader.shares.has_dali", lambda: dali)
    with pytest.raises(ValueError, match=message) as error:
        check_gpu_decode(torch.device(device), executor)
    assert "\n" not in str(error.value)


def test_wishes_are_refused_before_anything_starts():
    with pytest.raises(ValueError, match="dali-gpu decodes on CUDA devices"):
        LoaderConfig(decoder="dali-gpu").for_device(CPU)


@pytest.mark.parametrize("name", ["gpu_decode_share", "hw_decoder_load"])
@pytest.mark.parametrize("value", [-0.1, 1.5, "some"])
def test_shares_outside_their_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"loader.{name} must lie in 0..1 or be auto, got"):
        LoaderConfig(**{name: value})


def test_settling_measures_once_and_keeps_what_it_chose(monkeypatch):
    asked = []

    def measured(gpu, hardware, shards, *, device, threads, tell):
        asked.append((gpu, hardware, str(device), threads))
        tell("measured")
        return GpuShares(gpu=0.4, hardware=0.7)

    monkeypatch.setattr(gpu_decode, "settled_shares", measured)
    lines = []
    config = LoaderConfig(decoder="dali-gpu", executor="fused", threads=5, hw_decoder_load=0.7)
    settle = partial(LoaderConfig.settled, shards=None, device=CUDA)
    settled = settle(config, tell=lines.append)
    assert asked == [("auto", 0.7, "cuda:0", 5)]
    assert lines == ["measured"]
    assert settled == replace(config, gpu_decode_share=0.4, hw_decoder_load=0.7)
    starved = settle(LoaderConfig(executor="fused", threads=2), tell=lines.append)
    assert (starved.decoder, starved.gpu_decode_share) == ("dali-gpu", 0.4)
    plenty = LoaderConfig(executor="fused", threads=16)
    assert settle(plenty, tell=lines.append) == plenty


def test_nothing_is_tried_where_the_gpu_has_no_share():
    def settle(hardware):
        return gpu_decode.settled_shares(
            0.0, hardware, None, device=CUDA, threads=1, tell=pytest.fail
        )

    assert settle("auto") == GpuShares(gpu=0.0, hardware=0.0)
    assert settle(0.3) == GpuShares(gpu=0.0, hardware=0.3)


def test_a_loader_takes_settled_shares_only(monkeypatch):
    config = LoaderConfig(decoder="dali-gpu", executor="fused", hw_decoder_load=0.5)
    with pytest.raises(ValueError, match=r"needs numbers for loader\.gpu_decode_share"):
        decoder_for(config, None, device=CUDA)
    off = replace(config, gpu_decode_share=0.0)
    assert isinstance(decoder_for(off, None, device=CUDA), TurboJpegDecoder)
    made = []
    monkeypatch.setattr(gpu_decode, "gpu_decoder", lambda *args, **kw: made.append((args, kw)))
    decoder_for(replace(config, gpu_decode_share=0.8, threads=3), None, device=CUDA)
    ((_cpu, shares), options) = made[0]
    assert shares == GpuShares(gpu=0.8, hardware=0.5)
    assert (options["device"], options["threads"]) == (CUDA, 3)
    with pytest.raises(ValueError, match="decodes on CUDA devices"):
        decoder_for(replace(config, gpu_decode_share=0.8), None, device=CPU)


# The hardware engine


FAKE_NVJPEG = """
typedef void* handle;
int nvjpegCreateEx(int backend, void* a, void* b, unsigned flags, handle* out) {
    if (backend != 3 || CREATED) return CREATED ? CREATED : 99;
    *out = (void*)0x1234;
    return 0;
}
int nvjpegDestroy(handle h) { return h != (void*)0x1234; }
#ifndef OLD
int nvjpegGetHardwareDecoderInfo(handle h, unsigned* engines, unsigned* cores) {
    if (h != (void*)0x1234) return 1;
    *engines = 7; *cores = 1;
    return ANSWER;
}
#endif
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize(
    ("flags", "count"),
    [
        (["-DCREATED=0", "-DANSWER=0"], 7),
        (["-DCREATED=7", "-DANSWER=0"], 0),  # NVJPEG_STATUS_ARCH_MISMATCH
        (["-DCREATED=0", "-DANSWER=9"], 0),
        (["-DCREATED=0", "-DANSWER=0", "-DOLD"], None),
    ],
)
def test_nvjpeg_is_asked_for_its_engines(tmp_path, flags, count):
    (tmp_path / "fake.c").write_text(FAKE_NVJPEG)
    library = tmp_path / "libnvjpeg.so"
    words = ["cc", "-shared", "-fPIC", *flags, "-o", str(library), str(tmp_path / "fake.c")]
    subprocess.run(words, check=True)
    assert hardware_engines([tmp_path / "missing.so", library]) == count


def test_without_nvjpeg_nobody_can_tell():
    assert hardware_engines([]) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_installed_nvjpeg_answers_without_a_gpu():
    assert nvjpeg_libraries()
    assert hardware_engines() == 0
