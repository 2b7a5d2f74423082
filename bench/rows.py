"""The form that every rung reports in: rows and ratios of what was measured.

A ratio of two rows is the median of the ratios of their rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from bench.harness import Candidate, Measured


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """20 %, 50 % and 80 % of the values, linear between neighbours."""
    p20, p50, p80 = np.quantile(np.asarray(values), [0.2, 0.5, 0.8])
    return {"p20": float(p20), "p50": float(p50), "p80": float(p80)}


def row(measured: Measured, roof: float | None = None) -> dict[str, Any]:
    """The JSON row; `roof`: bytes per second that a large copy moves on the same cores."""
    candidate = measured.candidate
    if measured.skipped:
        reason: dict[str, Any] = {"name": candidate.name, "skipped": measured.skipped}
        return reason | ({"failed": True} if measured.failed else {})
    head = {"name": candidate.name, "version": candidate.version, "cores": candidate.cores}
    head["what"] = "; ".join(filter(None, [candidate.what, measured.note]))
    rate = candidate.bytes_per_image / median(measured.seconds)
    return head | {
        "peer": candidate.peer,
        "images": candidate.images,
        "images_per_second": quantiles([1 / s for s in measured.seconds]),
        "milliseconds_per_image": quantiles([1e3 * s for s in measured.seconds]),
        "gigabytes_per_second": rate / 1e9,
        "share_of_memory_roof": rate / roof if roof else None,
    }


def ratio(ours: Measured, theirs: Measured) -> float | None:
    """How many times faster: the median over the rounds of their time / our time."""
    if not ours.seconds or not theirs.seconds:
        return None
    return median(b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True))


def faster(*several: Measured) -> Measured:
    """The one with the lowest median time; one without figures only if all are."""
    return min(several, key=lambda m: median(m.seconds) if m.seconds else float("inf"))


def pick(
    names: Sequence[str], candidates: Sequence[Candidate], *, peers: bool = True
) -> list[Candidate]:
    """Those with one of these names, or all if there are none; `peers`: other libraries too.

    Raises:
        ValueError: a name that no candidate has.
    """
    known = [candidate.name for candidate in candidates]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"--only {unknown[0]!r}: no such row; choose from {', '.join(known)}")
    return [
        candidate
        for candidate in candidates
        if (peers or not candidate.peer) and candidate.name in (names or known)
    ]


def ratios_of(
    pairs: Mapping[str, tuple[Measured | None, Measured | None]],
) -> dict[str, float]:
    """The ratio of each pair that has figures."""
    found = {name: ratio(a, b) for name, (a, b) in pairs.items() if a and b}
    return {name: value for name, value in found.items() if value is not None}


def named(measured: Sequence[Measured], name: str) -> Measured | None:
    return next((m for m in measured if m.candidate.name == name), None)
