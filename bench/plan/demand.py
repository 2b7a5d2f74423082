"""What a GPU that was never measured may ask for: derived from published figures, never measured.

An A100 trains a supervised ResNet-50 at 2,470 images/s in mixed precision (NVIDIA's
DeepLearningExamples), 12.3 GMAC an image; ReLICv2's step on a picture (ResNet-50, 4x224 + 2x96,
target on the large views) has 70 GMAC, so some 430 pictures/s. For H100 and H200 the same from
published training times gives 550 to 800. Scaled here by the multiply-adds of the preset: a small
network keeps no large GPU busy, so for those the figure is too high.
"""

from __future__ import annotations

from collections.abc import Mapping

_GIGAMACS = 70.0
_PICTURES_PER_SECOND: Mapping[str, tuple[float, float]] = {
    "A100": (430.0, 430.0),
    "H100": (550.0, 800.0),
    "H200": (550.0, 800.0),
}


def derived_demand(gpu: str, gigamacs: float) -> tuple[float, float] | None:
    """Images per second that one GPU may take, (least, most); None: nothing is known of it."""
    found = next((rates for name, rates in _PICTURES_PER_SECOND.items() if name in gpu), None)
    if found is None:
        return None
    return found[0] * _GIGAMACS / gigamacs, found[1] * _GIGAMACS / gigamacs
