"""Parameters, and the operations of a step: counted, not timed.

On the meta device: nothing is computed, and no weights are drawn, which alone takes ten seconds for
a ResNet-50.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model.relicv2 import ReLICv2
from model.resnet import ResNetConfig, make_encoder
from training.config import TrainConfig


def count_parameters(config: TrainConfig) -> dict[str, int]:
    """Return the parameters of each network: those of online learn, the target's follow."""
    with torch.device("meta"):
        model = ReLICv2(config.model)
    online = model.online
    networks: dict[str, nn.Module] = {
        "encoder": online.encoder,
        "projector": online.projector,
        "predictor": online.predictor,
        "target": model.target,
    }
    return {
        name: sum(each.numel() for each in network.parameters())
        for name, network in networks.items()
    }


def operations_per_image(config: TrainConfig) -> float:
    """Floating-point operations (multiply and add are two) of one source picture in a step.

    Forward of the online encoder on each view, twice that backward, and forward of the target on
    the large views. Heads and loss, below one percent with ResNet-50, are left out.
    """
    recipe = config.recipe
    large, small = forward_operations(config.model.encoder, recipe.large_size, recipe.small_size)
    online = 3 * (recipe.num_large * large + recipe.num_small * small)
    return online + recipe.num_large * large


@lru_cache
def forward_operations(config: ResNetConfig, *sizes: int) -> tuple[float, ...]:
    """Operations of an encoder's forward of one view of each size."""
    with torch.device("meta"):
        encoder = make_encoder(config, None).eval()
    found = []
    for size in sizes:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            encoder(torch.zeros(1, 3, size, size, device="meta"))
        found.append(float(counter.get_total_flops()))
    return tuple(found)
