"""Rung `loader`: bytes on disk to the six views, by our loader and by what a user would pick else.

All see the same pictures, from a warm page cache, each in a process of its own with as many workers
as cores, timed while it runs (bench/streams.py). What the rung is asked and what it reports; the
rows are in loader_cpu and loader_cuda.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from bench.augment import installed_version
from bench.environment import environment
from bench.generated import shards_for
from bench.harness import Built, Candidate, Measured, Unavailable, tell
from bench.isolated import Setup, isolated
from bench.rows import row
from bench.streams import Stream, timed
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.shards import open_shards

IMAGE_ENDINGS = (".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True, slots=True)
class LoaderRequest:
    """What to measure."""

    device: str
    batch: int
    rounds: int
    threads: int  # workers of each row
    data: tuple[Path, ...] = ()  # shards of the same pictures, one of each format; empty: generated
    photos: Path | None = None  # folder of their JPEG files; None: written from the shards
    peers: bool = True
    only: tuple[str, ...] = ()  # names of rows; empty: all


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


def loader(request: LoaderRequest) -> dict[str, Any]:
    """Measure, and return the JSON object of this rung.

    Raises:
        ValueError: no such device or row, unreadable shards, fewer samples than a batch.
    """
    recipe = MultiCropRecipe()
    with material(request, recipe) as found:
        if request.device == "cuda":
            from bench.loader_cuda import loader_cuda

            return loader_cuda(request, recipe, found)
        from bench.loader_cpu import loader_cpu

        return loader_cpu(request, recipe, found)


@contextmanager
def material(request: LoaderRequest, recipe: MultiCropRecipe) -> Iterator[Material]:
    """The pictures in all forms; what is not given is made in temporary folders."""
    with shards_for(request.data) as folders, TemporaryDirectory(prefix="bench-") as temporary:
        first = next(iter(folders.values()))
        written = () if request.photos else write_photos(first, Path(temporary))
        shards = open_shards(first)
        sizes, images = shards.manifest.sizes, len(shards)
        shards.close()
        if images < request.batch:
            raise ValueError(f"{first} holds {images} samples; lower --batch {request.batch}")
        views = 4 * sum(3 * side * side for side in recipe.sizes)
        yield Material(
            shards=folders,
            photos=written if request.photos is None else list_photos(request.photos),
            images=images,
            bytes_per_image=(sizes.jpeg_bytes + sizes.mask_bytes) / images + views,
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


def candidate(
    request: LoaderRequest,
    found: Material,
    name: str,
    what: str,
    open_stream: Callable[[], Stream],
    *,
    setup: Setup | None = None,
    version: str | None = None,
    peer: bool = False,
) -> Candidate:
    """A loader in a process of its own; a share is one batch, the mean of those timed."""
    one = Candidate(
        name=name,
        what=what,
        build=partial(build_stream, open_stream),
        images=request.batch,
        bytes_per_image=found.bytes_per_image,
        cores=request.threads,
        version=version,
        peer=peer,
    )
    return isolated(one, setup)


def peer(
    request: LoaderRequest,
    found: Material,
    name: str,
    file: str,
    function: str,
    source: Callable[[Material], Any],
    recipe: MultiCropRecipe,
    *,
    setup: Setup | None = None,
    **arguments: Any,
) -> Candidate:
    """A loader of bench/peers/`file`; its library is imported in its process."""
    module = importlib.import_module(f"bench.peers.{file}")
    make = getattr(module, function)
    what = getattr(module, "WHAT" + function.removeprefix("make").upper())
    opened = partial(open_peer, make, source, found, recipe, request, arguments)
    version = installed_version(module.PACKAGE)
    return candidate(request, found, name, what, opened, setup=setup, version=version, peer=True)


def open_peer(
    make: Callable[..., Stream],
    source: Callable[[Material], Any],
    found: Material,
    recipe: MultiCropRecipe,
    request: LoaderRequest,
    arguments: dict[str, Any],
) -> Stream:
    return make(source(found), recipe, batch=request.batch, workers=request.threads, **arguments)


def build_stream(open_stream: Callable[[], Stream]) -> Built:
    return timed(open_stream())


def report(
    request: LoaderRequest,
    recipe: MultiCropRecipe,
    found: Material,
    measured: Sequence[Measured],
    ratios: dict[str, float],
) -> dict[str, Any]:
    """The JSON object that this rung prints."""
    views = f"{recipe.num_large}x{recipe.large_size} + {recipe.num_small}x{recipe.small_size}"
    source = " and ".join(folder.name for folder in found.shards.values())
    return {
        "rung": "loader",
        "device": request.device,
        "work": f"bytes on disk to views {views}, batch {request.batch}, {request.threads} "
        f"workers; {found.images} pictures of {source}, warm page cache; {request.rounds} rounds, "
        "interleaved",
        "environment": environment(),
        "rows": [row(each) for each in measured],
        "ratios": ratios,
    }
