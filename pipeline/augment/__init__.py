"""Views: their distribution (recipe), what was drawn (params), and who carries it out (executors).

`reference` is the specification; every other executor equals it within a published tolerance.
"""

from __future__ import annotations

import importlib.util
from typing import Protocol

import torch

from pipeline.augment.params import ViewParams
from pipeline.augment.progressive import ProgressiveViews
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.batch import DecodedBatch, MultiCropBatch
from pipeline.devices import CPU
from pipeline.stats import Beat, no_beat

EXECUTORS = ("auto", "fused", "compiled", "dali", "reference")


class Executor(Protocol):
    """Carries out params on decoded images."""

    def __call__(self, decoded: DecodedBatch, params: ViewParams) -> MultiCropBatch: ...

    def close(self) -> None:
        """End what it holds: threads, pipelines."""


def choose_executor(name: str, device: torch.device) -> str:
    """Return the executor that `auto` stands for: the fastest that can feed `device`.

    Raises:
        ValueError: unknown name, or an executor that this device or machine cannot run.
    """
    if name not in EXECUTORS:
        raise ValueError(f"unknown executor {name!r}; choose one of {', '.join(EXECUTORS)}")
    if name == "auto":
        return "fused" if device.type == "cuda" and installed("triton") else "compiled"
    if name == "fused" and device.type != "cuda":
        raise ValueError(
            f"executor fused makes views on CUDA devices, not on {device.type!r}; use compiled"
        )
    for executor, package in (("fused", "triton"), ("dali", "nvidia.dali")):
        if name == executor and not installed(package):
            raise ValueError(f"executor {name} needs {package}, which is not installed; use auto")
    return name


def make_executor(
    name: str,
    recipe: MultiCropRecipe,
    *,
    threads: int = 1,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
    beat: Beat = no_beat,
) -> Executor:
    """Make who applies the params: one of EXECUTORS.

    Args:
        threads: of executors that run on the CPU.
        device, dtype: where views are wanted, and as what; executors that make them on the CPU have
            them copied there, and only `fused` makes them in another type than float32.
        beat: told of each sample before its views are made, by executors that go sample by sample.

    Raises:
        ValueError: as `choose_executor`.
    """
    name = choose_executor(name, device)

    def make(recipe: MultiCropRecipe) -> Executor:
        if name == "fused":
            from pipeline.augment.fused import FusedViews

            return FusedViews(recipe, device=device, dtype=dtype)
        on_gpu = device.type == "cuda"
        executor = _cpu_executor(name, recipe, threads=threads, pinned=on_gpu, beat=beat)
        if not on_gpu:
            return executor
        from pipeline.augment.uploaded import UploadedViews

        return UploadedViews(executor, device)

    return ProgressiveViews(recipe, make) if recipe.progressive_epochs else make(recipe)


def _cpu_executor(
    name: str, recipe: MultiCropRecipe, *, threads: int, pinned: bool, beat: Beat
) -> Executor:
    if name == "compiled":
        from pipeline.augment.compiled import CompiledViews

        return CompiledViews(recipe, threads=threads, pinned=pinned, beat=beat)
    if name == "dali":
        from pipeline.augment.dali import DaliViews

        return DaliViews(recipe, threads=threads)
    from pipeline.augment.reference import ReferenceViews

    return ReferenceViews(recipe, beat=beat)


def installed(package: str) -> bool:
    """Whether a package, or a part of one, can be imported; it is not."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package that would hold it is missing
        return False
