"""Peak memory of a step, by picture: view by view, and all views at once.

A step's peak grows with the batch by what autograd keeps of a picture; weights, gradients and what
libraries hold do not. So two batch sizes are run, each in a process of its own, and the difference
of their peaks is divided by the difference of their sizes. Views, which lie there before, are not
counted. All views at once is the step that `loss.kl_form=swap_views` takes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bench.harness import Unavailable, tell
from bench.isolated import Setup, alone
from bench.step.subject import Subject
from training.allocator import give_freed_memory_back
from training.config import TrainConfig
from training.peak_memory import status_bytes

BY_VIEW, AT_ONCE = "view by view", "all views at once"
FORMS = {BY_VIEW: "swap_roles", AT_ONCE: "swap_views"}
_CPU_STEPS = 2  # the optimizer allocates in the first; its peak is in both

_CLEAR = Path("/proc/self/clear_refs")  # 5: the peak begins anew


def compare_memory(
    config: TrainConfig, device: torch.device, batches: tuple[int, int], *, setup: Setup
) -> dict[str, Any]:
    """Bytes a picture of both forms, and their ratio.

    Raises:
        Unavailable, Broken: a process could not measure.
    """
    found: dict[str, Any] = {"batches": list(batches)}
    for name, form in FORMS.items():
        peaks = []
        for batch in batches:
            tell(f"memory of a step, {name}, batch {batch}")
            loss = replace(config.loss, kl_form=form)
            one = replace(config, global_batch_size=batch, loss=loss)
            peaks.append(alone(peak_of_step, one, device, setup=setup))
        found[name] = {"peaks": peaks, "bytes_per_image": slope(batches, peaks)}
    by_view, at_once = (found[name]["bytes_per_image"] for name in FORMS)
    return found | {"ratio": by_view / at_once}


def slope(sizes: tuple[int, int], peaks: list[int]) -> float:
    """Bytes for each more of the size.

    Raises:
        ValueError: no more are used for more: the peaks are not of the work.
    """
    (small, large), (low, high) = sizes, peaks
    if high <= low:
        raise ValueError(f"a batch of {large} peaked at {high} bytes, one of {small} at {low}")
    return (high - low) / (large - small)


def peak_of_step(config: TrainConfig, device: torch.device) -> int:
    """Bytes that a step holds at its peak, above what was held before it."""
    subject = Subject(config, device)
    if device.type == "cuda":
        subject.step()  # optimizer and libraries allocate what they keep
        return peak_on_gpu(subject.step, device)

    def steps() -> None:
        for _ in range(_CPU_STEPS):
            subject.step()

    return peak_on_cpu(steps)


def peak_on_gpu(work: Callable[[], object], device: torch.device) -> int:
    """Bytes of live tensors at the peak of the work, above those before it."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def peak_on_cpu(work: Callable[[], object]) -> int:
    """Bytes in memory at the peak of the work, above those before it; of work done once.

    What was freed before is given back first: the allocator would use it again unseen.

    Raises:
        Unavailable: the kernel does not begin a peak anew, or tells none.
    """
    try:
        give_freed_memory_back()
        _CLEAR.write_text("5")
        before = status_bytes("VmRSS")
        work()
        peak = status_bytes("VmHWM")
    except OSError as error:  # no /proc
        raise Unavailable(f"the peak of memory cannot be told here: {error}") from error
    if before is None or peak is None:
        raise Unavailable("the peak of memory cannot be told here: the kernel tells none")
    return peak - before
