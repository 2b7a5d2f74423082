"""The certificate as plain text; `result` is what OUT/certificate.json holds."""

from __future__ import annotations

from typing import Any


def text(result: dict[str, Any]) -> str:
    """What was measured on what, the lines, the bottleneck and the verdict."""
    width = max(len(line["title"]) for line in result["lines"])
    busy = ", ".join(f"{stage} {share:.0%}" for stage, share in result["busy"].items())
    lines = [
        *_head(result),
        "",
        f"{'':{width}}  measured       bar       goal",
        *(_row(line, width) for line in result["lines"]),
        *_notes(result),
        "",
        f"bottleneck: {result['bottleneck']} (at work: {busy})",
        f"verdict: {result['verdict']}",
    ]
    return "\n".join(lines)


def _head(result: dict[str, Any]) -> list[str]:
    steps, rates = result["steps"], result["images_per_second"]
    lines = [
        f"{result['config']['name']} on {_machine(result)}; {result['cores']}",
        f"{steps['full']} steps FULL in blocks of {steps['block']}, in turn with SYNTHETIC; FULL "
        f"crossed {steps['epochs_crossed']} ends of epochs and wrote {steps['checkpoints']} "
        "checkpoints",
        f"FULL {rates['full']:.1f} images/s, SYNTHETIC {rates['synthetic']:.1f}",
    ]
    if result["throttle"]:
        lines.append(f"CONTROL: reading is throttled to {result['throttle']:g} of the demand")
    return lines


def _row(line: dict[str, Any], width: int) -> str:
    bar = "reported" if line["bar"] is None else _limit(line, line["bar"])
    found = line["result"] + (", goal reached" if line["goal_reached"] else "")
    return (
        f"{line['title']:{width}}  {_written(line, line['value']):>8}  {bar:>8}  "
        f"{_limit(line, line['goal']):>9}  {found}"
    )


def _notes(result: dict[str, Any]) -> list[str]:
    return [f"  {line['title']}: {line['note']}" for line in result["lines"] if line["note"]]


def _limit(line: dict[str, Any], value: float) -> str:
    number = f"{value * 100:g} %" if line["unit"] == "%" else f"{value:g}"
    return (">= " if line["higher"] else "<= ") + number


def _written(line: dict[str, Any], value: float) -> str:
    return f"{value * 100:.2f} %" if line["unit"] == "%" else f"{value:.3f}"


def _machine(result: dict[str, Any]) -> str:
    environment, processes = result["environment"], result["processes"]
    if result["device"] == "cuda":
        return f"{processes} x {environment['gpu']['name']}"
    return f"{environment['cpu'] or 'a CPU'}, {environment['cores']} cores, {processes} process(es)"
