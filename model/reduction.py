"""Gradients in a few flat tensors: zeroed, averaged over the processes and looked through as such.

The gradient of each parameter is a view into one of the flat tensors, with the parameter's own
strides, so that a backward pass adds to it in place and nothing is ever packed. The tensors hold
the parameters in reverse, about the order in which a backward pass completes them.

Averaging runs beside the backward pass that completes the gradients, the last one of a step: as
soon as every gradient of a flat tensor has arrived, its sum over the processes is started. The
tensors are started in one fixed order, whatever the order of arrival. The backward pass sends data
of its own (SynchronisedBatchNorm, gathered embeddings). Over NCCL the sums have a process group of
their own, or they would wait behind those messages; over gloo they share one. The order of all
calls is that of the nodes of the graph, which autograd takes from the order in which the forward
made them, and so the same on every rank, since all run the same code on batches of one shape. On
CUDA the sum waits, on the device, for the stream that the gradients were added on, which is that of
the forward; and the stream of whoever leaves `averaging` waits for the sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from model.distributed import world_size

# 32 MB of float32: a transfer long enough to hide its latency, a small share of ResNet-50's 140 MB.
_BUCKET_ELEMENTS = 2**23
_ALIGNMENT = 64  # elements: a gradient begins where one with memory of its own could


class FlatGradients:
    """The gradients of parameters, and the loss that they belong to.

    Parameters that take no gradient are left out. A parameter that no backward pass has reached
    has a gradient of zeros, not None.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        bucket_elements: int = _BUCKET_ELEMENTS,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        """Take over `parameters`: their gradients become zeros. `group`: of the averaging."""
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        assert trained, "nothing takes a gradient"
        self._buckets = [_Bucket.of(group) for group in _groups(trained[::-1], bucket_elements)]
        self._group = group
        # Behind the last gradient, so that it travels with them.
        self.loss = self._buckets[-1].flat[-1]
        self.zero()

    @property
    def bytes_sent(self) -> tuple[int, ...]:
        """Bytes of each sum over the processes, in the order in which they start."""
        return tuple(bucket.flat.nbytes for bucket in self._buckets)

    def zero(self) -> None:
        """Begin a step: gradients and loss are 0."""
        for bucket in self._buckets:
            bucket.flat.zero_()
            for parameter, gradient in zip(bucket.parameters, bucket.gradients, strict=True):
                parameter.grad = gradient  # somebody's zero_grad() may have taken it off

    @contextmanager
    def averaging(self) -> Iterator[None]:
        """Replace gradients and loss by their means over the processes.

        Wraps the backward pass that completes them: the sums run beside it. With one process
        nothing is hooked up and nothing sent.
        """
        size = world_size()
        if size == 1:
            yield
            return
        sums = _Sums(self._buckets, self._group)
        hooks = [
            parameter.register_post_accumulate_grad_hook(sums.arrival(number))
            for number, bucket in enumerate(self._buckets)
            for parameter in bucket.parameters
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        sums.finish()
        for bucket in self._buckets:
            bucket.flat.div_(size)

    def found_inf(self) -> Tensor:
        """Return 1 if the loss or a gradient is not finite, else 0: float32 [], on the device.

        After `averaging` it is the same on every rank: what is not finite on one makes the sum so.
        """
        # Minimum and maximum are no numbers if one element is none. On a CPU they are found ten
        # times as fast as a largest magnitude, and 25 times as isfinite().all().
        finite = [
            torch.stack(torch.aminmax(bucket.flat)).isfinite().all() for bucket in self._buckets
        ]
        return torch.stack(finite).all().logical_not().float()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Bucket:
    """One flat tensor, and who has a part of it; its last element is nobody's."""

    flat: Tensor  # [elements]
    parameters: list[nn.Parameter]
    gradients: list[Tensor]  # views of flat, as the parameters are laid out

    @classmethod
    def of(cls, parameters: list[nn.Parameter]) -> _Bucket:
        starts = [0]
        for parameter in parameters:
            starts.append(starts[-1] + _aligned(parameter.numel()))
        flat = parameters[0].new_zeros(starts[-1] + 1, requires_grad=False)
        gradients = [
            flat.as_strided(parameter.size(), _dense_strides(parameter), start)
            for parameter, start in zip(parameters, starts[:-1], strict=True)
        ]
        return cls(flat=flat, parameters=parameters, gradients=gradients)


class _Sums:
    """The sums over the processes in one backward pass."""

    def __init__(self, buckets: list[_Bucket], group: dist.ProcessGroup | None) -> None:
        self._buckets, self._group = buckets, group
        self._missing = [len(bucket.parameters) for bucket in buckets]
        self._started: list[dist.Work] = []

    def arrival(self, number: int) -> Callable[[Tensor], None]:
        """Return the hook of a parameter of this bucket."""

        def arrived(_: Tensor) -> None:
            self._missing[number] -= 1
            while len(self._started) < len(self._buckets) and not self._missing[self._next]:
                self._start()

        return arrived

    def finish(self) -> None:
        """Start what is left, parameters without a gradient being in it, and wait for all."""
        while len(self._started) < len(self._buckets):
            self._start()
        for work in self._started:
            work.wait()  # NCCL: the stream waits, not the host

    @property
    def _next(self) -> int:
        return len(self._started)

    def _start(self) -> None:
        flat = self._buckets[self._next].flat
        work = dist.all_reduce(flat, group=self._group, async_op=True)
        assert work is not None
        self._started.append(work)


def _groups(parameters: list[nn.Parameter], bucket_elements: int) -> list[list[nn.Parameter]]:
    """Neighbours of one type, until a bucket is full."""
    groups: list[list[nn.Parameter]] = []
    elements = 0
    for parameter in parameters:
        if not groups or elements >= bucket_elements or groups[-1][0].dtype != parameter.dtype:
            groups.append([])
            elements = 0
        groups[-1].append(parameter)
        elements += parameter.numel()
    return groups


def _aligned(elements: int) -> int:
    return -(-elements // _ALIGNMENT) * _ALIGNMENT


def _dense_strides(parameter: nn.Parameter) -> tuple[int, ...]:
    """The parameter's strides, under which its elements fill their memory without a gap."""
    strides = torch.empty_like(parameter, device="meta").stride()
    assert strides == parameter.stride(), f"a parameter with gaps: {parameter.stride()}"
    return strides
