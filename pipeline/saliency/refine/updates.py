"""One update of a network: the gradient of a whole effective batch, a part of it at a time.

(DeepUSPS's code means to do the same, and never accumulates: its number of parts is
min(1, 20 // batch) where max was meant.)

Shapes: N photos, E of an effective batch, B of a part of it, s sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.batch import Bytes, Floats, Ids

LossOf = Callable[[Tensor, Ids], Tensor]  # predictions [B, s, s] of photos ids [B] -> a mean


def update(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    pixels: Bytes,
    ids: Ids,
    part_size: int,
    loss_of: LossOf,
) -> Floats:
    """Make one update from photos `ids` [E]; return their predictions before it, [E, s, s].

    Args:
        network: in training mode; BatchNorm takes the statistics of each part.
        pixels: uint8 [N, s, s, 3].

    Raises:
        ValueError: the loss is not a finite number.
    """
    device = next(network.parameters()).device
    optimizer.zero_grad(set_to_none=True)
    predictions = []
    for part in split(ids, part_size):
        pictures = torch.from_numpy(pixels[part]).to(device)
        with half_precision(device):
            prediction = network(pictures)
        loss = loss_of(prediction, part)
        if not torch.isfinite(loss):
            raise ValueError(
                f"the loss became {loss.item()}: lower the learning rate of this stage"
            )
        (loss * (len(part) / len(ids))).backward()
        predictions.append(prediction.detach().cpu().numpy())
    optimizer.step()
    return np.concatenate(predictions)


def split(ids: Ids, size: int) -> Iterator[Ids]:
    """Yield the ids in order, `size` at a time; the last part may be smaller."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]


def set_learning_rate(
    optimizer: torch.optim.Optimizer, base: float, epoch: int, epochs: int, power: float
) -> None:
    """Set base * (1 - epoch / epochs) ** power for an epoch counted from 0."""
    for group in optimizer.param_groups:
        group["lr"] = base * (1 - epoch / epochs) ** power


def to_device(network: nn.Module, device: torch.device) -> None:
    """Move a network to a device, its weights channels last: fast on CPUs and in bfloat16."""
    network.to(device)
    for parameter in network.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


def half_precision(device: torch.device) -> AbstractContextManager[None]:
    """bfloat16 autocast on a GPU, where it is fast; nothing on a CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")
