"""What all stages of a training of masks work with, and where they leave what they have made.

OUT/config.json          what the training was started with
OUT/maps/METHOD          maps of each hand-crafted method, by the names of the photos
OUT/start.pt             the network that learned all hand-crafted maps, if there is one
OUT/maps/METHOD-roundR   history maps after round R of phase I
OUT/maps/fusion          maps of the hand-crafted fusion, where settings need it
OUT/maps/fused           the teacher's maps: the fused network's, blended and finished as is set
OUT/work/                states after the last complete epoch of stages under way
OUT/fused.pt             network of phase II
OUT/student.pt, OUT/saliency.json
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.batch import Bytes, Floats
from pipeline.saliency.crf import refine_by_crf
from pipeline.saliency.refine.config import RefineConfig
from pipeline.saliency.refine.initial import Encoder
from pipeline.saliency.refine.photos import Photos, Tick

# (name of a stage, number of pieces of work) -> a context that gives what is called after each
Report = Callable[[str, int], AbstractContextManager[Tick]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Workshop:
    """Photos at the size of the networks, settings, and the places of a training."""

    photos: Photos
    config: RefineConfig
    encoder: Encoder | None  # None: networks start from random weights, or from `start`
    start: Mapping[str, Tensor] | None = None  # weights that later networks start from instead
    device: torch.device
    pool: ThreadPoolExecutor
    out: Path
    report: Report

    @property
    def names(self) -> Sequence[str]:
        """Of each photo's map."""
        return self.photos.names

    def maps(self, stage: str) -> Path:
        """The folder of a stage's maps."""
        return self.out / "maps" / stage

    def state(self, stage: str) -> Path:
        """The file of the state of a stage under way."""
        return self.out / "work" / f"{stage}.pt"

    def crf(self, picture: Bytes, salient: Floats) -> Floats:
        """Pass one prediction through the CRF; shapes as in `refine_by_crf`."""
        return refine_by_crf(picture, salient, self.config.crf)
