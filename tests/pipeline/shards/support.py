"""Writing a few samples as shards."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.shards.index import Sample
from pipeline.shards.manifest import Manifest
from pipeline.shards.writer import FolderWriter, Provenance

PROVENANCE = Provenance(
    label_names=("a", "b"),
    source="somewhere",
    description="a few pictures",
    short_side=0,
    quality=90,
    mask_origin="demo",
)


def write_folder(
    folder: Path, format: str, samples: Sequence[Sample], *, capacity: int = 0
) -> Manifest:
    """Write samples into a folder; `capacity`: how many the source had, more than came of it."""
    room = capacity or len(samples)
    folder.mkdir(parents=True, exist_ok=True)
    with FolderWriter(folder, format=format, capacity=room, largest=1 << 16) as writer:
        for sample in samples:
            writer.add(sample)
        return writer.finish(PROVENANCE, skipped=[], repaired=[])
