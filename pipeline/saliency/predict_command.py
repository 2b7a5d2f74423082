"""`python -m pipeline.saliency predict`: the masks of a whole data set, by a trained student."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from pipeline.saliency.console import list_bad, refusing, report
from pipeline.saliency.refine.maps import missing_maps
from pipeline.saliency.refine.photos import unique_map_names
from pipeline.saliency.refine.predict import predict_masks
from pipeline.saliency.refine.predictor import load_predictor
from pipeline.saliency.train_command import choose_device
from pipeline.sources import Record, list_records
from pipeline.sources.folder import FolderOrigin

BATCH_SIZE = {"cpu": 8, "cuda": 128}  # on a core 27 masks/s, with 32 at once 26


@click.command("predict")
@click.option(
    "--photos",
    required=True,
    help="Folder or tar of photos, a .txt file that lists photos one a line, or demo.",
)
@click.option("--model", required=True, type=Path, help="The student.pt of a training.")
@click.option(
    "--out", required=True, type=Path, help="Folder of masks: a/b.png belongs to a/b.jpg."
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), help="[default: 8 on a CPU, 128 on a GPU]"
)
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda")
@click.option(
    "--threads", type=click.IntRange(min=1), help="To read and write.  [default: all cores]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def predict_command(
    photos: str,
    model: Path,
    out: Path,
    batch_size: int | None,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Write a mask for each photo that has none in --out yet; bad photos are named and left out."""
    with refusing():
        place = choose_device(device)
        predictor = load_predictor(model, place)
        records = list_photos(photos)
        names = unique_map_names(records)
        missing = set(missing_maps(out, names))
        wanted = [r for r, name in zip(records, names, strict=True) if name in missing]
        start, bad = time.perf_counter(), []
        with report("masks", len(wanted)) as tick:
            for record, reason in predict_masks(
                wanted,
                predictor,
                out,
                batch_size=batch_size or BATCH_SIZE[place.type],
                threads=threads or len(os.sched_getaffinity(0)),
            ):
                if reason:
                    bad.append((record.key, reason))
                tick()
    done = Done(
        predicted=len(wanted) - len(bad),
        there_before=len(records) - len(wanted),
        bad=len(bad),
        seconds=time.perf_counter() - start,
    )
    list_bad(bad, "photos have no mask")
    click.echo(done.line(out), err=True)
    if as_json:
        click.echo(json.dumps(done.values()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """What a prediction came to."""

    predicted: int
    there_before: int
    bad: int
    seconds: float

    def line(self, out: Path) -> str:
        speed = self.predicted / self.seconds
        return (
            f"{out}: {self.predicted} masks at {speed:.1f} images/s, {self.there_before} were "
            f"there, {self.bad} photos are bad"
        )

    def values(self) -> dict[str, float]:
        return {
            "predicted": self.predicted,
            "there_before": self.there_before,
            "bad": self.bad,
            "images_per_second": self.predicted / self.seconds,
        }


def list_photos(photos: str) -> Sequence[Record]:
    """List the photos of a source, or those that a .txt file names, relative to its folder.

    Raises:
        ValueError: there is no such source, or it names no photos.
    """
    path = Path(photos)
    if path.suffix != ".txt" or not path.is_file():
        return list_records(photos).records
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    origin = FolderOrigin(root=str(path.parent))
    records = [
        Record(key=name, label_name=None, origin=origin, offset=0, size=0) for name in names if name
    ]
    if not records:
        raise ValueError(f"{path} lists no photos; want a relative name on each line")
    for record in records:
        if Path(record.key).is_absolute() or ".." in Path(record.key).parts:
            raise ValueError(
                f"{path}: {record.key} leaves the folder of the list; put the list above all photos"
            )
    return records
