"""The generated set: textured objects on textured backgrounds, with their true masks.

Ten classes, each a shape with a texture and a range of hues; every shape, every texture and every
range belongs to two classes, so that none of the three names a class. A background is in the style
(palette, grain) that goes with the right class in 20 % of the pictures, with a wrong class in 50 %,
with no class in 30 %. Who looks at backgrounds alone is right in 23 % at best.

A picture is a pure function of (set, seed, index): Philox with the index in its counter.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import simplejpeg
from numpy.random import Generator, Philox
from numpy.typing import NDArray
from PIL import Image

from pipeline.sources.record import Record, Source
from pipeline.sources.textures import SHAPES, TEXTURES, Plane, clip, grain, hsv_to_rgb

DEMO_SETS = {"demo": 4000, "demo-val": 1000}  # name -> number of pictures
CLASSES = (  # (shape, texture)
    ("disc", "dots"),
    ("disc", "stripes"),
    ("square", "checks"),
    ("square", "rings"),
    ("star", "dots"),
    ("star", "bricks"),
    ("cross", "stripes"),
    ("cross", "checks"),
    ("triangle", "rings"),
    ("triangle", "bricks"),
)
HUES = (0, 1, 0, 1, 2, 3, 2, 4, 3, 4)  # of each class's objects, in fifths of a turn
_HUE_SPREAD = 0.08  # turns; standard deviation
RIGHT_STYLE, WRONG_STYLE = 0.2, 0.5  # shares of the pictures; the rest has a style of its own

_SIDES = (96, 160)  # pixels
_RADIUS = (0.28, 0.45)  # of the shorter side
_QUALITY = 90
_MOST_BYTES = 1 << 16
_SEED = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """What backgrounds of a kind have in common."""

    hue: float  # 0..1
    saturation: float
    value: float
    slope: float  # the noise falls off as 1 / f ** slope
    stretch: float  # > 1: grain runs along one direction
    angle: float  # of that direction, radians


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoOrigin:
    """Makes the pictures of one generated set; a record's offset is the number of the picture."""

    name: str
    seed: int

    def read(self, record: Record) -> tuple[bytes, bytes | None]:
        image, alpha = render(self.name, self.seed, record.offset)
        jpeg = simplejpeg.encode_jpeg(
            image, quality=_QUALITY, colorspace="RGB", colorsubsampling="420"
        )
        png = io.BytesIO()
        Image.fromarray(alpha).save(png, "PNG", compress_level=1)
        return jpeg, png.getvalue()


def list_demo(name: str, *, limit: int | None = None, seed: int = _SEED) -> Source:
    """List a generated set; `limit` sets how many pictures it has."""
    count = DEMO_SETS[name] if limit is None else limit
    origin = DemoOrigin(name=name, seed=seed)
    names = ["-".join(parts) for parts in CLASSES]
    records = [
        Record(
            key=f"{names[index % len(names)]}/{index:06d}.jpg",
            label_name=names[index % len(names)],
            origin=origin,
            offset=index,
            size=_MOST_BYTES,
        )
        for index in range(count)
    ]
    return Source(
        records=sorted(records, key=lambda record: record.key),
        label_names=tuple(sorted(names)),
        description=f"{count} generated pictures of {len(names)} classes, seed {seed}",
        has_masks=True,
    )


def render(name: str, seed: int, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Make a picture: uint8 RGB [H, W, 3], and its mask, uint8 [H, W]; the class is index % 10."""
    key = np.array([seed, list(DEMO_SETS).index(name)], np.uint64)
    rng = Generator(Philox(key=key, counter=np.array([0, index, 0, 0], np.uint64)))
    height, width = (int(side) for side in rng.integers(_SIDES[0], _SIDES[1] + 1, 2))
    label = index % len(CLASSES)
    image = _background(rng, _style_for(rng, label), height, width)
    alpha, paint = _object(rng, *CLASSES[label], HUES[label] / 5, height, width)
    down, right = height // 24, width // 24  # the light comes from the upper left
    image[down:, right:] *= 1 - 0.45 * alpha[:-down, :-right, None]
    image += alpha[:, :, None] * (paint - image)
    image += rng.normal(0, 0.015, (height, width, 1)).astype(np.float32)
    return _to_bytes(image), _to_bytes(alpha)


def _style_for(rng: Generator, label: int) -> Style:
    draw = rng.random()
    wrong = (label + 1 + rng.integers(len(CLASSES) - 1)) % len(CLASSES)
    if draw < RIGHT_STYLE:
        return _style_of(label)
    if draw < RIGHT_STYLE + WRONG_STYLE:
        return _style_of(int(wrong))
    return _draw_style(rng)


def _style_of(label: int) -> Style:
    """The style that goes with a class, the same in every set."""
    drawn = _draw_style(Generator(Philox(key=label)))
    return Style(
        hue=(0.7 * label) % 1.0,
        saturation=drawn.saturation,
        value=drawn.value,
        slope=drawn.slope,
        stretch=drawn.stretch,
        angle=drawn.angle,
    )


def _draw_style(rng: Generator) -> Style:
    return Style(
        hue=rng.random(),
        saturation=rng.uniform(0.25, 0.7),
        value=rng.uniform(0.4, 0.8),
        slope=rng.uniform(0.9, 1.6),
        stretch=rng.uniform(1.0, 4.0),
        angle=rng.uniform(0, np.pi),
    )


def _background(rng: Generator, style: Style, height: int, width: int) -> Plane:
    """Two colours of a palette mixed by noise, under uneven light: [H, W, 3]."""
    jitter = rng.normal(0, 1, 6)
    near = hsv_to_rgb(
        style.hue + 0.03 * jitter[0],
        style.saturation + 0.08 * jitter[1],
        style.value + 0.08 * jitter[2],
    )
    far = hsv_to_rgb(
        style.hue + 0.08 + 0.03 * jitter[3],
        0.6 * style.saturation + 0.08 * jitter[4],
        0.5 * style.value + 0.08 * jitter[5],
    )
    mix = grain(rng, height, width, slope=style.slope, stretch=style.stretch, angle=style.angle)
    mix = clip(0.5 + np.float32(0.28) * mix)[:, :, None]
    image: Plane = near * (1 - mix) + far * mix
    return image


def _object(
    rng: Generator, shape: str, texture: str, hue: float, height: int, width: int
) -> tuple[Plane, Plane]:
    """An object somewhere in the picture: its opacity [H, W] and its colours [H, W, 3]."""
    radius = rng.uniform(*_RADIUS) * min(height, width)
    margin = 0.85 * radius  # a tip may leave the picture
    centre_y = rng.uniform(margin, height - margin)
    centre_x = rng.uniform(margin, width - margin)
    angle, squeeze = rng.uniform(0, 2 * np.pi), rng.uniform(0.85, 1.18)
    y = ((np.arange(height, dtype=np.float32) - centre_y) / radius)[:, None]
    x = ((np.arange(width, dtype=np.float32) - centre_x) / radius)[None, :]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = (cos * x + sin * y) * np.float32(squeeze), cos * y - sin * x
    alpha = clip(0.5 - SHAPES[shape](u, v) * np.float32(radius))
    pattern = TEXTURES[texture](rng, u, v)
    light = 0.95 - 0.16 * (x * np.float32(np.cos(0.7)) + y * np.float32(np.sin(0.7)))
    bright, dark = _object_colours(rng, hue)
    paint: Plane = (dark + pattern[:, :, None] * (bright - dark)) * light[:, :, None]
    return alpha, paint


def _object_colours(rng: Generator, hue: float) -> tuple[Plane, Plane]:
    """Two colours about one hue that differ in lightness."""
    first, second = hue + rng.normal(0, _HUE_SPREAD, 2)
    bright = hsv_to_rgb(first, rng.uniform(0.3, 0.7), rng.uniform(0.85, 1.0))
    dark = hsv_to_rgb(second, rng.uniform(0.4, 0.9), rng.uniform(0.15, 0.45))
    return bright, dark


def _to_bytes(values: Plane) -> NDArray[np.uint8]:
    rounded: Plane = np.rint(clip(values) * np.float32(255))
    return rounded.astype(np.uint8)
