"""Folders of maps: one PNG of 8 bits for each photo, there whole or not at all.

Shapes: N maps, s sides of the square they are read at, H/W sides of a map.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from files import write_whole
from pipeline.batch import Bytes


def write_map(path: Path, values: Bytes) -> None:
    """Write a map, uint8 [H, W], as a PNG.

    Raises:
        OSError: it cannot be written; nothing has its name then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, png = cv2.imencode(".png", values, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not encoded:
        raise ValueError(f"{path}: a map of shape {values.shape} cannot be encoded")
    write_whole(path, lambda file: file.write(png.tobytes()))


def missing_maps(folder: Path, names: Sequence[str]) -> list[str]:
    """Return those of the names that have no map yet."""
    return [name for name in names if not (folder / name).is_file()]


def read_maps(folder: Path, names: Sequence[str], size: int) -> Bytes:
    """Return maps resized to squares, uint8 [N, s, s]: by their nearest pixel, as in DeepUSPS.

    Raises:
        ValueError: one is missing or damaged.
    """
    maps = np.empty((len(names), size, size), np.uint8)
    for number, name in enumerate(names):
        maps[number] = cv2.resize(
            read_map(folder / name), (size, size), interpolation=cv2.INTER_NEAREST_EXACT
        )
    return maps


def read_map(path: Path) -> Bytes:
    """Return one map, uint8 [H, W].

    Raises:
        ValueError: it is missing or damaged.
    """
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        found = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
    except (OSError, cv2.error) as error:
        raise ValueError(f"{path}: the map cannot be read: {error}") from error
    if found is None:
        raise ValueError(f"{path}: the map is damaged; remove it, and it is made again")
    return np.asarray(found, np.uint8)
