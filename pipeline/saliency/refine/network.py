"""The network of both phases: a dilated ResNet, a 1x1 convolution to two classes, upsampling.

Shapes: B pictures, H/W sides, multiples of 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.saliency.refine.resnet import ARCHITECTURES, OUTPUT_STRIDE, DilatedResNet

# of ImageNet's pictures, as this project's encoders are trained with; statistics, not labels
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """DeepUSPS has a DRN-D-105 and an input of 432 [SRC]; this is the nearest of our own encoders.

    With an encoder given, architecture and width are the encoder's.

    Raises:
        ValueError: an unknown architecture, or a value out of range.
    """

    architecture: str = "resnet50"
    width: float = 1.0  # multiplies all channels
    size: int = 432  # pixels, both sides of the input

    def __post_init__(self) -> None:
        if self.architecture not in ARCHITECTURES:
            raise ValueError(
                f"unknown network.architecture {self.architecture!r}; choose one of "
                f"{', '.join(ARCHITECTURES)}"
            )
        if not 0 < self.width <= 4 or not (64 * self.width).is_integer():
            raise ValueError(f"network.width must be n / 64 in (0, 4], got {self.width}")
        if self.size < OUTPUT_STRIDE or self.size % OUTPUT_STRIDE:
            raise ValueError(
                f"network.size must be a multiple of {OUTPUT_STRIDE} pixels, got {self.size}"
            )


class SaliencyNetwork(nn.Module):
    """Tells salient pixels from others. Class 0 is salient, as in DeepUSPS."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.trunk = DilatedResNet(config.architecture, config.width)
        self.head = nn.Conv2d(self.trunk.feature_dim, 2, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the probability of salient, float32 [B, H, W], of uint8 pictures [B, H, W, 3].

        It is the softmax over the two classes, upsampled bilinearly before.
        """
        scores = self.head(self.trunk(normalised(pictures)))
        lean = (scores[:, :1] - scores[:, 1:]).float()  # softmax of two = sigmoid of the difference
        return F.interpolate(lean, pictures.shape[1:3], mode="bilinear")[:, 0].sigmoid()


def normalised(pictures: Tensor) -> Tensor:
    """Return float32 [B, 3, H, W] about zero, channels last in memory, of uint8 [B, H, W, 3]."""
    mean, std = (torch.tensor(values, device=pictures.device) * 255 for values in (MEAN, STD))
    return ((pictures - mean) / std).permute(0, 3, 1, 2)


def draw_weights(module: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights anew, for layers followed by ReLU (He et al. 2015); BatchNorm is neutral."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            fan_in = part.weight[0].numel()
            nn.init.normal_(part.weight, std=(2 / fan_in) ** 0.5, generator=generator)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_running_stats()
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
