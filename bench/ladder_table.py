"""The ladder as plain text."""

from __future__ import annotations

from typing import Any


def ladder_table(result: dict[str, Any]) -> str:
    """Rungs with rates, what each adds and loses; reasons of those skipped; the verdict."""
    rows = result["rows"]
    width = max(len(row["name"]) for row in rows)
    head = (
        f"{'':{width}}  images/s       p20       p80  ms/image    of its own      drop  of demand"
    )
    lines = [result["work"], "", head, *(_line(row, width) for row in rows), ""]
    lines += [f"{row['name']:{width}}  {row['what']}" for row in rows if "what" in row]
    lines += ["", *(f"{name}: {value:.3f}" for name, value in result["ratios"].items())]
    verdict = result["bottleneck"]
    missing = "no verdict: it takes the rungs loader and model"
    return "\n".join([*lines, "", verdict["sentence"] if verdict else missing])


def _line(row: dict[str, Any], width: int) -> str:
    if "skipped" in row:
        return f"{row['name']:{width}}  skipped: {row['skipped']}"
    rate = row["images_per_second"]
    cells = [f"{rate[key]:9.1f}" for key in ("p50", "p20", "p80")]
    own, drop, share = row["own_milliseconds_per_image"], row["drop"], row["times_demand"]
    return (
        f"{row['name']:{width}} {' '.join(cells)}  {row['milliseconds_per_image']['p50']:8.3f}  "
        + (f"{own:9.3f} ms" if own is not None else " " * 12)
        + (f"  {drop:8.1%}" if drop is not None else " " * 10)
        + (f"  {share:8.2f}x" if share is not None else "")
    )
