"""Pictures as files, made on the spot."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from pipeline.sources import Record
from tests.support import textured_image


class Given:
    """An origin whose bytes are given."""

    def __init__(self, picture: bytes, mask: bytes | None = None) -> None:
        self.picture = picture
        self.mask = mask

    def read(self, record: Record) -> tuple[bytes, bytes | None]:
        return self.picture, self.mask


def record_of(picture: bytes, mask: bytes | None = None, key: str = "a.jpg") -> Record:
    return Record(
        key=key, label_name=None, origin=Given(picture, mask), offset=0, size=len(picture)
    )


def jpeg(height: int = 40, width: int = 60, *, seed: int = 0, subsampling: str = "420") -> bytes:
    return simplejpeg.encode_jpeg(
        textured_image(height, width, seed=seed), quality=92, colorsubsampling=subsampling
    )


def encoded(image: Image.Image | np.ndarray, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(out, format, **options)
    return out.getvalue()


def with_orientation(image: np.ndarray, orientation: int) -> bytes:
    """A JPEG whose EXIF says this orientation of pixels that are stored as they are."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "JPEG", exif=exif, quality=95, subsampling=0)


def write_files(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def tar_of(files: Mapping[str, bytes], **options: object) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()
