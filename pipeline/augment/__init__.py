"""Views: their distribution (recipe), what was drawn (params), and who carries it out (executors).

`reference` is the specification; every other executor equals it within a published tolerance.
"""

from __future__ import annotations

from collections.abc import Callable

from pipeline.augment.params import ViewParams
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.batch import DecodedBatch, MultiCropBatch

Executor = Callable[[DecodedBatch, ViewParams], MultiCropBatch]

EXECUTORS = ("auto", "compiled", "reference")


def make_executor(name: str, recipe: MultiCropRecipe, *, threads: int = 1) -> Executor:
    """Choose who applies the params: one of EXECUTORS; `auto` takes the fastest this machine runs.

    Raises:
        ValueError: unknown name.
    """
    if name in ("auto", "compiled"):
        from pipeline.augment.compiled import CompiledViews

        return CompiledViews(recipe, threads=threads)
    if name == "reference":
        from pipeline.augment.reference import ReferenceViews

        return ReferenceViews(recipe)
    raise ValueError(f"unknown executor {name!r}; choose one of {', '.join(EXECUTORS)}")
