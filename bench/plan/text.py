"""The plan as plain text; `result` is what `plan` returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.plan.costs import STAGES


def text(result: dict[str, Any]) -> str:
    """Stages, bottleneck, rate and time, memory."""
    return "\n".join(
        [*_head(result), "", *_stages(result), "", *_verdict(result), *_memory(result)]
    )


def _head(result: dict[str, Any]) -> list[str]:
    machine, work = result["machine"], result["work"]
    units = f"{machine['gpus']} x {machine['gpu']}, " if machine["gpu"] != "cpu" else ""
    return [
        f"{result['preset']} on {units}{machine['cores']} cores, "
        f"{machine['memory_bytes'] / 1e9:.0f} GB of memory; views by {result['executor']}",
        f"{result['num_samples']} pictures of {work['stored_bytes'] / 1e3:.1f} KB and "
        f"{work['megapixels']:.3f} megapixels; {result['views']} views; "
        f"batch {result['batch']}, {work['gigamacs']:.1f} GMAC a picture",
    ]


def _stages(result: dict[str, Any]) -> list[str]:
    costs, rates = result["costs"], result["prediction"]["stages"]
    lines = [f"{'stage':8}  {'on':6}  {'ms a picture':>12}  {'pictures/s alone':>16}  figure"]
    for name in STAGES:
        if name not in costs:
            continue
        cost, rate = costs[name], rates[name]
        spent = "unknown" if rate is None else f"{cost['seconds'] * 1e3:.3f}"
        alone = "unknown" if rate is None else f"{rate:.0f}"
        lines.append(f"{name:8}  {cost['resource']:6}  {spent:>12}  {alone:>16}  {cost['source']}")
    return lines


def _verdict(result: dict[str, Any]) -> list[str]:
    prediction, machine = result["prediction"], result["machine"]
    if prediction["training"] is None:
        host = f"the host makes {prediction['host']:.0f} pictures/s of what it does for each"
        return [f"{host}; what {machine['gpu']} does is unknown, so is the rate", *_demand(result)]
    return [
        f"the pipeline, if it had its resources to itself: {prediction['feeding']:.1f} pictures/s",
        f"training: {prediction['training']:.1f} pictures/s, limited by {prediction['bottleneck']} "
        f"(on {prediction['resource']}); {result['steps']} steps in {result['days']:.3g} days",
    ]


def _demand(result: dict[str, Any]) -> list[str]:
    demand, machine = result["demand"], result["machine"]
    if demand is None:
        return [f"measure a {machine['gpu']}: run this command on a machine that has one"]
    least, most = demand["images_per_second"]
    few, many = demand["cores_needed"]
    enough = "suffices" if demand["host_suffices"] else "may not suffice"
    return [
        f"{machine['gpus']} x {machine['gpu']} may take {least:.0f} to {most:.0f} pictures/s "
        "(derived from published figures, not measured):",
        f"{few:.1f} to {many:.1f} cores keep up with that; this host {enough}",
    ]


def _memory(result: dict[str, Any]) -> list[str]:
    memory, machine = result["memory"], result["machine"]
    fit = "stay in memory after the first epoch" if memory["data_fit"] else "are read from the disk"
    host = _sum(memory["host_per_process"], machine["gpus"])
    lines = [
        f"memory of the host: {host}, besides Python's own",
        f"the data, {memory['data'] / 1e9:.3g} GB, {fit}",
    ]
    if memory["device"]:
        lines.append(f"memory of each GPU: {_sum(memory['device'], 1)}, besides CUDA's own")
    return lines


def _sum(parts: Mapping[str, float], processes: int) -> str:
    whole = sum(parts.values()) * processes / 1e9
    largest = sorted(parts.items(), key=lambda part: -part[1])[:3]
    named = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in largest)
    each = f" in {processes} processes, each" if processes > 1 else ":"
    return f"{whole:.2f} GB{each} {named}"
