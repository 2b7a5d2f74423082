"""Photos and maps, held in memory at the size that a network works at.

Shapes: N photos, s sides of the square they are resized to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from pipeline.batch import Bytes
from pipeline.sources.pixels import UprightPicture, read_square
from pipeline.sources.prepare import BadPicture
from pipeline.sources.record import Record, mask_name

Tick = Callable[[], None]  # called once for each piece of work done


@dataclass(frozen=True, kw_only=True, slots=True)
class Photos:
    """Photos that could be read."""

    records: Sequence[Record]
    names: Sequence[str]  # of each one's map: a/b.png for a/b.jpg
    pixels: Bytes  # [N, s, s, 3], RGB
    bad: Sequence[tuple[str, str]]  # (key, reason) of those that could not

    def __len__(self) -> int:
        return len(self.records)


def read_photos(
    records: Sequence[Record], size: int, pool: ThreadPoolExecutor, tick: Tick
) -> Photos:
    """Read photos; 3 s^2 bytes each: 1.4 GB for 2,500 at 432.

    Raises:
        ValueError: not one can be read, or two of them would have one map.
    """

    def read(record: Record) -> UprightPicture | BadPicture:
        try:
            return read_square(record, size)
        except BadPicture as error:
            return error

    good: list[tuple[Record, UprightPicture]] = []
    bad: list[tuple[str, str]] = []
    for record, picture in zip(records, pool.map(read, records), strict=True):
        tick()
        if isinstance(picture, UprightPicture):
            good.append((record, picture))
        else:
            bad.append((record.key, str(picture)))
    if not good:
        raise ValueError(f"none of {len(bad)} photos can be read; {bad[0][0]}: {bad[0][1]}")
    return Photos(
        records=[record for record, _ in good],
        names=unique_map_names([record for record, _ in good]),
        pixels=np.stack([picture.pixels for _, picture in good]),
        bad=bad,
    )


def unique_map_names(records: Sequence[Record]) -> list[str]:
    """Return the name of each record's map.

    Raises:
        ValueError: two pictures differ in their endings alone.
    """
    owners: dict[str, str] = {}
    for record in records:
        name = mask_name(record.key)
        if name in owners:
            raise ValueError(
                f"{owners[name]} and {record.key} would both have the mask {name}; rename one"
            )
        owners[name] = record.key
    return list(owners)
