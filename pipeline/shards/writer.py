"""Writing a shards folder: data files by a writer per format, then index, then manifest.

Everything goes into `OUT.partial`, which becomes OUT when it is complete: nothing half-written is
ever taken for shards.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.batch import MASK_GRID
from pipeline.saliency.codec import CODEC, LEVELS
from pipeline.saliency.provenance import MaskMethod
from pipeline.shards.beton import BetonWriter
from pipeline.shards.index import INDEX_NAME, IndexBuilder, Place, Sample
from pipeline.shards.manifest import (
    DEGENERATE_COVERAGE,
    FORMAT_VERSION,
    MANIFEST_NAME,
    QUANTILES,
    FileEntry,
    Ignored,
    Manifest,
    MaskSummary,
    Note,
    SizeSummary,
)
from pipeline.shards.tar import TarWriter

NONE_REFUSED: Mapping[str, int] = MappingProxyType({})
_LOCK_NAME = "lock"
_LIBRARIES = ("numpy", "pillow", "simplejpeg", "ffcv", "nvidia-dali-cuda130", "nvidia-dali-cuda120")


class ShardWriter(Protocol):
    """Writes the data files of one format."""

    def write(self, sample: Sample) -> Place: ...

    def close(self) -> list[Path]:
        """Finish; return the data files by number, then any other files."""
        ...

    def abort(self) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where samples come from and what was asked for: the part of a manifest known beforehand."""

    label_names: tuple[str, ...]
    source: str
    description: str
    short_side: int
    quality: int
    mask_origin: str
    mask_method: MaskMethod | None = None  # None: masks are given, or there are none
    ignored: tuple[Ignored, ...] = ()
    mask_foreground: str | None = None  # of masks from files: what counts as foreground in them
    white_level: int = 0  # sample that is white in images of more than 8 bits; 0: as declared


class FolderWriter:
    """Writes data files, index and manifest into an existing folder; use as a context manager."""

    def __init__(self, folder: Path, *, format: str, capacity: int, largest: int) -> None:
        self._folder = folder
        self._format = format
        self._writer: ShardWriter
        if format == "ffcv":
            self._writer = BetonWriter(folder, capacity=capacity, largest=largest)
        elif format == "dali":
            self._writer = TarWriter(folder)
        else:
            raise ValueError(f"unknown format {format!r}; known are ffcv and dali")
        self._index = IndexBuilder(capacity)
        self._num_unchanged = 0
        self._closed = False

    def __enter__(self) -> FolderWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._closed:
            self._writer.abort()

    def add(self, sample: Sample) -> None:
        """Append a sample; its id is the number of samples before it.

        Raises:
            ValueError: the format has no room for it.
        """
        self._index.add(sample, self._writer.write(sample))
        self._num_unchanged += sample.unchanged

    def finish(
        self,
        provenance: Provenance,
        *,
        skipped: Sequence[Note],
        repaired: Sequence[Note],
        scaled: Sequence[Note] = (),
        refused: Mapping[str, int] = NONE_REFUSED,
    ) -> Manifest:
        """Close the data files, write index and manifest, and return the manifest.

        Args:
            scaled: images whose samples of more than 8 bits may not be as bright as expected.
            refused: fault -> samples whose estimated mask has it, and was not added.
        """
        paths = self._writer.close()
        self._closed = True
        index = self._index.finish()
        digest = index.save(self._folder / INDEX_NAME)
        rows = index.rows
        per_file = np.bincount(rows["file_number"], minlength=1).tolist()
        manifest = Manifest(
            format=self._format,
            format_version=FORMAT_VERSION,
            num_samples=len(index),
            label_names=provenance.label_names,
            source=provenance.source,
            description=provenance.description,
            short_side=provenance.short_side,
            quality=provenance.quality,
            masks=replace(
                summarise_masks(rows, provenance.mask_origin, provenance.mask_method, refused),
                foreground=provenance.mask_foreground,
            ),
            sizes=summarise_sizes(rows, self._num_unchanged),
            files=tuple(
                FileEntry(
                    name=path.name,
                    num_bytes=path.stat().st_size,
                    num_samples=per_file[number % len(per_file)],
                )
                for number, path in enumerate(paths)
            ),
            index_sha256=digest,
            num_skipped=len(skipped),
            skipped=tuple(skipped),
            num_repaired=len(repaired),
            repaired=tuple(repaired),
            versions=library_versions(),
            num_ignored=sum(entry.count for entry in provenance.ignored),
            ignored=provenance.ignored,
            white_level=provenance.white_level,
            num_scaled=len(scaled),
            scaled=tuple(scaled),
        )
        for path in (*paths, self._folder / INDEX_NAME):
            _flush(path)
        path = self._folder / MANIFEST_NAME
        path.write_text(manifest.to_json(), encoding="utf-8")
        _flush(path)
        return manifest


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give `OUT.partial` to write into; rename it to `out` at the end, remove it on any error.

    Raises:
        ValueError: `out` exists and cannot be replaced, or somebody else is writing it.
        OSError: it cannot be written.
    """
    check_free(out)
    goal, partial = _place_of(out), partial_of(out)
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    with _locked(partial):
        try:
            yield partial
            (partial / _LOCK_NAME).unlink()
            os.replace(partial, goal)
        except BaseException:
            shutil.rmtree(partial)
            raise


def partial_of(out: Path) -> Path:
    """Where a conversion to `out` writes until it is complete: beside it, links followed."""
    place = _place_of(out)
    return place.with_name(f"{place.name}.partial")


def masks_of(out: Path) -> Path:
    """Where a conversion to `out` keeps the masks that it estimates until it is complete."""
    place = _place_of(out)
    return place.with_name(f"{place.name}.masks")


def _place_of(out: Path) -> Path:
    """Where `out` is when links are followed: a link cannot be replaced by a folder."""
    return Path(os.path.realpath(out))


def check_free(out: Path) -> None:
    """See that nothing is in the way of a conversion to `out`.

    Raises:
        ValueError: something is.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not empty; remove it or choose another --out")
    if os.path.ismount(_place_of(out)):
        raise ValueError(
            f"{out} is a mount point, which cannot be replaced; give a folder inside it, "
            f"such as --out {out / 'shards'}"
        )
    if _place_of(out).is_symlink():
        raise ValueError(f"{out} is a link that leads in a circle; remove it")
    partial = partial_of(out)
    if not partial.exists():
        return
    lock = partial / _LOCK_NAME
    if not lock.is_file():
        raise ValueError(f"{partial} is in the way and not of this command's making; move it away")
    with lock.open("w") as file:
        _take(file, partial)


@contextmanager
def _locked(partial: Path) -> Iterator[None]:
    with (partial / _LOCK_NAME).open("w") as file:
        _take(file, partial)
        yield


def _take(file: IO[str], partial: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ValueError(
            f"{partial} is being written by another conversion; wait for it"
        ) from error


def summarise_masks(
    rows: NDArray[np.void],
    origin: str,
    method: MaskMethod | None = None,
    refused: Mapping[str, int] = NONE_REFUSED,
) -> MaskSummary:
    """Describe the masks of index rows."""
    covered = rows["coverage"][~np.isnan(rows["coverage"])].astype(np.float64)
    quantiles = np.quantile(covered, QUANTILES).tolist() if covered.size else []
    return MaskSummary(
        codec=CODEC,
        grid=MASK_GRID,
        levels=LEVELS,
        origin=origin,
        num_masks=covered.size,
        num_missing=len(rows) - covered.size,
        num_degenerate=int((covered < DEGENERATE_COVERAGE).sum()),
        degenerate_below=DEGENERATE_COVERAGE,
        coverage_mean=round(float(covered.mean()), 6) if covered.size else None,
        coverage_quantiles={
            str(level): round(value, 6) for level, value in zip(QUANTILES, quantiles, strict=False)
        },
        method=method,
        labels_involved=None if method is None else method.labels_involved,
        refused=dict(sorted(refused.items())),
        refused_share=round(sum(refused.values()) / len(rows), 6),
    )


def summarise_sizes(rows: NDArray[np.void], num_unchanged: int) -> SizeSummary:
    """Describe pixels and bytes of index rows, of which there is at least one."""
    heights, widths = rows["height"].astype(np.int64), rows["width"].astype(np.int64)
    return SizeSummary(
        min_height=int(heights.min()),
        max_height=int(heights.max()),
        min_width=int(widths.min()),
        max_width=int(widths.max()),
        mean_megapixels=round(float((heights * widths).mean()) / 1e6, 6),
        jpeg_bytes=int(rows["jpeg_size"].sum(dtype=np.int64)),
        mask_bytes=int(rows["mask_size"].sum(dtype=np.int64)),
        num_unchanged=num_unchanged,
    )


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that had a hand in the bytes."""
    versions = {"python": sys.version.split()[0]}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _flush(path: Path) -> None:
    """Wait until a file is on the disk, so that the manifest never outlives what it describes."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
