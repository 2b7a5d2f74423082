"""The distribution that views are drawn from. Every number of the augmentation has its home here.

Defaults are BYOL's two presets (spec section 3.2: [SRC], the file that the ReLICv2 authors ship
unchanged), alternated over the large views ([UNK] which view gets which: a suggestion of the spec).
docs/provenance.md lists source and confidence of each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import ClassVar

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Range = tuple[float, float]
RGB = tuple[float, float, float]

_PROGRESSIVE_STEP = 16  # pixels; a size more means an executor, and kernels of the network, more
_LARGEST_VIEW = 2048  # pixels; a mistyped size should not end as a failed allocation


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewRecipe:
    """Distribution of one view.

    Raises:
        ValueError: a probability outside [0, 1], an empty or negative range.
    """

    # share of the image that the crop covers, uniform [BYOL; small: SwAV]
    area: Range = (0.08, 1.0)
    aspect: Range = (3 / 4, 4 / 3)  # width / height of the crop, log-uniform [BYOL]
    flip_probability: float = 0.5  # mirror left and right [BYOL]
    jitter_probability: float = 0.8  # change the next four, in random order [BYOL]
    # U(-b, b), added or, torchvision's style, a factor of 1 + that [BYOL]
    brightness: float = 0.4
    contrast: float = 0.4  # factor about the mean of the view: U(1-c, 1+c) [BYOL]
    saturation: float = 0.2  # factor: U(1-s, 1+s) [BYOL]
    hue: float = 0.1  # added to HSV hue, in turns: U(-h, h) [BYOL]
    grayscale_probability: float = 0.2  # take the colour away [BYOL]
    blur_probability: float = 1.0  # blur with a Gaussian [BYOL; small: unknown]
    blur_sigma: Range = (0.1, 2.0)  # of the Gaussian, pixels of the view, uniform [BYOL]
    blur_divider: float = 10.0  # radius of the Gaussian = int(view size / divider / 2) [BYOL]
    # invert the levels above solarize_threshold [BYOL; small: unknown]
    solarize_probability: float = 0.0
    solarize_threshold: float = 0.5  # level in 0..1 [BYOL]
    # p_m: replace the background of the whole image before the crop [recalled; small: paper]
    mask_probability: float = 0.0

    def __post_init__(self) -> None:
        for name in ("flip", "jitter", "grayscale", "blur", "solarize", "mask"):
            probability = getattr(self, f"{name}_probability")
            if not 0 <= probability <= 1:
                raise ValueError(f"{name}_probability must lie in 0..1, got {probability}")
        for name in ("brightness", "contrast", "saturation", "hue"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("area", "aspect", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be a range 0 < low <= high, got {low}, {high}")
        if self.area[1] > 1:
            raise ValueError(f"area must not exceed 1, the whole image, got {self.area[1]}")
        if self.hue > 0.5:  # half a turn each way is every hue
            raise ValueError(f"hue must not exceed 0.5 turns, got {self.hue}")
        if not self.blur_divider >= 0.5:  # below, the blur would be wider than the view
            raise ValueError(f"blur_divider must be at least 0.5, got {self.blur_divider}")


# BYOL's view 1 and view 2 [SRC]; mask_probability 0.1 [MEM-L/M].
LARGE_EVEN = ViewRecipe(mask_probability=0.1)
LARGE_ODD = ViewRecipe(blur_probability=0.1, solarize_probability=0.2, mask_probability=0.1)
# SwAV's area for small crops [SRC for SwAV, MEM-L here]; view-2-like photometry [suggestion].
SMALL = ViewRecipe(area=(0.05, 0.14), blur_probability=0.1, solarize_probability=0.2)


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiCropRecipe:
    """Distribution of all views of an image: L large ones, then S small ones.

    Large view 0, 2, .. follows `large_even`, 1, 3, .. `large_odd`; small views follow `small`.

    Raises:
        ValueError: no large view, or a size below one pixel.
    """

    CHOICES: ClassVar = {
        "interpolation": ("bicubic", "bilinear"),
        "jitter_style": ("byol", "torchvision"),
        "mask_fill": ("constant", "random-gray", "image-mean", "other-image"),
    }

    num_large: int = 4  # large views of an image; the target network sees only these [recalled]
    num_small: int = 2  # small views of an image [recalled]
    large_size: int = 224  # side of a large view, pixels [recalled]
    small_size: int = 96  # side of a small view, pixels [recalled]
    # views grow over progressive_epochs, from this share of their sides [ours]
    progressive_start: float = 0.5
    progressive_epochs: int = 0  # epochs in which views grow; 0: full size from the start [ours]
    large_even: ViewRecipe = field(default=LARGE_EVEN)
    large_odd: ViewRecipe = field(default=LARGE_ODD)
    small: ViewRecipe = field(default=SMALL)
    interpolation: str = "bicubic"  # how a crop is resized [BYOL]
    # true: widen the kernel when a crop is made smaller, as torchvision does [BYOL]
    antialias: bool = False
    # byol: brightness is added, contrast about the mean of each channel, HSV saturation;
    # torchvision: brightness is a factor, contrast about the mean gray, saturation mixes
    # with gray [BYOL]
    jitter_style: str = "byol"
    mask_threshold: float = 0.5  # salience above it is foreground [unknown]
    # masks that cover a smaller share of the image are not used: the view stays as it is [unknown]
    mask_min_coverage: float = 0.01
    mask_max_coverage: float = 1.0  # nor are masks that cover a larger share [unknown]
    # what the background becomes. constant: mask_color; random-gray: one level per image;
    # image-mean: the mean of the whole image; other-image: the image half a batch away,
    # stretched [recalled]
    mask_fill: str = "constant"
    mask_color: RGB = IMAGENET_MEAN  # of mask_fill=constant, RGB in 0..1 [unknown]
    mean: RGB = IMAGENET_MEAN  # subtracted from views, RGB in 0..1 [BYOL]
    std: RGB = IMAGENET_STD  # views are divided by it [BYOL]

    def __post_init__(self) -> None:
        if self.num_large < 1 or self.num_small < 0:
            raise ValueError(
                f"views need num_large >= 1 and num_small >= 0, got {self.num_large}, "
                f"{self.num_small}"
            )
        if not 1 <= min(self.large_size, self.small_size) <= max(self.sizes) <= _LARGEST_VIEW:
            raise ValueError(
                f"view sizes must lie in 1..{_LARGEST_VIEW} pixels, got {self.large_size} and "
                f"{self.small_size}"
            )
        if self.progressive_epochs < 0 or not 0 < self.progressive_start <= 1:
            raise ValueError(
                "progressive resizing needs progressive_epochs >= 0 and progressive_start in "
                f"(0, 1], got {self.progressive_epochs} and {self.progressive_start}"
            )
        for name, choices in self.CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(choices)}"
                )
        if not all(0 <= level <= 1 for level in self.mask_color):
            raise ValueError(f"mask_color must be RGB in 0..1, got {self.mask_color}")
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        if not 0 <= self.mask_threshold < 1:
            raise ValueError(f"mask_threshold must lie in [0, 1), got {self.mask_threshold}")

    def at(self, epoch: int) -> MultiCropRecipe:
        """The recipe of an epoch, with the sizes that its views have then.

        The share of the full size grows linearly with the epoch. Sides are rounded up to multiples
        of 16 pixels. What is drawn for a view does not depend on its size.
        """
        done = min(epoch / self.progressive_epochs, 1.0) if self.progressive_epochs else 1.0
        scale = self.progressive_start + (1 - self.progressive_start) * done

        def side(full: int) -> int:
            # the last digits of a product decide nothing: 0.6 * 160 can be a little more than 96
            grown = _PROGRESSIVE_STEP * math.ceil(round(scale * full / _PROGRESSIVE_STEP, 6))
            return min(grown, full)

        return replace(
            self,
            large_size=side(self.large_size),
            small_size=side(self.small_size),
            progressive_epochs=0,
        )

    @property
    def full_size(self) -> MultiCropRecipe:
        """The recipe of the epochs in which views have grown up."""
        return self.at(self.progressive_epochs)

    @property
    def num_views(self) -> int:
        return self.num_large + self.num_small

    @property
    def views(self) -> tuple[ViewRecipe, ...]:
        """The recipe of each view: large ones first."""
        large = (self.large_even, self.large_odd)
        return tuple(large[v % 2] for v in range(self.num_large)) + (self.small,) * self.num_small

    @property
    def sizes(self) -> tuple[int, ...]:
        """The side of each view, in pixels."""
        return (self.large_size,) * self.num_large + (self.small_size,) * self.num_small

    @property
    def values_per_image(self) -> int:
        """Numbers in all views of one image."""
        return sum(3 * side**2 for side in self.sizes)


def crop_and_flip_recipe(size: int) -> MultiCropRecipe:
    """One view of linear evaluation's training: random crop and flip only (spec 6.1, [SRC])."""
    plain = ViewRecipe(
        jitter_probability=0.0,
        grayscale_probability=0.0,
        blur_probability=0.0,
    )
    return MultiCropRecipe(
        num_large=1, num_small=0, large_size=size, large_even=plain, large_odd=plain
    )
