"""From the bytes of a source to the bytes of shards: upright RGB JPEGs, and mask records.

A plain JPEG (jpeg.py) that decodes without a warning, is upright by its EXIF and is not too large
keeps its bytes. Everything else that Pillow can decode is encoded anew at the given quality with
4:2:0 chroma: gray, CMYK, palette, 16 bit and transparent (over white) pictures, pictures that
EXIF turns, the first frame of several, and whatever has the wrong ending. Colour profiles are
not applied, as training loaders do not apply them either.

A mask belongs to the pixels of the file: if the picture is turned, so is its mask, except where the
mask already has the size of the upright picture. Masks keep their resolution until the codec.
Where masks are estimated, they are estimated from the picture as it is stored: upright and reduced.
"""

from __future__ import annotations

import hashlib
import io
import math
import warnings
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline.saliency.codec import coverage, decode_mask, encode_mask
from pipeline.sources.estimated import EstimatedMask, MaskMaker, estimate_mask
from pipeline.sources.jpeg import is_jpeg, read_jpeg_header
from pipeline.sources.record import Record

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
    estimated: EstimatedMask | None = None  # what `mask` is, if it was not given


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareSettings:
    """How pictures are prepared."""

    short_side: int = 0  # larger pictures are reduced to this; 0: sizes are kept
    quality: int = 90  # of what must be encoded anew
    masks: MaskMaker | None = None  # makes all masks; None: they are given, or there are none


@dataclass(frozen=True, kw_only=True, slots=True)
class _Picture:
    jpeg: bytes
    pixels: NDArray[np.uint8]  # [height, width, 3] as stored, before JPEG
    size: tuple[int, int]  # (width, height) as stored
    orientation: int
    file_size: tuple[int, int]  # (width, height) of the file's own pixels
    unchanged: bool
    warning: str


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
        data, mask_file = record.read()
    except OSError as error:
        raise BadPicture(f"cannot be read: {error}") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Pillow, about metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        return _prepare(data, mask_file, settings, known)


def _prepare(
    data: bytes, mask_file: bytes | None, settings: PrepareSettings, known: EstimatedMask | None
) -> Prepared:
    picture = _prepare_picture(data, settings)
    mask, estimated = b"", None
    if settings.masks is not None:
        estimated = _estimated(picture, settings.masks, known)
        mask = estimated.mask
    elif mask_file is not None:
        mask = encode_mask(decode_mask_file(mask_file, picture.orientation, picture.file_size))
    return Prepared(
        jpeg=picture.jpeg,
        mask=mask,
        height=picture.size[1],
        width=picture.size[0],
        coverage=coverage(decode_mask(mask)) if mask else math.nan,
        unchanged=picture.unchanged,
        warning=picture.warning,
        estimated=estimated,
    )


def _estimated(picture: _Picture, maker: MaskMaker, known: EstimatedMask | None) -> EstimatedMask:
    digest = hashlib.sha256(picture.jpeg).digest()
    if known is not None and known.picture_sha256 == digest:
        return known
    return estimate_mask(picture.pixels, digest, maker)


def decode_mask_file(
    data: bytes, orientation: int, file_size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Decode a mask file to uint8 [H, W], upright; masks of zeros and ones count as 0 and 255.

    Args:
        orientation: of the picture's EXIF, 1..8.
        file_size: (width, height) of the picture's pixels before it is brought upright.

    Raises:
        BadPicture: it cannot be decoded.
    """
    try:
        mask = _to_gray(open_picture(data))
    except BadPicture as error:
        raise BadPicture(f"its mask: {error}") from error
    is_upright = orientation >= 5 and mask.size == file_size[::-1] != file_size
    if orientation in TRANSPOSE and not is_upright:
        mask = mask.transpose(TRANSPOSE[orientation])
    pixels = np.asarray(mask)
    return pixels * np.uint8(255) if pixels.max() == 1 else pixels


def _prepare_picture(data: bytes, settings: PrepareSettings) -> _Picture:
    image = open_picture(data)
    orientation = read_orientation(image)
    file_size = image.size
    if max(file_size) > _MAX_SIDE:
        raise BadPicture(f"{file_size[0]} x {file_size[1]} pixels, too long for a JPEG")
    goal = _reduced(file_size, settings.short_side)
    pixels, warning = _decode_plain_jpeg(data, goal)
    if pixels is not None and orientation == 1 and goal == file_size:
        return _Picture(
            jpeg=data,
            pixels=pixels,
            size=file_size,
            orientation=1,
            file_size=file_size,
            unchanged=True,
            warning="",
        )
    rgb = Image.fromarray(pixels) if pixels is not None else to_rgb(image)
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
    )


def _decode_plain_jpeg(data: bytes, goal: tuple[int, int]) -> tuple[NDArray[np.uint8] | None, str]:
    """Decode a plain JPEG strictly: (pixels, ""), or (None, what the decoder said against it).

    Pixels come at the smallest size the decoder has that is well above the goal.
    """
    if not is_jpeg(data):
        return None, ""
    header = read_jpeg_header(data)
    if header is None or not header.is_plain:
        return None, _complaint(data)
    whole = (header.width, header.height) == goal
    low_width, low_height = (0, 0) if whole else (_REDUCE * goal[0], _REDUCE * goal[1])
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            data,
            min_width=low_width,
            min_height=low_height,
            min_factor=1 if whole else 2,
            strict=True,
        )
    except ValueError as error:
        return None, str(error)
    return pixels, ""


def _complaint(data: bytes) -> str:
    """What a strict decoder says against a JPEG that it can decode; empty: nothing."""
    try:
        simplejpeg.decode_jpeg(data, strict=True)
    except ValueError as error:
        try:
            simplejpeg.decode_jpeg(data, strict=False)
        except ValueError:
            return ""  # of a kind that this decoder does not know; Pillow will tell
        return str(error)
    return ""


def open_picture(data: bytes) -> Image.Image:
    """Open with Pillow; all but JPEGs, which have another decoder, are decoded as well."""
    try:
        image = Image.open(io.BytesIO(data))
        if not is_jpeg(data):
            image.load()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise BadPicture(f"a decompression bomb, or too large: {error}") from error
    except UnidentifiedImageError as error:
        raise BadPicture(f"no picture that Pillow knows, {len(data)} bytes") from error
    except Exception as error:  # Pillow lets out whatever its parsers meet in broken files
        raise BadPicture(f"cannot be decoded: {error}") from error
    return image


def read_orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged EXIF, see open_picture
        return 1
    return value if value in TRANSPOSE else 1


def _reduced(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """The size with its shorter side reduced to `short_side`, if that is set and smaller."""
    shorter = min(size)
    if short_side == 0 or shorter <= short_side:
        return size
    return round(size[0] * short_side / shorter), round(size[1] * short_side / shorter)


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode and convert, transparent parts over white."""
    image = _decoded(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    return white.convert("RGB")


def _to_gray(image: Image.Image) -> Image.Image:
    """Decode a mask: its alpha channel where that says something, else its brightness."""
    image = _decoded(image)
    if image.has_transparency_data:
        alpha = image.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            return alpha
        image = image.convert("RGB")
    return image.convert("RGB").convert("L") if image.mode == "P" else image.convert("L")


def _decoded(image: Image.Image) -> Image.Image:
    """Decode, and bring pixels of more than 8 bits to 8."""
    try:
        image.load()
    except Exception as error:  # see open_picture
        raise BadPicture(f"cannot be decoded: {error}") from error
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)
    if image.mode == "F" and values.max() <= 1:
        values = values * 255
    elif values.max() > 255:
        values = values / 256
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))
