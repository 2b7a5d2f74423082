"""What a manifest says, in a few lines for a person."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.shards.manifest import Ignored, Manifest

if TYPE_CHECKING:  # its package imports torch, which a conversion does not need
    from pipeline.augment.recipe import MultiCropRecipe

NAMES_SHOWN = 10
_FOREGROUND = {
    "auto": "the alpha channel if there is one, of indexed colours all but 0, else what is bright",
    "bright": "what is bright",
    "nonzero": "all but 0",
}


def described(manifest: Manifest, out: Path, seconds: float) -> Iterator[str]:
    """Yield lines about shards that were written in so many seconds."""
    megabytes = sum(entry.num_bytes for entry in manifest.files) / 1e6
    yield (
        f"{out}: {manifest.num_samples} samples of {len(manifest.label_names)} classes, "
        f"{megabytes:.1f} MB in {seconds:.1f} s ({manifest.num_samples / seconds:.0f} pictures/s); "
        f"{manifest.sizes.num_unchanged} kept their bytes"
    )
    yield from _described_masks(manifest)
    for entry in manifest.ignored:
        yield f"ignored {entry.count}, {entry.reason}: {named(entry)}"
    if manifest.scaled:
        first = manifest.scaled[0]
        yield (
            f"{manifest.num_scaled} images of more than 8 bits may be too dark or too bright, the "
            f"first is {first.key}: {first.reason}; --white-level N says which value is white"
        )
    for what, notes in (("skipped", manifest.skipped), ("repaired", manifest.repaired)):
        for note in notes[:NAMES_SHOWN]:
            yield f"{what} {shown(note.key)}: {note.reason}"
        if len(notes) > NAMES_SHOWN:
            yield f"... {len(notes)} {what} in all; the manifest names them"


def shown(name: str) -> str:
    """A name in one line: line breaks and bytes that are no text are escaped."""
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in name)


def named(entry: Ignored) -> str:
    """The first names of what is ignored, and dots where there are more."""
    more = ", ..." if entry.count > len(entry.names) else ""
    return ", ".join(map(shown, entry.names)) + more


def summarised(manifest: Manifest, out: Path, seconds: float) -> dict[str, object]:
    """Return the manifest, and how long it took, as plain values."""
    return {
        "out": str(out),
        "seconds": round(seconds, 3),
        "images_per_second": round(manifest.num_samples / seconds, 1),
        **asdict(manifest),
    }


def mask_summary(manifest: Manifest, recipe: MultiCropRecipe | None = None) -> str:
    """Return one line: how many of the samples have a mask, and what follows from none.

    Args:
        recipe: of a run; the line then also says when no view of that run is masked.
    """
    masks = manifest.masks
    if masks.num_masks == 0:
        refused = sum(masks.refused.values())
        none = f"none (all {refused} estimates were refused)" if refused else "none"
        cure = "" if masks.method else "; convert with --saliency auto"
        return f"masks: {none}, no background is ever removed{cure}"
    line = f"masks: {masks.num_masks} of {manifest.num_samples} samples have one"
    if masks.num_degenerate:
        line += f", {masks.num_degenerate} of them cover less than {masks.degenerate_below:.0%}"
    if recipe is not None and not any(view.mask_probability for view in recipe.views):
        line += "; no background is ever removed, since mask_probability is 0 for every view"
    return line


def _described_masks(manifest: Manifest) -> Iterator[str]:
    """What the masks are, and how much they cover."""
    masks = manifest.masks
    if masks.coverage_mean is None:
        yield mask_summary(manifest)
    else:
        yield (
            f"{masks.num_masks} masks of {manifest.sizes.mask_bytes / masks.num_masks:.0f} bytes "
            f"cover {masks.coverage_mean:.1%} of the picture on average; {masks.num_missing} "
            f"pictures have none, {masks.num_degenerate} masks cover less than "
            f"{masks.degenerate_below:.0%}"
        )
    if masks.foreground is not None:
        meant = _FOREGROUND.get(masks.foreground, f"the values {masks.foreground}")
        yield f"foreground of mask files (--mask-foreground {masks.foreground}): {meant}"
    if masks.method is not None:
        faults = ", ".join(f"{count} {fault}" for fault, count in masks.refused.items())
        yield (
            f"masks by {masks.method.name}, version {masks.method.version}; "
            f"{sum(masks.refused.values())} refused ({masks.refused_share:.1%} of the pictures)"
            + (f": {faults}" if faults else "")
        )
