"""What several processes do together: statistics, embeddings, weights.

Every function works on the default process group, over gloo and NCCL, and does nothing when there
is no group or one process alone. All ranks must call the same functions in the same order.
Gradients are averaged by model/reduction.py.

Shapes: B local batch, W processes, C channels, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# torch 2.13 deprecates the name that torch 2.11 has
_all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor

Module = TypeVar("Module", bound=nn.Module)
Value = TypeVar("Value")


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if world_size() > 1 else 0


def barrier() -> None:
    """Wait until all processes are here."""
    if world_size() > 1:
        dist.barrier()


def broadcast_parameters(module: nn.Module) -> None:
    """Give every process the parameters and buffers of rank 0."""
    if world_size() == 1:
        return
    for tensor in (*module.parameters(), *module.buffers()):
        value = tensor.detach().contiguous()  # of a channels-last weight this is a copy
        dist.broadcast(value, src=0)
        tensor.detach().copy_(value)


def from_main(make: Callable[[], Value]) -> Value:
    """Return, on every rank, what `make` returns on rank 0: something that can be pickled.

    Raises:
        ValueError: `make` raised it, or an OSError, on rank 0; on every rank alike.
    """
    if world_size() == 1:
        return make()
    made: list[Any] = [None, ""]
    if rank() == 0:
        try:
            made[0] = make()
        except (ValueError, OSError) as error:
            made[1] = str(error)
    dist.broadcast_object_list(made, src=0)
    value, refusal = made
    if refusal:
        raise ValueError(refusal)
    return value  # type: ignore[no-any-return]


def all_gather_with_gradient(rows: Tensor) -> Tensor:
    """Collect [..., B, D] from all processes as [..., W * B, D], in the order of samples.

    Row p comes from row p // W of rank p % W, since a rank holds ids[rank::W] of the global batch.
    The gradient of a row is the sum of what all processes' losses want of it; with gradients of
    parameters averaged over the processes, that is the gradient of the mean loss.
    """
    if world_size() == 1:
        return rows
    gathered = _AllGather.apply(rows)  # type: ignore[no-untyped-call]
    assert isinstance(gathered, Tensor)
    return gathered


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = _gathered(rows)
        return torch.stack(parts, dim=-2).flatten(-3, -2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        by_rank = total.view(*total.shape[:-2], -1, world_size(), total.shape[-1])
        return by_rank.select(-2, rank())


def _gathered(tensor: Tensor) -> list[Tensor]:
    """Return the tensors of all ranks; all have one shape."""
    tensor = tensor.contiguous()
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor)
    return parts


def synchronise_batchnorm(module: Module) -> Module:
    """Replace every BatchNorm inside by one whose statistics are those of all processes' batches.

    Parameters, buffers and their names stay; so does the module itself, which is returned.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, _synchronised(child))
        else:
            synchronise_batchnorm(child)
    return module


def _synchronised(norm: nn.modules.batchnorm._BatchNorm) -> SynchronisedBatchNorm:
    assert norm.affine
    assert norm.track_running_stats
    assert norm.momentum is not None
    other = SynchronisedBatchNorm(norm.num_features, norm.eps, norm.momentum)
    other.weight, other.bias = norm.weight, norm.bias
    for name, buffer in norm.named_buffers():
        other.register_buffer(name, buffer)
    return other.train(norm.training)


class SynchronisedBatchNorm(nn.SyncBatchNorm):
    """torch's SyncBatchNorm, made to work on the CPU as well, and on CUDA without waiting for it.

    torch's own looks for ranks with empty batches in each forward, for which the host waits; here
    no batch is empty.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
        if input.device.type != "cpu":
            output = _FusedBatchNorm.apply(  # type: ignore[no-untyped-call]
                *(input, self.weight, self.bias, self.running_mean, self.running_var),
                *(self.eps, self.momentum),
            )
            assert isinstance(output, Tensor)
            return output
        output, mean, variance, count = _BatchNorm.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, self.eps
        )
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        assert isinstance(output, Tensor)
        return output


class _FusedBatchNorm(torch.autograd.Function):
    """`_BatchNorm` by the kernels that torch has for CUDA devices; moves the running statistics."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        eps: float,
        momentum: float,
    ) -> Tensor:
        x = _as_kernels_take_it(x)
        mean, deviation = torch.batch_norm_stats(x, eps)  # in float32; deviation: its inverse
        count = torch.full((1,), x.numel() // x.shape[1], dtype=mean.dtype, device=mean.device)
        every = _gathered_rows(torch.cat([mean, deviation, count]))  # [W, 2 * C + 1]
        means, deviations, counts = every.split([len(mean), len(mean), 1], dim=1)
        counts = counts.reshape(-1)
        mean, deviation = torch.batch_norm_gather_stats_with_counts(
            x, means, deviations, running_mean, running_var, momentum, eps, counts
        )
        ctx.save_for_backward(x, weight, mean, deviation, counts.to(torch.int32))
        return torch.batch_norm_elemt(x, weight, bias, mean, deviation, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, deviation, counts = ctx.saved_tensors
        gradient = _as_kernels_take_it(gradient)
        shift, scale, to_weight, to_bias = torch.batch_norm_backward_reduce(
            gradient, x, mean, deviation, weight, True, True, True
        )
        # what moves the statistics is summed over all; weight and bias are averaged later
        sums = torch.cat([shift, scale])
        dist.all_reduce(sums)
        shift, scale = sums.chunk(2)
        to_x = torch.batch_norm_backward_elemt(
            gradient, x, mean, deviation, weight, shift, scale, counts
        )
        return to_x, to_weight, to_bias, None, None, None, None


def _as_kernels_take_it(x: Tensor) -> Tensor:
    if x.is_contiguous(memory_format=torch.channels_last):
        return x
    return x.contiguous()


def _gathered_rows(row: Tensor) -> Tensor:
    """Return the rows [n] of all ranks as [W, n]; over NCCL without a copy of each."""
    if dist.get_backend() == "gloo":
        return torch.stack(_gathered(row))
    rows = row.new_empty(world_size(), len(row))
    _all_gather_single(rows, row)
    return rows


class _BatchNorm(torch.autograd.Function):
    """Normalise [B, C, ...] by statistics over all processes; gradients flow through them."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        mean, variance, count = _statistics(_wide(x))
        deviation = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, deviation, count)
        ctx.mark_non_differentiable(mean, variance, count)
        normalised = (_wide(x) - _spread(mean, x)) * _spread(deviation, x)
        output = normalised * _spread(weight, x) + _spread(bias, x)
        return output.to(x.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, deviation, count = ctx.saved_tensors
        gradient = _wide(gradient)
        normalised = (_wide(x) - _spread(mean, x)) * _spread(deviation, x)
        to_bias = gradient.sum(_but_channels(x))
        to_weight = (gradient * normalised).sum(_but_channels(x))
        # what moves the statistics is summed over all; weight and bias are averaged later
        means = torch.stack([to_bias, to_weight])
        dist.all_reduce(means)
        shift, scale = means / count
        centred = gradient - _spread(shift, x) - normalised * _spread(scale, x)
        to_x = centred * _spread(weight * deviation, x)
        return to_x.to(x.dtype), to_weight, to_bias, None


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean [C], biased variance [C] and count [] over the batches of all processes.

    Each process sends its own mean and variance. Sums of squares would be less to write, but lose
    the variance of channels whose mean is large.
    """
    variance, mean = torch.var_mean(x, _but_channels(x), correction=0)
    count = torch.full_like(mean, x.numel() / x.shape[1])
    counts, means, variances = torch.stack(
        _gathered(torch.stack([count, mean, variance])), dim=1
    )  # [W, C] each
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    variance = (counts * (variances + (means - mean).square())).sum(0) / total
    return mean, variance, total[0]


def _but_channels(x: Tensor) -> list[int]:
    return [0, *range(2, x.ndim)]


def _spread(channels: Tensor, x: Tensor) -> Tensor:
    return channels.view(1, -1, *[1] * (x.ndim - 2))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
