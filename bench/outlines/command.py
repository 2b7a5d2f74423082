"""`python -m bench outlines`: the outlined photos as a folder that saliency can be measured on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import click

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
        ValueError: a photo is missing or is no picture, or OUT is not empty.
    """
    from PIL import Image, ImageDraw

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
        shutil.copyfile(photos / name, out / "images" / Path(name).with_suffix(".jpg"))
        mask = Image.new("L", _size(photos / name))
        for polygon in polygons:
            corners = [(x / 100 * mask.width, y / 100 * mask.height) for x, y in polygon]
            ImageDraw.Draw(mask).polygon(corners, fill=255)
        mask.save(out / "masks" / Path(name).with_suffix(".png"))
    return len(outlines)


def _size(photo: Path) -> tuple[int, int]:
    from PIL import Image

    try:
        with Image.open(photo) as picture:
            return picture.size
    except OSError as error:
        raise ValueError(f"{photo}: no picture that Pillow knows") from error
