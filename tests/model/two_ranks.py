"""What each of two processes computes for test_distributed.py, which compares it with one process.

Everything is computed by one call of `everything`, as starting processes takes seconds.
"""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model.distributed import (
    all_gather_with_gradient,
    broadcast_parameters,
    from_main,
    synchronise_batchnorm,
)
from model.guard import Guard
from model.lars import OptimizerConfig, make_optimizer
from model.loss import LossConfig
from model.reduction import FlatGradients
from model.relicv2 import ReLICv2, ReLICv2Config
from model.resnet import ResNetConfig
from model.step import backward

GLOBAL_BATCH = 6
STEPS = [
    (form, negatives, subsampled, stop, together)
    for form, stop in [("swap_roles", "entropy"), ("swap_roles", "none"), ("swap_views", "entropy")]
    for negatives in ("global", "local")
    for subsampled in (True, False)
    for together in (False, True)
    if (negatives, subsampled) != ("local", False)  # has no single-process counterpart
]


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make_model() -> ReLICv2:
    config = ReLICv2Config(
        encoder=ResNetConfig(architecture="resnet18", width=0.0625, stem="small"),
        hidden_size=8,
        embedding_size=6,
    )
    return ReLICv2(config, generator=torch.Generator().manual_seed(0)).double()


def make_views() -> tuple[Tensor, Tensor]:
    """Views of the global batch: large [2, G, 3, 16, 16], small [1, G, 3, 8, 8]."""
    return normal(2, GLOBAL_BATCH, 3, 16, 16, seed=1), normal(1, GLOBAL_BATCH, 3, 8, 8, seed=2)


def draw_negatives(size: int, kind: str) -> Tensor:
    """Draw positions of the global batch, [V, L, G, 2]; local: of the anchor's own rank only."""
    scores = np.random.default_rng(0).random((3, 2, GLOBAL_BATCH, GLOBAL_BATCH))
    rows = np.arange(GLOBAL_BATCH)
    scores += 10 * np.eye(GLOBAL_BATCH)
    if kind == "local":
        scores += 10 * (rows[:, None] % size != rows[None] % size)
    return torch.from_numpy(scores.argsort(-1)[..., :2])


def loss_config(form: str, negatives: str, stop: str) -> LossConfig:
    return LossConfig(kl_form=form, negatives=negatives, stop_gradient=stop)


def batchnorm_case(
    x: Tensor, weights: Tensor, module: nn.Module, device: str = "cpu"
) -> dict[str, Tensor]:
    """Run a module forward and backward on this rank's rows of x."""
    x, module = x.to(device, copy=True).requires_grad_(), module.to(device)
    output = module(x)
    (output * weights.to(device)).sum().backward()
    results = {
        "output": output.detach(),
        "to_input": x.grad,
        **{f"to_{name}": p.grad for name, p in module.named_parameters()},
        **dict(module.named_buffers()),
    }
    return {name: value.cpu() for name, value in results.items()}


def batchnorm_module(dims: int, channels: int) -> nn.Module:
    kind = nn.BatchNorm1d if dims == 2 else nn.BatchNorm2d
    module = nn.Sequential(kind(channels)).double()
    with torch.no_grad():
        module[0].weight.copy_(normal(channels, seed=5))
        module[0].bias.copy_(normal(channels, seed=6))
    return module


def batchnorm_input(dims: int) -> tuple[Tensor, Tensor]:
    shape = (GLOBAL_BATCH, 3) if dims == 2 else (GLOBAL_BATCH, 3, 4, 5)
    return 3 * normal(*shape, seed=3) + 2, normal(*shape, seed=4)


def synchronised_batchnorm(
    rank: int, size: int, device: str = "cpu"
) -> dict[int, dict[str, Tensor]]:
    return {
        dims: batchnorm_case(
            *(part[rank::size] for part in batchnorm_input(dims)),
            synchronise_batchnorm(batchnorm_module(dims, 3)),
            device,
        )
        for dims in (2, 4)
    }


def synchronised_batchnorm_on_cuda(rank: int, size: int) -> dict[int, dict[str, Tensor]]:
    """Both processes share one GPU, so over gloo."""
    return synchronised_batchnorm(rank, size, "cuda")


def uneven_batchnorm(rank: int, size: int) -> dict[str, Tensor]:
    """Rank 0 holds 4 of 6 rows."""
    rows = slice(0, 4) if rank == 0 else slice(4, 6)
    x, weights = batchnorm_input(4)
    return batchnorm_case(x[rows], weights[rows], synchronise_batchnorm(batchnorm_module(4, 3)))


def far_from_zero(rank: int, size: int) -> Tensor:
    """float32 with mean 10,000 and deviation 1, where sums of squares hold no variance."""
    x = normal(GLOBAL_BATCH, 2, 16, 16, seed=7, dtype=torch.float32) + 10_000
    return synchronise_batchnorm(nn.Sequential(nn.BatchNorm2d(2)))(x[rank::size]).detach()


def half_precision(rank: int, size: int) -> Tensor:
    x = normal(GLOBAL_BATCH, 2, 4, 4, seed=8).bfloat16()
    return synchronise_batchnorm(nn.Sequential(nn.BatchNorm2d(2)))(x[rank::size]).detach()


def gathered(rank: int, size: int) -> dict[str, Tensor]:
    rows = normal(2, GLOBAL_BATCH, 4, seed=9)[:, rank::size].clone().requires_grad_()
    together = all_gather_with_gradient(rows)
    ((rank + 1) * normal(2, GLOBAL_BATCH, 4, seed=10) * together.square()).sum().backward()
    return {"together": together.detach(), "gradient": rows.grad}


def broadcast(rank: int, size: int) -> dict[str, Tensor]:
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    module = module.to(memory_format=torch.channels_last)
    with torch.no_grad():
        for number, tensor in enumerate((*module.parameters(), *module.buffers())):
            steps = torch.arange(tensor.numel()).view(tensor.shape)
            tensor.copy_(steps + 100 * number + 1000 * rank)
    broadcast_parameters(module)
    return module.state_dict()


def step_gradients(rank: int, size: int) -> list[dict[str, Any]]:
    """One backward of each kind, on this rank's samples."""
    results = []
    for form, kind, subsampled, stop, together in STEPS:
        model = synchronise_batchnorm(make_model())
        large, small = (views[:, rank::size] for views in make_views())
        negatives = draw_negatives(size, kind)[:, :, rank::size] if subsampled else None
        if negatives is not None and kind == "local":
            negatives = negatives // size
        gradients = FlatGradients(model.online.parameters(), bucket_elements=1000)
        config = loss_config(form, kind, stop)
        terms = backward(
            model, large, small, negatives, config, gradients=gradients, together=together
        )
        results.append(
            {
                "total": terms.total,
                "averaged_total": gradients.loss,
                "gradients": {n: p.grad for n, p in model.online.named_parameters()},
                "buffers": dict(model.named_buffers()),
            }
        )
    return results


def trained(rank: int, size: int) -> dict[str, Tensor]:
    """Three steps in float32 that begin from other weights on each rank."""
    model = make_model().float()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(rank)
    model = synchronise_batchnorm(model)
    broadcast_parameters(model)
    optimizer = make_optimizer(model, OptimizerConfig(base_learning_rate=0.5))
    guard = Guard(model, remembered=3)
    large, small = (views[:, rank::size].float() for views in make_views())
    config = LossConfig(negatives="global")
    for step in range(3):
        guard.begin()
        backward(model, large, small, None, config, gradients=guard.gradients)
        guard.update(optimizer, step, 0.9)
    return copy.deepcopy(model.state_dict())


def value_of_rank_0(rank: int, size: int) -> tuple[Any, str]:
    """What rank 0 made, and what it could not: others would have made something else."""
    made = from_main(lambda: {"rank": rank, "tensor": torch.full((2,), 5 - rank)})
    try:
        from_main(lambda: open(f"/nowhere/{rank}").close())
    except ValueError as error:
        return made, str(error)
    return made, "no error"


def everything(rank: int, size: int) -> dict[str, Any]:
    cases = (
        synchronised_batchnorm,
        uneven_batchnorm,
        far_from_zero,
        half_precision,
        gathered,
        broadcast,
        step_gradients,
        trained,
        value_of_rank_0,
    )
    return {case.__name__: case(rank, size) for case in cases}
