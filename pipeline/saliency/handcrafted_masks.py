"""Masks by a hand-crafted method or their fusion, as `convert_dataset.py` makes them.

Shapes: H/W sides of the picture, h/w of the mask.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import cv2

from pipeline.batch import Bytes
from pipeline.saliency.arrays import to_bytes
from pipeline.saliency.gate import GateSettings
from pipeline.saliency.methods import FINISH, FINISHED, check_methods, estimate
from pipeline.saliency.one_thread import one_thread_each
from pipeline.saliency.provenance import MaskMethod
from pipeline.saliency.superpixels import SceneSettings

# of a method; goes up when the same picture gets another mask
_VERSIONS = {FINISHED: 2}  # 2: of strips, whose long side was sampled
_FIRST = 1
_LONGEST_SIDE = 600  # a larger picture is reduced: methods see half of that, masks have 128 cells


@dataclass(frozen=True, kw_only=True, slots=True)
class HandCraftedMasks:
    """Makes masks by one method; picklable.

    Raises:
        ValueError: the method is unknown.
    """

    name: str

    def __post_init__(self) -> None:
        check_methods((self.name,))

    @property
    def method(self) -> MaskMethod:
        return MaskMethod(
            name=self.name,
            version=_VERSIONS.get(self.name, _FIRST),
            labels_involved=False,
            settings={
                "longest_side": _LONGEST_SIDE,
                "scene": asdict(SceneSettings()),
                **({"finish": asdict(FINISH)} if self.name == FINISHED else {}),
                "gate": asdict(GateSettings()),
            },
        )

    def mask(self, picture: Bytes) -> Bytes:
        """Return the mask, uint8 [h, w] of 0..255, of a picture, uint8 [H, W, 3]; in one thread."""
        with one_thread_each():
            saliency = estimate(_reduced(picture), self.name)
        return to_bytes(saliency)


def _reduced(picture: Bytes) -> Bytes:
    height, width = picture.shape[:2]
    scale = _LONGEST_SIDE / max(height, width)
    if scale >= 1:
        return picture
    size = [max(round(side * scale), 1) for side in (width, height)]
    reduced: Bytes = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return reduced
