"""How much of their speed GPUs keep when they are many: a simple model, every assumption in view.

A step of one GPU takes local batch / rate. To that comes

    statistics  each call of BatchNorm (and of gathered embeddings) is waited for: its latency, and
                its bytes over the slowest link
    gradients   their sums run beside the last view's backward pass, but for the last flat tensor,
                which is complete only when that pass is over: what does not fit beside it is waited
                for

and efficiency is the step of one GPU over the sum. Bandwidth: a ring, whose slowest link sets the
pace. Latency: as NCCL's own tuning model has it for its low-latency protocol, in the file
src/graph/tuning.cc: a gathering passes a ring of all GPUs, hop by hop, a sum a tree. Not in it:
that smaller batches use a GPU worse, that launching a call takes the host's time, that ranks wait
for the slowest, and that links are shared. So it is what remains at best.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from bench.scaling.volume import GATHER, Sent, sent_in_a_step
from training.config import TrainConfig
from training.forecast.operations import operations_per_image

# Microseconds, NCCL's low-latency protocol: the call itself, a hop of NVLink, a hop of the network;
# hops within a node count 1.8 times where there are several nodes.
_RING = (3.6, 0.47, 2.7)
_TREE = (4.4, 0.52, 5.0)
_INSIDE_OF_SEVERAL = 1.8


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Assumptions. Bandwidths are those of a ring in one direction, bytes a second."""

    rate: float  # source pictures a second of one GPU alone
    gpus_per_node: int = 8
    inside: float = 300e9  # among the GPUs of a node
    between: float = 100e9  # from one node to the next, all of its network cards together

    def nodes(self, gpus: int) -> int:
        return -(-gpus // self.gpus_per_node)

    def bandwidth(self, gpus: int) -> float:
        """Of the slowest link of a ring."""
        return self.inside if self.nodes(gpus) == 1 else min(self.inside, self.between)


def predict_scaling(
    config: TrainConfig, cluster: Cluster, *, gpus: int, local_batch: int
) -> dict[str, Any]:
    """Seconds of a step by their cause, and the efficiency, 0..1."""
    sent = sent_in_a_step(config, local_batch=local_batch, world_size=gpus)
    compute = local_batch / cluster.rate
    gradients = [each for each in sent if each.name == "gradients"]
    others = [each for each in sent if each.name != "gradients"]
    beside = last_backward_share(config) / config.accumulate * compute
    exposed = sum(_exposed(each, cluster, gpus, beside) for each in gradients)
    waited = sum(_seconds(each, cluster, gpus) for each in others)
    total = compute + exposed + waited
    return {
        "gpus": gpus,
        "local_batch": local_batch,
        "global_batch": local_batch * gpus,
        "step_seconds": total,
        "compute_seconds": compute,
        "gradients_exposed_seconds": exposed,
        "small_calls": sum(each.calls for each in others),
        "small_calls_seconds": waited,
        "efficiency": compute / total,
        "images_per_second": local_batch * gpus / total,
        "sent": [_as_row(each, cluster, gpus) for each in sent],
    }


def last_backward_share(config: TrainConfig) -> float:
    """The last view's backward pass, as a share of a step's operations: of one part, if k parts.

    Forward of a view costs f; online f + 2 f, and a large view's target f more.
    """
    recipe = config.recipe
    if not recipe.num_small:  # L views of 4 f each, the last one's backward is 2 f
        return 2 / (4 * recipe.num_large)
    total = operations_per_image(config)
    fewer = replace(recipe, num_small=recipe.num_small - 1)
    return 2 / 3 * (1 - operations_per_image(replace(config, recipe=fewer)) / total)


def latency(operation: str, gpus: int, cluster: Cluster) -> float:
    """Seconds of a call that sends next to nothing."""
    nodes = cluster.nodes(gpus)
    base, inside, between = _RING if operation == GATHER else _TREE
    if nodes > 1:
        inside *= _INSIDE_OF_SEVERAL
    if operation == GATHER:
        return 1e-6 * (base + (gpus - nodes) * inside + (nodes - 1) * between)
    depth = math.floor(math.log2(nodes))
    return 1e-6 * (base + 2 * ((gpus / nodes - 1) * inside + depth * between))


def _seconds(sent: Sent, cluster: Cluster, gpus: int) -> float:
    moved = sent.on_a_ring(gpus) / cluster.bandwidth(gpus)
    return sent.calls * latency(sent.operation, gpus, cluster) + moved


def _exposed(sent: Sent, cluster: Cluster, gpus: int, beside: float) -> float:
    """Of sums that run beside `beside` seconds of work, but for the last one."""
    total = _seconds(sent, cluster, gpus)
    last = _seconds(replace(sent, calls=1, num_bytes=sent.last_bytes), cluster, gpus)
    return max(last, total - beside)


def _as_row(sent: Sent, cluster: Cluster, gpus: int) -> dict[str, Any]:
    return {
        "name": sent.name,
        "operation": sent.operation,
        "calls": sent.calls,
        "bytes": sent.num_bytes,
        "bytes_on_a_ring": sent.on_a_ring(gpus),
        "seconds": _seconds(sent, cluster, gpus),
    }
