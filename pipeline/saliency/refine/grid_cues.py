"""Manifold ranking and an absorbing Markov chain on a coarse grid, of a batch of pictures at once.

The hand-crafted methods of these names (manifold_ranking.py, absorbing_chain.py) have superpixels
as nodes, another number in each picture. Here nodes are the cells of a grid, so that a batch of
pictures is a batch of matrices of one size: 1.5 ms a picture on one core.

Shapes: B pictures, h/w sides, N = 256 cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

NUM_GRID_CUES = 3
_GRID = 16  # cells a side: 24 are a little better by themselves, at five to seven times the work
_REACH = 2  # cells that far away are neighbours: superpixels have neighbours of neighbours as well
_SCALE = 0.25  # of colours of variance 1: differences at which an affinity falls to 1 / e
_LEAST = 1e-4  # affinity of neighbours: float32 can still tell it from the rounding of a degree
_KEPT = 0.99  # alpha of Yang et al., CVPR 2013, section 5.1
_FAINT = 0.3  # greatest difference of two cells: where it is less, it is noise, and not stretched


def grid_cues(colours: Tensor) -> Tensor:
    """Return [B, 3, h, w], 0..1, of colours [B, 3, h, w], float32 of variance about 1.

    The first says how unlike the four sides a cell is (Yang et al., CVPR 2013, section 4.1), the
    second how like the cells that reach the mean of the first (section 4.2), the third how long a
    walk that begins in a cell takes to the border (Jiang et al., ICCV 2013, section 3): steps are
    as likely as cells are alike, and it never stays. Each is stretched to 0..1; one colour gives
    zeros.
    """
    batch, _, height, width = colours.shape
    cells = F.adaptive_avg_pool2d(colours, _GRID).flatten(2).transpose(1, 2)
    # exact: by matrix products equal colours would be some 1e-3 apart
    far = torch.cdist(cells, cells, compute_mode="donot_use_mm_for_euclid_dist")
    affinity = (-far / _SCALE).exp().clamp_min(_LEAST)
    graph = _graph(colours.device)
    weights = affinity * graph.linked  # [B, N, N]
    degree = weights.sum(dim=2)
    ranks = torch.cholesky_inverse(_factor(torch.diag_embed(degree) - _KEPT * weights))
    ranks.diagonal(dim1=1, dim2=2).zero_()  # none speaks for itself
    unlike = _stretched(
        torch.stack([1 - _stretched(r) for r in (ranks @ graph.sides).unbind(2)]).prod(0)
    )
    chosen = (unlike >= unlike.mean(dim=1, keepdim=True)).to(ranks.dtype)
    like = _stretched((ranks @ chosen[..., None])[..., 0])
    # cells of the border have doubles that absorb, linked to what they are linked to, and to them
    whole = degree + (affinity * graph.absorbing).sum(dim=2)
    chain = _factor(torch.diag_embed(whole) - weights)
    time = _stretched(torch.cholesky_solve(whole[..., None], chain)[..., 0])
    maps = torch.stack([unlike, like, time], dim=1).view(batch, NUM_GRID_CUES, _GRID, _GRID)
    contrast = (far.amax(dim=(1, 2)) / _FAINT).clamp(max=1)
    maps = maps * contrast[:, None, None, None]
    return F.interpolate(maps, (height, width), mode="bilinear")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Graph:
    linked: Tensor  # [N, N], 0 or 1: neighbours; all cells of the border are linked
    absorbing: Tensor  # [N, N]: 1 from a cell to cells of the border, itself or linked
    sides: Tensor  # [N, 4]: the cells of the top, the bottom, the left and the right side


@cache
def _graph(device: torch.device) -> _Graph:
    rows, columns = torch.meshgrid(torch.arange(_GRID), torch.arange(_GRID), indexing="ij")
    rows, columns = rows.flatten(), columns.flatten()
    last = _GRID - 1
    sides = torch.stack([rows == 0, rows == last, columns == 0, columns == last], dim=1)
    border = sides.any(dim=1)
    apart = torch.maximum((rows[:, None] - rows).abs(), (columns[:, None] - columns).abs())
    near = apart <= _REACH
    linked = (near | (border[:, None] & border)) & (apart > 0)
    return _Graph(
        linked=linked.float().to(device),
        absorbing=((linked | (apart == 0)) & border).float().to(device),
        sides=sides.float().to(device),
    )


def _factor(matrices: Tensor) -> Tensor:
    """Cholesky factors; without the check, for which a GPU would be waited for."""
    factors: Tensor = torch.linalg.cholesky_ex(matrices).L
    return factors


def _stretched(values: Tensor) -> Tensor:
    """Values [B, N] to 0..1; zeros where they are all the same."""
    low, high = values.amin(dim=1, keepdim=True), values.amax(dim=1, keepdim=True)
    return (values - low) / (high - low).clamp_min(1e-12)
