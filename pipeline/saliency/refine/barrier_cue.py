"""The minimum barrier distance to the border, of a batch of pictures.

It is scanned on the CPU, as for MB+ (compiled_scan.py), wherever the network is: a scan goes pixel
by pixel. Whole rows swept at once from the four sides, which a GPU could do, find ways with few
turns only: by themselves their maps are as good, but students that were told of them were worse
(docs/saliency_training.md).

Shapes: B pictures, h/w sides, n = 64.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.saliency.arrays import Floats
from pipeline.saliency.compiled_scan import barrier_distance

_SIDE = 64
_THREADS = 8
_LEAST = 0.3  # what a largest distance is taken for at least: less is noise


def barrier_cue(colours: Tensor) -> Tensor:
    """Return [B, 1, h, w], 0..1, of colours [B, 3, h, w], float32 of variance about 1.

    Colours are averaged over 3 x 3 pixels; the channels' distances are added up and divided by the
    largest sum. Pictures are shared among torch's threads, up to eight: more take as long to begin.
    """
    height, width = colours.shape[2:]
    smooth = F.avg_pool2d(colours, 3, stride=1, padding=1, count_include_pad=False)
    pictures = F.adaptive_avg_pool2d(smooth, _SIDE).cpu().contiguous().numpy()
    threads = min(torch.get_num_threads(), len(pictures), _THREADS)
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            scanned = list(pool.map(_distance, pictures))
    else:
        scanned = [_distance(picture) for picture in pictures]
    distance = torch.from_numpy(np.stack(scanned)).to(colours.device)[:, None]
    distance = distance / distance.amax((2, 3), keepdim=True).clamp_min(_LEAST)
    return F.interpolate(distance, (height, width), mode="bilinear")


def _distance(picture: Floats) -> Floats:
    """The sum of the distances of the channels, [n, n], of a picture [3, n, n]."""
    total: Floats = np.sum([barrier_distance(channel) for channel in picture], axis=0)
    return total
