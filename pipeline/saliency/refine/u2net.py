"""The student: a small U2-Net behind a stem that halves the resolution.

U2-Net (Qin et al., 2020) is a U of blocks that are small Us themselves ("RSU"), with a map from
each level ("deep supervision") and one from all of them. This one has the narrow channels of its
small version, and a stem of stride 2, so that it costs a quarter at the same input; its maps have
half the input's side. Behind the stem it is told the cues of cues.py.

Shapes: B pictures, s sides of the input (a multiple of 64), h = s / 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.saliency.refine.cues import NUM_CUES, student_cues
from pipeline.saliency.refine.network import normalised

SIDE_STEP = 64  # of inputs: the stem halves, the levels pool five times
LEAST_SIDE = 128  # so that the last level has more than one pixel
_DEPTHS = (5, 4, 3, 2)  # poolings inside a block, of the levels that pool; then two dilated ones


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentNetworkConfig:
    """Size of the student. `inner`: U2-Net's small version [SRC]; half its channels, side: [OURS].

    Raises:
        ValueError: a value out of range.
    """

    side: int = 256  # pixels of the input, both sides
    channels: int = 32  # between blocks
    inner: int = 16  # inside blocks

    def __post_init__(self) -> None:
        if self.side < LEAST_SIDE or self.side % SIDE_STEP:
            raise ValueError(
                f"student.network.side must be a multiple of {SIDE_STEP} pixels from {LEAST_SIDE} "
                f"on, got {self.side}"
            )
        if self.channels < 1 or self.inner < 1:
            raise ValueError(
                f"student.network needs channels, got {self.channels} and {self.inner} inside"
            )


class Student(nn.Module):
    """The network. Seven maps come out: that of all levels together first, then each level's."""

    def __init__(self, config: StudentNetworkConfig) -> None:
        super().__init__()
        self.config = config
        width, inner = config.channels, config.inner
        self.stem = Unit(3, inner, stride=2)
        self.down = nn.ModuleList(
            _Block(inner + NUM_CUES if level == 0 else width, inner, width, depth)
            for level, depth in enumerate((*_DEPTHS, 0, 0))
        )
        self.up = nn.ModuleList(_Block(2 * width, inner, width, depth) for depth in (*_DEPTHS, 0))
        self.sides = nn.ModuleList(nn.Conv2d(width, 1, 3, padding=1) for _ in range(6))
        self.all_sides = nn.Conv2d(6, 1, 1)

    def cues(self, pictures: Tensor) -> Tensor:
        """Return what it is told of uint8 pictures [B, s, s, 3]: float32 [B, NUM_CUES, h, h]."""
        return _told(normalised(pictures))

    def forward(self, pictures: Tensor, cues: Tensor | None = None) -> list[Tensor]:
        """Return seven maps of logits [B, h, h] of uint8 pictures [B, s, s, 3].

        Args:
            pictures: what is seen.
            cues: of these pictures, where they are known already.
        """
        pixels = normalised(pictures)
        x = self.stem(pixels)
        size = x.shape[2:]
        told = _told(pixels) if cues is None else cues
        x = torch.cat([x, told.to(x.dtype)], dim=1)
        levels: list[Tensor] = []
        for block in self.down:
            x = block(x if not levels else F.max_pool2d(x, 2, ceil_mode=True))
            levels.append(x)
        outputs = [levels[-1]]
        for block, skip in zip(reversed(self.up), reversed(levels[:-1]), strict=True):
            x = block(torch.cat([_to(x, skip.shape[2:]), skip], dim=1))
            outputs.append(x)
        maps = [_to(side(x), size) for side, x in zip(self.sides, reversed(outputs), strict=True)]
        together = self.all_sides(torch.cat(maps, dim=1))
        return [logits[:, 0].float() for logits in (together, *maps)]


class _Block(nn.Module):
    """A small U with a shortcut around it; depth 0: no pooling, dilations of 1, 2, 4, 8 instead."""

    def __init__(self, inputs: int, inner: int, outputs: int, depth: int) -> None:
        super().__init__()
        self.enter = Unit(inputs, outputs)
        self.pools = depth > 0
        dilations = [1] * (depth + 1) + [2] if self.pools else [1, 2, 4, 8]
        channels = [outputs] + [inner] * (len(dilations) - 1)
        self.down = nn.ModuleList(
            Unit(c, inner, dilation=d) for c, d in zip(channels, dilations, strict=True)
        )
        back = dilations[:-1]
        self.up = nn.ModuleList(
            Unit(2 * inner, outputs if i == 0 else inner, dilation=d) for i, d in enumerate(back)
        )

    def forward(self, x: Tensor) -> Tensor:
        entered: Tensor = self.enter(x)
        x, levels = entered, []
        last = len(self.down) - 1
        for i, unit in enumerate(self.down):
            pool = self.pools and 0 < i < last
            x = unit(F.max_pool2d(x, 2, ceil_mode=True) if pool else x)
            levels.append(x)
        x = levels.pop()
        for unit in reversed(self.up):
            skip = levels.pop()
            x = unit(torch.cat([_to(x, skip.shape[2:]), skip], dim=1))
        return x + entered


class Unit(nn.Sequential):
    """3x3 convolution, BatchNorm, ReLU."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, dilation: int = 1) -> None:
        conv = nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _told(pixels: Tensor) -> Tensor:
    return student_cues(F.avg_pool2d(pixels, 2, ceil_mode=True))


def _to(x: Tensor, size: torch.Size) -> Tensor:
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, tuple(size), mode="bilinear")
