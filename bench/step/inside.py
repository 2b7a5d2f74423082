"""What happens inside a step: which operators take the time, and where the host would wait."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

Work = Callable[[], object]

COSTLIEST = 10
# What makes the host wait where the tensors are on a GPU: it asks for values, or for a size that
# depends on them. On a CPU the same calls are seen, and wait for nothing.
WAITING = (
    *("aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::masked_select"),
    *("aten::equal", "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive"),
)
_FUSED = "aten::_fused_"
_SYNCHRONISING = "synchronizing CUDA operation"  # in torch's warning


def look_inside(work: Work, device: torch.device) -> dict[str, Any]:
    """`operators`: the costliest, as a table; `waits`: how often the host would wait, and where.

    The work is done twice on a GPU, once on a CPU, and must be warm.
    """
    on_gpu = device.type == "cuda"
    with profiled(on_gpu) as profiler:
        work()
    return {
        "operators": costliest(profiler, on_gpu=on_gpu),
        "waits": waits_on_gpu(work) if on_gpu else waits_on_cpu(profiler),
    }


@contextmanager
def profiled(on_gpu: bool) -> Iterator[profile]:
    """Record every operator that runs inside."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if on_gpu else [])
    with profile(activities=activities, acc_events=True) as profiler:
        yield profiler
        if on_gpu:
            torch.cuda.synchronize()


def costliest(profiler: profile, *, on_gpu: bool, count: int = COSTLIEST) -> list[dict[str, Any]]:
    """Operators by their own time (without those that they call), the dearest first.

    On a GPU the time of the kernels that an operator launched; the host's own is not in it.
    """
    field = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    # kernels stand in the list as well, by their own names; their time is their operator's
    found = [each for each in profiler.key_averages() if each.device_type == DeviceType.CPU]
    total = sum(getattr(each, field) for each in found)
    found.sort(key=lambda each: getattr(each, field), reverse=True)
    return [
        {
            "operator": each.key,
            "calls": each.count,
            "milliseconds": getattr(each, field) / 1e3,
            "share": getattr(each, field) / total,
        }
        for each in found[:count]
    ]


def waits_on_cpu(profiler: profile) -> dict[str, Any]:
    """Calls that would make the host wait for a GPU; copies to the host cannot be told here.

    Those that a fused optimizer's own CPU kernel makes stand apart: on a GPU it has another kernel,
    which reads its count of steps there.
    """
    waits, apart = Counter[str](), Counter[str]()
    for each in profiler.events():
        if each.name in WAITING:
            kernel = next((name for name in _callers(each) if name.startswith(_FUSED)), None)
            (waits if kernel is None else apart)[kernel or each.name] += 1
    return {
        "count": waits.total(),
        "calls": dict(waits),
        "of_cpu_kernels": dict(apart),
        "how": "operators in a profiled step",
    }


def _callers(event: FunctionEvent) -> Iterator[str]:
    """Names of who called an operator, the nearest first."""
    while (event := event.cpu_parent) is not None:
        yield event.name


@contextmanager
def sync_debug_mode(mode: Literal["warn", "error"]) -> Iterator[None]:
    """Let torch warn of calls that make the host wait for the GPU, or raise at them."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # setting it warns that it is a prototype
        torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.cuda.set_sync_debug_mode(before)


def waits_on_gpu(work: Work) -> dict[str, Any]:
    """Synchronisations that torch warns of."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught, sync_debug_mode("warn"):
        warnings.simplefilter("always")
        work()
    places = Counter(
        f"{Path(each.filename).name}:{each.lineno}"
        for each in caught
        if _SYNCHRONISING in str(each.message)
    )
    return {
        "count": places.total(),
        "calls": dict(places),
        "of_cpu_kernels": {},
        "how": "torch's sync debug mode",
    }
