"""What each stage costs on this machine, measured on the spot, in a few seconds.

Stages run one after another with all cores, in turns, so that a machine that slows down slows all
of them; medians of the turns. Wall time times cores is the core-seconds of a stage: so what the
cores take from each other (memory, caches) is in the figure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from bench.harness import tell
from bench.planner.predict import Costs
from bench.stages import Stages, Task
from bench.training_rungs import model_alone

TURNS = 5
_TURN_SECONDS = 0.6


def measure_costs(task: Task, *, with_step: bool, turns: int = TURNS) -> Costs:
    """Time the stages of a run here; the step only where it runs here.

    Raises:
        ValueError: unreadable shards, or settings that cannot run here.
    """
    tell(f"measuring the stages, {turns} turns")
    stages = Stages(task)
    trainer = model_alone(task) if with_step else None
    on_gpu, cores = task.device.type == "cuda", task.threads
    found: dict[str, list[float]] = {"read": [], "decode": [], "augment": [], "step": []}
    try:
        _time_stages(stages, 1, {name: [] for name in found})  # warm-up: kernels are compiled
        for _ in range(turns):
            _time_stages(stages, _batches_of_a_turn(stages), found)
            if trainer is not None:
                found["step"].append(_seconds(trainer.run))
    finally:
        stages.close()
    per_image = {name: median(values) if values else 0.0 for name, values in found.items()}
    per_image = {name: seconds / task.batch_size for name, seconds in per_image.items()}
    return Costs(
        bytes_stored=stages.shards.manifest.stored_bytes_per_sample,
        read=per_image["read"],
        decode=per_image["decode"] * cores,
        views=0.0 if on_gpu else per_image["augment"] * cores,
        step=0.0 if on_gpu else per_image["step"] * cores,
        gpu_step=per_image["step"] if on_gpu and with_step else None,
        gpu_views=per_image["augment"] if on_gpu else None,
    )


def _batches_of_a_turn(stages: Stages) -> int:
    start = time.perf_counter()
    stages.augment()
    return max(1, round(_TURN_SECONDS / (time.perf_counter() - start)))


def _time_stages(stages: Stages, batches: int, found: dict[str, list[float]]) -> None:
    """Add the mean seconds of a batch in each stage."""
    totals = dict.fromkeys(("read", "decode", "augment"), 0.0)
    for _ in range(batches):
        epoch, ids = stages.next_ids()
        start = time.perf_counter()
        encoded = stages.read_ids(ids)
        read = time.perf_counter()
        decoded = stages.decode_read(encoded, epoch)
        done = time.perf_counter()
        stages.views_of(decoded)
        end = time.perf_counter()
        totals["read"] += read - start
        totals["decode"] += done - read
        totals["augment"] += end - done
    for name, seconds in totals.items():
        found[name].append(seconds / batches)


def _seconds(run: Callable[[], object]) -> float:
    """Mean seconds of a step, which the rung returns."""
    took = run()
    assert isinstance(took, float)
    return took
