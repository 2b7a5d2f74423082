"""A trained student, ready to predict: folded BatchNorm, channels last, bfloat16 on a GPU.

Shapes: B pictures, s sides of the student's input, h = s / 2 of its maps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.batch import Bytes, Floats
from pipeline.saliency.arrays import to_bytes
from pipeline.saliency.crf import CrfConfig
from pipeline.saliency.finish import Finish, finished_mask
from pipeline.saliency.refine.states import load_state, save_state
from pipeline.saliency.refine.u2net import Student, StudentNetworkConfig, Unit
from pipeline.saliency.refine.updates import half_precision, to_device

FORMAT = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskSettings:
    """What is done beside one pass of the student to make a mask."""

    mirrored: bool = False  # the map is the mean with that of the mirrored picture, mirrored back
    finish: Finish = field(default_factory=Finish)


class Predictor:
    """Gives masks of pictures. `side` is the s of its pictures, `description` how it was made."""

    def __init__(
        self,
        student: Student,
        mask_settings: MaskSettings,
        description: Mapping[str, Any],
        device: torch.device,
    ) -> None:
        self.side = student.config.side
        self.description = description
        self._mask_settings = mask_settings
        self._device = device
        self._student = student.eval()
        _fold(self._student)
        to_device(self._student, device)

    def masks(self, pictures: Bytes) -> Bytes:
        """Return masks, uint8 [B, 128, 128] of 0..255, of pictures, uint8 [B, s, s, 3]."""
        pairs = zip(pictures, self.probabilities(pictures), strict=True)
        return np.stack([self.finished(picture, salient) for picture, salient in pairs])

    def probabilities(self, pictures: Bytes) -> Floats:
        """Return what the student says, float32 [B, h, h] in 0..1, of uint8 [B, s, s, 3]."""
        with torch.inference_mode(), half_precision(self._device):
            seen = torch.from_numpy(pictures).to(self._device)
            # made once: mirrored, they serve for the mirrored picture
            cues = self._student.cues(seen)
            salient = self._student(seen, cues)[0].sigmoid()
            if self._mask_settings.mirrored:
                other = self._student(seen.flip(2), cues.flip(3))[0].sigmoid()
                salient = (salient + other.flip(2)) / 2
        probabilities: Floats = salient.cpu().numpy()
        return probabilities

    def finished(self, picture: Bytes, salient: Floats) -> Bytes:
        """Return the mask, uint8 [128, 128], of one picture and its map; needs no GPU."""
        return to_bytes(finished_mask(picture, salient, self._mask_settings.finish))


def save_student(
    path: Path, student: Student, mask_settings: MaskSettings, description: Mapping[str, Any]
) -> None:
    """Write a student for `load_predictor`; the description is nested plain values, as of JSON."""
    content = {
        "format": FORMAT,
        "description": dict(description),
        "network": dataclasses.asdict(student.config),
        "mask_settings": dataclasses.asdict(mask_settings),
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
            f"{path} is of format {state['format']}, this version reads {FORMAT}; train it again, "
            "or use the version of this project that wrote it"
        )
    student = Student(StudentNetworkConfig(**state["network"]))
    student.load_state_dict(state["state_dict"])
    settings = state["mask_settings"]
    finish, crf = settings["finish"], settings["finish"]["crf"]
    mask_settings = MaskSettings(
        mirrored=settings["mirrored"],
        finish=Finish(**{**finish, "crf": None if crf is None else CrfConfig(**crf)}),
    )
    return Predictor(student, mask_settings, state["description"], device)


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
