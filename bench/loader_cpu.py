"""Rung `loader` on a CPU.

Our rows have the allocator as train.py sets it, and so have FFCV and DALI, which gain by it;
torchvision has its default, as its users have it. With masks where the shards have some: peers have
none. `(as torchvision)` makes the views as torchvision's operators do, without masks: equal work.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from bench.augment_cpu import alike_to
from bench.harness import Candidate, Measured, measure
from bench.loader import LoaderRequest, candidate, our_stream, peer, report
from bench.material import Material, dali_shards, ffcv_shards, photos_of
from bench.rows import faster, named, pick, ratios_of
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.shards import FORMATS, open_shards
from training.allocator import keep_freed_memory as keep

TORCHVISION = ("torchvision (PIL)", "torchvision (simplejpeg)")
ALIKE = " (as torchvision)"


def loader_cpu(request: LoaderRequest, recipe: MultiCropRecipe, found: Material) -> dict[str, Any]:
    """Measure, and return the JSON object of this rung."""
    candidates = pick(request.only, cpu_candidates(request, recipe, found), peers=request.peers)
    measured = measure(candidates, rounds=request.rounds)
    return report(request, recipe, found, measured, cpu_ratios(measured))


def cpu_candidates(
    request: LoaderRequest, recipe: MultiCropRecipe, found: Material
) -> list[Candidate]:
    """Ours from both formats, then the peers."""
    rows = []
    for format in FORMATS:
        for ending, wanted in (("", recipe), (ALIKE, alike_to(recipe))):
            opened = partial(our_stream, found, format, wanted, request)
            what = described(found, format, alike=bool(ending))
            name = f"loader ({format}){ending}"
            rows.append(candidate(request, found, name, what, opened, setup=keep))
    of = partial(peer, request, found, recipe=recipe)
    return [
        *rows,
        of(TORCHVISION[0], "torchvision_loader", "make_pil", photos_of),
        of(TORCHVISION[1], "torchvision_loader", "make_tensor", photos_of),
        of("FFCV stock", "ffcv_loader", "make", ffcv_shards, setup=keep),
        of("DALI stock", "dali_loader", "make", dali_shards, setup=keep),
    ]


def described(found: Material, format: str, *, alike: bool) -> str:
    """What our row does, masks or none."""
    if alike:
        return "our loader, views with torchvision's antialiasing and jitter, masks off"
    if format not in found.shards:
        return "our loader"
    shards = open_shards(found.shards[format])
    masks = shards.manifest.masks.num_masks
    shards.close()
    return f"our loader, masks {'on' if masks else 'wanted, but the shards have none'}"


def cpu_ratios(measured: Sequence[Measured]) -> dict[str, float]:
    """How many times as fast as each peer ours is; the faster of torchvision's two."""
    present = [found for name in TORCHVISION if (found := named(measured, name))]
    best = faster(*present) if present else None
    pairs = {}
    for format in FORMATS:
        name = f"loader ({format})"
        ours = named(measured, name)
        pairs[f"{name}/torchvision"] = (ours, best)
        for other in ("FFCV stock", "DALI stock"):
            pairs[f"{name}/{other}"] = (ours, named(measured, other))
        alike = name + ALIKE
        pairs[f"{alike}/torchvision"] = (named(measured, alike), best)
    return ratios_of(pairs)
