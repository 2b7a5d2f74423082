"""Rung `augment` on a CPU.

Each row is one core's work, in a process of its own that is pinned to it, so that rows compare
libraries and not how they use threads; `compiled xN` says what more cores bring. Drawing the params
is part of every row. Our rows have the allocator as train.py sets it, and so have the peers, which
gain by it (kornia 33 -> 21 ms an image, FFCV 12 -> 9 ms); torchvision is measured with its default,
as its users have it, and in a row of its own with ours.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from bench.augment import (
    AugmentRequest,
    as_candidate,
    chosen,
    installed_version,
    load_pictures,
    params_of,
    peer,
    report,
)
from bench.harness import (
    Built,
    Candidate,
    Measured,
    Unavailable,
    copy_bandwidth,
    measure,
    repeated,
)
from bench.isolated import isolated
from bench.pictures import Pictures
from bench.rows import faster, named, ratios_of, row
from pipeline.augment import EXECUTORS, make_executor
from pipeline.augment.recipe import MultiCropRecipe
from training.allocator import keep_freed_memory as keep

OURS = {
    "compiled": "compiled executor, masks on",
    "dali": "the same params carried out by DALI's operators, masks on",
    "reference": "the specification, slow on purpose, masks on",
}
ALIKE = "compiled executor with torchvision's antialiasing and jitter, masks off"
HELPED = "torchvision (tensor, our allocator)"
_FAST_TURNS = 4  # batches of a round for the compiled executor: a tenth of a second each
_SLOW_SHARE = 2  # pictures of a round for the reference: seconds each


def augment_cpu(request: AugmentRequest, recipe: MultiCropRecipe) -> dict[str, Any]:
    """Measure, and return the JSON object of this rung."""
    pictures = load_pictures(request)
    candidates = chosen(request, cpu_candidates(request, pictures, recipe))
    roofs = {cores: _roof(cores) for cores in {candidate.cores for candidate in candidates}}
    measured = measure(candidates, rounds=request.rounds)
    return report(
        request,
        pictures,
        recipe,
        rows=[row(each, roofs[each.candidate.cores]) for each in measured],
        ratios=cpu_ratios(measured, request.threads),
        roofs={f"cores: {cores}": roof for cores, roof in sorted(roofs.items()) if roof},
    )


def cpu_candidates(
    request: AugmentRequest, pictures: Pictures, recipe: MultiCropRecipe
) -> list[Candidate]:
    """All rows of a CPU: ours, then the peers."""

    def ours(name: str, share: Pictures, *, cores: int = 1, alike: bool = False) -> Candidate:
        executor = name.partition(" ")[0]
        build = partial(_executor, executor, share, alike_to(recipe) if alike else recipe, cores)
        what = (ALIKE if alike else OURS[executor]) + f", {cores} thread{'s' * (cores > 1)}"
        made = as_candidate(name, what, build, share, recipe, cores=cores)
        turns = _FAST_TURNS if executor == "compiled" else 1
        return repeated(isolated(made, keep), turns)

    rows = [ours("compiled", pictures), ours("compiled (as torchvision)", pictures, alike=True)]
    if request.threads > 1:
        rows.append(ours(f"compiled x{request.threads}", pictures, cores=request.threads))
    if "dali" in EXECUTORS:
        rows.append(ours("dali", pictures))
    rows.append(ours("reference", pictures.first(_SLOW_SHARE)))
    return rows + [
        isolated(peer(name, file, function, pictures, recipe, **arguments), setup)
        for name, file, function, arguments, setup in (
            ("torchvision (tensor)", "torchvision_v2", "make_tensor", {}, None),
            ("torchvision (PIL)", "torchvision_v2", "make_pil", {}, None),
            (HELPED, "torchvision_v2", "make_tensor", {}, keep),
            ("kornia", "kornia_batched", "make", {"device": torch.device("cpu")}, keep),
            ("DALI stock", "dali_stock", "make", {"threads": 1}, keep),
            ("FFCV stock", "ffcv_stock", "make", {}, keep),
        )
    ]


def alike_to(recipe: MultiCropRecipe) -> MultiCropRecipe:
    """The same views as torchvision's operators have them: for a comparison of equal work."""
    unmasked = {
        name: replace(getattr(recipe, name), mask_probability=0.0)
        for name in ("large_even", "large_odd", "small")
    }
    return replace(recipe, antialias=True, jitter_style="torchvision", **unmasked)


def _executor(name: str, pictures: Pictures, recipe: MultiCropRecipe, threads: int) -> Built:
    if name == "dali" and installed_version("nvidia-dali-cuda130") is None:
        raise Unavailable("not installed: DALI")
    executor = make_executor(name, recipe, threads=threads)
    epochs = itertools.count()
    return Built(run=lambda: executor(pictures.decoded, params_of(pictures, recipe, next(epochs))))


def _roof(cores: int) -> float | None:
    try:
        return copy_bandwidth(cores)
    except Unavailable:
        return None


def cpu_ratios(measured: Sequence[Measured], threads: int) -> dict[str, float]:
    """How many times faster the first of each pair is; pairs without figures are left out."""
    ours = named(measured, "compiled")
    several = named(measured, f"compiled x{threads}")
    torchvision = [named(measured, f"torchvision ({kind})") for kind in ("tensor", "PIL")]
    present = [each for each in torchvision if each is not None]
    best = faster(*present) if present else None
    alike = named(measured, "compiled (as torchvision)")
    pairs = {"compiled/torchvision": (ours, best)}
    pairs["compiled (as torchvision)/torchvision"] = (alike, best)
    pairs[f"compiled x{threads}/compiled"] = (several, ours)
    for name in (HELPED, "kornia", "DALI stock", "FFCV stock", "dali", "reference"):
        pairs[f"compiled/{name}"] = (ours, named(measured, name))
    return ratios_of(pairs)
