"""Whether embeddings still tell images apart: two figures, and the bar below which they do not.

A contrastive loss should keep embeddings apart, and a rate too large, a temperature too high or a
broken input make them fall together all the same: to one point (complete collapse) or into few
dimensions (dimensional collapse). The loss shows the first late and the second hardly.

Shapes: B embeddings, D their dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# If the variance is even over the dimensions, embedding_std is sqrt(1 - |mean|^2), and |mean|^2 is
# the mean cosine between two images: at 0.1 that is 0.99. Logits, cosines over a temperature of 0.1
# or more, then differ by 0.1 on average: the softmax over an anchor's candidates is as good as
# uniform, and nothing is left to learn from. If it is not even, the sum of variances is 1 at most,
# and embedding_std at most the root of the share of dimensions that vary: at 0.1 one in a hundred.
EMBEDDING_STD_BAR = 0.1


@torch.no_grad()
def embedding_std(embeddings: Tensor) -> Tensor:
    """Return the mean over dimensions of the standard deviation, times sqrt(D): a scalar.

    1 for embeddings spread evenly over the sphere, 0 if all are one. After Chen and He, "Exploring
    simple Siamese representation learning" (2021), section 4.1, who draw it without the factor.

    Args:
        embeddings: [B, D] of unit norm, B at least 2.
    """
    assert len(embeddings) > 1, "one embedding has no spread"
    return embeddings.double().std(dim=0).mean() * math.sqrt(embeddings.shape[1])


@torch.no_grad()
def rank_me(embeddings: Tensor) -> Tensor:
    """Return RankMe, 1..min(B, D): exp of the entropy of the normalised singular values; a scalar.

    The number of dimensions that embeddings use, smoothly counted; nan if one is not finite. The
    host waits for embeddings on a GPU.
    Source: Garrido et al., "RankMe" (2023), equation 1, without their epsilon. Singular values are
    the roots of the eigenvalues of the smaller product of the matrix with itself, in float64:
    relative to the largest, exact to 1e-8.

    Args:
        embeddings: [B, D], not all zero.
    """
    matrix = embeddings.double()
    product = matrix @ matrix.mT if matrix.shape[0] < matrix.shape[1] else matrix.mT @ matrix
    # From here on the CPU: a GPU would load cuSOLVER and compile a kernel (entr) for one figure.
    product = product.cpu()
    finite = product.isfinite().all()  # eigvalsh would raise an error
    product = torch.where(finite, product, torch.eye(len(product)).to(product))
    singular = torch.linalg.eigvalsh(product).clamp(min=0).sqrt()
    shares = singular / singular.sum()
    rank = torch.where(finite, torch.special.entr(shares).sum().exp(), math.nan)
    return rank.to(embeddings.device)


def collapse_warning(spread: float) -> str:
    """Return a line that names a collapse, or "" for an `embedding_std` that shows none."""
    if not spread < EMBEDDING_STD_BAR:
        return ""
    return (
        f"WARNING: embeddings have collapsed: embedding_std is {spread:.3g}, below "
        f"{EMBEDDING_STD_BAR} (1: spread evenly, 0: all the same). Images are hardly told apart "
        "any more; lower optimizer.base_learning_rate or loss.temperature, and look at the views "
        "(said once)"
    )
