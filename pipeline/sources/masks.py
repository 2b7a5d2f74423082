"""Finding the mask of each picture: a PNG of the same relative name in another folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.sources.folder import FolderOrigin, walk
from pipeline.sources.record import Source, mask_name, name_of_path


def attach_masks(source: Source, folder: Path) -> tuple[Source, int]:
    """Return the source with the mask files of `folder`, and how many of its records have one.

    The mask of a/b.jpg is a/b.png, relative to the source or else to its top folder. No picture is
    its own mask, where masks lie among pictures.

    Raises:
        ValueError: there is no such folder, or no mask fits any picture.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of masks")
    names = {name for name, _ in walk(folder)}
    among_pictures = _lie_together(source, folder)
    records = []
    num_found = 0
    for record in source.records:
        name = mask_name(record.key)
        if name not in names:
            name = name.removeprefix(source.top)  # as the folders of the classes lie there
        found = name in names and not (among_pictures and name == record.key)
        num_found += found
        records.append(replace(record, mask=f"{name_of_path(folder)}/{name}") if found else record)
    if num_found == 0:
        wanted = ", ".join(mask_name(record.key) for record in source.records[:3])
        present = ", ".join(sorted(names)[:3]) or "nothing"
        raise ValueError(
            f"{folder}: no mask fits any picture; looked for {wanted} and so on, found {present}"
        )
    return replace(source, records=records), num_found


def _lie_together(source: Source, folder: Path) -> bool:
    origin = source.records[0].origin
    return isinstance(origin, FolderOrigin) and folder.samefile(origin.root)
