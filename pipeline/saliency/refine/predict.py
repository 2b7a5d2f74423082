"""Predicts the masks of a whole data set: reading, the student and writing overlap.

Shapes: B pictures, s sides of the student's input, H/W sides of a picture.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from pipeline.batch import Floats
from pipeline.saliency.refine.crf_pool import crf_pool
from pipeline.saliency.refine.maps import write_map
from pipeline.saliency.refine.predictor import Predictor
from pipeline.sources.pixels import UprightPicture, as_in_file, read_square
from pipeline.sources.prepare import BadPicture
from pipeline.sources.record import Record, mask_name

_AHEAD = 2  # batches that are being read, and batches that are being written

Outcome = tuple[Record, str]  # a record, and why it has no mask; empty: it has one
_Reading = list[tuple[Record, Future[UprightPicture | BadPicture]]]
_Writing = list[tuple[Record, Future[None]]]


def predict_masks(
    records: Sequence[Record], predictor: Predictor, out: Path, *, batch_size: int, threads: int
) -> Iterator[Outcome]:
    """Write OUT/a/b.png for each a/b.jpg, and yield what became of each record.

    A mask has the size of the picture's file and lies as its pixels do, before EXIF turns them;
    0 is background, 255 foreground. Files appear whole.

    Raises:
        OSError: a mask cannot be written.
    """
    waiting = iter([records[i : i + batch_size] for i in range(0, len(records), batch_size)])
    with crf_pool(threads) as pool:
        reading: deque[_Reading] = deque()
        writing: deque[_Writing] = deque()
        for part in waiting:
            reading.append([(r, pool.submit(_read, r, predictor.side)) for r in part])
            if len(reading) > _AHEAD:
                yield from _predict(reading.popleft(), predictor, out, pool, writing)
        while reading:
            yield from _predict(reading.popleft(), predictor, out, pool, writing)
        while writing:
            yield from _written(writing.popleft())


def _predict(
    part: _Reading,
    predictor: Predictor,
    out: Path,
    pool: ThreadPoolExecutor,
    writing: deque[_Writing],
) -> Iterator[Outcome]:
    """Predict a batch and hand its masks to the writers; yield what is bad or written by now."""
    good: list[tuple[Record, UprightPicture]] = []
    for record, future in part:
        picture = future.result()
        if isinstance(picture, BadPicture):
            yield record, str(picture)
        else:
            good.append((record, picture))
    if good:
        salient = predictor.probabilities(np.stack([picture.pixels for _, picture in good]))
        writing.append(
            [
                (record, pool.submit(_write, out / mask_name(record.key), picture, one, predictor))
                for (record, picture), one in zip(good, salient, strict=True)
            ]
        )
    if len(writing) > _AHEAD:
        yield from _written(writing.popleft())


def _written(part: Iterable[tuple[Record, Future[None]]]) -> Iterator[Outcome]:
    for record, future in part:
        future.result()
        yield record, ""


def _read(record: Record, side: int) -> UprightPicture | BadPicture:
    try:
        return read_square(record, side)
    except BadPicture as error:
        return error


def _write(path: Path, picture: UprightPicture, salient: Floats, predictor: Predictor) -> None:
    mask = predictor.finished(picture.pixels, salient)
    upright = cv2.resize(mask, picture.size, interpolation=cv2.INTER_LINEAR)
    write_map(path, as_in_file(upright, picture.orientation))
