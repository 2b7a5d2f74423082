"""The projector and the predictor: one hidden layer with BatchNorm, as in BYOL [SRC].

Linear(hidden, bias) -> BatchNorm -> ReLU -> Linear(out, no bias); sizes: docs/provenance.md.

Shapes: B batch, D_in inputs, D outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model.resnet import draw_weights


class Linear(nn.Linear):
    """A linear layer whose weights are drawn by `draw_weights`, not at construction."""

    def reset_parameters(self) -> None:
        """Draw nothing: `draw_weights` does, from a generator that it is given."""


class Head(nn.Module):
    """The multi-layer perceptron [B, D_in] -> [B, D]; `make_head` gives it its weights."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.hidden = Linear(inputs, hidden)
        self.bn = nn.BatchNorm1d(hidden, eps=1e-5, momentum=0.1)
        self.output = Linear(hidden, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.output(torch.relu(self.bn(self.hidden(x))))
        assert isinstance(x, Tensor)
        return x


def make_head(
    inputs: int, hidden: int, outputs: int, generator: torch.Generator | None = None
) -> Head:
    """Return a head with fresh weights, drawn on the CPU from `generator` (None: torch's own)."""
    head = Head(inputs, hidden, outputs)
    draw_weights(head, generator)
    return head
