"""A trained student, ready to predict: folded BatchNorm, channels last, bfloat16 on a GPU.

Shapes: B pictures, s sides of the student's input, h = s / 2 of its maps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.batch import Bytes
from pipeline.saliency.refine.states import load_state, save_state
from pipeline.saliency.refine.u2net import Student, StudentNetworkConfig, Unit
from pipeline.saliency.refine.updates import half_precision, to_device

FORMAT = 1


class Predictor:
    """Gives masks of pictures. `side` is the s of its pictures, `description` how it was made."""

    def __init__(
        self, student: Student, description: Mapping[str, Any], device: torch.device
    ) -> None:
        self.side = student.config.side
        self.description = description
        self._device = device
        self._student = student.eval()
        _fold(self._student)
        to_device(self._student, device)

    def masks(self, pictures: Bytes) -> Bytes:
        """Return probabilities of salient, uint8 [B, h, h] of 0..255, for uint8 [B, s, s, 3]."""
        with torch.inference_mode(), half_precision(self._device):
            logits = self._student(torch.from_numpy(pictures).to(self._device))[0]
            levels = (logits.sigmoid() * 255).round().to(torch.uint8)
        masks: Bytes = levels.cpu().numpy()
        return masks


def save_student(path: Path, student: Student, description: Mapping[str, Any]) -> None:
    """Write a student for `load_predictor`; the description is nested plain values, as of JSON."""
    content = {
        "format": FORMAT,
        "description": dict(description),
        "network": dataclasses.asdict(student.config),
        "state_dict": student.state_dict(),
    }
    save_state(path, content)


def load_predictor(path: Path, device: torch.device) -> Predictor:
    """Read a student.pt.

    Raises:
        ValueError: it is missing, damaged, of another format or something else.
    """
    state = load_state(path)
    if not {"format", "description", "network", "state_dict"} <= state.keys():
        raise ValueError(f"{path} holds no student; give the student.pt of a training of masks")
    if state["format"] != FORMAT:
        raise ValueError(
            f"{path} is of format {state['format']}, this version reads {FORMAT}; use the version "
            "of this project that wrote it"
        )
    student = Student(StudentNetworkConfig(**state["network"]))
    student.load_state_dict(state["state_dict"])
    return Predictor(student, state["description"], device)


def _fold(module: nn.Module) -> None:
    """Put each BatchNorm into the convolution before it."""
    for child in module.children():
        if isinstance(child, Unit):
            convolution, norm = child[0], child[1]
            assert isinstance(convolution, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            child[0] = fuse_conv_bn_eval(convolution, norm)
            child[1] = nn.Identity()
        else:
            _fold(child)
