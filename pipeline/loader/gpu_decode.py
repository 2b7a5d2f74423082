"""Decoding on a GPU, put together: the decoders that share a batch, and how their shares are found.

Left to `auto`, each engine gets samples in proportion to its speed on this data set, and one that
fails its self-test gets none. A share that is set is obeyed, or refused where the engine fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from pipeline.devices import CPU
from pipeline.loader.checked import CheckedDecoder
from pipeline.loader.dali_gpu import DaliGpuDecoder
from pipeline.loader.dali_gpu_graph import ENGINES, codec_version
from pipeline.loader.decode import Decoder
from pipeline.loader.gpu_trial import Attempt, CudaWork, Trial, measure, try_engine, try_engines
from pipeline.loader.hybrid import HybridDecoder, split_by_id
from pipeline.loader.jpeg_engine import hardware_engines
from pipeline.loader.shares import GpuShares, ShareOrAuto
from pipeline.loader.trial_samples import TrialSamples, trial_samples
from pipeline.loader.turbojpeg import TurboJpegDecoder
from pipeline.loader.upload import UploadedDecoder
from pipeline.shards import Shards
from pipeline.stats import Beat, no_beat

_NAMES = {"hardware": "the hardware engine", "cuda": "CUDA"}


def gpu_decoder(
    cpu: Decoder,
    shares: GpuShares,
    *,
    device: torch.device,
    threads: int,
    beat: Beat = no_beat,
) -> Decoder:
    """Make the decoder that divides each batch; `cpu` decodes what the GPU does not.

    Without anything for the GPU it is `cpu` itself, whose pixels lie on the CPU.
    """
    if shares.gpu == 0:
        return cpu
    parts = zip(shares.parts, (*ENGINES, "cpu"), strict=True)
    decoders: list[Decoder] = []
    used: list[float] = []
    for share, engine in parts:
        if share == 0:
            continue
        used.append(share)
        if engine == "cpu":
            decoders.append(UploadedDecoder(cpu, device))
            continue
        plain = DaliGpuDecoder(device=device, engine=engine, threads=threads, beat=beat)
        decoders.append(CheckedDecoder(plain, name=_NAMES[engine], device=device))
    return HybridDecoder(decoders, partial(split_by_id, shares=used), device=device)


def settled_shares(
    gpu: ShareOrAuto,
    hardware: ShareOrAuto,
    shards: Shards,
    *,
    device: torch.device,
    threads: int,
    tell: Callable[[str], object],
) -> GpuShares:
    """Test and time the engines on the data set's images, and decide; takes some seconds.

    `tell` gets a line for each engine that fails, and one with what was decided. With nothing for
    the GPU there is nothing to test.

    Raises:
        ValueError: a share that was set needs an engine that fails.
    """
    if gpu == 0:
        return GpuShares(gpu=0.0, hardware=0.0 if isinstance(hardware, str) else hardware)
    samples = trial_samples(shards)
    attempt = partial(try_on_gpu, device=str(device), threads=threads)
    return decided(gpu, hardware, samples, attempt, threads=threads, tell=tell)


def decided(
    gpu: ShareOrAuto,
    hardware: ShareOrAuto,
    samples: TrialSamples,
    attempt: Attempt,
    *,
    threads: int,
    tell: Callable[[str], object],
) -> GpuShares:
    """As `settled_shares`; `attempt` tries one engine, in a process of its own."""
    trials = try_engines(ENGINES, attempt, samples)
    for trial in trials:
        if trial.fault:
            tell(_failed(trial, trials))
    cpu = TurboJpegDecoder(threads=threads)
    cpu_speed = measure(cpu, samples.encoded(), CPU)
    cpu.close()
    shares = proportional(gpu, hardware, trials, cpu_speed)
    tell(_described(shares, trials, cpu_speed, threads))
    return shares


def try_on_gpu(engine: str, samples: TrialSamples, *, device: str, threads: int) -> Trial:
    """Try an engine of a GPU; for a process of its own, which it may crash."""
    place = torch.device(device)
    torch.cuda.set_device(place)
    other = CudaWork(place)
    if engine == "hardware" and hardware_engines() == 0:
        return Trial(engine=engine, fault="this GPU has none")
    decoder = DaliGpuDecoder(device=place, engine=engine, threads=threads)
    return try_engine(engine, decoder, samples, other, place)


def proportional(
    gpu: ShareOrAuto, hardware: ShareOrAuto, trials: Sequence[Trial], cpu_speed: float
) -> GpuShares:
    """Divide by speed what is left to `auto`; whole percents, so that they are the same when read.

    Raises:
        ValueError: a share that was set needs an engine that fails.
    """
    speeds = {trial.engine: trial.images_per_second for trial in trials}
    load = _hardware_load(speeds) if isinstance(hardware, str) else hardware
    of_gpu = {"hardware": load, "cuda": 1 - load}
    # The GPU has done its part when the slower of the two has.
    seconds = max(_ratio(of_gpu[engine], speeds[engine]) for engine in ENGINES)
    share = round(1 / (1 + seconds * cpu_speed), 2) if isinstance(gpu, str) else gpu
    obeyed = not isinstance(hardware, str) or share > 0
    for trial in trials:
        if trial.fault and of_gpu[trial.engine] > 0 and obeyed:
            raise ValueError(
                f"loader.hw_decoder_load={load:g} with loader.gpu_decode_share={share:g} needs "
                f"JPEG decoding by {_NAMES[trial.engine]}, but {trial.fault}; set both to auto, or "
                "use decoder turbojpeg"
            )
    return GpuShares(gpu=share, hardware=load)


def _hardware_load(speeds: Mapping[str, float]) -> float:
    together = sum(speeds.values())
    return round(speeds["hardware"] / together, 2) if together else 0.0


def _ratio(part: float, speed: float) -> float:
    if part == 0:
        return 0.0
    return part / speed if speed else math.inf


def _failed(trial: Trial, trials: Sequence[Trial]) -> str:
    others = [_NAMES[each.engine] for each in trials if not each.fault]
    return (
        f"no JPEG decoding by {_NAMES[trial.engine]}: {trial.fault} (nvImageCodec "
        f"{codec_version()}); {' and '.join([*others, 'the CPU'])} instead"
    )


def _described(shares: GpuShares, trials: Sequence[Trial], cpu_speed: float, threads: int) -> str:
    speeds = [f"{_NAMES[trial.engine]} {trial.images_per_second:.0f}" for trial in trials]
    parts = [f"{100 * part:.0f}" for part in shares.parts]
    return (
        f"decoding on this data set, images/s: {', '.join(speeds)}, {threads} CPU thread"
        f"{'' if threads == 1 else 's'} {cpu_speed:.0f}; shares {' / '.join(parts)} % "
        f"(gpu_decode_share={shares.gpu:g}, hw_decoder_load={shares.hardware:g}; "
        f"nvImageCodec {codec_version()})"
    )
