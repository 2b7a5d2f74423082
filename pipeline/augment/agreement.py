"""How far the views of an executor may lie from the reference, and where they lie beyond that.

The tests hold every executor to these bounds; a run on a GPU holds its own to them before it uses
it. Levels are of 255, before normalisation; the reference is float64. For geometry and masks, which
are decided on integers, there is no tolerance beyond these.

Shapes: B samples, V views (L large, S small), H/W sides of a view.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.augment.params import ViewParams
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.batch import MultiCropBatch

TOLERANCE = {
    # DALI finds positions in float32: 0.05 in a photo of 4000 pixels, 0.02 elsewhere
    "dali": 0.1,
    # float32: four taps, two blurs and a trip to HSV and back lose a few units in the last place
    "compiled": 0.01,
    # float32 too, and views lie between its passes as fractions of 65535: 1/514 of a level each
    "fused": 0.02,
}
# A cubic that antialias stretches comes from DALI's own table of the kernel.
STRETCHED_CUBIC = {"dali": 1.0}
# On tensor cores, in float16: 1/16 of a level for pixels, taps, and sums across.
BLURRED = {"fused": 0.2}
# Of a value, where it is stored: 8 bits of mantissa.
_ROUNDED = {torch.float32: 0.0, torch.bfloat16: 2.0**-8}


def tolerances(name: str, recipe: MultiCropRecipe, params: ViewParams) -> NDArray[np.float64]:
    """Return how far each view may lie from the reference, [V, B] levels.

    Factors of the jitter above one multiply what differed before them, and so the bound.
    """
    stretched = recipe.antialias and recipe.interpolation == "bicubic"
    bound = STRETCHED_CUBIC.get(name, TOLERANCE[name]) if stretched else TOLERANCE[name]
    factors = [params.contrast, params.saturation]
    if recipe.jitter_style == "torchvision":
        factors.append(1 + params.brightness)
    gain = np.prod([np.maximum(np.abs(factor), 1) for factor in factors], axis=0)
    # The blur comes after the jitter: nothing multiplies what it adds.
    blurred = np.where(params.blur_sigma > 0, BLURRED.get(name, 0), 0)
    allowed: NDArray[np.float64] = np.maximum(bound * gain, blurred).T
    return allowed


def levels(views: Tensor, recipe: MultiCropRecipe) -> Tensor:
    """Take normalised views [..., 3, H, W] back to levels 0..255, float32 on the CPU."""
    std = torch.tensor(recipe.std)[:, None, None]
    mean = torch.tensor(recipe.mean)[:, None, None]
    return (views.cpu().float() * std + mean) * 255


def disagreement(
    views: MultiCropBatch,
    expected: MultiCropBatch,
    bounds: NDArray[np.float64],
    recipe: MultiCropRecipe,
) -> str:
    """Name the view that is furthest beyond its bound, or return "".

    Args:
        views: finished; float32, or bfloat16, whose rounding is allowed for.
        bounds: [V, B] levels.
    """
    worst, found = 0.0, ""
    pairs = ((0, views.large, expected.large), (len(views.large), views.small, expected.small))
    for first, ours, theirs in pairs:
        if not ours.numel():
            continue
        wanted = levels(theirs, recipe)
        rounded = _ROUNDED[ours.dtype] * theirs.cpu().abs()
        std = torch.tensor(recipe.std)[:, None, None]
        off = (levels(ours, recipe) - wanted).abs() - rounded * std * 255
        off = torch.where(off.isnan(), torch.inf, off).amax(dim=(2, 3, 4))  # [views, B]
        beyond = off.numpy() - bounds[first : first + len(ours)]
        view, row = np.unravel_index(int(beyond.argmax()), beyond.shape)
        if beyond[view, row] > worst:
            worst = float(beyond[view, row])
            found = (
                f"view {first + view + 1} of sample {views.sample_ids[row]} is off by "
                f"{off[view, row]:.3g} levels of 255 ({bounds[first + view, row]:.2g} allowed)"
            )
    return found
