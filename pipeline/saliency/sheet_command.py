"""`python -m pipeline.saliency sheet`: pictures and their masks side by side, to be looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import cv2
import numpy as np

from pipeline.batch import Bytes
from pipeline.devices import CPU
from pipeline.saliency.arrays import to_bytes
from pipeline.saliency.console import list_bad, refusing, report
from pipeline.saliency.gate import judge
from pipeline.saliency.methods import FINISHED, METHODS, SINGLE, estimate_all
from pipeline.saliency.one_thread import one_thread_each
from pipeline.saliency.predict_command import list_photos
from pipeline.saliency.refine.maps import read_map
from pipeline.saliency.refine.predictor import Predictor, load_predictor
from pipeline.saliency.sheet import LARGE, SheetRow, confidence_of, thumbnail, write_sheet
from pipeline.sources import spread
from pipeline.sources.pixels import read_within, squared
from pipeline.sources.prepare import BadPicture
from pipeline.sources.record import Record, mask_name

STUDENT = "student"
_SIDE = 400  # pixels, the longer side that methods see
_NOTE = (
    "{final} is what a conversion stores: it is drawn as an outline over the image, and as the "
    "image without its background; unfold the maps below an image to see all methods. The least "
    "sure come first. Confidence: how far the mask agrees with the maps of the six hand-crafted "
    "methods, 0 to 1 (soft intersection over union, on average). The verdict is the quality "
    "gate's: an image whose mask is refused is stored without one."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shown:
    """What stands beside each picture."""

    maps: dict[str, Path]  # column -> folder of maps
    predictor: Predictor | None
    truth: Path | None


@click.command("sheet")
@click.option(
    "--photos",
    required=True,
    help="Folder or tar of photos, a .txt file that lists photos one a line, or demo.",
)
@click.option("--out", required=True, type=Path, help="Folder for sheet.html and sheet-NN.png.")
@click.option(
    "--maps",
    multiple=True,
    type=Path,
    help="Folder of maps, a/b.png for a/b.jpg, or the OUT of a training; can be repeated.",
)
@click.option("--masks", type=Path, help="Folder of true masks, as of --maps.")
@click.option("--model", type=Path, help="A student.pt; its masks are the final ones.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Take so many pictures, spread evenly.",
)
def sheet_command(
    photos: str, out: Path, maps: tuple[Path, ...], masks: Path | None, model: Path | None,
    limit: int,
) -> None:  # fmt: skip
    """Draw images with their final masks, the gate's verdict and all maps; least sure first."""
    with refusing():
        records = spread(list_photos(photos), limit)
        shown = _Shown(
            maps=dict(folder for path in maps for folder in map_folders(path)),
            predictor=None if model is None else load_predictor(model, CPU),
            truth=masks,
        )
        rows: list[SheetRow] = []
        bad: list[tuple[str, str]] = []
        with report("sheet", len(records)) as tick, one_thread_each():
            for record in records:
                try:
                    rows.append(make_row(record, shown))
                except BadPicture as error:
                    bad.append((record.key, str(error)))
                tick()
        list_bad(bad, "photos are not shown")
        if not rows:
            raise ValueError(f"{photos}: none of {len(bad)} photos can be read")
        note = _NOTE.format(final=f"'{FINISHED if model is None else STUDENT}'")
        paths = write_sheet(out, rows, title=f"Masks of {photos}", note=note)
    refused = sum(row.verdict.fault is not None for row in rows)
    click.echo(f"{paths[0]}: {len(rows)} pictures, {refused} masks refused by the gate")


def map_folders(path: Path) -> Iterator[tuple[str, Path]]:
    """Name the folders of maps: that one, or a training's last round of each method, then fused.

    Raises:
        ValueError: there is no such folder.
    """
    if not path.is_dir():
        raise ValueError(f"{path}: no such folder of maps")
    if not (path / "maps").is_dir():
        yield path.name, path
        return
    last: dict[str, Path] = {}
    for folder in sorted((path / "maps").iterdir(), key=lambda one: (len(one.name), one.name)):
        method, _, number = folder.name.partition("-round")
        if number:
            last[method] = folder
    fused = path / "maps" / "fused"
    folders = [*last.values(), fused] if fused.is_dir() else last.values()
    yield from ((folder.name, folder) for folder in folders)


def make_row(record: Record, shown: _Shown) -> SheetRow:
    """Make the row of an image.

    Raises:
        BadPicture: it cannot be read.
        ValueError: a map is damaged.
    """
    picture = read_within(record, _SIDE).pixels
    found = estimate_all(picture, METHODS)
    maps = {name: thumbnail(to_bytes(one.saliency)) for name, one in found.items()}
    image = thumbnail(picture, LARGE)
    small, final = maps[FINISHED], thumbnail(to_bytes(found[FINISHED].saliency), LARGE)
    opinions = [maps[name] for name in SINGLE]
    for name, folder in shown.maps.items():
        maps[name] = _read_tile(folder / mask_name(record.key), small)
    if shown.predictor is not None:
        square = shown.predictor.masks(squared(picture, shown.predictor.side)[None])[0]
        small = maps[STUDENT] = squeezed(square, small)
        final = cv2.resize(square, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    if shown.truth is not None:
        maps["truth"] = _read_tile(shown.truth / mask_name(record.key), small)
    return SheetRow(
        key=record.key,
        image=image,
        final=final,
        maps=maps,
        verdict=judge(small.astype(np.float32) / np.float32(255)),
        confidence=confidence_of(small, opinions),
    )


def _read_tile(path: Path, like: Bytes) -> Bytes:
    """Read a map as a tile of the same shape as another; black where there is none."""
    return squeezed(read_map(path), like) if path.is_file() else np.zeros_like(like)


def squeezed(values: Bytes, like: Bytes) -> Bytes:
    """Resize a map to the shape of another, whatever its own."""
    resized: Bytes = cv2.resize(values, like.shape[1::-1], interpolation=cv2.INTER_AREA)
    return resized
