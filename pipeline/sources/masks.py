"""Masks in files: which file is the mask of which image, and what in it is foreground.

The mask of a/b.jpg is a/b.png, or any other image of that name. By default (`auto`) foreground is

    where the file has an alpha channel that is not opaque all over: what is opaque
    in an indexed file with colours (as of PASCAL VOC): every index but 0; 255 beside others is a
        border of which nobody knows, and counts half
    in all other files: what is bright, in parts where it is gray; of values 0 and 1, 1 is white

A set of masks that say something else (numbers of classes, trimaps of 1, 2 and 3) comes out empty
or full under these rules; `MaskCheck` stops such a conversion and names the option.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.sources import is_image_name
from pipeline.sources.depth import deep_samples, to_8_bits
from pipeline.sources.folder import FolderOrigin, walk
from pipeline.sources.record import HIDDEN, IgnoredEntries, Source, mask_name, name_of_path

_RULES = ("auto", "bright", "nonzero")
_BORDER = 255  # an index of PASCAL VOC
_HALF = 127  # salience of a border: just not foreground
_GRAY_COLOURS = 16  # a palette whose colours differ less between red, green and blue is gray
_LARGEST_NUMBER = 65535  # that --mask-foreground takes
_WHITES = (255, 65535, 2**31 - 1, 2**32 - 1)  # what masks of more than 8 bits are scaled to
_DARK = 32  # gray below is no foreground, nor is it the gray of an outline
_EARLY = 32  # so many masks tell whether a set is misread
_SHOWN = 6


@dataclass(frozen=True, kw_only=True, slots=True)
class Foreground:
    """What counts as foreground in mask files."""

    rule: str = "auto"  # auto, bright, nonzero or numbers
    numbers: tuple[tuple[int, int], ...] = ()  # ranges, both ends included

    def __str__(self) -> str:
        ranges = (f"{low}" if low == high else f"{low}-{high}" for low, high in self.numbers)
        return ",".join(ranges) or self.rule


AUTO = Foreground()


def parse_foreground(text: str) -> Foreground:
    """Read auto, bright, nonzero, or numbers and ranges of them: "1" or "1-20,22".

    Raises:
        ValueError: the text is none of these.
    """
    if text in _RULES:
        return Foreground(rule=text)
    try:
        ranges = []
        for part in text.split(","):
            first, dash, last = part.partition("-")
            ranges.append((int(first), int(last if dash else first)))
    except ValueError:
        ranges = []
    if not ranges or any(not 0 <= low <= high <= _LARGEST_NUMBER for low, high in ranges):
        raise ValueError(
            f"--mask-foreground {text}: give {', '.join(_RULES)}, or numbers such as 1 or 1-20,22"
        )
    return Foreground(rule="numbers", numbers=tuple(ranges))


def foreground_of(image: Image.Image, foreground: Foreground) -> tuple[NDArray[np.uint8], str]:
    """Return how much of a decoded mask is foreground, uint8 [H, W], 255 all.

    With it comes what speaks against this reading of the file, or "": that a file which is not of
    one value came out empty or full, or dark beside a bright border.

    Raises:
        ValueError: numbers are asked for, and the file has colours.
    """
    if foreground.rule == "numbers":
        values = _numbers(image)
        chosen = np.zeros(values.shape, bool)
        for low, high in foreground.numbers:
            chosen |= (values >= low) & (values <= high)
        return chosen * np.uint8(255), ""
    if foreground.rule == "nonzero":
        return (np.asarray(_rgb_or_deep(image)) != 0).any(axis=-1) * np.uint8(255), ""
    if foreground.rule == "bright":
        return _brightness(image), ""
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        opacity = np.asarray(alpha)
        if opacity.min() != opacity.max():  # of one value, it says nothing
            pixels = _ones_as_white(opacity)
            return pixels, _doubt(pixels, alpha)
    if image.mode == "P" and _has_colours(image):
        return _all_but_zero(np.asarray(image)), ""
    pixels = _ones_as_white(_brightness(image))
    return pixels, _doubt(pixels, image)


def _numbers(image: Image.Image) -> NDArray[np.integer]:
    """The values as they are in the file: indices, gray levels, 0 and 1."""
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode in ("L", "P", "LA", "PA"):
        values = np.asarray(image)
        return values if values.ndim == 2 else values[:, :, 0]
    if _is_deep(image):
        samples = deep_samples(image)
        return samples.clip(-1, _LARGEST_NUMBER + 1).astype(np.int32)
    bands = np.asarray(image.convert("RGB"))
    if (bands != bands[:, :, :1]).any():
        raise ValueError("has colours and no numbers, which --mask-foreground asks for")
    return bands[:, :, 0]


def _rgb_or_deep(image: Image.Image) -> NDArray[np.generic]:
    if _is_deep(image) or image.mode == "P":
        return deep_samples(image)[:, :, None]
    return np.asarray(image.convert("RGB"))


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith(("I", "F"))


def _brightness(image: Image.Image) -> NDArray[np.uint8]:
    """Gray levels, uint8 [H, W]; of more than 8 bits, scaled by what the largest value fits in."""
    if not _is_deep(image):
        # of indices and of these colour spaces, Pillow has no gray
        via = image.convert("RGB") if image.mode in ("P", "LAB", "HSV") else image
        return np.asarray(via.convert("L"))
    samples = deep_samples(image)
    largest = samples.max()
    if image.mode == "F" and largest <= 1:
        return to_8_bits(samples, 1)
    white = next((white for white in _WHITES if largest <= white), float(largest))
    return to_8_bits(samples, white)


def _ones_as_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels * np.uint8(255) if pixels.max() == 1 else pixels


def _has_colours(image: Image.Image) -> bool:
    """Whether an indexed file uses a colour that is no gray."""
    palette = np.array(image.getpalette("RGB"), np.int16).reshape(-1, 3)
    used = np.flatnonzero(image.histogram()[: len(palette)])
    colours = palette[used]
    return bool((colours.max(axis=1) - colours.min(axis=1) >= _GRAY_COLOURS).any())


def _all_but_zero(indices: NDArray[np.uint8]) -> NDArray[np.uint8]:
    border = indices == _BORDER
    inside = (indices != 0) & ~border
    foreground = np.where(inside, np.uint8(255), np.uint8(0))
    foreground[border] = _HALF if inside.any() else 255
    return foreground


def _doubt(pixels: NDArray[np.uint8], image: Image.Image) -> str:
    """What speaks against brightness as the meaning of a mask, or ""."""
    values = np.unique(deep_samples(image) if _is_deep(image) else pixels)
    if len(values) < 2:
        return ""
    dark, bright = (pixels > 0) & (pixels < _DARK), pixels > _HALF
    # numbers of classes, and 255 where nobody knows: no gray between, and more dark than bright
    is_numbered = dark.sum() > bright.sum() and not ((pixels >= _DARK) & (pixels < _BORDER)).any()
    if not is_numbered and 0 < bright.sum() < bright.size:
        return ""
    shown = ", ".join(f"{value:g}" for value in values[:_SHOWN])
    return f"has the values {shown}{' ...' if len(values) > _SHOWN else ''}"


class MaskCheck:
    """Stops a conversion whose masks are misread, early if most of the first ones are."""

    def __init__(self, foreground: Foreground) -> None:
        self._automatic = foreground.rule == "auto"
        self._num_masks = self._num_empty = self._num_doubtful = 0
        self._first = ""

    def add(self, key: str, coverage: float, doubt: str) -> None:
        """Count a mask that a file gave.

        Raises:
            ValueError: most masks come out empty or full although their files are not.
        """
        self._num_masks += 1
        self._num_empty += coverage == 0
        if doubt:
            self._num_doubtful += 1
            self._first = self._first or f"that of {key} {doubt}"
        if self._num_masks == _EARLY:
            self._check_doubtful()

    def finish(self) -> None:
        """Look at the whole set.

        Raises:
            ValueError: as `add`, or all masks, of more than one, are empty.
        """
        self._check_doubtful()
        if self._automatic and self._num_masks > 1 and self._num_empty == self._num_masks:
            raise ValueError(
                f"all {self._num_masks} masks come out empty; say what is foreground with "
                "--mask-foreground nonzero or --mask-foreground NUMBERS, or --mask-foreground "
                "bright if they are meant to be empty"
            )

    def _check_doubtful(self) -> None:
        if 2 * self._num_doubtful > self._num_masks and self._automatic:
            raise ValueError(
                f"{self._num_doubtful} of {self._num_masks} masks come out empty or full, or dark "
                f"beside a border: {self._first}; say which are foreground with --mask-foreground "
                "nonzero or NUMBERS (such as 1 or 1-20), or keep what is bright with "
                "--mask-foreground bright"
            )


def attach_masks(source: Source, folder: Path) -> tuple[Source, int]:
    """Return the source with the mask files of `folder`, and how many of its records have one.

    The mask of a/b.jpg is a/b.png, or another image a/b, whatever the case of its ending, relative
    to the source or else to its top folder. No image is its own mask: where masks lie among the
    images, only PNGs can be masks.

    Raises:
        ValueError: there is no such folder, no mask fits any image, or two fit the same one.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of masks")
    names: defaultdict[str, list[str]] = defaultdict(list)  # without ending -> files
    ignored = IgnoredEntries()
    for name, _ in walk(folder, ignored=ignored):
        if is_image_name(name):
            names[_stem(name)].append(name)
    among_images = _lie_together(source, folder)
    records = []
    num_found = 0
    for record in source.records:
        stem = _stem(record.key)
        if stem not in names:
            stem = stem.removeprefix(source.top)  # as the folders of the classes lie there
        found = names.get(stem, [])
        if among_images:
            found = [name for name in found if name == mask_name(record.key) != record.key]
        if len(found) > 1:
            raise ValueError(
                f"{folder}: {' and '.join(sorted(found))} could both be the mask of {record.key}; "
                "leave one of them there"
            )
        num_found += len(found)
        mask = f"{name_of_path(folder)}/{found[0]}" if found else None
        records.append(replace(record, mask=mask) if found else record)
    if num_found == 0:
        wanted = ", ".join(mask_name(record.key) for record in source.records[:3])
        present = ", ".join(sorted(name for some in names.values() for name in some)[:3])
        raise ValueError(
            f"{folder}: no mask fits any picture; looked for {wanted} and so on, "
            f"found {present or 'no images'}"
        )
    unread = tuple(
        replace(entry, reason=f"{entry.reason}, among the masks")
        for entry in ignored.listed()
        if entry.reason != HIDDEN
    )
    return replace(source, records=records, ignored=(*source.ignored, *unread)), num_found


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _lie_together(source: Source, folder: Path) -> bool:
    origin = source.records[0].origin
    return isinstance(origin, FolderOrigin) and folder.samefile(origin.root)
