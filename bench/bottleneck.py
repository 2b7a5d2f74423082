"""Which rung of the ladder limits the training: from rates to a name and a sentence.

The demand is what `model` takes: the training step on views that are there already. Rungs up to
`augment` are done one after another; the loader works on all stages at once. Where stages have
devices of their own (reading, CPU decoding, views on a GPU) the loader is as fast as its slowest
stage, so each stage is judged by its own time: that of its rung less that of the rung before.
Where they share the cores, each may be fast enough alone and all together too slow; then the first
rung that is slower than the demand is named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

SERIAL = ("read", "decode", "upload", "augment")
RUNGS = (*SERIAL, "loader", "model", "step")
FED = 0.97  # FULL / SYNTHETIC from which on a training counts as fed: the project's own bar

Seconds = Mapping[str, Sequence[float]]  # rung -> seconds per image of each round


@dataclass(frozen=True, kw_only=True, slots=True)
class Bottleneck:
    """The verdict; rates in images per second."""

    rung: str
    sentence: str
    demand: float
    full_over_synthetic: float | None


def own_seconds(seconds: Seconds) -> dict[str, float]:
    """Seconds per image that each serial rung adds to the measured one before it.

    Rounds are paired. A rung that was not measured adds its time to the next one that was.
    """
    present = [name for name in SERIAL if seconds.get(name)]
    before: Sequence[float] | None = None
    found = {}
    for name in present:
        now = seconds[name]
        added = now if before is None else [b - a for a, b in zip(before, now, strict=True)]
        found[name] = max(median(added), 0.0)
        before = now
    return found


def drops(seconds: Seconds) -> dict[str, float]:
    """Share of its rate that each rung loses: 0 none, below 0 it is faster.

    A rung up to `loader` against the one before it, `step` against `model`.
    """
    chain = [name for name in (*SERIAL, "loader") if seconds.get(name)]
    pairs = [*pairwise(chain), ("model", "step")]
    return {
        later: 1 - median(a / b for a, b in zip(seconds[earlier], seconds[later], strict=True))
        for earlier, later in pairs
        if seconds.get(earlier) and seconds.get(later)
    }


def find_bottleneck(seconds: Seconds, *, shared: str) -> Bottleneck | None:
    """Name the bottleneck; None unless both `model` and `loader` were measured.

    `shared` names what pipeline and model share: "cores", or "GPU".
    """
    if not seconds.get("model") or not seconds.get("loader"):
        return None
    rates = {name: 1 / median(each) for name, each in seconds.items() if each}
    full = _paired(seconds["model"], seconds["step"]) if seconds.get("step") else None
    rung, sentence = _verdict(seconds, rates, full, shared)
    return Bottleneck(rung=rung, sentence=sentence, demand=rates["model"], full_over_synthetic=full)


def _verdict(
    seconds: Seconds, rates: Mapping[str, float], full: float | None, shared: str
) -> tuple[str, str]:
    demand, loader = rates["model"], rates["loader"]
    if loader < demand:
        return _within_the_pipeline(own_seconds(seconds), rates)
    spare = f"the loader makes {loader:.1f} images/s, {loader / demand:.1f} times the demand"
    if full is None:
        return "model", f"model is the bottleneck: {spare} ({demand:.1f} images/s)."
    if full >= FED:
        return "model", (
            f"model is the bottleneck, as it should be: {spare}; fed by it the training runs at "
            f"{full:.1%} of its speed on resident views."
        )
    return "step", (
        f"step is the bottleneck: {spare}, but beside the model the training runs at {full:.1%} of "
        f"its speed on resident views; loader and model share the {shared} (taking turns on them "
        f"would give {1 / (1 + demand / loader):.1%})."
    )


def _within_the_pipeline(own: Mapping[str, float], rates: Mapping[str, float]) -> tuple[str, str]:
    """The loader is slower than the model: which of its stages is why."""
    demand, loader = rates["model"], rates["loader"]
    short = f"the model takes {demand:.1f} images/s, the loader makes {loader:.1f}"
    for name, seconds in own.items():
        if seconds * demand > 1:
            return name, f"{name} is the bottleneck: {short}; {name} alone makes {1 / seconds:.1f}."
    for name in own:
        if rates[name] < demand:
            largest = max(own, key=lambda stage: own[stage])
            share = own[largest] / sum(own.values())
            return name, (
                f"{name} is the bottleneck: {short}; each stage alone would do, but one after "
                f"another they fall below the demand at {name}; {largest} takes {share:.0%} of "
                "their time."
            )
    return "loader", f"loader is the bottleneck: {short}; its stages one after another are faster."


def _paired(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times as fast `theirs` is as `ours`: the median over the rounds."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))
