"""What `evaluate` measures beside the hand-crafted methods: a student's masks, folders of maps.

Shapes: H/W sides of the picture, h of a mask as it comes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from pipeline.batch import Bytes
from pipeline.saliency.arrays import Floats
from pipeline.saliency.evaluate import Estimator
from pipeline.saliency.labelled import Labelled
from pipeline.saliency.refine.maps import read_map
from pipeline.saliency.refine.student_masks import mask_by
from pipeline.sources.pixels import as_upright
from pipeline.sources.prepare import open_picture, read_orientation


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentEstimator:
    """The masks of a student.pt; each process reads the file once."""

    path: Path
    name: str = "student"

    def prepare(self) -> None:
        """Read the file.

        Raises:
            ValueError: it is missing, damaged, or no student.
        """
        mask_by(self.path, np.zeros((2, 2, 3), np.uint8))

    def estimate(self, one: Labelled, picture: Bytes) -> tuple[Floats, float]:
        """Return the mask in the size of the picture, and its seconds, with both resizings."""
        started = time.perf_counter()
        saliency = _fitted(mask_by(self.path, picture), picture)
        return saliency, time.perf_counter() - started


@dataclass(frozen=True, kw_only=True, slots=True)
class MapsEstimator:
    """Maps that are there, as `predict` writes them: FOLDER/NAME.png of images/NAME.jpg."""

    name: str
    folder: Path

    def prepare(self) -> None:
        """Nothing has to be ready."""

    def map_of(self, one: Labelled) -> Path:
        """Where the map of a picture is."""
        return self.folder / f"{one.image.stem}.png"

    def check(self, pictures: Iterable[Labelled]) -> None:
        """Raise ValueError where the map of a picture is missing."""
        if not self.folder.is_dir():
            raise ValueError(f"{self.folder}: no such folder of maps")
        for one in pictures:
            if not self.map_of(one).is_file():
                raise ValueError(f"{one.image}: no map {self.map_of(one).name} in {self.folder}")

    def estimate(self, one: Labelled, picture: Bytes) -> tuple[Floats, None]:
        """Return the map, upright and in the size of the picture.

        Raises:
            ValueError, OSError: it is damaged or cannot be read.
        """
        found = read_map(self.map_of(one))
        orientation = read_orientation(open_picture(one.image.read_bytes()))
        # as in a conversion: a map that has the upright picture's sides already is not turned
        height, width = picture.shape[:2]
        lies_upright = orientation >= 5 and found.shape == (height, width) and height != width
        if not lies_upright:
            found = as_upright(found, orientation)
        return _fitted(found, picture), None


def chosen_estimators(
    pictures: Sequence[Labelled], *, model: Path | None, maps: Sequence[str]
) -> list[Estimator]:
    """Return what --model STUDENT.pt and --maps [NAME=]DIR name, which is looked at first.

    Raises:
        ValueError: the file is no student, a folder or the map of a picture is missing.
    """
    chosen: list[Estimator] = []
    if model is not None:
        student = StudentEstimator(path=model)
        student.prepare()
        chosen.append(student)
    for text in maps:
        folder = named_folder(text)
        folder.check(pictures)
        chosen.append(folder)
    return chosen


def named_folder(text: str) -> MapsEstimator:
    """Read [NAME=]DIR; without a name it is the folder's. A NAME has no slash: ./a=b is a folder.

    Raises:
        ValueError: the name or the folder is empty.
    """
    name, equals, folder = text.partition("=")
    if not equals or "/" in name:
        name, folder = Path(text).absolute().name, text
    if not name or not folder:
        raise ValueError(f"--maps {text!r}: want DIR or NAME=DIR")
    return MapsEstimator(name=name, folder=Path(folder))


def _fitted(values: Bytes, picture: Bytes) -> Floats:
    """Resize a map of 0..255 to the picture, in levels as `predict` writes them, to 0..1."""
    height, width = picture.shape[:2]
    resized = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    saliency: Floats = resized.astype(np.float32) / np.float32(255)
    return saliency
