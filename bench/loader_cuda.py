"""Rung `loader` on a GPU: bytes on disk to views on the device. No machine with one has run it.

Ours with CPU decoding, and with DALI's on the GPU where it is installed; beside them a stock DALI
pipeline on the GPU, and kornia after DALI's decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from bench.harness import Candidate, Measured, anywhere, measure
from bench.loader import LoaderRequest, candidate, our_stream, peer, report
from bench.material import Material, dali_shards
from bench.rows import named, pick, ratios_of
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.shards import FORMATS
from training.allocator import keep_freed_memory as keep

DECODERS = {"": "turbojpeg", " dali-gpu": "dali-gpu"}
PEERS = ("DALI stock", "kornia after DALI")


def loader_cuda(request: LoaderRequest, recipe: MultiCropRecipe, found: Material) -> dict[str, Any]:
    """Measure, and return the JSON object of this rung.

    Raises:
        ValueError: there is no GPU.
    """
    if not torch.cuda.is_available():
        raise ValueError("no CUDA device on this machine")
    candidates = pick(request.only, cuda_candidates(request, recipe, found), peers=request.peers)
    measured = measure(candidates, rounds=request.rounds, placed=anywhere)
    return report(request, recipe, found, measured, cuda_ratios(measured))


def cuda_candidates(
    request: LoaderRequest, recipe: MultiCropRecipe, found: Material
) -> list[Candidate]:
    """Ours from both formats with each decoder, then the peers."""
    device = torch.device("cuda", torch.cuda.current_device())
    rows = [
        candidate(
            request,
            found,
            f"loader ({format}{ending})",
            f"our loader, bfloat16 views by fused, decoder {decoder}",
            partial(our_stream, found, format, recipe, request, device=device, decoder=decoder),
            setup=keep,
        )
        for format in FORMATS
        for ending, decoder in DECODERS.items()
    ]
    of = partial(peer, request, found, recipe=recipe, setup=keep)
    return [
        *rows,
        of(PEERS[0], "dali_loader", "make", dali_shards, device_id=device.index),
        of(PEERS[1], "kornia_dali_loader", "make", dali_shards, device_id=device.index),
    ]


def cuda_ratios(measured: Sequence[Measured]) -> dict[str, float]:
    """How many times as fast as each peer ours is."""
    names = [f"loader ({format}{ending})" for format in FORMATS for ending in DECODERS]
    return ratios_of(
        {
            f"{name}/{other}": (named(measured, name), named(measured, other))
            for name in names
            for other in PEERS
        }
    )
