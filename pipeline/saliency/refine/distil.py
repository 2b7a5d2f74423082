"""Distillation: the student learns the maps of the fused network, at its own size.

The loss is U2-Net's, the sum of the seven maps' binary cross-entropies, against soft targets: so
the student's values are probabilities as they are, and are not stretched picture by picture. With
`methods_weight` it learns the hand-crafted maps beside them, by the F-measure, as a start does.

Shapes: N photos, B of a batch, M methods, s sides of the student's input, h of its maps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.batch import Bytes
from pipeline.saliency.arrays import as_square
from pipeline.saliency.refine.augment import cropped, jittered
from pipeline.saliency.refine.chance import generator, torch_generator
from pipeline.saliency.refine.f_loss import f_measure_loss
from pipeline.saliency.refine.maps import read_map
from pipeline.saliency.refine.network import draw_weights
from pipeline.saliency.refine.photos import read_photos
from pipeline.saliency.refine.states import load_progress, save_progress
from pipeline.saliency.refine.u2net import Student
from pipeline.saliency.refine.updates import half_precision, set_learning_rate, to_device
from pipeline.saliency.refine.workshop import Workshop

STAGE = "student"


def distil(workshop: Workshop, teacher: str, methods: Sequence[str]) -> Student:
    """Return a student that has learned the maps of stage `teacher`, and of methods where set.

    Training goes on after the last complete epoch when it was interrupted.

    Raises:
        ValueError: a photo or a map cannot be read, a state is damaged, or the loss became
            infinite.
    """
    config, settings = workshop.config, workshop.config.student
    methods = methods if settings.methods_weight else ()
    pixels, targets = _read(workshop, (teacher, *methods))
    thresholds = [config.phase_one.threshold(method, 1) for method in methods]
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
            _run_epoch(student, optimizer, pixels, targets, thresholds, epoch, workshop)
            save_progress(workshop.state(STAGE), student, optimizer, epoch + 1)
            tick()
    return student


def distillation_loss(maps: Sequence[Tensor], target: Tensor) -> Tensor:
    """Return the sum over maps of the mean binary cross-entropy, a scalar.

    Args:
        maps: logits float32 [B, h, h] each.
        target: probabilities float32 [B, s, s]; averaged down to the size of the maps.
    """
    small = _as_small(target[:, None], maps)[:, 0]
    losses = [F.binary_cross_entropy_with_logits(logits, small) for logits in maps]
    return torch.stack(losses).sum()


def methods_loss(
    maps: Sequence[Tensor], targets: Tensor, thresholds: Sequence[float], beta: float
) -> Tensor:
    """Return the sum over maps of one minus the F-measure, the mean over the methods, a scalar.

    Args:
        maps: logits float32 [B, h, h] each.
        targets: float32 [B, M, s, s] in 0..1; averaged down to the size of the maps.
        thresholds: M of them, of the targets.
        beta: see `f_measure_loss`.
    """
    small = _as_small(targets, maps).unbind(1)
    losses = [
        f_measure_loss(logits.sigmoid(), target, threshold=threshold, beta=beta)
        for logits in maps
        for target, threshold in zip(small, thresholds, strict=True)
    ]
    return torch.stack(losses).sum() / len(thresholds)


def _as_small(targets: Tensor, maps: Sequence[Tensor]) -> Tensor:
    height, width = maps[0].shape[1:]
    return F.adaptive_avg_pool2d(targets, (height, width))


def _run_epoch(
    student: Student,
    optimizer: torch.optim.Optimizer,
    pixels: Bytes,
    targets: Bytes,
    thresholds: Sequence[float],
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
        target = torch.from_numpy(wanted).to(device).permute(0, 3, 1, 2).float() / 255
        optimizer.zero_grad(set_to_none=True)
        with half_precision(device):
            maps = student(torch.from_numpy(pictures).to(device))
        loss = distillation_loss(maps, target[:, 0])
        if thresholds:
            beta = workshop.config.phase_two.beta
            loss = loss + settings.methods_weight * methods_loss(
                maps, target[:, 1:], thresholds, beta
            )
        if not torch.isfinite(loss):
            raise ValueError(f"the loss became {loss.item()}: lower student.learning_rate")
        loss.backward()
        optimizer.step()


def _read(workshop: Workshop, stages: Sequence[str]) -> tuple[Bytes, Bytes]:
    """Photos, [N, s, s, 3], and maps of stages, [N, s, s, len(stages)], at the student's size."""
    side = workshop.config.student.network.side
    records = workshop.photos.records
    with workshop.report("photos for the student", len(records)) as tick:
        photos = read_photos(records, side, workshop.pool, tick)
    if photos.bad:
        raise ValueError(f"{photos.bad[0][0]} can no longer be read: {photos.bad[0][1]}")
    targets = np.empty((len(photos.names), side, side, len(stages)), np.uint8)
    for number, name in enumerate(photos.names):
        for column, stage in enumerate(stages):
            targets[number, ..., column] = as_square(read_map(workshop.maps(stage) / name), side)
    return photos.pixels, targets
