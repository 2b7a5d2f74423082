"""A training of masks in seconds: generated pictures, stand-in methods, tiny networks."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import cv2
import numpy as np
import torch

from pipeline.saliency.arrays import to_bytes
from pipeline.saliency.refine.config import (
    PhaseOneConfig,
    PhaseTwoConfig,
    RefineConfig,
    StartConfig,
    StudentConfig,
)
from pipeline.saliency.refine.handcrafted import HandCrafted
from pipeline.saliency.refine.maps import write_map
from pipeline.saliency.refine.network import NetworkConfig
from pipeline.saliency.refine.photos import read_photos
from pipeline.saliency.refine.u2net import StudentNetworkConfig
from pipeline.saliency.refine.workshop import Workshop
from pipeline.sources.demo import list_demo, render
from pipeline.sources.pixels import read_within

TINY = RefineConfig(
    batch_size=3,
    network=NetworkConfig(architecture="resnet18", width=0.0625, size=32),
    start=StartConfig(epochs=2),
    phase_one=PhaseOneConfig(
        epochs=2, learning_rates=(1e-3, 2e-3), effective_batch=5, other_threshold=0.4
    ),
    phase_two=PhaseTwoConfig(epochs=2, learning_rate=1e-3, effective_batch=4),
    student=StudentConfig(
        network=StudentNetworkConfig(side=128, channels=4, inner=2),
        epochs=2,
        batch_size=3,
        jitter=0.2,
        methods_weight=0.5,
        teacher_fusion=0.5,
        teacher_cut=True,
        mirrored_test=True,
        lean_test=0.5,
        crf_test=True,
        cut_test=True,
    ),
)


def demo_records(count: int):
    """Generated pictures, in the order of their numbers."""
    records = list_demo("demo", limit=count).records
    return sorted(records, key=lambda record: record.offset)


def true_mask(index: int) -> np.ndarray:
    """0..255, uint8 [H, W]."""
    return render("demo", 0, index)[1]


def noisy_map(index: int, kind: int) -> np.ndarray:
    """A stand-in of a hand-crafted method: float32 [H, W] in 0..1.

    The truth, moved and blurred, with blots that are no part of it and holes; each kind is wrong in
    other places.
    """
    rng = np.random.default_rng([index, kind])
    mask = true_mask(index).astype(np.float32) / 255
    mask = np.roll(mask, rng.integers(-9, 10, 2), axis=(0, 1))
    blots = cv2.GaussianBlur(rng.normal(size=mask.shape).astype(np.float32), (0, 0), 7)
    blots = (blots / blots.std() > 0.9).astype(np.float32)
    return cv2.GaussianBlur(np.abs(mask - blots), (0, 0), 2).clip(0, 1) * np.float32(0.9)


def stand_ins(count: int, side: int = 400) -> HandCrafted:
    """Two methods that know the generated pictures by their pixels."""
    index_of = {
        read_within(record, side).pixels.tobytes(): record.offset for record in demo_records(count)
    }

    def estimate(picture: np.ndarray) -> Mapping[str, np.ndarray]:
        index = index_of[picture.tobytes()]
        left, right = noisy_map(index, 0), noisy_map(index, 1)
        return {"left": left, "right": right, "both": (left + right) / 2}

    return HandCrafted(names=("left", "right"), estimate=estimate, fusion="both")


@contextmanager
def silent(stage: str, total: int):
    yield lambda: None


def iou(salient: np.ndarray, truth: np.ndarray) -> float:
    """Of masks of 0..255 cut in the middle."""
    ours, theirs = salient > 127, truth > 127
    return float((ours & theirs).sum() / max((ours | theirs).sum(), 1))


@contextmanager
def workshop_with(out, count: int, methods: tuple[str, ...]):
    """A workshop of TINY in a folder, with the noisy maps of each kind as those of `methods`."""
    with ThreadPoolExecutor(1) as pool:
        made = Workshop(
            photos=read_photos(demo_records(count), TINY.network.size, pool, lambda: None),
            config=TINY,
            encoder=None,
            device=torch.device("cpu"),
            pool=pool,
            out=out,
            report=silent,
        )
        for index, name in enumerate(made.names):
            for kind, method in enumerate(methods):
                write_map(made.maps(method) / name, to_bytes(noisy_map(index, kind)))
        yield made
