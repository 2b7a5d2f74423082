"""A stock DALI pipeline on tar shards: read, decode once, and a branch for each view.

The branches are those of dali_stock. On a GPU JPEGs are decoded by its `mixed` decoder, and views
are made there.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.peers.dali_stock import check_recipe, view_branches
from bench.streams import Batch, Stream
from pipeline.augment.recipe import MultiCropRecipe

PACKAGE = "nvidia-dali-cuda130"
WHAT = (
    "one DALI pipeline: webdataset reader, decode once, a branch of stock operators per view, one "
    "fixed jitter order; no masks"
)

_AHEAD = 2  # batches: DALI's default


def make(
    data: Path,
    recipe: MultiCropRecipe,
    *,
    batch: int,
    workers: int,
    device_id: int | None = None,
) -> Stream:
    """Shards in the format dali.

    Raises:
        Unavailable: the recipe asks for what the operators cannot do.
    """
    check_recipe(recipe)
    batches = _batches(_pipeline(data, recipe, batch, workers, device_id))
    return Stream(
        batches=batches,
        ahead=_AHEAD + 1,
        note=f"{workers} threads, decoder {'cpu' if device_id is None else 'mixed'}",
        close=batches.close,
    )


def _pipeline(
    data: Path, recipe: MultiCropRecipe, batch: int, threads: int, device_id: int | None
) -> Any:
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(enable_conditionals=True)
    def graph() -> tuple[Any, ...]:
        jpegs, labels = webdataset(data)
        device = "cpu" if device_id is None else "mixed"
        pictures = fn.decoders.image(jpegs, device=device, output_type=types.RGB)
        return (fn.pad(labels), *view_branches(pictures, recipe))

    return graph(
        batch_size=batch,
        num_threads=threads,
        device_id=device_id,
        seed=1,
        prefetch_queue_depth=_AHEAD,
    )


def webdataset(data: Path) -> Any:
    """DALI's reader of tar shards, shuffled: encoded pictures, and labels as ASCII digits."""
    from nvidia.dali import fn

    tars = sorted(data.glob("*.tar"))
    return fn.readers.webdataset(
        name="reader",
        paths=[str(tar) for tar in tars],
        index_paths=[str(tar.with_suffix(".idx")) for tar in tars],
        ext=["jpg", "cls"],
        random_shuffle=True,
    )


def _batches(pipeline: Any) -> Generator[Batch, None, None]:
    from nvidia.dali.plugin.base_iterator import LastBatchPolicy
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    names = ["label", *(f"view {number}" for number in range(pipeline.num_outputs - 1))]
    epochs = DALIGenericIterator(
        pipeline,
        names,
        reader_name="reader",
        last_batch_policy=LastBatchPolicy.DROP,
        auto_reset=True,
    )
    while True:
        for (given,) in epochs:
            label, *views = (given[name] for name in names)
            yield views, label_numbers(label)


def label_numbers(labels: Tensor) -> Tensor:
    """Labels of ASCII digits, uint8 [B, n] filled up with zeros, as int64 [B]."""
    rows = labels.cpu().numpy()
    return torch.tensor([int(row.tobytes().rstrip(b"\0")) for row in rows])
