"""`train.py --plan`: what a run will take on this machine, before it is begun.

operations.py and memory.py count, on torch's meta device; rehearsal.py runs train.py itself for a
few steps, in processes of its own and a folder that goes again; room.py looks what the machine has;
forecast.py puts them together, and text.py shows them. docs/plan.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from training.config import TrainConfig
from training.forecast.forecast import forecast
from training.forecast.rehearsal import Run
from training.forecast.text import forecast_text
from training.launch import under_torchrun
from training.plan import Plan

__all__ = ["foretell"]


def foretell(
    run: Run,
    config: TrainConfig,
    data: Path,
    out: Path,
    plan: Plan,
    *,
    device_type: str,
    size: int,
    say: Callable[[str], object],
    as_json: bool,
) -> int:
    """Say what a run would take, as JSON in a last line too; return 1 if something would stop it.

    Raises:
        ValueError: `size` processes cannot share the batch, or torchrun has started this one.
    """
    if under_torchrun():
        raise ValueError("--plan is of one machine: give it without torchrun, with --gpus")
    plan.check_world(config, size)
    found = forecast(run, config, data, out, plan, device_type=device_type, size=size, tell=say)
    say(forecast_text(found))
    if as_json:
        say(json.dumps(asdict(found)))
    return 1 if found.obstacles.stops else 0
