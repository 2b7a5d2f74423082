"""Phase II: one network learns from the refined maps of all methods at once.

Where methods are wrong in different places, the network cannot follow all of them, and agrees with
what most of them say. Training goes on after the last complete epoch when it was interrupted.

Shapes: N photos, s sides of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.batch import Bytes, Floats, Ids
from pipeline.saliency.refine.chance import shuffled
from pipeline.saliency.refine.f_loss import f_measure_loss
from pipeline.saliency.refine.initial import fresh_network
from pipeline.saliency.refine.maps import missing_maps, to_bytes, write_map
from pipeline.saliency.refine.network import SaliencyNetwork
from pipeline.saliency.refine.refine_method import as_targets
from pipeline.saliency.refine.states import load_state, save_state
from pipeline.saliency.refine.updates import (
    half_precision,
    set_learning_rate,
    split,
    to_device,
    update,
)
from pipeline.saliency.refine.workshop import Workshop

STAGE = "fused"


def fuse(label_sets: Sequence[Bytes], workshop: Workshop) -> SaliencyNetwork:
    """Train the network on label sets, each uint8 [N, s, s], or read it if that is done.

    Raises:
        ValueError: a state is damaged, or the loss became infinite.
    """
    config, phase = workshop.config, workshop.config.phase_two
    network = fresh_network(config.network, workshop.encoder, config.seed, STAGE)
    to_device(network, workshop.device)
    finished = workshop.out / "fused.pt"
    if finished.is_file():
        network.load_state_dict(load_state(finished)["network"])
        return network
    optimizer, done = torch.optim.Adam(network.parameters()), 0
    if workshop.state(STAGE).is_file():
        state = load_state(workshop.state(STAGE))
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        done = state["epochs"]

    def loss_of(prediction: Tensor, ids: Ids) -> Tensor:
        losses = [
            f_measure_loss(
                prediction,
                as_targets(labels, ids, prediction),
                threshold=phase.threshold,
                beta=phase.beta,
            )
            for labels in label_sets
        ]
        return torch.stack(losses).mean()

    with workshop.report("fusion", phase.epochs - done) as tick:
        for epoch in range(done, phase.epochs):
            set_learning_rate(optimizer, phase.learning_rate, epoch, phase.epochs, phase.poly_power)
            order = shuffled(len(workshop.photos), config.seed, STAGE, "epoch", epoch)
            for ids in split(order, phase.effective_batch):
                pixels = workshop.photos.pixels
                update(network, optimizer, pixels, ids, config.batch_size, loss_of)
            save_state(
                workshop.state(STAGE),
                {
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "epochs": epoch + 1,
                },
            )
            tick()
    save_state(finished, {"network": network.state_dict()})
    workshop.state(STAGE).unlink(missing_ok=True)
    return network


def write_fused_maps(network: SaliencyNetwork, workshop: Workshop) -> None:
    """Predict the photos that have no fused map yet, by the CRF if so set, and write the maps."""
    missing = set(missing_maps(workshop.maps(STAGE), workshop.names))
    ids = np.array([i for i, name in enumerate(workshop.names) if name in missing], np.int64)

    def write(row: int, salient: Floats) -> None:
        if workshop.config.student.teacher_crf:
            salient = workshop.crf(workshop.photos.pixels[row], salient)
        write_map(workshop.maps(STAGE) / workshop.names[row], to_bytes(salient))

    with workshop.report("fused maps", len(ids)) as tick:
        for part in split(ids, workshop.config.batch_size):
            predictions = _predict(network.eval(), workshop.photos.pixels[part])
            for _ in workshop.pool.map(write, part.tolist(), predictions):
                tick()


def _predict(network: SaliencyNetwork, pictures: Bytes) -> Floats:
    device = next(network.parameters()).device
    with torch.inference_mode(), half_precision(device):
        prediction: Floats = network(torch.from_numpy(pictures).to(device)).cpu().numpy()
    return prediction
