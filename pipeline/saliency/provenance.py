"""What made a mask: enough to make the same mask of the same picture again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskMethod:
    """How masks were estimated."""

    name: str  # one of the hand-crafted, or the kind of training that a student is from
    version: int  # goes up when the same settings give other masks
    labels_involved: bool  # in the masks, or in the training of the network that made them
    settings: dict[str, Any]  # plain values, as of JSON
    model_sha256: str | None = None  # of the student's file; None: no model
