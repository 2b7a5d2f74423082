"""A network that learns several sets of maps of the same photos at once.

Where sets are wrong in different places, the network cannot follow all of them, and agrees with
what most of them say. Training goes on after the last complete epoch when it was interrupted.

Shapes: N photos, E of an effective batch, s sides of the network's input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.batch import Bytes, Ids
from pipeline.saliency.refine.augment import jittered, mirrored
from pipeline.saliency.refine.chance import generator, shuffled
from pipeline.saliency.refine.f_loss import f_measure_loss
from pipeline.saliency.refine.network import SaliencyNetwork
from pipeline.saliency.refine.refine_method import as_targets
from pipeline.saliency.refine.states import load_progress, load_state, save_progress, save_state
from pipeline.saliency.refine.updates import set_learning_rate, split, to_device, update
from pipeline.saliency.refine.workshop import Workshop


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """How a network learns; the names are those of the settings."""

    epochs: int
    learning_rate: float  # Adam
    poly_power: float
    beta: float
    effective_batch: int
    jitter: float | None  # None: photos are learned as they are; else half of them mirrored as well


def learn_jointly(
    network: SaliencyNetwork,
    label_sets: Callable[[], Sequence[Bytes]],
    thresholds: Sequence[float],
    schedule: Schedule,
    stage: str,
    workshop: Workshop,
) -> None:
    """Train a network, or go on with it, and leave it in OUT/STAGE.pt; read it if it is there.

    The loss is the mean over the sets, each uint8 [N, s, s], of one minus the F-measure at its
    threshold. Sets are asked for only if there is something to train.

    Raises:
        ValueError: a state is damaged, or the loss became infinite.
    """
    to_device(network, workshop.device)
    complete = workshop.out / f"{stage}.pt"
    if complete.is_file():
        network.load_state_dict(load_state(complete)["network"])
        workshop.state(stage).unlink(missing_ok=True)
        return
    sets = label_sets()
    optimizer = torch.optim.Adam(network.parameters())
    state = load_progress(workshop.state(stage), network, optimizer)
    done = 0 if state is None else state["epochs"]
    with workshop.report(stage, schedule.epochs - done) as tick:
        for epoch in range(done, schedule.epochs):
            rate, power = schedule.learning_rate, schedule.poly_power
            set_learning_rate(optimizer, rate, epoch, schedule.epochs, power)
            _run_epoch(network, optimizer, sets, thresholds, schedule, stage, epoch, workshop)
            save_progress(workshop.state(stage), network, optimizer, epoch + 1)
            tick()
    save_state(complete, {"network": network.state_dict()})
    workshop.state(stage).unlink(missing_ok=True)


def _run_epoch(
    network: SaliencyNetwork,
    optimizer: torch.optim.Optimizer,
    label_sets: Sequence[Bytes],
    thresholds: Sequence[float],
    schedule: Schedule,
    stage: str,
    epoch: int,
    workshop: Workshop,
) -> None:
    config, count = workshop.config, len(workshop.photos)
    chance = generator(config.seed, stage, "epoch", epoch, "changes")
    for ids in split(shuffled(count, config.seed, stage, "epoch", epoch), schedule.effective_batch):
        pixels = workshop.photos.pixels[ids]
        sets = [labels[ids] for labels in label_sets]
        if schedule.jitter is not None:
            which = chance.random(len(ids)) < 0.5
            pixels = jittered(mirrored(pixels, which), schedule.jitter, chance)
            sets = [mirrored(labels, which) for labels in sets]

        def loss_of(prediction: Tensor, rows: Ids, sets: Sequence[Bytes] = sets) -> Tensor:
            losses = [
                f_measure_loss(
                    prediction,
                    as_targets(labels, rows, prediction),
                    threshold=threshold,
                    beta=schedule.beta,
                )
                for labels, threshold in zip(sets, thresholds, strict=True)
            ]
            return torch.stack(losses).mean()

        update(network, optimizer, pixels, np.arange(len(ids)), config.batch_size, loss_of)
