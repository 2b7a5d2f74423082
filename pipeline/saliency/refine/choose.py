"""Who makes the masks of a conversion: `--saliency auto|METHOD [--saliency-model STUDENT.pt]`."""

from __future__ import annotations

from pathlib import Path

from pipeline.saliency.handcrafted_masks import HandCraftedMasks
from pipeline.saliency.methods import FINISHED, METHODS
from pipeline.saliency.refine.student_masks import student_masks
from pipeline.sources.estimated import MaskMaker

AUTO = "auto"


def choose_masks(saliency: str, model: Path | None) -> MaskMaker:
    """Return the student of a file if one is given, else the finished fusion or the method named.

    Raises:
        ValueError: there is no such method, a model goes with a method, or it is no student.
    """
    if saliency != AUTO and saliency not in METHODS:
        raise ValueError(f"--saliency {saliency}: unknown; choose {AUTO} or {', '.join(METHODS)}")
    if model is None:
        return HandCraftedMasks(name=FINISHED if saliency == AUTO else saliency)
    if saliency != AUTO:
        raise ValueError(f"--saliency {saliency} needs no --saliency-model {model}; give one")
    return student_masks(model)
