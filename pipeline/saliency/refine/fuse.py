"""Phase II: one network learns from the refined maps of all methods, and says what they agree on.

Shapes: N photos, s sides of the network's input.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.batch import Bytes, Floats
from pipeline.saliency.arrays import to_bytes
from pipeline.saliency.finish import Finish, finished
from pipeline.saliency.refine.initial import fresh_network
from pipeline.saliency.refine.joint import Schedule, learn_jointly
from pipeline.saliency.refine.maps import missing_maps, read_maps, write_map
from pipeline.saliency.refine.network import SaliencyNetwork
from pipeline.saliency.refine.updates import half_precision, split
from pipeline.saliency.refine.workshop import Workshop

STAGE = "fused"


def fuse(label_sets: Sequence[Bytes], workshop: Workshop) -> SaliencyNetwork:
    """Train the network on label sets, each uint8 [N, s, s], or read it if that is done.

    Raises:
        ValueError: a state is damaged, or the loss became infinite.
    """
    config, phase = workshop.config, workshop.config.phase_two
    network = fresh_network(
        config.network, workshop.encoder, config.seed, STAGE, start=workshop.start
    )
    schedule = Schedule(
        epochs=phase.epochs,
        learning_rate=phase.learning_rate,
        poly_power=phase.poly_power,
        beta=phase.beta,
        effective_batch=phase.effective_batch,
        jitter=None,
    )
    thresholds = [phase.threshold] * len(label_sets)
    learn_jointly(network, lambda: label_sets, thresholds, schedule, STAGE, workshop)
    return network


def write_fused_maps(network: SaliencyNetwork, fusion: str | None, workshop: Workshop) -> None:
    """Write the teacher's maps of the photos that have none yet.

    They are the network's predictions, blended with the hand-crafted maps of method `fusion` and
    finished, as is set.

    Raises:
        ValueError: a hand-crafted map is missing or damaged.
    """
    config, settings = workshop.config, workshop.config.student
    finish = Finish(crf=config.crf if settings.teacher_crf else None, cut=settings.teacher_cut)
    missing = set(missing_maps(workshop.maps(STAGE), workshop.names))
    ids = np.array([i for i, name in enumerate(workshop.names) if name in missing], np.int64)

    def write(row: int, salient: Floats) -> None:
        name = workshop.names[row]
        if settings.teacher_fusion and fusion is not None:
            own = read_maps(workshop.maps(fusion), [name], len(salient))[0]
            share = np.float32(settings.teacher_fusion)
            salient = (1 - share) * salient + share * (own.astype(np.float32) / 255)
        salient = finished(workshop.photos.pixels[row], salient, finish)
        write_map(workshop.maps(STAGE) / name, to_bytes(salient))

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
