"""The result of a rung as plain text."""

from __future__ import annotations

from typing import Any


def table(result: dict[str, Any]) -> str:
    """Rows, skipped rows with their reasons, ratios."""
    rows = result["rows"]
    width = max([len(row["name"]) for row in rows], default=4)
    head = f"{'':{width}}  cores  ms/image  images/s (p20 - p80)      GB/s  of roof"
    lines = [result["work"], "", head]
    lines += [_line(row, width) for row in rows]
    lines += ["", *(f"{name:{width}}  {what}" for name, what in _explanations(rows))]
    lines += ["", *(f"{name}: {value:.2f}" for name, value in result["ratios"].items())]
    return "\n".join(lines)


def failed(result: dict[str, Any]) -> list[str]:
    """Names of our own rows that broke (a row that the machine is too small for did not)."""
    return [row["name"] for row in result["rows"] if row.get("failed")]


def _line(row: dict[str, Any], width: int) -> str:
    if "skipped" in row:
        return f"{row['name']:{width}}  skipped: {row['skipped']}"
    rate, share = row["images_per_second"], row["share_of_memory_roof"]
    return (
        f"{row['name']:{width}}  {row['cores']:5d}  {row['milliseconds_per_image']['p50']:8.3f}  "
        f"{rate['p50']:8.1f} ({rate['p20']:.1f} - {rate['p80']:.1f})".ljust(width + 44)
        + f"  {row['gigabytes_per_second']:8.3f}  "
        + ("" if share is None else f"{share:7.1%}")
    )


def _explanations(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [
        (row["name"], " | ".join(filter(None, [row["version"], row["what"]])))
        for row in rows
        if "what" in row
    ]
