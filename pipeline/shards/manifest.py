"""The manifest of a shards folder: what it holds, where it came from, and that it is complete.

It is written last, so a folder with a manifest was written to its end. It holds no time of day and
no path of this machine beyond what the user typed: the same input gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pipeline.saliency.provenance import MaskMethod

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
DEGENERATE_COVERAGE = 0.01  # masks that cover less than this share of the image count as degenerate
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """What happened to one picture."""

    key: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ignored:
    """Entries of a source that are not converted, for one reason."""

    reason: str
    count: int
    names: tuple[str, ...]  # the first of them; folders end in /


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """A data file of the folder."""

    name: str
    num_bytes: int
    num_samples: int


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskSummary:
    """How the masks are stored, where they came from, and how much of the images they cover."""

    codec: str
    grid: int
    levels: int
    origin: str  # "none", "demo", "estimated", or the folder that was given
    num_masks: int
    num_missing: int
    num_degenerate: int  # cover less than `degenerate_below`
    degenerate_below: float
    coverage_mean: float | None  # None: no masks
    coverage_quantiles: dict[str, float]  # "0.5" -> share of the image
    # absent from manifests that were written before masks could be estimated
    method: MaskMethod | None = None  # None: they were given, or there are none
    labels_involved: bool | None = None  # None: nobody said how they were made
    refused: dict[str, int] = field(default_factory=dict)  # fault -> estimates that are not stored
    refused_share: float = 0.0  # of the samples
    foreground: str | None = None  # --mask-foreground, of masks from files


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeSummary:
    """Pixels and bytes of the samples."""

    min_height: int
    max_height: int
    min_width: int
    max_width: int
    mean_megapixels: float
    jpeg_bytes: int
    mask_bytes: int
    num_unchanged: int  # pictures whose bytes were kept


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything about a shards folder that is not per sample."""

    format: str  # "ffcv", "dali" or "memory"
    format_version: int
    num_samples: int
    label_names: tuple[str, ...]  # by label; empty: unlabelled
    source: str  # as given
    description: str  # what was found there
    short_side: int  # 0: sizes kept
    quality: int  # of pictures that had to be encoded again
    masks: MaskSummary
    sizes: SizeSummary
    files: tuple[FileEntry, ...]
    index_sha256: str
    num_skipped: int
    skipped: tuple[Note, ...]  # pictures that are not in the shards
    num_repaired: int
    repaired: tuple[Note, ...]  # JPEGs that decode with a warning, and what was mended in others
    versions: dict[str, str]
    # absent from older manifests
    num_ignored: int = 0
    ignored: tuple[Ignored, ...] = ()  # entries of the source that are no images, by reason
    white_level: int = 0  # --white-level; 0: what files declare
    num_scaled: int = 0
    scaled: tuple[Note, ...] = ()  # images whose samples use little of their depth, or have none

    @property
    def stored_bytes_per_sample(self) -> float:
        """Bytes of JPEG and mask, on average."""
        return (self.sizes.jpeg_bytes + self.sizes.mask_bytes) / self.num_samples

    def to_json(self) -> str:
        """The text of the manifest file."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read the text of a manifest file.

        Raises:
            ValueError: it is not a manifest, or one of an unknown version.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a manifest: {error}") from error
        if not isinstance(values, dict) or "format_version" not in values:
            raise ValueError("not a manifest: it has no format_version")
        if values["format_version"] != FORMAT_VERSION:
            raise ValueError(
                f"format version {values['format_version']}; this code reads {FORMAT_VERSION}: "
                "convert the source again, or use the code that wrote it"
            )
        return _from_values(values)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a shards folder.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise ValueError(
            f"{folder}: no {MANIFEST_NAME}, so these are not shards or only half of them; "
            "make them with convert_dataset.py"
        )
    try:
        return Manifest.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _from_values(values: Mapping[str, Any]) -> Manifest:
    known = {one.name for one in fields(Manifest)}
    needed = {one.name for one in fields(Manifest) if one.default is MISSING}
    if not needed <= set(values) <= known:
        differ = sorted((needed - set(values)) | (set(values) - known))
        raise ValueError(f"not a manifest: fields {differ} differ")
    try:
        return Manifest(
            **{
                **values,
                "label_names": tuple(values["label_names"]),
                "masks": _masks_from(values["masks"]),
                "sizes": SizeSummary(**values["sizes"]),
                "files": tuple(FileEntry(**entry) for entry in values["files"]),
                "skipped": tuple(Note(**note) for note in values["skipped"]),
                "repaired": tuple(Note(**note) for note in values["repaired"]),
                "ignored": tuple(_ignored_from(entry) for entry in values.get("ignored", ())),
                "scaled": tuple(Note(**note) for note in values.get("scaled", ())),
            }
        )
    except TypeError as error:
        raise ValueError(f"not a manifest: {error}") from error


def _ignored_from(values: Mapping[str, Any]) -> Ignored:
    return Ignored(**{**values, "names": tuple(values["names"])})


def _masks_from(values: Mapping[str, Any]) -> MaskSummary:
    method = values.get("method")
    return MaskSummary(**{**values, "method": MaskMethod(**method) if method else None})
