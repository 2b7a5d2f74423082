"""The step's figures as a person reads them."""

from __future__ import annotations

from typing import Any

from bench.step.memory import FORMS


def step_text(result: dict[str, Any]) -> str:
    """All that was measured; a part that was not says why."""
    lines = [result["work"], "", *_rows(result["rows"])]
    if result["ratios"]:
        lines += ["", *(f"{name}: {value:.3f}" for name, value in result["ratios"].items())]
    if result["update"]:
        lines += ["", "shares of the step's time"]
        lines += [f"  {name:34}{share:8.2%}" for name, share in result["update"].items()]
    if result["memory"]:
        lines += ["", *_memory(result["memory"])]
    if result["waits"]:
        lines += ["", _waits(result["waits"])]
    if result["operators"]:
        lines += ["", *_operators(result["operators"])]
    return "\n".join(lines)


def _rows(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        if "skipped" in row:
            lines.append(f"{row['name']:14}  skipped: {row['skipped']}")
            continue
        rate, time = row["images_per_second"], row["milliseconds_per_image"]["p50"]
        lines.append(
            f"{row['name']:14}  {rate['p50']:9.2f} images/s ({rate['p20']:.2f} - {rate['p80']:.2f})"
            f"  {time:9.3f} ms/image  {row['what']}"
        )
    return lines


def _memory(memory: dict[str, Any]) -> list[str]:
    small, large = memory["batches"]
    lines = [f"peak memory of a step, by picture (batches of {small} and {large})"]
    sizes = {name: memory[name]["bytes_per_image"] / 1e6 for name in FORMS}
    return lines + [f"  {name:24}{size:10.2f} MB" for name, size in sizes.items()]


def _waits(waits: dict[str, Any]) -> str:
    where = ", ".join(f"{count} x {name}" for name, count in waits["calls"].items())
    said = f"host waits for the device {waits['count']} times in a step ({waits['how']})"
    return said + (f": {where}" if where else "")


def _operators(operators: list[dict[str, Any]]) -> list[str]:
    width = max(len(each["operator"]) for each in operators)
    lines = [f"{'costliest operators, own time':{width}}      calls          ms     share"]
    return lines + [
        f"{each['operator']:{width}}  {each['calls']:9d}  {each['milliseconds']:10.2f}  "
        f"{each['share']:8.1%}"
        for each in operators
    ]
