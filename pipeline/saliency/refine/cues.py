"""What a network with few photos to learn from is told beside the pixels: its border, its place.

Hand-crafted methods rest on the border of the picture: what looks unlike it is salient. A network
needs many photos to find that out, so it is given each pixel's distance from the border's colours:
Mahalanobis distances to the four sides, after MB+ (Zhang et al., ICCV 2015), and to the whole
picture. Two channels say where a pixel lies, as in CoordConv (Liu et al., 2018). The others are
what hand-crafted methods find (barrier_cue.py, grid_cues.py).

Shapes: B pictures, h/w sides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.saliency.refine.barrier_cue import barrier_cue
from pipeline.saliency.refine.grid_cues import NUM_GRID_CUES, grid_cues

NUM_CUES = 8 + NUM_GRID_CUES
_BAND = 0.08  # share of the picture's side that is its border
_LEAST = 0.1  # distance, some 1 level of 255: what is less is rounding
_NOISE = 0.02  # variance that each colour has at least, of colours with variance 1


def student_cues(pictures: Tensor) -> Tensor:
    """Return the cues, float32 [B, NUM_CUES, h, w], of pictures [B, 3, h, w] normalised about zero.

    Distances to the four sides, the least first, then to the whole picture, each divided by its
    largest (or 0.1); then the row, -1..1 from top to bottom, and the distance from the middle
    column, -1 there to 1; then the barrier distance and those of the grid. All but the two of the
    place are moved from 0..1 to -0.9..2.1. A mirrored picture has the mirrored cues; of the
    barrier distance, whose scans begin in a corner, only nearly.
    """
    batch, _, height, width = pictures.shape
    high, wide = max(1, round(_BAND * height)), max(1, round(_BAND * width))
    with torch.autocast(pictures.device.type, enabled=False):
        red, green, blue = pictures.float().unbind(1)
        yellow = (red + green) / 2
        colours = torch.stack([(red + green + blue) / 3, red - green, yellow - blue], dim=1)
        regions = (
            colours[:, :, :high],
            colours[:, :, -high:],
            colours[..., :wide],
            colours[..., -wide:],
            colours,
        )
        distances = torch.stack([_distances(colours, region) for region in regions], dim=1)
        distances = distances / distances.amax((2, 3), keepdim=True).clamp_min(_LEAST)
        sides = distances[:, :4].sort(dim=1).values  # the same whichever way the picture is turned
        found = torch.cat([barrier_cue(colours), grid_cues(colours)], dim=1)
    rows = torch.linspace(-1, 1, height, device=pictures.device)[:, None]
    columns = 2 * torch.linspace(-1, 1, width, device=pictures.device).abs()[None, :] - 1
    place = torch.stack([rows.expand(height, width), columns.expand(height, width)])
    place = place.expand(batch, -1, -1, -1)
    return torch.cat([_scaled(sides), _scaled(distances[:, 4:]), place, _scaled(found)], dim=1)


def _scaled(cues: Tensor) -> Tensor:
    return 3 * cues - 0.9


def _distances(colours: Tensor, region: Tensor) -> Tensor:
    """Mahalanobis distances [B, h, w] of colours [B, 3, h, w] to those of a region of theirs."""
    known = region.flatten(2)
    mean = known.mean(dim=2, keepdim=True)
    away = known - mean
    covariance = away @ away.transpose(1, 2) / known.shape[2]
    covariance = covariance + _NOISE * torch.eye(3, device=colours.device)
    # |L^-1 (x - mean)| with L L^T = covariance
    whitened = torch.linalg.solve_triangular(
        torch.linalg.cholesky_ex(covariance).L, colours.flatten(2) - mean, upper=False
    )
    distances: Tensor = whitened.square().sum(dim=1).sqrt()
    return distances.view(colours.shape[0], *colours.shape[2:])
