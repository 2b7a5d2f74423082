"""A ResNet that keeps an eighth of the resolution: strides of its last two groups become dilations.

So a dense map of features comes out, as of the DRN that DeepUSPS uses (Yu, Koltun, Funkhouser:
Dilated Residual Networks, 2017; without its extra layers against gridding). Parameters are named
as in torchvision, and as in the encoders that this project exports.

Shapes: B pictures, H/W sides, F features.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

ARCHITECTURES = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}
OUTPUT_STRIDE = 8
_BASIC = ("resnet18", "resnet34")
_STRIDE_AND_DILATION = ((1, 1), (2, 1), (1, 2), (1, 4))  # of each group of blocks


class DilatedResNet(nn.Module):
    """The trunk, without pooling and classifier; `feature_dim` is the F of its output."""

    def __init__(self, architecture: str, width: float) -> None:
        super().__init__()
        channels = int(64 * width)
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        kind: type[_Basic | _Bottleneck] = _Basic if architecture in _BASIC else _Bottleneck
        inputs = channels
        for index, count in enumerate(ARCHITECTURES[architecture]):
            inner = channels * 2**index
            group = nn.Sequential()
            for number in range(count):
                stride, dilation = _STRIDE_AND_DILATION[index]
                if number > 0:
                    stride = 1
                group.append(kind(inputs, inner, stride, dilation))
                inputs = inner * kind.expansion
            self.add_module(f"layer{index + 1}", group)
        self.feature_dim = inputs

    def forward(self, pictures: Tensor) -> Tensor:
        """Return features [B, F, ceil(H / 8), ceil(W / 8)] of normalised pictures [B, 3, H, W]."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(pictures))), 3, 2, 1)
        for index in range(4):
            x = self.get_submodule(f"layer{index + 1}")(x)
        return x


class _Basic(nn.Module):
    """3x3, 3x3, plus the shortcut."""

    expansion = 1

    def __init__(self, inputs: int, inner: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.downsample = _shortcut(inputs, inner, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 to four times the channels, plus the shortcut."""

    expansion = 4

    def __init__(self, inputs: int, inner: int, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = inner * self.expansion
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
