"""The network that all later ones start from: it has learned the hand-crafted maps as they are.

DeepUSPS starts from weights that know how to segment, learned with labels. This is what can be
had without any: see `StartConfig`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pipeline.saliency.refine.initial import fresh_network
from pipeline.saliency.refine.joint import Schedule, learn_jointly
from pipeline.saliency.refine.maps import read_maps
from pipeline.saliency.refine.workshop import Workshop

STAGE = "start"


def starting_weights(methods: Sequence[str], workshop: Workshop) -> dict[str, Tensor] | None:
    """Return the weights, trained or read from OUT/start.pt; None where settings want no start.

    Raises:
        ValueError: a map or a state is missing or damaged, or the loss became infinite.
    """
    config, start = workshop.config, workshop.config.start
    if start.epochs == 0:
        return None
    network = fresh_network(config.network, workshop.encoder, config.seed, STAGE)
    size, names = config.network.size, workshop.names
    learn_jointly(
        network,
        lambda: [read_maps(workshop.maps(method), names, size) for method in methods],
        [config.phase_one.threshold(method, 1) for method in methods],
        Schedule(
            epochs=start.epochs,
            learning_rate=start.learning_rate,
            poly_power=start.poly_power,
            beta=config.phase_two.beta,
            effective_batch=config.phase_one.effective_batch,
            jitter=start.jitter,
        ),
        STAGE,
        workshop,
    )
    return {name: value.cpu() for name, value in network.state_dict().items()}
