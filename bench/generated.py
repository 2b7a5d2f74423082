"""Shards to measure on: those that are given, or generated ones in a temporary folder."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bench.harness import tell
from bench.pictures import DIFFERENT, HEIGHT, WIDTH, generated
from pipeline.batch import Bytes
from pipeline.saliency.codec import coverage, decode_mask, encode_mask
from pipeline.shards import FORMATS, open_shards
from pipeline.shards.index import Sample
from pipeline.shards.writer import FolderWriter, Provenance

COUNT = 256
# 100 KB a picture, as ImageNet's photos have (110 KB): decoding time goes with the bytes
_QUALITY = 96


@contextmanager
def shards_for(data: Sequence[Path], formats: Sequence[str] = FORMATS) -> Iterator[dict[str, Path]]:
    """The folders by their format; generated ones in `formats` if none are given.

    Raises:
        ValueError: unreadable shards, or two of one format.
    """
    if not data:
        with generated_shards(formats) as folders:
            yield folders
        return
    found: dict[str, Path] = {}
    for folder in data:
        shards = open_shards(folder)
        format = shards.manifest.format
        shards.close()
        if format in found:
            raise ValueError(f"--data {folder}: a second folder of format {format}; give one")
        found[format] = folder
    yield found


@contextmanager
def generated_shards(
    formats: Sequence[str], *, count: int = COUNT, height: int = HEIGHT, width: int = WIDTH
) -> Iterator[dict[str, Path]]:
    """The same `count` pictures in each of the formats that can be written here, until the end.

    Sample i has label i, so that whoever reads them can be asked which pictures it gave.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        tell(f"generating {count} pictures of {width}x{height}")
        samples = generated_samples(count, height=height, width=width)
        yield {name: path for name in formats if (path := _written(Path(folder), name, samples))}


def generated_samples(count: int, *, height: int = HEIGHT, width: int = WIDTH) -> list[Sample]:
    """Textures of bench/pictures.py as JPEGs with masks; beyond 64 they are mirrored ones."""
    pictures = generated(count, height=height, width=width)
    grids = pictures.decoded.masks.numpy()
    return [
        _sample(number, _turned(pixels, number), _turned(grids[number], number))
        for number, pixels in enumerate(pictures.arrays())
    ]


def _written(folder: Path, format: str, samples: Sequence[Sample]) -> Path | None:
    try:
        write_shards(folder / format, format, samples)
    except ImportError as error:
        tell(f"  not as {format}: not installed: {error.name or error}")
        return None
    tell(f"  written as {format}")
    return folder / format


def write_shards(folder: Path, format: str, samples: Sequence[Sample]) -> None:
    """Write samples as convert_dataset.py does."""
    folder.mkdir()
    provenance = Provenance(
        label_names=(),
        source="generated",
        description=f"{len(samples)} generated pictures",
        short_side=0,
        quality=_QUALITY,
        mask_origin="generated",
    )
    largest = max(len(sample.jpeg) for sample in samples)
    with FolderWriter(folder, format=format, capacity=len(samples), largest=largest) as writer:
        for sample in samples:
            writer.add(sample)
        writer.finish(provenance, skipped=(), repaired=())


def _turned(pixels: Bytes, number: int) -> Bytes:
    """One of the four mirrorings, another for every 64 pictures; of [h, w, ...]."""
    turn = number // DIFFERENT % 4
    pixels = pixels[::-1] if turn & 1 else pixels
    return np.ascontiguousarray(pixels[:, ::-1] if turn & 2 else pixels)


def _sample(number: int, pixels: Bytes, mask: Bytes) -> Sample:
    from PIL import Image

    jpeg = io.BytesIO()
    Image.fromarray(pixels).save(jpeg, "JPEG", quality=_QUALITY, subsampling="4:2:0")
    record = encode_mask(mask)
    return Sample(
        key=f"{number:06d}.jpg",
        label=number,
        jpeg=jpeg.getvalue(),
        mask=record,
        height=pixels.shape[0],
        width=pixels.shape[1],
        coverage=coverage(decode_mask(record)),
        unchanged=True,
    )
