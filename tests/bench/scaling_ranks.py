"""What each of two processes sends in a step, for test_scaling.py: counted where it is sent."""

from collections import Counter
from dataclasses import replace

import torch
import torch.distributed as dist

from model.distributed import synchronise_batchnorm
from model.reduction import FlatGradients
from model.relicv2 import ReLICv2
from model.step import backward
from tests.bench.step_support import tiny

BATCH, PARTS = 8, 2


def config():
    made = tiny("loss.num_negatives=0", "loss.negatives=global", "optimizer.name=lars")
    return replace(made, accumulate=PARTS)


def sent(rank, size):
    """Calls and bytes that this process gives to each kind of call in one step."""
    settings, found = config(), Counter()
    width = settings.model.embedding_size
    honest = dist.all_reduce, dist.all_gather

    def note(name, tensor):
        found[f"{name} calls"] += 1
        found[f"{name} bytes"] += tensor.nbytes

    def all_reduce(tensor, *arguments, **options):
        if options.get("async_op"):
            note("gradients", tensor)
        else:
            embeddings = tensor.shape[-2:] == (BATCH // PARTS, width)
            note("embeddings, backward" if embeddings else "BatchNorm, backward", tensor)
        return honest[0](tensor, *arguments, **options)

    def all_gather(parts, tensor, *arguments, **options):
        statistics = len(tensor) == 3  # [3, P, C]: count, mean, variance of P views
        embeddings = tensor.shape[-2:] == (BATCH // size // PARTS, width) and not statistics
        note("embeddings, forward" if embeddings else "BatchNorm, forward", tensor)
        return honest[1](parts, tensor, *arguments, **options)

    dist.all_reduce, dist.all_gather = all_reduce, all_gather
    try:
        _one_step(settings, rank, size)
    finally:
        dist.all_reduce, dist.all_gather = honest
    return dict(found)


def _one_step(settings, rank, size):
    generator = torch.Generator().manual_seed(0)
    model = synchronise_batchnorm(ReLICv2(settings.model, generator=generator))
    recipe = settings.recipe
    large, small = (
        torch.randn(count, BATCH // size, 3, side, side, generator=generator)
        for count, side in (
            (recipe.num_large, recipe.large_size),
            (recipe.num_small, recipe.small_size),
        )
    )
    gradients = FlatGradients(model.online.parameters())
    backward(
        model,
        large,
        small,
        None,
        settings.loss,
        gradients=gradients,
        parts=settings.accumulate,
        together=settings.runs_views_together(BATCH // size // PARTS, on_cpu=True),
    )
