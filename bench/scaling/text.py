"""The scaling rung as a person reads it."""

from __future__ import annotations

from typing import Any


def scaling_text(result: dict[str, Any]) -> str:
    """Predictions with their assumptions, then what the loaders did."""
    lines = [result["work"], "", *_assumptions(result), "", *_sent(result["predictions"]), ""]
    lines += _predictions(result["predictions"])
    if result["loaders"]:
        lines += ["", *_loaders(result["loaders"])]
    return "\n".join(lines)


def _assumptions(result: dict[str, Any]) -> list[str]:
    cluster = result["cluster"]
    return [
        f"one GPU: {cluster['rate']:g} images/s, {cluster['rate_origin']}",
        f"ASSUMED: {cluster['gpus_per_node']} GPUs a node, "
        f"{cluster['inside_bytes_per_second'] / 1e9:g} GB/s inside, "
        f"{cluster['between_bytes_per_second'] / 1e9:g} GB/s from node to node, NCCL's latencies",
        f"the last view's backward pass is {result['last_backward_share']:.1%} of a step",
    ]


def _sent(predictions: list[dict[str, Any]]) -> list[str]:
    first = predictions[0]
    head = f"a step sends, on {first['gpus']} GPUs, from each"
    lines = [f"{head:38}     calls        MB  MB on a ring"]
    return lines + [
        f"  {each['name'] + ', ' + each['operation']:36}  {each['calls']:8d}  "
        f"{each['bytes'] / 1e6:8.2f}  {each['bytes_on_a_ring'] / 1e6:12.2f}"
        for each in first["sent"]
    ]


def _predictions(predictions: list[dict[str, Any]]) -> list[str]:
    lines = ["GPUs  batch of a GPU  global   step ms  statistics ms  gradients ms  efficiency"]
    return lines + [
        f"{each['gpus']:4d}  {each['local_batch']:14d}  {each['global_batch']:6d}  "
        f"{1e3 * each['step_seconds']:8.1f}  {1e3 * each['small_calls_seconds']:13.1f}  "
        f"{1e3 * each['gradients_exposed_seconds']:12.1f}  {each['efficiency']:10.1%}"
        for each in predictions
    ]


def _loaders(found: dict[str, Any]) -> list[str]:
    lines = [
        f"{found['cores']} cores make {found['capacity']:.0f} images/s, "
        f"{found['core_milliseconds_per_image']:.2f} core-ms each ({found['source']}, "
        f"{found['stored_bytes_per_image'] / 1e3:.0f} KB)",
        "sweep    loaders  demanded  of capacity  delivered / demanded  predicted  waiting  busy",
    ]
    lines += [
        f"{p['sweep']:8} {p['loaders']:7d}  {p['demanded']:8.0f}  {p['load']:11.0%}  "
        f"{p['ratio']:20.1%}  {p['predicted']:9.1%}  {p['waiting']:7.1%}  {p['cores_busy']:4.0%}"
        for p in found["points"]
    ]
    for sweep, point in found["behind"].items():
        lines.append(
            f"{sweep}: "
            + (
                "never behind"
                if point is None
                else f"behind from {point['load']:.0%} of the capacity on, "
                f"{point['loaders']} loaders"
            )
        )
    lines.append(
        f"a node that takes {found['node_demand']:,.0f} images/s needs "
        f"{found['node_cores']:.1f} such cores and {found['node_bytes_per_second'] / 1e9:.2f} GB/s"
    )
    return lines
