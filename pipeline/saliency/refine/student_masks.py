"""Masks by a trained student, as `convert_dataset.py` makes them: one picture at a time, on a CPU.

Shapes: H/W sides of the picture, 128 x 128 of a mask.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch

from pipeline.batch import Bytes
from pipeline.devices import CPU
from pipeline.saliency.gate import GateSettings
from pipeline.saliency.one_thread import one_thread_each
from pipeline.saliency.provenance import MaskMethod
from pipeline.saliency.refine.predictor import Predictor, load_predictor
from pipeline.sources.pixels import squared


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentMasks:
    """Makes masks by a student.pt; picklable: each process reads the file when it needs it."""

    path: Path
    method: MaskMethod

    def mask(self, picture: Bytes) -> Bytes:
        """Return the mask of a picture, uint8 [H, W, 3], made in one thread; see `mask_by`."""
        return mask_by(self.path, picture)


def student_masks(path: Path) -> StudentMasks:
    """Return the masks of a student.

    Raises:
        ValueError: the file is missing, damaged, or no student.
    """
    description = _loaded(path).description
    return StudentMasks(
        path=path,
        method=MaskMethod(
            name=str(description["method"]),
            version=int(description["version"]),
            labels_involved=bool(description["labels_involved"]),
            settings={"gate": asdict(GateSettings())},
            model_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        ),
    )


def mask_by(path: Path, picture: Bytes) -> Bytes:
    """Return the mask, uint8 [128, 128], of a picture, uint8 [H, W, 3]; in one thread.

    Each process reads the student.pt once.

    Raises:
        ValueError: the file is missing, damaged, or no student.
    """
    with _single_threaded():
        predictor = _loaded(path)
        masks = predictor.masks(squared(picture, predictor.side)[None])
    mask: Bytes = masks[0]
    return mask


@contextmanager
def _single_threaded() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with one_thread_each():
            yield
    finally:
        torch.set_num_threads(threads)


@cache
def _loaded(path: Path) -> Predictor:
    return load_predictor(path, CPU)
