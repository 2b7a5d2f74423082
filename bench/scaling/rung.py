"""Rung `scaling`: what a step sends, what GPUs keep of their speed, loaders against a demand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.environment import environment
from bench.generated import generated_shards
from bench.harness import tell
from bench.scaling.efficiency import Cluster, last_backward_share, predict_scaling
from bench.scaling.loaders import LoadersRequest, simulate
from bench.scaling.worker import Feed
from pipeline.shards import open_shards
from training.config import TrainConfig

GPUS = (8, 64, 512)
WEAK_BATCH = 256  # of each GPU, where the global batch grows with them


@dataclass(frozen=True, kw_only=True, slots=True)
class ScalingRequest:
    """What to predict, and what to run."""

    config: TrainConfig
    cluster: Cluster
    rate_origin: str  # where the cluster's rate comes from
    data: Path | None  # None: generated pictures
    loaders: int  # at most; 0: no simulation
    batch: int  # of each loader
    seconds: float
    views_here: bool
    disk_megabytes: float | None  # a second that storage gives to the node; None: what it gives


def scaling(request: ScalingRequest) -> dict[str, Any]:
    """Predict and measure; the JSON object of this rung.

    Raises:
        ValueError: unreadable shards, or too few samples.
        Broken: a loader's process failed.
    """
    config, cluster = request.config, request.cluster
    loaders = _simulated(request) if request.loaders else None
    return {
        "rung": "scaling",
        "work": _described(request),
        "environment": environment(),
        "cluster": {
            "gpus_per_node": cluster.gpus_per_node,
            "inside_bytes_per_second": cluster.inside,
            "between_bytes_per_second": cluster.between,
            "rate": cluster.rate,
            "rate_origin": request.rate_origin,
        },
        "last_backward_share": last_backward_share(config),
        "predictions": predictions(config, cluster),
        "loaders": loaders,
        "rows": [],
        "ratios": {},
    }


def predictions(config: TrainConfig, cluster: Cluster) -> list[dict[str, Any]]:
    """For each number of GPUs: the config's global batch divided, and WEAK_BATCH on each GPU."""
    found = []
    for gpus in GPUS:
        if config.global_batch_size % gpus == 0:
            local = config.global_batch_size // gpus
            made = predict_scaling(config, cluster, gpus=gpus, local_batch=local)
            found.append({"batch": "of the preset, divided"} | made)
        made = predict_scaling(config, cluster, gpus=gpus, local_batch=WEAK_BATCH)
        found.append({"batch": f"{WEAK_BATCH} on each GPU"} | made)
    return found


def _simulated(request: ScalingRequest) -> dict[str, Any]:
    if request.data is not None:
        return _simulate_on(request, request.data)
    with generated_shards(("dali",)) as folders:
        return _simulate_on(request, folders["dali"])


def _simulate_on(request: ScalingRequest, data: Path) -> dict[str, Any]:
    shards = open_shards(data)
    samples, stored = len(shards), shards.manifest.stored_bytes_per_sample
    pixels = float(np.mean(shards.heights.astype(np.int64) * shards.widths))
    shards.close()
    if samples < request.batch * request.loaders:
        raise ValueError(
            f"{data} holds {samples} samples, fewer than {request.loaders} loaders take in a batch "
            f"of {request.batch} each; lower --loaders or --batch"
        )
    limit = None if request.disk_megabytes is None else 1e6 * request.disk_megabytes / stored
    feed = Feed(
        config=request.config,
        data=data,
        batch=request.batch,
        views_here=request.views_here,
        images_per_second=limit,
    )
    tell(f"simulating up to {request.loaders} loaders on {samples} pictures")
    found = simulate(LoadersRequest(feed=feed, most=request.loaders, seconds=request.seconds))
    needed = request.cluster.rate * request.cluster.gpus_per_node
    return found | {
        "source": "generated pictures" if request.data is None else data.name,
        "samples": samples,
        "stored_bytes_per_image": stored,
        "pixels_per_image": pixels,
        "storage_images_per_second": limit,
        "node_demand": needed,
        "node_cores": needed * found["core_milliseconds_per_image"] / 1e3,
        "node_bytes_per_second": needed * stored,
    }


def _described(request: ScalingRequest) -> str:
    config = request.config
    line = f"{config.name}, global batch {config.global_batch_size}, predicted for "
    line += ", ".join(map(str, GPUS)) + " GPUs"
    if not request.loaders:
        return line
    views = "views made by the cores" if request.views_here else "views left to a GPU"
    return line + (
        f"; up to {request.loaders} loaders on this machine, batch {request.batch} each, {views}, "
        f"warm page cache, {request.seconds:g} s each measurement"
    )
