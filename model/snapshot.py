"""A copy of a training state in the host's memory, which training may go on beside.

The memory is kept from one copy to the next. Of tensors on a GPU it is pinned and filled by the
GPU itself, in the order of the current stream: behind the update that was queued last, before the
next one. So the copy is of one step, and the host waits for none of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A state whose tensors are copies on the CPU, whole once `wait` has returned.

    It is lent: the next `HostCopy.take` of the same memory overwrites it.
    """

    state: dict[str, Any]
    copied: torch.cuda.Event | None  # None: nothing came from a GPU

    def wait(self) -> None:
        """Wait, in whatever thread, until all copies are there."""
        if self.copied is not None:
            with torch.cuda.device(self.copied.device):  # a new thread would open one on GPU 0
                self.copied.synchronize()


class HostCopy:
    """Memory for the copy of one state; it grows with the first `take` and then stays."""

    def __init__(self) -> None:
        self._places: dict[str, Tensor] = {}

    def take(self, state: dict[str, Any]) -> Snapshot:
        """Copy a state of nested mappings, lists, tensors and plain values.

        What torch.save writes of the copy is, byte for byte, what it writes of tensors on the CPU
        that share no storage. Nobody may still read the snapshot taken before.
        """
        devices: set[torch.device] = set()
        copy = self._copy(state, "", devices)
        assert isinstance(copy, dict)
        copied = None
        for device in devices:
            assert copied is None, "a state lies on one GPU"
            copied = torch.cuda.Event(blocking=True)  # whoever waits for it sleeps
            copied.record(torch.cuda.current_stream(device))
        return Snapshot(state=copy, copied=copied)

    def _copy(self, value: Any, path: str, devices: set[torch.device]) -> Any:
        if isinstance(value, Tensor):
            if value.is_cuda:
                devices.add(value.device)
            return self._place(path, value).copy_(value.detach(), non_blocking=True)
        if isinstance(value, (list, tuple)):
            inner = [self._copy(v, f"{path}/{i}", devices) for i, v in enumerate(value)]
            unchanged = all(new is old for new, old in zip(inner, value, strict=True))
            # the same tuple in two places is written once by pickle, and so it stays
            return value if unchanged and isinstance(value, tuple) else type(value)(inner)
        if isinstance(value, dict):
            items = {k: self._copy(v, f"{path}/{k}", devices) for k, v in value.items()}
            if not isinstance(value, OrderedDict):
                return items
            ordered = OrderedDict(items)
            vars(ordered).update(vars(value))  # of modules: `_metadata`, their layers' versions
            return ordered
        return value

    def _place(self, path: str, tensor: Tensor) -> Tensor:
        """Return the memory for a tensor: of its type, shape and order of dimensions."""
        place = self._places.get(path)
        if place is None or (place.dtype, place.shape) != (tensor.dtype, tensor.shape):
            place = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._places[path] = place
        return place


def first_not_finite(state: Any, path: str = "") -> str:
    """Return the dotted name of the first tensor with an inf or nan in a state, "" if none has."""
    for name, tensor in _tensors(state, path):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            return name
    return ""


def _tensors(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from _tensors(inner, f"{path}.{number}")
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _tensors(inner, f"{path}.{key}" if path else str(key))
