"""Phase I: the maps of one hand-crafted method are refined by networks, without those of others.

Each round trains a network, from the same weights as every other, on the labels of the round
before, the method's own maps at first. Its predictions, taken while it learns, pass the CRF and
flow into history maps; these are the labels of the next round. The network itself is thrown away.

A round that is interrupted goes on after its last complete epoch, with the same result.

Shapes: N photos, s sides of the network's input.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline.batch import Bytes, Floats, Ids
from pipeline.saliency.arrays import to_bytes
from pipeline.saliency.refine.chance import shuffled
from pipeline.saliency.refine.f_loss import f_measure_loss
from pipeline.saliency.refine.history import History
from pipeline.saliency.refine.initial import fresh_network
from pipeline.saliency.refine.maps import missing_maps, read_maps, write_map
from pipeline.saliency.refine.states import load_progress, save_progress
from pipeline.saliency.refine.updates import set_learning_rate, split, to_device, update
from pipeline.saliency.refine.workshop import Workshop


def refine_method(method: str, workshop: Workshop) -> Bytes:
    """Run the rounds that are not done yet; return the refined maps, uint8 [N, s, s].

    Raises:
        ValueError: a map is missing or damaged, or a loss became infinite.
    """
    size, names = workshop.config.network.size, workshop.names
    labels = read_maps(workshop.maps(method), names, size)
    for number in range(1, workshop.config.phase_one.rounds + 1):
        stage = f"{method}-round{number}"
        folder = workshop.maps(stage)
        if missing_maps(folder, names):
            refined = to_bytes(_run_round(method, number, labels, workshop))
            for name, values in zip(names, refined, strict=True):
                write_map(folder / name, values)
        workshop.state(stage).unlink(missing_ok=True)
        labels = read_maps(folder, names, size)
    return labels


def _run_round(method: str, number: int, labels: Bytes, workshop: Workshop) -> Floats:
    """Train the network of a round; return its history maps, float32 [N, s, s] in 0..1."""
    config, phase = workshop.config, workshop.config.phase_one
    pixels, count = workshop.photos.pixels, len(workshop.photos)
    stage, words = f"{method}-round{number}", (method, "round", number)
    network = fresh_network(
        config.network, workshop.encoder, config.seed, *words, start=workshop.start
    )
    to_device(network, workshop.device)
    optimizer = torch.optim.Adam(network.parameters())
    maps, done = np.zeros(labels.shape, np.float32), 0
    state = load_progress(workshop.state(stage), network, optimizer)
    if state is not None:
        maps, done = state["maps"].numpy(), state["epochs"]
    history = History(maps, phase.keep, workshop.crf, workshop.pool)
    threshold = phase.threshold(method, number)

    def loss_of(prediction: Tensor, ids: Ids) -> Tensor:
        target = as_targets(labels, ids, prediction)
        return f_measure_loss(prediction, target, threshold=threshold, beta=phase.beta)

    with workshop.report(f"{method}, round {number}", phase.epochs - done) as tick:
        for epoch in range(done, phase.epochs):
            rate = phase.learning_rates[number - 1]
            set_learning_rate(optimizer, rate, epoch, phase.epochs, phase.poly_power)
            order = shuffled(count, config.seed, *words, "epoch", epoch)
            for ids in split(order, phase.effective_batch):
                predictions = update(network, optimizer, pixels, ids, config.batch_size, loss_of)
                history.update(ids, pixels[ids], predictions)
            history.finish()
            kept = torch.from_numpy(maps)
            save_progress(workshop.state(stage), network, optimizer, epoch + 1, maps=kept)
            tick()
    if phase.correct_history:
        maps = (maps / np.float32(1 - phase.keep**phase.epochs)).clip(0, 1)
    return maps


def as_targets(labels: Bytes, ids: Ids, like: Tensor) -> Tensor:
    """Return labels uint8 [N, s, s] of photos `ids` as float32 [B, s, s] in 0..1."""
    return torch.from_numpy(labels[ids]).to(like.device).float() / 255
