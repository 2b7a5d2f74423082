"""`python -m bench outlines`: the outlined photos as a folder that saliency can be measured on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click
import cv2
import numpy as np

from bench.refused import refusing

_OUTLINES = Path(__file__).with_name("outlines.json")


@click.command("outlines")
@click.option(
    "--photos", required=True, type=Path, help="Folder of imagenet-sample-images, or 400 of them."
)
@click.option("--out", required=True, type=Path, help="Folder to make, with images/ and masks/.")
def outlines_command(photos: Path, out: Path) -> None:
    """Make masks of the outlined photos, for `python -m pipeline.saliency evaluate --data OUT`."""
    with refusing():
        count = write_outlined(photos, out)
    click.echo(f"{out}: {count} photos and their masks", err=True)


def write_outlined(photos: Path, out: Path) -> int:
    """Copy the outlined photos and write a mask, 0 or 255, of each one's size; return how many.

    Raises:
        ValueError: a photo is missing or cannot be decoded, or OUT is not empty.
    """
    outlines = json.loads(_OUTLINES.read_text(encoding="utf-8"))
    missing = [name for name in outlines if not (photos / name).is_file()]
    if missing:
        raise ValueError(
            f"{photos} lacks {len(missing)} of {len(outlines)} outlined photos, {missing[0]} "
            "first; get them from github.com/EliSchwartz/imagenet-sample-images"
        )
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty; choose another")
    for part in ("images", "masks"):
        (out / part).mkdir(parents=True)
    for name, polygons in outlines.items():
        picture = cv2.imread(str(photos / name))
        if picture is None:
            raise ValueError(f"{photos / name}: cannot be decoded as a picture")
        shutil.copyfile(photos / name, out / "images" / Path(name).with_suffix(".jpg"))
        height, width = picture.shape[:2]
        mask = np.zeros((height, width), np.uint8)
        for polygon in polygons:  # one by one: together, where two overlap would be left out
            corners = np.array(polygon) / 100 * (width, height)
            cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], (255,))
        cv2.imwrite(str(out / "masks" / Path(name).with_suffix(".png")), mask)
    return len(outlines)
