"""torchvision's transforms v2 in the workers of torch's DataLoader, on JPEG files.

As its users have it: a map-style data set, workers that stay, the allocator as it comes. A picture
is decoded once for all its views. torchvision's own decode_jpeg does not load beside a CPU build of
torch; simplejpeg stands in for it: libjpeg-turbo as well.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from bench.peers.torchvision_v2 import transforms_v2, view_transform
from bench.streams import Batch, Stream
from pipeline.augment.recipe import MultiCropRecipe

PACKAGE = "torchvision"
WHAT_PIL = "PIL, transforms.v2 on PIL images, DataLoader on JPEG files; no masks"
WHAT_TENSOR = "simplejpeg, transforms.v2 on tensors, DataLoader on JPEG files; no masks"

_PREFETCH = 2  # batches of each worker: torch's default
_PASSES = 10_000  # an epoch of so many passes: where epochs end, workers would run dry

Photos = Sequence[tuple[Path, int]]  # JPEG files and their labels


def make_pil(
    photos: Photos, recipe: MultiCropRecipe, *, batch: int, workers: int, passes: int = _PASSES
) -> Stream:
    """On PIL images up to the conversion to tensors, as torchvision's ImageFolder gives them."""
    return _stream(_Photos(photos, recipe, _as_pil, None), batch, workers, passes)


def make_tensor(
    photos: Photos,
    recipe: MultiCropRecipe,
    *,
    batch: int,
    workers: int,
    passes: int = _PASSES,
    device: torch.device | None = None,
) -> Stream:
    """On tensors, float32 from the crop on: faster than uint8 to the end (bench augment)."""
    import simplejpeg  # noqa: F401  a package that is missing is told here, not by a worker

    made = _Photos(photos, recipe, _as_tensor, torch.float32)
    return _stream(made, batch, workers, passes, device)


class _Photos(Dataset[tuple[list[Tensor], int]]):
    """Views and label of one JPEG file; DataLoader stacks them to batches."""

    def __init__(
        self,
        photos: Photos,
        recipe: MultiCropRecipe,
        decode: Callable[[Path], Any],
        dtype: torch.dtype | None,
    ) -> None:
        v2 = transforms_v2()
        convert = None if dtype is None else v2.ToDtype(dtype, scale=True)
        self._photos, self._decode = photos, decode
        self._transforms = [
            view_transform(v2, view, size, recipe, convert)
            for view, size in zip(recipe.views, recipe.sizes, strict=True)
        ]

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, number: int) -> tuple[list[Tensor], int]:
        path, label = self._photos[number]
        picture = self._decode(path)
        return [transform(picture) for transform in self._transforms], label


def _as_pil(path: Path) -> Any:
    from PIL import Image

    return Image.open(path).convert("RGB")


def _as_tensor(path: Path) -> Tensor:
    """uint8 [3, h, w]."""
    import simplejpeg

    pixels = simplejpeg.decode_jpeg(path.read_bytes())
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _stream(
    photos: _Photos, batch: int, workers: int, passes: int, device: torch.device | None = None
) -> Stream:
    batches = _batches(
        DataLoader(
            photos,
            batch_size=batch,
            sampler=RandomSampler(photos, num_samples=passes * len(photos)),
            num_workers=workers,
            multiprocessing_context="fork",  # a spawned process would have spawned ones
            prefetch_factor=_PREFETCH,
            persistent_workers=True,
            pin_memory=device is not None,
        ),
        device,
    )
    return Stream(
        batches=batches,
        ahead=_PREFETCH * workers,
        workers=workers,
        note=f"{workers} workers, {_PREFETCH} batches ahead each",
        close=batches.close,
    )


def _batches(
    loader: DataLoader[tuple[list[Tensor], int]], device: torch.device | None
) -> Generator[Batch, None, None]:
    """Whoever closes it ends the workers: the loader is referred to from here alone."""
    for views, labels in loader:
        if device is not None:
            views = [view.to(device, non_blocking=True) for view in views]
        yield views, labels
