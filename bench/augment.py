"""Rung `augment`: the six views of decoded pictures, by our executors and by other libraries.

On CPU each row is one core's work (the process is pinned to it), so that rows compare libraries
and not how they use threads; `compiled xN` says what more cores bring. Pictures are decoded and in
memory before anything is measured. Drawing the params is part of every row.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.environment import environment
from bench.harness import (
    Built,
    Candidate,
    Measured,
    Unavailable,
    copy_bandwidth,
    faster,
    measure,
    named,
    ratio,
    repeated,
    row,
)
from bench.pictures import Pictures, bytes_to_move, from_shards, generated
from pipeline.augment import EXECUTORS, make_executor
from pipeline.augment.params import ViewParams, sample_view_params
from pipeline.augment.recipe import MultiCropRecipe

OURS = {
    "compiled": "compiled executor, masks on",
    "dali": "the same params carried out by DALI's operators, masks on",
    "reference": "the specification, slow on purpose, masks on",
}
_FAST_TURNS = 4  # batches of a round for the compiled executor: a tenth of a second each
_SLOW_SHARE = 2  # pictures of a round for the reference: seconds each


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentRequest:
    """What to measure."""

    device: str
    images: int
    rounds: int
    threads: int = 2
    data: Path | None = None
    peers: bool = True
    only: tuple[str, ...] = ()  # names of rows; empty: all


def augment(request: AugmentRequest) -> dict[str, Any]:
    """Measure, and return the JSON object of this rung.

    Raises:
        ValueError: no such device or row, unreadable shards.
    """
    recipe = MultiCropRecipe()
    if request.device == "cuda":
        from bench.augment_cuda import augment_cuda

        return augment_cuda(request, recipe)
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
        roofs={f"{cores} cores": roof for cores, roof in sorted(roofs.items()) if roof},
    )


def load_pictures(request: AugmentRequest) -> Pictures:
    if request.data is None:
        return generated(request.images)
    return from_shards(request.data, request.images)


def chosen(request: AugmentRequest, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that the request names.

    Raises:
        ValueError: a name that no candidate has.
    """
    names = [candidate.name for candidate in candidates]
    if unknown := [name for name in request.only if name not in names]:
        raise ValueError(f"--only {unknown[0]!r}: no such row; choose from {', '.join(names)}")
    return [
        candidate
        for candidate in candidates
        if (request.peers or not candidate.peer) and candidate.name in (request.only or names)
    ]


def cpu_candidates(
    request: AugmentRequest, pictures: Pictures, recipe: MultiCropRecipe
) -> list[Candidate]:
    """All rows of a CPU: ours, then the peers."""

    def ours(name: str, executor: str, share: Pictures, cores: int = 1) -> Candidate:
        what = f"{OURS[executor]}, {cores} thread{'s' * (cores > 1)}"
        build = partial(_executor, executor, share, recipe, cores)
        return _candidate(name, what, build, share, recipe, cores=cores)

    rows = [repeated(ours("compiled", "compiled", pictures), _FAST_TURNS)]
    if request.threads > 1:
        several = ours(f"compiled x{request.threads}", "compiled", pictures, request.threads)
        rows.append(repeated(several, _FAST_TURNS))
    if "dali" in EXECUTORS:
        rows.append(ours("dali", "dali", pictures))
    rows.append(ours("reference", "reference", pictures.first(_SLOW_SHARE)))
    return rows + [
        peer(name, file, function, pictures, recipe, **arguments)
        for name, file, function, arguments in (
            ("torchvision (tensor)", "torchvision_v2", "make_tensor", {}),
            ("torchvision (PIL)", "torchvision_v2", "make_pil", {}),
            ("kornia", "kornia_batched", "make", {"device": torch.device("cpu")}),
            ("DALI stock", "dali_stock", "make", {"threads": 1}),
            ("FFCV stock", "ffcv_stock", "make", {}),
        )
    ]


def peer(
    name: str,
    file: str,
    function: str,
    pictures: Pictures,
    recipe: MultiCropRecipe,
    **arguments: Any,
) -> Candidate:
    """A candidate of bench/peers/`file`; its library is imported when it is built."""
    module = importlib.import_module(f"bench.peers.{file}")
    build = partial(getattr(module, function), pictures, recipe, **arguments)
    what = getattr(module, "WHAT" + function.removeprefix("make").upper())
    return _candidate(name, what, build, pictures, recipe, version=module.PACKAGE, is_peer=True)


def _candidate(
    name: str,
    what: str,
    build: Callable[[], Built],
    pictures: Pictures,
    recipe: MultiCropRecipe,
    *,
    cores: int = 1,
    version: str | None = None,
    is_peer: bool = False,
) -> Candidate:
    return Candidate(
        name=name,
        what=what,
        build=build,
        images=len(pictures),
        bytes_per_image=bytes_to_move(pictures, recipe),
        cores=cores,
        version=installed_version(version) if version else None,
        peer=is_peer,
    )


def installed_version(package: str) -> str | None:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return None


def params_of(pictures: Pictures, recipe: MultiCropRecipe, epoch: int) -> ViewParams:
    """The params of one round: a new epoch each."""
    images = pictures.decoded.images
    return sample_view_params(
        recipe,
        seed=0,
        epoch=epoch,
        sample_ids=pictures.decoded.sample_ids,
        heights=images.heights.numpy(),
        widths=images.widths.numpy(),
        mask_coverage=pictures.mask_coverage,
    )


def _executor(name: str, pictures: Pictures, recipe: MultiCropRecipe, threads: int) -> Built:
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
    torchvision = [m for m in measured if m.candidate.name.startswith("torchvision")]
    pairs = {"compiled/torchvision": (ours, faster(*torchvision) if torchvision else None)}
    pairs[f"compiled x{threads}/compiled"] = (several, ours)
    for name in ("kornia", "DALI stock", "FFCV stock", "dali", "reference"):
        pairs[f"compiled/{name}"] = (ours, named(measured, name))
    return ratios_of(pairs)


def ratios_of(
    pairs: dict[str, tuple[Measured | None, Measured | None]],
) -> dict[str, float]:
    found = {name: ratio(a, b) for name, (a, b) in pairs.items() if a and b}
    return {name: value for name, value in found.items() if value is not None}


def report(
    request: AugmentRequest,
    pictures: Pictures,
    recipe: MultiCropRecipe,
    *,
    rows: list[dict[str, Any]],
    ratios: dict[str, float],
    roofs: dict[str, float],
) -> dict[str, Any]:
    """The JSON object that this rung prints."""
    views = f"{recipe.num_large}x{recipe.large_size} + {recipe.num_small}x{recipe.small_size}"
    return {
        "rung": "augment",
        "device": request.device,
        "work": f"views {views} of {pictures.source}; {request.rounds} rounds, interleaved",
        "environment": environment(),
        "memory_roof_gigabytes_per_second": {name: roof / 1e9 for name, roof in roofs.items()},
        "rows": rows,
        "ratios": ratios,
    }
