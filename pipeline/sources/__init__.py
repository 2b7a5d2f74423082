"""Sources of pictures: folders, tar archives, ImageNet's tar of tars, and the generated demo.

`list_records` lists what there is; prepare.py turns one record into what shards hold; workers.py
does that in several processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.sources.record import Record, Source, describe_ignored, split_kind

__all__ = [
    "IMAGE_ENDINGS",
    "Record",
    "Source",
    "check_no_splits",
    "is_image_name",
    "list_records",
]

IMAGE_ENDINGS = (
    *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)


def is_image_name(name: str) -> bool:
    """Whether a relative name looks like that of a picture: by its ending, and not hidden."""
    base = name.rpartition("/")[2]
    dot = base.rfind(".")
    return dot > 0 and base[0] != "." and base[dot:].lower() in IMAGE_ENDINGS


def list_records(
    source: str,
    *,
    limit: int | None = None,
    masks: Path | None = None,
    first_folder_is_class: bool = False,
) -> Source:
    """List the pictures of a source, sorted by key.

    Args:
        source: a folder, a tar archive, or the name of a generated set (demo, demo-val). A folder
            of that name is meant by ./demo.
        limit: the most pictures to take: evenly spread over the sorted list, so that all classes
            are there; of a generated set, how many to generate.
        masks: where their masks lie; of a folder's files, those that are masks are no pictures.
        first_folder_is_class: also if that one folder holds everything.

    Raises:
        ValueError: there is no such source, or it holds no pictures.
    """
    from pipeline.sources.archive import list_archive
    from pipeline.sources.demo import DEMO_SETS, list_demo
    from pipeline.sources.folder import list_folder

    if not source:
        raise ValueError("--source is empty; give a folder, a tar archive or a generated set")
    if source in DEMO_SETS:
        return list_demo(source, limit=limit)
    path = Path(source)
    if path.is_file() and is_image_name(path.name):
        raise ValueError(f"{source}: one image; give the folder that holds it")
    if path.is_dir():
        found = list_folder(path, masks=masks, first_folder_is_class=first_folder_is_class)
    elif path.is_file():
        found = list_archive(path, first_folder_is_class=first_folder_is_class)
    else:
        raise ValueError(
            f"{source}: no such folder or file; give a folder of pictures, a tar archive, "
            f"or one of {', '.join(DEMO_SETS)}"
        )
    if not found.records:
        raise ValueError(
            f"{source}: no pictures there{describe_ignored(found.ignored)}; looked for names "
            f"ending in {' '.join(IMAGE_ENDINGS)}"
        )
    return found if limit is None else replace(found, records=spread(found.records, limit))


def check_no_splits(source: Source, given: str) -> None:
    """See that the classes are not the splits of a set, such as train and val.

    Args:
        given: the folder or archive, as the user named it.

    Raises:
        ValueError: all of them are, or among them are training images and images to test with.
    """
    if source.labels_given:
        return
    splits = [name for name in source.label_names if split_kind(name) is not None]
    kinds = {split_kind(name) for name in splits}
    if not splits or (len(splits) < len(source.label_names) and len(kinds) == 1):
        return
    place = f"{given.rstrip('/')}/{source.top}"
    if Path(given).is_dir():
        remedy = f"convert one at a time: {' or '.join(f'--source {place}{n}' for n in splits)}"
    else:
        names = " or ".join(f"{source.top}{name}" for name in splits)
        remedy = f"unpack it and give one of its folders as --source: {names}"
    raise ValueError(
        f"{given}: its folders {', '.join(splits)} are splits, not classes; {remedy}; "
        "or take them as classes with --first-folder-is-class"
    )


def spread(records: Sequence[Record], limit: int) -> Sequence[Record]:
    """Take at most `limit` records, evenly spaced."""
    if limit >= len(records):
        return records
    return [records[number * len(records) // limit] for number in range(limit)]
