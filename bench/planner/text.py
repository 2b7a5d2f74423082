"""The plan as a person reads it."""

from __future__ import annotations

from typing import Any

from training.forecast.text import foretold_time, two_digits


def plan_text(result: dict[str, Any]) -> str:
    """All of a plan; what is not known is said to be so."""
    return "\n".join(
        [
            result["work"],
            "",
            *_stages(result["stages"]),
            "",
            *_resources(result["resources"]),
            "",
            *_run(result),
            "",
            *_memory("host, each process", result["memory"]["host"]),
            *_memory("device, each process", result["memory"]["device"]),
            "",
            result["origin"],
        ]
    )


def _stages(stages: dict[str, float | None]) -> list[str]:
    lines = ["each stage, if it had its resource alone       images/s of the node"]
    return lines + [f"  {name:44}  {_rate(rate)}" for name, rate in stages.items()]


def _resources(resources: list[dict[str, Any]]) -> list[str]:
    lines = ["what they share"]
    for each in resources:
        name = f"{each['name']}, mostly for {each['stage']}"
        lines.append(f"  {name:44}  {_rate(each['images_per_second'])}")
    return lines


def _run(result: dict[str, Any]) -> list[str]:
    lines = [f"{'the pipeline without a step':46}  {_rate(result['loader_images_per_second'])}"]
    for demand in result["demands"]:
        name = f"demand of {result['gpus']} x {result['gpu']}, {demand['name']}"
        lines.append(f"{name:46}  {_rate(demand['images_per_second'])}")
    lines.append(f"{'the run':46}  {_rate(result['images_per_second'])}")
    limit = result["bottleneck"]
    lines.append(f"first bottleneck: {limit['stage']} ({limit['name']})")
    if result["days"] is not None:
        lines.append(f"{result['images']:,.0f} images: {foretold_time(result['days'])}")
    return lines


def _memory(where: str, parts: dict[str, float]) -> list[str]:
    total = sum(parts.values())
    shown = ", ".join(f"{name} {_size(size)}" for name, size in parts.items())
    return [f"memory of the {where}: {_size(total)} ({shown})"]


def _rate(rate: float | None) -> str:
    return "not known" if rate is None else f"{two_digits(rate):>10}"


def _size(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"
