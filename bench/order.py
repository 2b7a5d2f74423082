"""Rung `order`: how well the windowed order mixes, and how fast a cold disk gives either order.

Orders are those of training (pipeline/order.py), over real shards or, for the mixing alone, over
made-up sizes. What is asked, and what is reported; the parts are in shuffle and cold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from bench.cold import cold_rows
from bench.environment import environment
from bench.harness import tell
from bench.shuffle import quality, sorted_labels
from pipeline.batch import Ids
from pipeline.order import OrderConfig
from pipeline.sampler import Sampler, make_sampler
from pipeline.shards import FileShards, open_shards

SHARES = (0.5, 0.2, 0.1, 0.05)  # of the data: windows where none is given
MOST_BYTES = 4e9  # of a cold epoch: more would take minutes a row
IMAGENET = (1_281_167, 1000)  # samples, classes
MEAN_BYTES, SPREAD = 110e3, 0.5  # of made-up sizes: log-normal


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderRequest:
    """What to measure; None: chosen by the size of the data."""

    data: Path | None = None
    windows: tuple[float, ...] = ()  # GB
    block: float | None = None  # MB
    batch: int | None = None
    images: int | None = None
    rounds: int = 3
    ahead: int = 4
    epochs: int = 3
    cold: bool = True


def order_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that are the fields of `OrderRequest`, and --json."""
    count, several = click.IntRange(min=1), click.IntRange(min=2)
    above_zero = click.FloatRange(min=0, min_open=True)
    shown = {"show_default": True}
    options = (
        click.option("--data", type=Path, help="Shards. [without: sizes like ImageNet's, no disk]"),
        click.option(
            "--window",
            "windows",
            multiple=True,
            type=above_zero,
            metavar="GB",
            help="Window; repeatable. [a half, fifth, tenth, twentieth of the data]",
        ),
        click.option("--block", type=above_zero, metavar="MB", help="[2, small data: less]"),
        click.option("--batch", type=several, help="Global batch. [4096, small data: less]"),
        click.option("--images", type=count, help="First samples to read cold. [up to 4 GB]"),
        click.option("--rounds", type=count, default=3, **shown),
        click.option("--ahead", type=count, default=4, help="Batches, of hints.", **shown),
        click.option("--epochs", type=several, default=3, help="To judge the mixing.", **shown),
        click.option("--cold/--no-cold", default=True, help="Read from the disk.", **shown),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object last."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@dataclass(frozen=True, kw_only=True, slots=True)
class _Data:
    """Samples by what an order knows of them, and the classes that they lie in."""

    name: str
    stored_bytes: Ids
    labels: Ids
    shards: FileShards | None

    @property
    def total(self) -> int:
        return int(self.stored_bytes.sum())


def order(request: OrderRequest) -> dict[str, Any]:
    """Measure, and return the JSON object of this rung.

    Raises:
        ValueError: unreadable shards, more images than there are, a window that cannot be.
    """
    data = _data_of(request.data)
    batch = request.batch or max(2, min(4096, len(data.stored_bytes) // 50))
    block = request.block or min(OrderConfig().block_megabytes, data.total / 1e6 / 400)
    table = list(_qualities(request, data, batch, block))
    rows, ratios, cold = _cold(request, data, batch, block)
    return {
        "rung": "order",
        "device": "cpu",
        "work": f"{data.name}, {data.total / 1e9:.3g} GB, batches of {batch}, "
        f"blocks of {block:.3g} MB{cold}",
        "environment": environment(),
        "quality": table,
        "rows": rows,
        "ratios": ratios,
    }


def _data_of(path: Path | None) -> _Data:
    if path is None:
        num_samples, num_classes = IMAGENET
        sizes = np.random.default_rng(0).lognormal(0, SPREAD, num_samples)
        stored = (sizes * (MEAN_BYTES / sizes.mean())).astype(np.int64)
        labels = np.arange(num_samples) * num_classes // num_samples
        name = f"{num_samples} made-up sizes in {num_classes} classes"
        return _Data(name=name, stored_bytes=stored, labels=labels, shards=None)
    shards = open_shards(path)
    labels, source = sorted_labels(shards.labels)
    name = f"{len(shards)} samples of {path.name}, {source}"
    return _Data(name=name, stored_bytes=shards.stored_bytes, labels=labels, shards=shards)


def _samplers(
    request: OrderRequest, stored_bytes: Ids, batch: int, block: float, *, scale: float = 1.0
) -> dict[str, Sampler]:
    """A sampler by name for the true shuffle and each window, windows `scale` times as large.

    Raises:
        ValueError: a window that was asked for cannot be. One that was not is left out.
    """
    windows = request.windows or tuple(stored_bytes.sum() * share / 1e9 for share in SHARES)
    found = {"shuffled": OrderConfig()}
    for window in windows:
        gigabytes = window * scale if request.windows else window
        name = f"window {gigabytes:.3g} GB"
        found[name] = OrderConfig(window_gigabytes=gigabytes, block_megabytes=block)
    return dict(_made(found, stored_bytes, batch, strict=bool(request.windows)))


def _made(
    orders: Mapping[str, OrderConfig], stored_bytes: Ids, batch: int, *, strict: bool
) -> Iterator[tuple[str, Sampler]]:
    for name, config in orders.items():
        try:
            yield name, make_sampler(stored_bytes, global_batch_size=batch, seed=0, order=config)
        except ValueError as error:
            if strict or not config.window_gigabytes:
                raise
            tell(f"left out: {error}")


def _qualities(
    request: OrderRequest, data: _Data, batch: int, block: float
) -> Iterator[dict[str, Any]]:
    """How each order mixes."""
    for name, sampler in _samplers(request, data.stored_bytes, batch, block).items():
        tell(f"{request.epochs} epochs of {name}")
        window = sampler.window.num_bytes if sampler.window else data.total
        yield {
            "name": name,
            "window_gigabytes": window / 1e9,
            "window_share": window / data.total,
        } | quality(sampler, data.labels, num_epochs=request.epochs)


def _cold(
    request: OrderRequest, data: _Data, batch: int, block: float
) -> tuple[list[dict[str, Any]], dict[str, float], str]:
    """Rows and ratios of cold reading, and what they are of; windows keep their share of it."""
    if not request.cold or data.shards is None:
        return [], {}, ""
    images = request.images or _as_many_as_fit(data.stored_bytes)
    if images > len(data.stored_bytes):
        raise ValueError(f"--images {images}: there are {len(data.stored_bytes)} samples")
    stored = data.stored_bytes[:images]
    scale = int(stored.sum()) / data.total
    samplers = _samplers(request, stored, min(batch, max(2, images // 50)), block, scale=scale)
    rows, ratios = cold_rows(
        data.shards, samplers, images, rounds=request.rounds, ahead=request.ahead
    )
    what = (
        f"; cold: an epoch of {images} samples, {stored.sum() / 1e9:.3g} GB, into an empty page "
        f"cache, {request.rounds} rounds, interleaved"
    )
    return rows, ratios, what


def _as_many_as_fit(stored_bytes: Ids) -> int:
    """How many of the first samples a cold epoch is made of, so that a round takes seconds."""
    return max(1, int(np.searchsorted(np.cumsum(stored_bytes), MOST_BYTES, side="right")))


def quality_table(result: dict[str, Any]) -> str:
    """How each order mixes, as plain text."""
    width = max(len(found["name"]) for found in result["quality"])
    head = (
        f"{'':{width}}  of data  neighbours meet  neighbours apart  labels apart  "
        "epochs correlate  storage correlates"
    )
    lines = [
        f"{found['name']:{width}}  {found['window_share']:7.1%}  "
        f"{found['neighbours_meet']:14.2f}x  {found['neighbours_apart']:15.2f}x  "
        f"{found['label_distance']:12.4f}  {found['epochs_correlate']:16.4f}  "
        f"{found['storage_correlates']:18.4f}"
        for found in result["quality"]
    ]
    return "\n".join([head, *lines])
