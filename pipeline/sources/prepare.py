"""From the bytes of a source to the bytes of shards: upright RGB JPEGs, and mask records.

A plain JPEG (jpeg.py) that decodes without a warning, is upright by its EXIF and is not too large
keeps its bytes. Everything else that Pillow can decode is encoded anew at the given quality with
4:2:0 chroma: gray, CMYK, palette, 16 bit and transparent (over white) pictures, pictures that
EXIF turns, the first frame of several, and whatever has the wrong ending. Colour profiles are
not applied, as training loaders do not apply them either.

Pillow says how an image is turned. Metadata in which another reader could find an orientation is
cut out of what keeps its bytes. A JPEG that lacks only its end marker gets one. A JPEG beyond
Pillow's limit of pixels is decoded reduced, if it is to be reduced; no other image of that size is
read, nor are more than some 1.5 GB held for one image.

A mask belongs to the pixels of the file: if the picture is turned, so is its mask, except where the
mask already has the size of the upright picture. Masks keep their resolution until the codec.
Where masks are estimated, they are estimated from the picture as it is stored: upright and reduced.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from pipeline.saliency.codec import coverage, decode_mask, encode_mask
from pipeline.sources.depth import gray_from_deep, read_depth, rescale_colour
from pipeline.sources.estimated import EstimatedMask, MaskMaker, estimate_mask
from pipeline.sources.jpeg import (
    JpegHeader,
    is_jpeg,
    read_jpeg_header,
    says_turned,
    with_end_marker,
    without_metadata,
)
from pipeline.sources.masks import AUTO, Foreground, foreground_of
from pipeline.sources.record import Record

logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it says is in its exceptions
_ORIENTATION = 0x0112  # EXIF tag
TRANSPOSE = {  # orientation -> what brings it upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MAX_SIDE = 65535  # of a JPEG
_REDUCE = 3  # a large JPEG is decoded at a fraction of its size, at least so much above the goal
_MAX_PIXELS = Image.MAX_IMAGE_PIXELS or 89478485  # that are decoded at once
_MAX_COEFFICIENTS = 6 * _MAX_PIXELS  # bytes; as a progressive JPEG of the most pixels has
_STDERR = threading.Lock()  # held while standard error is turned away
_LONGEST_REASON = 300  # characters; some messages quote the file


class BadPicture(ValueError):
    """A picture or mask cannot be used; the message says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What shards hold of one picture."""

    jpeg: bytes
    mask: bytes  # empty: no mask
    height: int
    width: int
    coverage: float  # NaN: no mask
    unchanged: bool
    warning: str  # of a JPEG that decodes although something is wrong with it; else empty
    depth: str = ""  # what became of samples of more than 8 bits, where that may surprise
    mask_doubt: str = ""  # what speaks against the reading of a mask file
    estimated: EstimatedMask | None = None  # what `mask` is, if it was not given


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareSettings:
    """How pictures are prepared."""

    short_side: int = 0  # larger pictures are reduced to this; 0: sizes are kept
    quality: int = 90  # of what must be encoded anew
    masks: MaskMaker | None = None  # makes all masks; None: they are given, or there are none
    foreground: Foreground = AUTO  # of masks that are given
    white_level: int = 0  # sample that is white, of more than 8 bits; 0: as the file declares


@dataclass(frozen=True, kw_only=True, slots=True)
class _Picture:
    jpeg: bytes
    pixels: NDArray[np.uint8]  # [height, width, 3] as stored, before JPEG
    size: tuple[int, int]  # (width, height) as stored
    orientation: int
    file_size: tuple[int, int]  # (width, height) of the file's own pixels
    unchanged: bool
    warning: str
    depth: str = ""


def prepare(
    record: Record, settings: PrepareSettings, known: EstimatedMask | None = None
) -> Prepared:
    """Read and prepare one picture and its mask.

    Args:
        known: the estimated mask of a picture of this key; used if the picture is the same.

    Raises:
        BadPicture: it cannot be read or decoded, or its mask cannot.
    """
    try:
        data, mask_file = _read(record)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _prepare(data, mask_file, settings, known)
    except Exception as error:  # decoders let out whatever they meet in files of any kind
        raise BadPicture(_reason(error)) from error


def _read(record: Record) -> tuple[bytes, bytes | None]:
    try:
        return record.read()
    except OSError as error:
        raise BadPicture(f"cannot be read: {error}") from error


def _reason(error: Exception) -> str:
    """One line about what went wrong."""
    text = " ".join(str(error).split())
    if not isinstance(error, BadPicture):
        text = f"cannot be used: {text or type(error).__name__}"
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]}..."


def _prepare(
    data: bytes, mask_file: bytes | None, settings: PrepareSettings, known: EstimatedMask | None
) -> Prepared:
    picture = _prepare_picture(data, settings)
    mask, doubt, estimated = b"", "", None
    if settings.masks is not None:
        estimated = _estimated(picture, settings.masks, known)
        mask = estimated.mask
    elif mask_file is not None:
        pixels, doubt = read_mask_file(
            mask_file, picture.orientation, picture.file_size, settings.foreground
        )
        mask = encode_mask(pixels)
    return Prepared(
        jpeg=picture.jpeg,
        mask=mask,
        height=picture.size[1],
        width=picture.size[0],
        coverage=coverage(decode_mask(mask)) if mask else math.nan,
        unchanged=picture.unchanged,
        warning=picture.warning,
        depth=picture.depth,
        mask_doubt=doubt,
        estimated=estimated,
    )


def _estimated(picture: _Picture, maker: MaskMaker, known: EstimatedMask | None) -> EstimatedMask:
    digest = hashlib.sha256(picture.jpeg).digest()
    if known is not None and known.picture_sha256 == digest:
        return known
    return estimate_mask(picture.pixels, digest, maker)


def read_mask_file(
    data: bytes,
    orientation: int,
    file_size: tuple[int, int],
    foreground: Foreground = AUTO,
) -> tuple[NDArray[np.uint8], str]:
    """Decode a mask file to uint8 [H, W], upright, with what speaks against its reading, or "".

    Args:
        orientation: of the picture's EXIF, 1..8.
        file_size: (width, height) of the picture's pixels before it is brought upright.
        foreground: what counts as such in the file.

    Raises:
        BadPicture: it cannot be decoded.
    """
    try:
        pixels, doubt = foreground_of(_loaded(open_picture(data)), foreground)
    except Exception as error:  # see open_picture
        raise BadPicture(f"its mask: {error or type(error).__name__}") from error
    size = pixels.shape[::-1]
    is_upright = orientation >= 5 and size == file_size[::-1] != file_size
    if orientation in TRANSPOSE and not is_upright:
        pixels = np.asarray(Image.fromarray(pixels).transpose(TRANSPOSE[orientation]))
    return pixels, doubt


def _prepare_picture(data: bytes, settings: PrepareSettings) -> _Picture:
    try:
        return _read_picture(data, settings)
    except BadPicture:
        whole = with_end_marker(data)
        if whole is None or _complaint(whole, read_jpeg_header(whole)) != "":
            raise
        picture = _read_picture(whole, settings)
        return replace(picture, unchanged=False, warning="lacked its end marker, which was added")


def _read_picture(data: bytes, settings: PrepareSettings) -> _Picture:
    image = open_picture(data, any_size=True)
    header = read_jpeg_header(data) if is_jpeg(data) else None
    orientation = read_orientation(image)
    file_size = image.size
    if max(file_size) > _MAX_SIDE:
        raise BadPicture(f"{file_size[0]} x {file_size[1]} pixels, too long for a JPEG")
    goal = _reduced(file_size, settings.short_side)
    is_huge = _is_huge(file_size)
    if is_huge:
        _check_huge(data, header, file_size, goal)
    pixels, warning = _decode_plain_jpeg(data, header, goal)
    if pixels is not None and orientation == 1 and goal == file_size:
        turned = header is not None and says_turned(data, header)
        return _Picture(
            jpeg=without_metadata(data, header) if turned and header is not None else data,
            pixels=pixels,
            size=file_size,
            orientation=1,
            file_size=file_size,
            unchanged=not turned,
            warning="metadata that some readers take for a turned image was cut out"
            if turned
            else "",
        )
    depth = ""
    if pixels is not None:
        rgb = Image.fromarray(pixels)
    else:
        if is_huge:
            image.draft(None, _least_size(goal))
        rgb, depth = _to_rgb(image, data, settings.white_level)
    if rgb.size != goal:
        rgb = rgb.resize(goal, Image.Resampling.LANCZOS)
    if orientation in TRANSPOSE:
        rgb = rgb.transpose(TRANSPOSE[orientation])
    upright = np.asarray(rgb)
    return _Picture(
        jpeg=simplejpeg.encode_jpeg(
            upright, settings.quality, colorspace="RGB", colorsubsampling="420"
        ),
        pixels=upright,
        size=rgb.size,
        orientation=orientation,
        file_size=file_size,
        unchanged=False,
        warning=warning,
        depth=depth,
    )


def _is_huge(size: tuple[int, int]) -> bool:
    return size[0] * size[1] > _MAX_PIXELS


def _check_huge(
    data: bytes, header: JpegHeader | None, size: tuple[int, int], goal: tuple[int, int]
) -> None:
    """See that an image beyond the limit can be read reduced, in bounded memory, without a fault.

    Raises:
        BadPicture: it cannot.
    """
    what = f"{size[0]} x {size[1]} pixels are more than {_MAX_PIXELS}"
    if header is None:
        raise BadPicture(f"{what}; only JPEGs of this size can be read, reduced by --short-side")
    if goal == size or 2 * goal[0] * goal[1] > _MAX_PIXELS:
        raise BadPicture(f"{what}; give --short-side, such as 512, to read it reduced")
    if header.coefficient_bytes > _MAX_COEFFICIENTS:
        raise BadPicture(
            f"{what}, and progressive: reading it takes {header.coefficient_bytes / 1e9:.1f} GB; "
            "save it as a baseline JPEG"
        )
    if not header.is_plain and (complaint := _complaint(data, header)) != "":
        raise BadPicture(f"{what}, and the file has a fault: {complaint or 'of an unknown kind'}")


def _least_size(goal: tuple[int, int]) -> tuple[int, int]:
    """The least size that a larger JPEG is decoded at: well above the goal, and not too large."""
    room = max(1.0, min(_REDUCE, math.sqrt(_MAX_PIXELS / (2 * goal[0] * goal[1]))))
    return int(room * goal[0]), int(room * goal[1])


def _decode_plain_jpeg(
    data: bytes, header: JpegHeader | None, goal: tuple[int, int]
) -> tuple[NDArray[np.uint8] | None, str]:
    """Decode a plain JPEG strictly: (pixels, ""), or (None, what the decoder said against it).

    Pixels come at the smallest size the decoder has that is well above the goal.

    Raises:
        BadPicture: the decoder said something, and the image is too large for any other.
    """
    if not is_jpeg(data):
        return None, ""
    if header is None or not header.is_plain:
        return None, _complaint(data, header) or ""
    whole = (header.width, header.height) == goal
    low_width, low_height = (0, 0) if whole else _least_size(goal)
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data,
            min_width=low_width,
            min_height=low_height,
            min_factor=1 if whole else 2,
            strict=True,
        )
    except ValueError as error:
        if _is_huge((header.width, header.height)):
            raise BadPicture(f"cannot be decoded: {error}") from error
        return None, str(error)
    return pixels, ""


def _complaint(data: bytes, header: JpegHeader | None) -> str | None:
    """What a strict decoder says against a JPEG; "": nothing; None: it does not know the kind."""
    has_four = header is not None and len(header.components) == 4
    is_huge = header is not None and _is_huge((header.width, header.height))
    options: dict[str, Any] = {"colorspace": "CMYK" if has_four else "RGB"}
    if is_huge:  # an eighth of each side is enough to meet all there is to say
        options |= {"min_width": 1, "min_height": 1, "min_factor": 8}
    try:
        simplejpeg.decode_jpeg(data, strict=True, **options)
    except ValueError as error:
        try:
            simplejpeg.decode_jpeg(data, strict=False, **options)
        except ValueError:
            return None  # Pillow will tell
        return str(error)
    return ""


def open_picture(data: bytes, *, any_size: bool = False) -> Image.Image:
    """Open with Pillow; all but JPEGs, which have another decoder, are decoded as well.

    Args:
        any_size: also JPEGs of more pixels than Pillow's limit.

    Raises:
        BadPicture: it cannot be opened, or is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data))
        read_depth(image)
        if not is_jpeg(data):
            # before anything else does: Pillow takes a second attempt for a success
            with _silenced(image):
                image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        if not is_jpeg(data):
            size = f"more than {_MAX_PIXELS} pixels; only JPEGs of this size can be read"
            raise BadPicture(f"a decompression bomb, or too large: {size}") from error
        if not any_size:
            raise BadPicture(f"more than {_MAX_PIXELS} pixels") from error
        return JpegImagePlugin.JpegImageFile(io.BytesIO(data))  # without a look at the limit
    except UnidentifiedImageError as error:
        raise BadPicture(f"no picture that Pillow knows, {len(data)} bytes") from error
    except Exception as error:  # Pillow lets out whatever its parsers meet in broken files
        raise BadPicture(f"cannot be decoded: {error or type(error).__name__}") from error
    return image


def read_orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF, see open_picture
        return 1
    return value if isinstance(value, int) and value in TRANSPOSE else 1


def _reduced(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """The size with its shorter side reduced to `short_side`, if that is set and smaller."""
    shorter = min(size)
    if short_side == 0 or shorter <= short_side:
        return size
    return round(size[0] * short_side / shorter), round(size[1] * short_side / shorter)


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode and convert, transparent parts over white.

    Raises:
        BadPicture: it cannot be decoded.
    """
    return _to_rgb(image, b"", 0)[0]


def _to_rgb(image: Image.Image, data: bytes, white_level: int) -> tuple[Image.Image, str]:
    """Decode and convert; with a note about samples of more than 8 bits, or ""."""
    image = _loaded(image)
    if image.mode.startswith(("I", "F")):
        gray, note = gray_from_deep(image, white_level)
        return gray.convert("RGB"), note
    image, note = rescale_colour(image, data, white_level)
    if not image.has_transparency_data:
        return image.convert("RGB"), note
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB"), note


def _loaded(image: Image.Image) -> Image.Image:
    try:
        with _silenced(image):
            image.load()
    except Exception as error:  # see open_picture
        raise BadPicture(f"cannot be decoded: {error or type(error).__name__}") from error
    return image


@contextmanager
def _silenced(image: Image.Image) -> Iterator[None]:
    """Keep libtiff, which writes to standard error what it then reports as well, from doing so."""
    if image.format != "TIFF":
        yield
        return
    with _STDERR, open(os.devnull, "wb") as null:
        kept = os.dup(2)
        os.dup2(null.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
