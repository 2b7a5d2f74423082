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
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click

from console import HELP_NAMES, Command, Refused, in_one_line, outlive_output
from pipeline.shards import FORMATS, Manifest, open_shards
from pipeline.shards.described import described, shown, summarised
from pipeline.shards.files import find_damaged
from pipeline.shards.index import Sample
from pipeline.shards.manifest import Note
from pipeline.shards.writer import (
    FolderWriter,
    Provenance,
    check_free,
    masks_of,
    new_folder,
    partial_of,
)
from pipeline.sources import Record, Source, check_no_splits, list_records
from pipeline.sources.mask_journal import MaskJournal, opened_journal
from pipeline.sources.masks import MaskCheck, attach_masks, parse_foreground
from pipeline.sources.prepare import BadPicture, Prepared, PrepareSettings
from pipeline.sources.progress import shown_progress
from pipeline.sources.record import describe_classes, name_of_path
from pipeline.sources.stop import Stop
from pipeline.sources.workers import WorkerDied, prepare_all, start_early

STOP = Stop()


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A conversion as asked for."""

    source: str
    masks: Path | None
    saliency: str | None = None
    saliency_model: Path | None = None
    format: str
    out: Path
    settings: PrepareSettings
    workers: int
    limit: int | None
    first_folder_is_class: bool = False


@click.command(cls=Command, context_settings=HELP_NAMES)
@click.option(
    "--source",
    required=True,
    help="Folder of pictures (class folders or flat), tar (also in WebDataset layout), ImageNet's "
    "tar of tars, or a generated set: demo, demo-val.",
)
@click.option(
    "--masks",
    type=Path,
    help="Folder of masks: a/b.png (or another image a/b) belongs to a/b.jpg; any size.",
)
@click.option(
    "--mask-foreground",
    default="auto",
    show_default=True,
    metavar="auto|bright|nonzero|NUMBERS",
    help="What is foreground in mask files. auto: the alpha channel if there is one; of indexed "
    "colours (PASCAL VOC) all but 0, 255 being a border; else what is bright, 1 if there are only "
    "0 and 1. NUMBERS: values or indices, such as 1 or 1-20,22.",
)
@click.option(
    "--saliency",
    is_flag=False,
    flag_value="auto",
    metavar="[auto|METHOD]",
    help="Make masks without labels: by --saliency-model, else by hand-crafted methods.",
)
@click.option("--saliency-model", type=Path, help="The student.pt of `pipeline.saliency train`.")
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
    "--white-level",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="The value that is white in images of more than 8 bits, such as 4095; 0: the largest that "
    "the file's depth allows.",
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
@click.option(
    "--first-folder-is-class",
    is_flag=True,
    help="Take the first folder of each name as its class, also if it holds everything or the "
    "classes are then train and val.",
)
@click.option("--json", "as_json", is_flag=True, help="End with one line of JSON.")
def main(
    source: str,
    masks: Path | None,
    mask_foreground: str,
    saliency: str | None,
    saliency_model: Path | None,
    format: str,
    out: Path,
    short_side: int,
    quality: int,
    white_level: int,
    workers: int | None,
    limit: int | None,
    max_bad: str,
    first_folder_is_class: bool,
    as_json: bool,
) -> None:
    """Make shards of pictures, with their saliency masks if there are any."""
    start = time.perf_counter()
    try:
        request = Request(
            source=source,
            masks=masks,
            saliency=saliency,
            saliency_model=saliency_model,
            format=format,
            out=out,
            settings=PrepareSettings(
                short_side=short_side,
                quality=quality,
                foreground=parse_foreground(mask_foreground),
                white_level=white_level,
            ),
            workers=len(os.sched_getaffinity(0)) if workers is None else workers,
            limit=limit,
            first_folder_is_class=first_folder_is_class,
        )
        allowed = parse_max_bad(max_bad)
        manifest = convert(request)
    except (ValueError, OSError) as error:
        raise Refused(in_one_line(error)) from error
    except WorkerDied as error:
        raise click.ClickException(str(error)) from error
    seconds = time.perf_counter() - start
    too_many = manifest.num_skipped > allowed(manifest.num_samples + manifest.num_skipped)
    for line in described(manifest, out, seconds):
        click.echo(line)
    if too_many:
        click.echo(
            f"more images were skipped than --max-bad {max_bad} allows; the shards in {out} are "
            "complete and usable, and their manifest.json names what is missing",
            err=True,
        )
    if as_json:
        click.echo(json.dumps(summarised(manifest, out, seconds)))
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
    request = with_mask_maker(request)
    check_free(request.out)
    source = list_records(
        request.source,
        limit=request.limit,
        masks=request.masks,
        first_folder_is_class=request.first_folder_is_class,
    )
    if not request.first_folder_is_class:
        check_no_splits(source, request.source)
    if request.masks is not None:
        source, num_masks = attach_masks(source, request.masks)
        click.echo(f"{num_masks} of {len(source.records)} pictures have a mask", err=True)
    click.echo(shown(source.description), err=True)
    click.echo(shown(describe_classes(source)), err=True)
    if partial_of(request.out).exists():
        click.echo(f"removing {partial_of(request.out)}, left by an interrupted run", err=True)
    if request.workers:
        start_early(request.settings, request.workers)
    with new_folder(request.out) as folder, kept_masks(request) as journal:
        manifest = write_shards(request, source, folder, journal)
        check_written(folder, manifest)
    if journal is not None:
        masks_of(request.out).unlink(missing_ok=True)
    return manifest


def with_mask_maker(request: Request) -> Request:
    """Put what makes the masks into the settings, if masks are to be made.

    Raises:
        ValueError: no such method or model, or masks are given as well.
    """
    if request.saliency is None:
        if request.saliency_model is not None:
            raise ValueError(f"--saliency-model {request.saliency_model} needs --saliency auto")
        return request
    if request.masks is not None:
        raise ValueError(f"--saliency and --masks {request.masks} exclude each other; give one")
    from pipeline.saliency.refine.choose import choose_masks  # needs scikit-image

    maker = choose_masks(request.saliency, request.saliency_model)
    return replace(request, settings=replace(request.settings, masks=maker))


@contextmanager
def kept_masks(request: Request) -> Iterator[MaskJournal | None]:
    """Give the file of the masks that are made, with those of an interrupted run; None: no masks.

    Raises:
        ValueError, OSError: see `opened_journal`.
    """
    maker, path = request.settings.masks, masks_of(request.out)
    if maker is None:
        yield None
        return
    with opened_journal(path, maker.method) as journal:
        if len(journal):
            click.echo(f"{len(journal)} masks are made already, in {path}", err=True)
        yield journal


def provenance_of(request: Request, source: Source) -> Provenance:
    maker = request.settings.masks
    origin = request.source if source.has_masks else "none"
    origin = origin if request.masks is None else name_of_path(request.masks)
    return Provenance(
        label_names=source.label_names,
        source=name_of_path(request.source),
        description=source.description,
        short_side=request.settings.short_side,
        quality=request.settings.quality,
        mask_origin=origin if maker is None else "estimated",
        mask_method=None if maker is None else maker.method,
        ignored=source.ignored,
        mask_foreground=None if request.masks is None else str(request.settings.foreground),
        white_level=request.settings.white_level,
    )


def write_shards(
    request: Request, source: Source, folder: Path, journal: MaskJournal | None
) -> Manifest:
    """Prepare all pictures of a source and write them into a folder.

    Raises:
        ValueError: not one of them can be decoded, or most of the masks are misread.
    """
    records = source.records
    labels = {name: label for label, name in enumerate(source.label_names)}
    skipped: list[Note] = []
    repaired: list[Note] = []
    scaled: list[Note] = []
    mask_check = MaskCheck(request.settings.foreground)
    refused: Counter[str] = Counter()
    largest = max(record.size for record in records)
    with (
        FolderWriter(
            folder, format=request.format, capacity=len(records), largest=largest
        ) as writer,
        closing(
            prepare_all(records, request.settings, num_workers=request.workers, journal=journal)
        ) as outcomes,
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
                if outcome.depth:
                    scaled.append(Note(key=record.key, reason=outcome.depth))
                if outcome.estimated is not None and outcome.estimated.fault:
                    refused[outcome.estimated.fault] += 1
            except ValueError as error:
                skipped.append(Note(key=record.key, reason=str(error)))
            else:
                if outcome.mask and outcome.estimated is None:
                    mask_check.add(record.key, outcome.coverage, outcome.mask_doubt)
            advance(len(skipped))
        if len(skipped) == len(records):
            raise ValueError(
                f"{request.source}: none of {len(records)} pictures can be decoded; "
                f"{skipped[0].key}: {skipped[0].reason}"
            )
        mask_check.finish()
        return writer.finish(
            provenance_of(request, source),
            skipped=skipped,
            repaired=repaired,
            scaled=scaled,
            refused=refused,
        )


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


if __name__ == "__main__":
    outlive_output()
    STOP.listen()
    main()
