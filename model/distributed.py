"""What several processes do together: statistics, embeddings, weights.

Every function works on the default process group, over gloo and NCCL, and does nothing when there
is no group or one process alone. All ranks must call the same functions in the same order.
Gradients are averaged by model/reduction.py.

Shapes: B local batch, W processes, C channels, D embedding, P parts of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
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


def keeps_parts_apart(module: nn.Module) -> bool:
    """Whether `statistics_by_part` works: for SynchronisedBatchNorm among several processes."""
    return world_size() > 1 and any(
        isinstance(part, SynchronisedBatchNorm) for part in module.modules()
    )


@contextmanager
def statistics_by_part(module: nn.Module, parts: int) -> Iterator[None]:
    """Let a forward of `parts` equal batches, one behind the other, normalise each by itself.

    So views go through a network together and keep their own statistics, and the processes
    exchange those of all views at once.
    """
    assert keeps_parts_apart(module)
    norms = [norm for norm in module.modules() if isinstance(norm, SynchronisedBatchNorm)]
    for norm in norms:
        norm.parts = parts
    try:
        yield
    finally:
        for norm in norms:
            norm.parts = 1


class SynchronisedBatchNorm(nn.SyncBatchNorm):
    """torch's SyncBatchNorm, made to work on the CPU as well, and on CUDA without waiting for it.

    torch's own looks for ranks with empty batches in each forward, for which the host waits; here
    no batch is empty. The running statistics move once for each part, in their order.
    """

    parts = 1  # see `statistics_by_part`

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        with torch.no_grad():
            self.num_batches_tracked += self.parts
        if input.device.type != "cpu":
            output = _FusedBatchNorm.apply(  # type: ignore[no-untyped-call]
                *(input, self.weight, self.bias, self.running_mean, self.running_var),
                *(self.eps, self.momentum, self.parts),
            )
            assert isinstance(output, Tensor)
            return output
        output, means, variances, count = _BatchNorm.apply(  # type: ignore[no-untyped-call]
            input, self.weight, self.bias, self.eps, self.parts
        )
        with torch.no_grad():
            for mean, variance in zip(means, variances * (count / (count - 1)), strict=True):
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.lerp_(variance, self.momentum)
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
        num_parts: int,
    ) -> Tensor:
        x = _as_kernels_take_it(x)
        parts, channels = x.chunk(num_parts), x.shape[1]
        own = [torch.cat(torch.batch_norm_stats(part, eps)) for part in parts]  # in float32
        count = own[0].new_full((1,), parts[0].numel() // channels)
        every = _gathered_rows(torch.cat([count, *own]))  # [W, 1 + P * 2 * C]
        counts, *rows = every.split([1] + [channels] * (2 * num_parts), dim=1)
        counts = counts.reshape(-1)
        output, saved = torch.empty_like(x), []
        for number, (part, room) in enumerate(zip(parts, output.chunk(num_parts), strict=True)):
            mean, deviation = torch.batch_norm_gather_stats_with_counts(
                *(part, rows[2 * number], rows[2 * number + 1], running_mean, running_var),
                *(momentum, eps, counts),
            )  # deviation: its inverse
            torch.batch_norm_elemt(part, weight, bias, mean, deviation, eps, out=room)
            saved += [mean, deviation]
        ctx.save_for_backward(x, weight, counts.to(torch.int32), *saved)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, counts, *saved = ctx.saved_tensors
        means, deviations = saved[::2], saved[1::2]
        gradients = _as_kernels_take_it(gradient).chunk(len(means))
        parts = x.chunk(len(means))
        shifts, scales, to_weights, to_biases = zip(
            *(
                torch.batch_norm_backward_reduce(*each, weight, True, True, True)
                for each in zip(gradients, parts, means, deviations, strict=True)
            ),
            strict=True,
        )
        # what moves the statistics is summed over all; weight and bias are averaged later
        sums = torch.stack([*shifts, *scales])
        dist.all_reduce(sums)
        to_x = [
            torch.batch_norm_backward_elemt(g, part, mean, deviation, weight, shift, scale, counts)
            for g, part, mean, deviation, shift, scale in zip(
                gradients, parts, means, deviations, *sums.chunk(2), strict=True
            )
        ]
        return _joined(to_x), sum(to_weights), sum(to_biases), None, None, None, None, None


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
    """The same on the CPU, by the kernels that torch has for one process.

    Returns the output and, of each part, mean [P, C] and biased variance [P, C] over all processes,
    with their count [].
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, num_parts: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        parts = _wide(x).chunk(num_parts)
        means, variances, count = _statistics(parts)
        normalised = [
            F.batch_norm(part, mean, variance, weight, bias, eps=eps)
            for part, mean, variance in zip(parts, means, variances, strict=True)
        ]
        ctx.save_for_backward(x, weight, means, variances, count)
        ctx.mark_non_differentiable(means, variances, count)
        ctx.eps = eps
        return _joined(normalised).to(x.dtype), means, variances, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, means, variances, count = ctx.saved_tensors
        parts = _wide(x).chunk(len(means))
        gradients = _wide(gradient).chunk(len(means))
        # With statistics held constant: weight * deviation * gradient, and the two sums.
        constant, to_weights, to_biases = zip(
            *(
                torch.ops.aten.native_batch_norm_backward(
                    *(g, part, weight, mean, variance, None, None, False, ctx.eps),
                    [True, True, True],
                )
                for g, part, mean, variance in zip(gradients, parts, means, variances, strict=True)
            ),
            strict=True,
        )
        # what moves the statistics is summed over all; weight and bias are averaged later
        sums = torch.stack([torch.stack(to_biases), torch.stack(to_weights)])  # [2, P, C]
        to_weight, to_bias = sums[1].sum(0), sums[0].sum(0)
        dist.all_reduce(sums)
        shifts, scales = sums / count
        deviations = (variances + ctx.eps).rsqrt()
        # weight * deviation * (gradient - shift - (x - mean) * deviation * scale)
        slopes = -weight * deviations.square() * scales
        offsets = -weight * deviations * shifts - slopes * means
        to_x = [
            part_to_x.add_(_spread(offset, x)).addcmul_(part, _spread(slope, x))
            for part_to_x, part, offset, slope in zip(constant, parts, offsets, slopes, strict=True)
        ]
        return _joined(to_x).to(x.dtype), to_weight, to_bias, None, None


def _statistics(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean [P, C], biased variance [P, C] and count [] over the batches of all processes.

    Each process sends its own mean and variance. Sums of squares would be less to write, but lose
    the variance of channels whose mean is large.
    """
    own = [torch.stack(torch.batch_norm_update_stats(part, None, None, 0.0)) for part in parts]
    together = torch.stack(own, dim=1)  # [2, P, C]
    count = torch.full_like(together[:1], parts[0].numel() / parts[0].shape[1])
    counts, means, variances = torch.stack(
        _gathered(torch.cat([count, together])), dim=1
    )  # [W, P, C] each
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    variance = (counts * (variances + (means - mean).square())).sum(0) / total
    return mean, variance, total[0, 0]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _spread(channels: Tensor, x: Tensor) -> Tensor:
    """Lay [C] beside [B, C, ...]."""
    return channels.view(1, -1, *[1] * (x.ndim - 2))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
