"""Distillation: the student learns the maps of the fused network, at its own size.

The loss is U2-Net's, the sum of the seven maps' binary cross-entropies, against soft targets: so
the student's values are probabilities as they are, and are not stretched picture by picture.

Shapes: N photos, B of a batch, s sides of the student's input, h of its maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.batch import Bytes
from pipeline.saliency.refine.augment import cropped, jittered
from pipeline.saliency.refine.chance import generator, torch_generator
from pipeline.saliency.refine.maps import read_map
from pipeline.saliency.refine.network import draw_weights
from pipeline.saliency.refine.photos import read_photos
from pipeline.saliency.refine.states import load_progress, save_progress
from pipeline.saliency.refine.u2net import Student
from pipeline.saliency.refine.updates import half_precision, set_learning_rate, to_device
from pipeline.saliency.refine.workshop import Workshop

STAGE = "student"


def distil(workshop: Workshop, teacher: str) -> Student:
    """Return a student that has learned the maps of stage `teacher`.

    Training goes on after the last complete epoch when it was interrupted.

    Raises:
        ValueError: a photo or a map cannot be read, a state is damaged, or the loss became
            infinite.
    """
    config, settings = workshop.config, workshop.config.student
    pixels, targets = _read(workshop, teacher)
    student = Student(settings.network)
    draw_weights(student, torch_generator(config.seed, STAGE))
    to_device(student.train(), workshop.device)
    optimizer = torch.optim.Adam(student.parameters())
    state = load_progress(workshop.state(STAGE), student, optimizer)
    done = 0 if state is None else state["epochs"]
    with workshop.report(STAGE, settings.epochs - done) as tick:
        for epoch in range(done, settings.epochs):
            rate, power = settings.learning_rate, settings.poly_power
            set_learning_rate(optimizer, rate, epoch, settings.epochs, power)
            _run_epoch(student, optimizer, pixels, targets, epoch, workshop)
            save_progress(workshop.state(STAGE), student, optimizer, epoch + 1)
            tick()
    return student


def distillation_loss(maps: Sequence[Tensor], target: Tensor) -> Tensor:
    """Return the sum over maps of the mean binary cross-entropy, a scalar.

    Args:
        maps: logits float32 [B, h, h] each.
        target: probabilities float32 [B, s, s]; averaged down to the size of the maps.
    """
    height, width = maps[0].shape[1:]
    small = F.adaptive_avg_pool2d(target[:, None], (height, width))[:, 0]
    losses = [F.binary_cross_entropy_with_logits(logits, small) for logits in maps]
    return torch.stack(losses).sum()


def _run_epoch(
    student: Student,
    optimizer: torch.optim.Optimizer,
    pixels: Bytes,
    targets: Bytes,
    epoch: int,
    workshop: Workshop,
) -> None:
    settings, device = workshop.config.student, workshop.device
    chance = generator(workshop.config.seed, STAGE, "epoch", epoch)
    order = chance.permutation(len(pixels))
    # batches of nearly equal size: one photo alone would be normalised by itself
    for ids in np.array_split(order, max(1, len(order) // settings.batch_size)):
        pictures, wanted = cropped(pixels[ids], targets[ids], settings.crop, chance)
        pictures = jittered(pictures, settings.jitter, chance)
        target = torch.from_numpy(wanted).to(device).float() / 255
        optimizer.zero_grad(set_to_none=True)
        with half_precision(device):
            maps = student(torch.from_numpy(pictures).to(device))
        loss = distillation_loss(maps, target)
        if not torch.isfinite(loss):
            raise ValueError(f"the loss became {loss.item()}: lower student.learning_rate")
        loss.backward()
        optimizer.step()


def _read(workshop: Workshop, teacher: str) -> tuple[Bytes, Bytes]:
    """Photos and targets at the student's size: uint8 [N, s, s, 3] and [N, s, s]."""
    side = workshop.config.student.network.side
    records = workshop.photos.records
    with workshop.report("photos for the student", len(records)) as tick:
        photos = read_photos(records, side, workshop.pool, tick)
    if photos.bad:
        raise ValueError(f"{photos.bad[0][0]} can no longer be read: {photos.bad[0][1]}")
    targets = [
        cv2.resize(
            read_map(workshop.maps(teacher) / name), (side, side), interpolation=cv2.INTER_LINEAR
        )
        for name in photos.names
    ]
    return photos.pixels, np.stack(targets)
