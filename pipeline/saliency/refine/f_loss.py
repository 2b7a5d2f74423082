"""The loss of DeepUSPS: one minus the F-measure of continuous predictions.

As in the code of its authors: predictions that are already beyond the target, on the target's side
of the threshold, count as right and get no gradient; targets are then binarised.

Shapes: B pictures, H/W sides.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-5


def f_measure_loss(prediction: Tensor, target: Tensor, *, threshold: float, beta: float) -> Tensor:
    """Return the mean over the pictures of 1 - F, a scalar.

    With t = [target > threshold] and p the softened prediction, sums over the pixels of a picture,

        P = sum(p t) / (sum(p) + e),  R = sum(p t) / (sum(t) + e)
        F = (1 + beta) P R / (beta P + R + e),  e = 1e-5

    Args:
        prediction: float [B, H, W], probability of salient, 0..1.
        target: float [B, H, W], pseudo-label, 0..1.
        threshold: of the target, above which a pixel is salient.
        beta: the weight in F, not squared.
    """
    salient = (target > threshold).to(prediction.dtype)
    soft = soften(prediction, target, threshold)
    hits = (soft * salient).sum(dim=(1, 2))
    false_alarms = (soft * (1 - salient)).sum(dim=(1, 2))
    misses = ((1 - soft) * salient).sum(dim=(1, 2))
    precision = hits / (hits + false_alarms + EPSILON)
    recall = hits / (hits + misses + EPSILON)
    f_measure = (1 + beta) * precision * recall / (beta * precision + recall + EPSILON)
    return (1 - f_measure).mean()


def soften(prediction: Tensor, target: Tensor, threshold: float) -> Tensor:
    """Return the prediction with 1 where it exceeds a salient target, 0 where it is below another.

    No gradient flows where it was replaced. Shapes as in `f_measure_loss`.
    """
    salient = target > threshold
    one, zero = torch.ones_like(prediction), torch.zeros_like(prediction)
    soft = torch.where(salient & (prediction > target), one, prediction)
    return torch.where(~salient & (prediction < target), zero, soft)
