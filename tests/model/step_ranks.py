"""What two processes compute for test_reduction.py and test_guard.py, in one call each."""

import copy
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.distributed import synchronise_batchnorm
from model.guard import Guard
from model.lars import OptimizerConfig, make_optimizer
from model.loss import LossConfig
from model.reduction import FlatGradients
from model.relicv2 import ReLICv2
from model.step import backward
from pipeline.sampler import sample_negatives
from tests.model.two_ranks import make_model, normal

BATCH = 8
GLOBAL = LossConfig(negatives="global", num_negatives=2)
POISONED = 1  # step


def layers() -> nn.Sequential:
    """Three buckets of 8 elements; the first layer's output misses one of its parameters."""
    chain = nn.Sequential(nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3), nn.Conv2d(3, 2, 2))
    chain.register_parameter("unreached", nn.Parameter(torch.full((4,), 7.0)))
    with torch.no_grad():
        for number, parameter in enumerate(chain.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=number, dtype=torch.float32))
    return chain.double().to(memory_format=torch.channels_last)


def layers_loss(chain: nn.Sequential, rows: slice) -> Tensor:
    x = normal(BATCH, 2, 4, 4, seed=9)[rows]
    return (chain(x) * normal(BATCH, 2, 3, 3, seed=10)[rows]).square().sum()


def averaged(rank: int, size: int) -> dict[str, Any]:
    """One backward pass, its sums, and when each was started: after how many arrivals."""
    chain, arrived, started = layers().eval(), [], []
    gradients = FlatGradients(chain.parameters(), bucket_elements=8)
    for name, parameter in chain.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: arrived.append(name))
    honest = dist.all_reduce

    def noted(tensor: Tensor, **options: Any) -> Any:
        started.append((len(arrived), tensor.numel()))
        return honest(tensor, **options)

    dist.all_reduce = noted
    try:
        with gradients.averaging():
            layers_loss(chain, slice(rank, None, size)).backward()
    finally:
        dist.all_reduce = honest
    again = layers_loss(chain, slice(rank, None, size))
    before = [p.grad.clone() for p in chain.parameters()]
    again.backward()  # not averaging: no hook is left behind, nothing is sent
    added = [p.grad - b for p, b in zip(chain.parameters(), before, strict=True)]
    return {
        "gradients": before,
        "own": added,
        "started": started,
        "arrivals": len(arrived) // 2,
    }


def part_views(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    large = normal(2, BATCH, 3, 16, 16, seed=1).to(dtype)
    return large, normal(1, BATCH, 3, 8, 8, seed=2).to(dtype)


def part_negatives(rank: int, size: int, parts: int) -> Tensor:
    """As train.draw_negatives does, for one rank."""
    rows = torch.arange(BATCH // size).numpy() % (BATCH // size // parts)
    chosen = sample_negatives(
        seed=0,
        epoch=0,
        sample_ids=torch.arange(100, 100 + BATCH)[rank::size].numpy(),
        positions=rows * size + rank,
        num_candidates=BATCH // parts,
        num_negatives=GLOBAL.num_negatives,
        num_online=3,
        num_target=2,
    )
    return torch.from_numpy(chosen)


def accumulated(rank: int, size: int) -> list[dict[str, Any]]:
    """The gradients of a batch in two parts, of both forms of the KL; negatives of all ranks."""
    results = []
    for form in ("swap_roles", "swap_views"):
        model = synchronise_batchnorm(make_model())
        gradients = FlatGradients(model.online.parameters(), bucket_elements=1000)
        backward(
            model,
            *(views[:, rank::size] for views in part_views()),
            part_negatives(rank, size, parts=2),
            replace(GLOBAL, kl_form=form),
            gradients=gradients,
            parts=2,
        )
        results.append(
            {
                "loss": gradients.loss,
                "gradients": {n: p.grad for n, p in model.online.named_parameters()},
                "buffers": dict(model.named_buffers()),
            }
        )
    return results


def frozen(rank: int, size: int) -> dict[str, Tensor]:
    """Gradients in float32 with BatchNorm's running statistics."""
    model = make_model().float().eval()
    backward(
        model,
        *(views[:, rank::size] for views in part_views(torch.float32)),
        part_negatives(rank, size, parts=1),
        GLOBAL,
        gradients=FlatGradients(model.online.parameters()),
    )
    return {name: p.grad for name, p in model.online.named_parameters()}


def state(model: ReLICv2, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return copy.deepcopy(
        {"model": model.state_dict(), "optimizer": optimizer.state_dict()["state"]}
    )


def poisoned(rank: int, size: int, *, name: str = "lars", value: float = float("nan")) -> Any:
    """Three steps, where one pixel of rank 1's (or the only one's) last view is poisoned in step 1.

    Returns the states before each step and at the end, and what was skipped.
    """
    model = synchronise_batchnorm(make_model().float())
    optimizer = make_optimizer(model, OptimizerConfig(name=name, base_learning_rate=0.1))
    guard, states = Guard(model, remembered=4), []
    for step in range(3):
        large, small = (views[:, rank::size].clone() for views in part_views(torch.float32))
        if step == POISONED and rank == size - 1:
            small[-1, 0, 0, 0, 0] = value
        states.append(state(model, optimizer))
        guard.begin()
        backward(model, large, small, None, GLOBAL, gradients=guard.gradients)
        guard.update(optimizer, step, 0.9)
    states.append(state(model, optimizer))
    skipped = guard.skipped.read()
    return {"states": states, "skipped": list(skipped.steps), "in_a_row": skipped.in_a_row}


def everything(rank: int, size: int) -> dict[str, Any]:
    return {case.__name__: case(rank, size) for case in (averaged, accumulated, frozen, poisoned)}
