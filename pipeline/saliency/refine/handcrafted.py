"""Runs hand-crafted methods over photos, and leaves their maps as PNGs.

Shapes: H/W sides of a photo, its longer side at most `map_side`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.batch import Bytes, Floats
from pipeline.saliency.arrays import to_bytes
from pipeline.saliency.refine.maps import missing_maps, write_map
from pipeline.saliency.refine.workshop import Workshop
from pipeline.sources.pixels import read_within
from pipeline.sources.prepare import BadPicture
from pipeline.sources.record import Record, mask_name


@dataclass(frozen=True, kw_only=True, slots=True)
class HandCrafted:
    """Methods that need no training: the only teachers of the networks.

    `fusion` is what they come to together, a map of its own that no network refines; None: there
    is none, and settings that need it are refused.

    `estimate` maps a picture, RGB uint8 [H, W, 3], to the salience by each of `all_names`,
    float32 [H, W] in 0..1; all at once, because methods share their superpixels.
    """

    names: tuple[str, ...]
    estimate: Callable[[Bytes], Mapping[str, Floats]]
    fusion: str | None = None

    @property
    def all_names(self) -> tuple[str, ...]:
        """Of the methods, and of the fusion if there is one that is not among them."""
        return tuple(dict.fromkeys(name for name in (*self.names, self.fusion) if name))


def write_handcrafted_maps(methods: HandCrafted, workshop: Workshop) -> None:
    """Write the maps of the photos that have not all of them yet.

    Raises:
        ValueError: a photo can no longer be read, or a method fails on it.
    """
    missing = {
        name
        for method in methods.all_names
        for name in missing_maps(workshop.maps(method), workshop.names)
    }
    wanted = [record for record in workshop.photos.records if mask_name(record.key) in missing]

    def estimate(record: Record) -> None:
        try:
            picture = read_within(record, workshop.config.map_side).pixels
        except BadPicture as error:
            raise ValueError(f"{record.key} can no longer be read: {error}") from error
        estimates = methods.estimate(picture)
        for method in methods.all_names:
            salient = estimates[method]
            _check(method, salient, picture, record)
            write_map(workshop.maps(method) / mask_name(record.key), to_bytes(salient))

    with workshop.report("hand-crafted maps", len(wanted)) as tick:
        for _ in workshop.pool.map(estimate, wanted):
            tick()


def _check(method: str, salient: Floats, picture: Bytes, record: Record) -> None:
    if salient.shape != picture.shape[:2] or not 0 <= salient.min() <= salient.max() <= 1:
        raise ValueError(
            f"{method} gave {record.key}, {picture.shape}, a map of shape {salient.shape} from "
            f"{salient.min()} to {salient.max()}; want 0..1 for each pixel"
        )
