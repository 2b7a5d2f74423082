"""Rung `augment`: the six views of decoded pictures, by our executors and by other libraries.

What the rung is asked, how a peer becomes a candidate, and what it reports; the rows themselves
are in augment_cpu and augment_cuda. Pictures are decoded and in memory before anything is measured.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.environment import environment
from bench.harness import Built, Candidate
from bench.pictures import Pictures, bytes_to_move, from_shards, generated
from bench.rows import pick
from pipeline.augment.params import ViewParams, sample_view_params
from pipeline.augment.recipe import MultiCropRecipe


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
    from bench.augment_cpu import augment_cpu

    return augment_cpu(request, recipe)


def load_pictures(request: AugmentRequest) -> Pictures:
    if request.data is None:
        return generated(request.images)
    return from_shards(request.data, request.images)


def chosen(request: AugmentRequest, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that the request names.

    Raises:
        ValueError: a name that no candidate has.
    """
    return pick(request.only, candidates, peers=request.peers)


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
    return as_candidate(name, what, build, pictures, recipe, version=module.PACKAGE, is_peer=True)


def as_candidate(
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
    """A candidate whose share is these pictures, once."""
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
