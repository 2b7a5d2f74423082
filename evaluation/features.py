"""Features of a frozen encoder: the mean-pooled output with BatchNorm's running statistics.

Shapes: B images of a batch, N images in all, D feature dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from pipeline.batch import MultiCropBatch

Progress = Callable[[int], None]  # called with the number of images done since the last call


@contextmanager
def frozen(encoder: nn.Module) -> Iterator[None]:
    """Put an encoder into evaluation mode, and each of its modules back into its own afterwards."""
    modes = [(module, module.training) for module in encoder.modules()]
    encoder.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@torch.no_grad()
def encode(encoder: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """Return float32 [B, D] on `device`: features of normalised images [B, 3, H, W].

    bfloat16 autocast on GPUs, as in training; float32 on CPUs.
    """
    images = images.to(device, non_blocking=True)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
        features: Tensor = encoder(images)
    return features.float()


def extract_features(
    encoder: nn.Module,
    views: Iterable[MultiCropBatch],
    device: torch.device,
    *,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (features float32 [N, D], labels int64 [N]), on the CPU, in the order of the views.

    The first large view of each batch is encoded. The encoder moves to `device` and stays there.

    Raises:
        ValueError: there are no images, or a feature is not finite (the encoder has diverged).
    """
    encoder.to(device)
    features, labels = [], []
    with frozen(encoder):
        for batch in views:
            features.append(encode(encoder, batch.large[0], device).cpu())
            labels.append(batch.labels.cpu())
            if progress is not None:
                progress(len(batch.labels))
    if not features:
        raise ValueError("there are no images to compute features of")
    every_label = torch.cat(labels)
    every_feature = _concatenate(features)
    if not every_feature.isfinite().all():
        raise ValueError(
            "the encoder's features are not finite: training has diverged; evaluate an earlier "
            "checkpoint or train with a lower learning rate"
        )
    return every_feature, every_label


def _concatenate(chunks: list[Tensor]) -> Tensor:
    """Concatenate and empty the list: the peak is one copy of ImageNet's 10 GB, not two."""
    rows = sum(len(chunk) for chunk in chunks)
    joined = chunks[0].new_empty(rows, chunks[0].shape[1])
    while chunks:
        chunk = chunks.pop()
        joined[rows - len(chunk) : rows] = chunk
        rows -= len(chunk)
    return joined
