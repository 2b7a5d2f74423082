"""ResNet encoders: version 1 (post-activation), stride on the 3x3, every channel widened alike.

A normalised view [B, 3, H, W] becomes mean-pooled features [B, F]. Parameters are named as in
torchvision, so weights travel both ways; `padding="same"` pads as TensorFlow does, which the
weights released by the authors need. Architecture: official code, utils/networks.py [SRC], but for
ResNet-18 and -34, which are torchvision's.

Shapes: B batch, H/W sides of a view, F features (512 or 2048, times the width).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.choices import require_one_of

_BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
    "resnet200": (3, 24, 36, 3),
}
_BASIC = ("resnet18", "resnet34")


@dataclass(frozen=True, kw_only=True, slots=True)
class ResNetConfig:
    """Which encoder. Sources of the defaults: docs/provenance.md.

    Raises:
        ValueError: an unknown name, or a width that makes no whole number of channels.
    """

    CHOICES: ClassVar = {
        "architecture": tuple(_BLOCKS),
        "stem": ("imagenet", "small"),
        "padding": ("symmetric", "same"),
    }

    architecture: str = "resnet50"  # which ResNet [paper]
    # multiplies all channels, the stem's and the inner ones of a bottleneck too [authors]
    width: float = 1.0
    # imagenet: 7x7 stride 2, max pool; small: 3x3 stride 1, for small views [authors; small: ours]
    stem: str = "imagenet"
    # symmetric: as torchvision; same: as TensorFlow, which the authors' weights need [ours]
    padding: str = "symmetric"
    zero_init_last_bn: bool = False  # start every block as its shortcut alone [BYOL]

    def __post_init__(self) -> None:
        for name, choices in self.CHOICES.items():
            require_one_of(name, getattr(self, name), choices)
        if not 0 < self.width <= 64 or not (64 * self.width).is_integer():
            raise ValueError(
                "width must be a multiple of 1/64 in (0, 64], so that 64 * width channels are a "
                f"whole number; got {self.width}"
            )

    @property
    def channels(self) -> int:
        """Channels of the stem, and inner channels of the first group of blocks."""
        return int(64 * self.width)

    @property
    def expansion(self) -> int:
        return 1 if self.architecture in _BASIC else 4

    @property
    def feature_dim(self) -> int:
        return 8 * self.channels * self.expansion


def make_encoder(config: ResNetConfig, generator: torch.Generator | None = None) -> ResNet:
    """Return a ResNet with fresh weights, drawn on the CPU from `generator` (None: torch's own)."""
    encoder = ResNet(config)
    draw_weights(encoder, generator)
    if config.zero_init_last_bn:
        for block in encoder.modules():
            if isinstance(block, BasicBlock | Bottleneck):
                last = block.bn3 if isinstance(block, Bottleneck) else block.bn2
                nn.init.zeros_(last.weight)
    return encoder


def draw_weights(module: nn.Module, generator: torch.Generator | None) -> None:
    """Draw weights as haiku does by default: truncated normal, sigma = 1 / sqrt(fan in) [SRC].

    Cut at two sigma without making up for the lost variance. Biases are 0.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            sigma = 1 / math.sqrt(part.weight[0].numel())
            nn.init.trunc_normal_(
                part.weight, std=sigma, a=-2 * sigma, b=2 * sigma, generator=generator
            )
            if part.bias is not None:
                nn.init.zeros_(part.bias)


class ResNet(nn.Module):
    """The encoder without weights of its own: `make_encoder` draws them, `load_encoder` reads them.

    `feature_dim` is the F of its output.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.feature_dim = config.feature_dim
        small, same = config.stem == "small", config.padding == "same"
        kernel, stride = (3, 1) if small else (7, 2)
        self.conv1 = Conv(3, config.channels, kernel, stride, same=same)
        self.bn1 = batch_norm(config.channels)
        self.maxpool = nn.Identity() if small else MaxPool(same=same)
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            _group(config, index) for index in range(4)
        )

    def forward(self, views: Tensor) -> Tensor:
        """Return the features [B, F] of views [B, 3, H, W]."""
        return self.feature_map(views).mean(dim=(2, 3))

    def feature_map(self, views: Tensor) -> Tensor:
        """Return the last feature map [B, F, h, w], before pooling."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(views))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        assert isinstance(x, Tensor)
        return x


def _group(config: ResNetConfig, index: int) -> nn.Sequential:
    """Make the blocks of one resolution; the first one strides, except in the first group."""
    kind = BasicBlock if config.expansion == 1 else Bottleneck
    inner, same = config.channels * 2**index, config.padding == "same"
    outputs = inner * config.expansion
    inputs = config.channels if index == 0 else outputs // 2
    first = kind(inputs, inner, 1 if index == 0 else 2, same=same)
    others = [
        kind(outputs, inner, 1, same=same) for _ in range(_BLOCKS[config.architecture][index] - 1)
    ]
    return nn.Sequential(first, *others)


class BasicBlock(nn.Module):
    """3x3, 3x3, plus the shortcut: ResNet-18 and -34 as in torchvision.

    The authors' code has a projection in the first block of the first group too; here, as in the
    ResNet paper and in torchvision, that shortcut is the identity.
    """

    def __init__(self, inputs: int, inner: int, stride: int, *, same: bool) -> None:
        super().__init__()
        self.conv1 = Conv(inputs, inner, 3, stride, same=same)
        self.bn1 = batch_norm(inner)
        self.conv2 = Conv(inner, inner, 3, 1, same=same)
        self.bn2 = batch_norm(inner)
        self.downsample = _shortcut(inputs, inner, stride)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        return F.relu(branch + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 with the stride, 1x1 to four times the channels, plus the shortcut."""

    def __init__(self, inputs: int, inner: int, stride: int, *, same: bool) -> None:
        super().__init__()
        self.conv1 = Conv(inputs, inner, 1, 1, same=same)
        self.bn1 = batch_norm(inner)
        self.conv2 = Conv(inner, inner, 3, stride, same=same)
        self.bn2 = batch_norm(inner)
        self.conv3 = Conv(inner, 4 * inner, 1, 1, same=same)
        self.bn3 = batch_norm(4 * inner)
        self.downsample = _shortcut(inputs, 4 * inner, stride)

    def forward(self, x: Tensor) -> Tensor:
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = F.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        return F.relu(branch + self.downsample(x))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The input itself, or projected where the shape changes."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    # a 1x1 kernel needs no padding under either rule
    return nn.Sequential(Conv(inputs, outputs, 1, stride, same=False), batch_norm(outputs))


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm of BYOL and ReLICv2: eps 1e-5, statistics decay by 0.9 [SRC]."""
    return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1)


class Conv(nn.Conv2d):
    """A convolution without bias, padded on both sides alike or as TensorFlow's SAME."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, *, same: bool) -> None:
        padding = 0 if same else kernel // 2
        super().__init__(inputs, outputs, kernel, stride, padding, bias=False)
        self.same = same

    def reset_parameters(self) -> None:
        """Draw nothing: `draw_weights` does, from a generator that it is given."""

    def forward(self, x: Tensor) -> Tensor:
        if self.same:
            x = pad_same(x, self.kernel_size[0], self.stride[0], value=0.0)
        return super().forward(x)


class MaxPool(nn.Module):
    """3x3 maximum with stride 2."""

    def __init__(self, *, same: bool) -> None:
        super().__init__()
        self.same = same

    def forward(self, x: Tensor) -> Tensor:
        if self.same:
            x = pad_same(x, 3, 2, value=-math.inf)
        return F.max_pool2d(x, 3, 2, padding=0 if self.same else 1)


def pad_same(x: Tensor, kernel: int, stride: int, *, value: float) -> Tensor:
    """Pad [B, C, H, W] so that stride divides it out evenly; an odd pixel goes below and right.

    TensorFlow's rule: ceil(size / stride) outputs, so at stride 2 an even size gets
    (kernel - 2) // 2 before and the rest after, where torchvision pads both sides alike.
    """
    (top, bottom), (left, right) = (
        _same_padding(size, kernel, stride) for size in (x.shape[-2], x.shape[-1])
    )
    return F.pad(x, (left, right, top, bottom), value=value)


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
