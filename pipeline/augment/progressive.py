"""Progressive resizing: small views in early epochs, which cost the network less.

Which size an epoch has is the recipe's to say (`MultiCropRecipe.at`), so it is the same after a
resume, and at any world size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.augment.params import ViewParams
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.batch import DecodedBatch, MultiCropBatch

if TYPE_CHECKING:
    from pipeline.augment import Executor


class ProgressiveViews:
    """Executor that makes the views of each epoch in their size, by one executor after the other.

    One is made with the first batch of its size, and closed with the first of another: executors
    hold memory for their views.
    """

    def __init__(
        self, recipe: MultiCropRecipe, make: Callable[[MultiCropRecipe], Executor]
    ) -> None:
        self._recipe = recipe
        self._make = make
        self._current: tuple[MultiCropRecipe, Executor] | None = None

    def __call__(self, decoded: DecodedBatch, params: ViewParams) -> MultiCropBatch:
        return self._executor_of(decoded.epoch)(decoded, params)

    def close(self) -> None:
        """Close the executor of the last batch."""
        if self._current is not None:
            self._current[1].close()
            self._current = None

    def _executor_of(self, epoch: int) -> Executor:
        recipe = self._recipe.at(epoch)
        if self._current is None or self._current[0] != recipe:
            self.close()
            self._current = (recipe, self._make(recipe))
        return self._current[1]
