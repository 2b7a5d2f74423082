"""The forecast as a person reads it."""

from __future__ import annotations

from training.forecast.forecast import Forecast
from training.forecast.rehearsal import Rehearsal
from training.forecast.room import shown


def forecast_text(found: Forecast) -> str:
    """All of it; what is not known is said to be so."""
    return "\n".join(
        [
            _work(found),
            "",
            *_counted(found),
            _rehearsed(found.rehearsal),
            "",
            _memory(found),
            _disk(found),
            _time(found),
            "",
            *(f"warning: {line}" for line in found.obstacles.warnings),
            *(f"would stop it: {line}" for line in found.obstacles.stops),
            *([] if found.obstacles.stops else ["nothing is known that would stop it"]),
        ]
    )


def _work(found: Forecast) -> str:
    each = found.global_batch_size // found.processes
    left = f", {found.steps - found.done} left" if found.done else ""
    return (
        f"{found.name}: {found.num_samples:,} pictures, {found.steps_per_epoch} steps of "
        f"{found.global_batch_size} an epoch, {found.steps} in all{left}\n"
        f"{found.processes} process(es) on {found.device}, {each} pictures each\n"
        f"{found.masks}"
    )


def _counted(found: Forecast) -> list[str]:
    online = [name for name in found.parameters if name != "target"]
    learn = sum(found.parameters[name] for name in online)
    parts = ", ".join(f"{name} {_millions(found.parameters[name])}" for name in online)
    host, device = found.counted.host, found.counted.device
    return [
        f"parameters   {_millions(learn)} learn ({parts}); the target has "
        f"{_millions(found.parameters['target'])}",
        f"operations   {found.operations_per_image / 1e9:.2f} GFLOP a picture, all views, forward "
        "and backward",
        f"counted      step: {_parts(device)}",
        f"             loader: {_parts(host)}",
    ]


def _parts(parts: dict[str, float]) -> str:
    return ", ".join(f"{name} {shown(size)}" for name, size in parts.items())


def _rehearsed(rehearsal: Rehearsal | None) -> str:
    if rehearsal is None:
        return "rehearsed    nothing"
    return (
        f"rehearsed    {rehearsal.steps} steps of {rehearsal.global_batch_size} pictures: "
        f"{rehearsal.images_per_second:.1f} images/s ({rehearsal.images_per_second_20:.1f} - "
        f"{rehearsal.images_per_second_80:.1f}), waiting {rehearsal.wait_share:.1%}, limited by "
        f"{rehearsal.bottleneck}"
    )


def _memory(found: Forecast) -> str:
    line = f"memory       {shown(found.host_bytes)} of the host's, {shown(found.room.host)} free"
    if found.room.device is not None:
        line += f"; {shown(found.device_bytes)} of each GPU's {shown(found.room.device)}"
    return line


def _disk(found: Forecast) -> str:
    more, free = shown(found.disk_bytes), shown(found.room.disk)
    return f"disk         {more} more for checkpoints, {free} free"


def _time(found: Forecast) -> str:
    if found.images_per_second is None or found.days is None:
        return "speed        not known"
    assert found.rehearsal is not None
    return (
        f"speed        {two_digits(found.images_per_second)} images/s, disturbed steps included "
        f"{two_digits(found.rehearsal.images_per_second_mean)}: {foretold_time(found.days)}"
    )


def foretold_time(days: float) -> str:
    """Return a length of time that nobody has measured, with two digits."""
    if days < 1 / 24:
        return f"{two_digits(24 * 60 * days)} minutes"
    if days < 1:
        return f"{two_digits(24 * days)} hours"
    return f"{two_digits(days)} days"


def two_digits(value: float) -> str:
    """Return a prediction: more digits than two would be made up."""
    return f"{float(f'{value:.1e}'):,.{1 if 0 < value < 9.95 else 0}f}"


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"
