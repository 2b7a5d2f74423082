"""Make shards of pictures: `python convert_dataset.py --source DIR --format ffcv --out SHARDS`.

source -> records -> prepared pictures (workers) -> data files, index, manifest -> read back

Exit status: 0; 1 if more pictures had to be left out than --max-bad allows (the shards are complete
nevertheless, and their manifest names what is missing) or a worker died; 2 if what was asked for
cannot be done. Nothing half-written ever has the name --out.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.shards import FORMATS, Manifest, open_shards
from pipeline.shards.files import find_damaged
from pipeline.shards.index import Sample
from pipeline.shards.manifest import Note
from pipeline.shards.writer import FolderWriter, Provenance, check_free, new_folder, partial_of
from pipeline.sources import Record, Source, list_records
from pipeline.sources.masks import attach_masks
from pipeline.sources.prepare import BadPicture, Prepared, PrepareSettings
from pipeline.sources.stop import Stop
from pipeline.sources.workers import WorkerDied, prepare_all

STOP = Stop()

SECONDS_BETWEEN_LINES = 5.0  # of progress, where there is no terminal
SECONDS_BETWEEN_UPDATES = 0.1
NAMES_SHOWN = 10

Advance = Callable[[int], None]  # called once for each picture with the number skipped so far


class Refused(click.ClickException):
    """What the user asked for cannot be done: one line, exit status 2."""

    exit_code = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A conversion as asked for."""

    source: str
    masks: Path | None
    format: str
    out: Path
    settings: PrepareSettings
    workers: int
    limit: int | None


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--source",
    required=True,
    help="Folder of pictures (class folders or flat), tar (also in WebDataset layout), ImageNet's "
    "tar of tars, or a generated set: demo, demo-val.",
)
@click.option(
    "--masks",
    type=Path,
    help="Folder of masks: a/b.png belongs to a/b.jpg; any size, white is foreground.",
)
@click.option("--format", default="ffcv", show_default=True, metavar="ffcv|dali")
@click.option(
    "--out", required=True, type=Path, help="Folder to make; must not exist, or be empty."
)
@click.option(
    "--short-side",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Reduce larger pictures to this shorter side; 0 keeps sizes and original bytes.",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    default=90,
    show_default=True,
    help="JPEG quality of pictures that must be encoded anew (4:2:0).",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=None,
    help="Processes; 0 works in the main process.  [default: one for each CPU]",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="Take so many pictures, spread evenly; generate so many of a generated set.",
)
@click.option(
    "--max-bad",
    default="0",
    show_default=True,
    metavar="N|P%",
    help="How many pictures may be left out, because they cannot be decoded, with exit status 0.",
)
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def main(
    source: str,
    masks: Path | None,
    format: str,
    out: Path,
    short_side: int,
    quality: int,
    workers: int | None,
    limit: int | None,
    max_bad: str,
    as_json: bool,
) -> None:
    """Make shards of pictures, with their saliency masks if there are any."""
    request = Request(
        source=source,
        masks=masks,
        format=format,
        out=out,
        settings=PrepareSettings(short_side=short_side, quality=quality),
        workers=len(os.sched_getaffinity(0)) if workers is None else workers,
        limit=limit,
    )
    start = time.perf_counter()
    try:
        allowed = parse_max_bad(max_bad)
        manifest = convert(request)
    except (ValueError, OSError) as error:
        raise Refused(" ".join(str(error).split())) from error
    except WorkerDied as error:
        raise click.ClickException(str(error)) from error
    seconds = time.perf_counter() - start
    too_many = manifest.num_skipped > allowed(manifest.num_samples + manifest.num_skipped)
    show(manifest, out, seconds)
    if too_many:
        click.echo(f"more pictures were skipped than --max-bad {max_bad} allows", err=True)
    if as_json:
        click.echo(json.dumps(summarise(manifest, out, seconds)))
    sys.exit(1 if too_many else 0)


def convert(request: Request) -> Manifest:
    """Make shards and return their manifest.

    Raises:
        ValueError: the source, the masks or the place to write to will not do.
        OSError: something cannot be read or written.
        WorkerDied: a worker process was killed or crashed.
    """
    if request.format not in FORMATS:
        raise ValueError(f"--format {request.format}: unknown; choose {' or '.join(FORMATS)}")
    check_free(request.out)
    source = list_records(request.source, limit=request.limit, masks=request.masks)
    mask_origin = request.source if source.has_masks else "none"
    if request.masks is not None:
        source, num_masks = attach_masks(source, request.masks)
        mask_origin = str(request.masks)
        click.echo(f"{num_masks} of {len(source.records)} pictures have a mask", err=True)
    click.echo(source.description, err=True)
    if partial_of(request.out).exists():
        click.echo(f"removing {partial_of(request.out)}, left by an interrupted run", err=True)
    with new_folder(request.out) as folder:
        manifest = write_shards(request, source, mask_origin, folder)
        check_written(folder, manifest)
    return manifest


def write_shards(request: Request, source: Source, mask_origin: str, folder: Path) -> Manifest:
    """Prepare all pictures of a source and write them into a folder.

    Raises:
        ValueError: not one of them can be decoded.
    """
    records = source.records
    labels = {name: label for label, name in enumerate(source.label_names)}
    skipped: list[Note] = []
    repaired: list[Note] = []
    provenance = Provenance(
        label_names=source.label_names,
        source=request.source,
        description=source.description,
        short_side=request.settings.short_side,
        quality=request.settings.quality,
        mask_origin=mask_origin,
    )
    largest = max(record.size for record in records)
    with (
        FolderWriter(
            folder, format=request.format, capacity=len(records), largest=largest
        ) as writer,
        closing(prepare_all(records, request.settings, num_workers=request.workers)) as outcomes,
        shown_progress(len(records), "converting") as advance,
    ):
        for record, outcome in outcomes:
            STOP.check()
            try:
                if isinstance(outcome, BadPicture):
                    raise outcome
                label = labels[record.label_name] if record.label_name is not None else -1
                writer.add(to_sample(record, outcome, label))
                if outcome.warning:
                    repaired.append(Note(key=record.key, reason=outcome.warning))
            except ValueError as error:
                skipped.append(Note(key=record.key, reason=str(error)))
            advance(len(skipped))
        if len(skipped) == len(records):
            raise ValueError(
                f"{request.source}: none of {len(records)} pictures can be decoded; "
                f"{skipped[0].key}: {skipped[0].reason}"
            )
        return writer.finish(provenance, skipped=skipped, repaired=repaired)


def to_sample(record: Record, prepared: Prepared, label: int) -> Sample:
    return Sample(
        key=record.key,
        label=label,
        jpeg=prepared.jpeg,
        mask=prepared.mask,
        height=prepared.height,
        width=prepared.width,
        coverage=prepared.coverage,
        unchanged=prepared.unchanged,
    )


def check_written(folder: Path, manifest: Manifest) -> None:
    """Open what was written and compare every sample with its checksum.

    Raises:
        OSError: something came back differently.
    """
    shards = open_shards(folder)
    num_damaged = 0
    with shown_progress(manifest.num_samples, "reading back") as advance:
        for _, damaged in find_damaged(shards):
            num_damaged += damaged
            advance(num_damaged)
    shards.close()
    if num_damaged:
        raise OSError(
            f"{folder}: {num_damaged} samples read back differently from what was written; "
            "check the disk and its free space"
        )


def parse_max_bad(text: str) -> Callable[[int], float]:
    """Return what gives, for a number of pictures, how many may be bad: "12" or "0.5%".

    Raises:
        ValueError: the text is neither.
    """
    try:
        if text.endswith("%"):
            share = float(text[:-1]) / 100
            if 0 <= share <= 1:
                return lambda total: share * total
        elif (number := int(text)) >= 0:
            return lambda total: number
    except ValueError:
        pass
    raise ValueError(f"--max-bad {text}: give a number of pictures (12) or a share (0.5%)")


@contextmanager
def shown_progress(total: int, what: str) -> Iterator[Advance]:
    """Show progress with rate and time left: a bar on a terminal, else a line now and then."""
    console = Console(stderr=True)
    start = time.perf_counter()
    done, shown = 0, start
    interval = SECONDS_BETWEEN_UPDATES if console.is_terminal else SECONDS_BETWEEN_LINES
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} pictures/s"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[bad]}"),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(what, total=total, rate=0.0, bad="")

        def advance(num_bad: int) -> None:
            nonlocal done, shown
            done += 1
            now = time.perf_counter()
            if now - shown < interval and (done < total or not console.is_terminal):
                return
            shown = now
            rate = done / (now - start)
            bad = f"{num_bad} bad" if num_bad else ""
            if console.is_terminal:
                bar.update(task, completed=done, rate=rate, bad=bad)
                return
            left = time.strftime("%H:%M:%S", time.gmtime((total - done) / rate))
            line = f"{what}: {done}/{total} pictures, {rate:.0f} pictures/s, {left} left {bad}"
            click.echo(line.rstrip(), err=True)

        yield advance


def show(manifest: Manifest, out: Path, seconds: float) -> None:
    """Print what was made."""
    megabytes = sum(entry.num_bytes for entry in manifest.files) / 1e6
    sizes, masks = manifest.sizes, manifest.masks
    click.echo(
        f"{out}: {manifest.num_samples} samples of {len(manifest.label_names)} classes, "
        f"{megabytes:.1f} MB in {seconds:.1f} s ({manifest.num_samples / seconds:.0f} pictures/s); "
        f"{sizes.num_unchanged} kept their bytes"
    )
    if masks.coverage_mean is not None:
        click.echo(
            f"{masks.num_masks} masks of {sizes.mask_bytes / masks.num_masks:.0f} bytes cover "
            f"{masks.coverage_mean:.1%} of the picture on average; {masks.num_missing} pictures "
            f"have none, {masks.num_degenerate} masks cover less than {masks.degenerate_below:.0%}"
        )
    for what, notes in (("skipped", manifest.skipped), ("repaired", manifest.repaired)):
        for note in notes[:NAMES_SHOWN]:
            click.echo(f"{what} {note.key}: {note.reason}")
        if len(notes) > NAMES_SHOWN:
            click.echo(f"... {len(notes)} {what} in all; the manifest names them")


def summarise(manifest: Manifest, out: Path, seconds: float) -> dict[str, object]:
    """What --json prints: the manifest and how long it took."""
    return {
        "out": str(out),
        "seconds": round(seconds, 3),
        "images_per_second": round(manifest.num_samples / seconds, 1),
        **asdict(manifest),
    }


if __name__ == "__main__":
    STOP.listen()
    main()
