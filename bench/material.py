"""The same pictures in all the forms that loaders read: shards of both formats, JPEG files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from bench.generated import shards_for
from bench.harness import Unavailable, tell
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.shards import open_shards

IMAGE_ENDINGS = (".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """Where the same pictures lie in each form."""

    shards: Mapping[str, Path]  # format -> folder
    photos: tuple[tuple[Path, int], ...]  # JPEG files and labels
    images: int
    bytes_per_image: float  # JPEG and mask read, views written once

    def folder(self, format: str) -> Path:
        """The shards in this format.

        Raises:
            Unavailable: there are none.
        """
        if format not in self.shards:
            raise Unavailable(f"there are no shards of format {format}; give them by --data")
        return self.shards[format]


@contextmanager
def material(
    data: Sequence[Path], photos: Path | None, recipe: MultiCropRecipe, *, batch: int
) -> Iterator[Material]:
    """The pictures in all forms; what is not given is made in temporary folders.

    Raises:
        ValueError: unreadable shards, fewer samples than a batch, no photos.
    """
    with shards_for(data) as folders, TemporaryDirectory(prefix="bench-") as temporary:
        first = next(iter(folders.values()))
        written = () if photos else write_photos(first, Path(temporary))
        shards = open_shards(first)
        stored, images = shards.manifest.stored_bytes_per_sample, len(shards)
        shards.close()
        if images < batch:
            raise ValueError(f"{first} holds {images} samples; lower --batch {batch}")
        yield Material(
            shards=folders,
            photos=written if photos is None else list_photos(photos),
            images=images,
            bytes_per_image=stored + 4 * recipe.values_per_image,
        )


def write_photos(data: Path, folder: Path) -> tuple[tuple[Path, int], ...]:
    """Write the JPEGs of shards as files, byte for byte, and return them with their labels."""
    shards = open_shards(data)
    tell(f"writing {len(shards)} JPEG files for torchvision")
    photos = []
    for sample_id in range(len(shards)):
        path = folder / f"{sample_id:06d}.jpg"
        path.write_bytes(shards.read(np.array([sample_id])).jpegs[0])
        photos.append((path, int(shards.labels[sample_id])))
    shards.close()
    return tuple(photos)


def list_photos(folder: Path) -> tuple[tuple[Path, int], ...]:
    """The JPEG files of a folder and the folders in it; labels number them.

    Raises:
        ValueError: there are none.
    """
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
    if not paths:
        raise ValueError(f"--photos {folder}: no files ending in {' or '.join(IMAGE_ENDINGS)}")
    return tuple((path, number) for number, path in enumerate(paths))


def photos_of(found: Material) -> tuple[tuple[Path, int], ...]:
    return found.photos


def ffcv_shards(found: Material) -> Path:
    return found.folder("ffcv")


def dali_shards(found: Material) -> Path:
    return found.folder("dali")
