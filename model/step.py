"""One step's gradients: target embeddings first, then online views, one after another.

Every pair of the loss needs one online and one target view. So the target embeds all large views
without gradient, and each online view then runs forward, its loss against all of them, and
backward, and frees its activations: peak memory is that of one view, and the gradient is that of
the whole sum. Form A of the KL couples online views; there all of them are kept.

Among several processes gradients end as their mean. With `negatives="global"` anchors are compared
with the embeddings of all processes, and the indices in `negatives` are positions of the global
batch: position p lives on rank p % world_size, row p // world_size.

Shapes: L large views, S small views, V = L + S, B local batch, C candidates, n negatives,
D embedding, H/W and h/w sides of large and small views.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from model import distributed
from model.loss import LossConfig, LossTerms, num_pairs, relic_loss, view_loss
from model.relicv2 import ReLICv2


def backward(
    model: ReLICv2,
    large: Tensor,
    small: Tensor,
    negatives: Tensor | None,
    config: LossConfig,
    *,
    autocast: AbstractContextManager[object] | None = None,
) -> LossTerms:
    """Add the gradient of the loss to the online parameters, averaged over the processes.

    Goes view by view, or, where the KL couples online views, over all at once.

    Args:
        large: [L, B, 3, H, W], normalised.
        small: [S, B, 3, h, w], normalised; S may be 0.
        negatives: int64 [V, L, B, n], rows of the local batch, or positions of the global one with
            config.negatives "global"; None: all others.
        autocast: entered anew for each view's forward, so that casts of weights are not kept from
            one view's graph to the next; None: full precision.

    Returns:
        The mean over the pairs of this process, detached, with the embeddings of the first view.

    Raises:
        ValueError: there is no pair of views, or no negative.
    """
    together = config.kl_form == "swap_views"
    run = backward_all_views if together else backward_view_by_view
    return run(model, large, small, negatives, config, autocast=autocast)


def backward_view_by_view(
    model: ReLICv2,
    large: Tensor,
    small: Tensor,
    negatives: Tensor | None,
    config: LossConfig,
    *,
    autocast: AbstractContextManager[object] | None = None,
) -> LossTerms:
    """See `backward`; for form B of the KL only."""
    assert config.kl_form == "swap_roles", "form A couples online views"
    context = nullcontext() if autocast is None else autocast
    targets = _embed_targets(model, large, context)
    candidates = _candidates(targets, config)
    positives = _positives(targets, config)
    pairs = num_pairs(len(large) + len(small), len(large), config)

    def one_view(view: int, pixels: Tensor) -> LossTerms:
        with context:
            online = model.embed_online(pixels)
        terms = view_loss(
            view,
            online,
            targets,
            candidates_online=_candidates(online, config),
            candidates_target=candidates,
            positives=positives,
            negatives=None if negatives is None else negatives[view],
            config=config,
        ).scaled(1 / pairs)
        terms.total.backward()
        return replace(terms.detached(), embeddings=None if view else online.detach())

    first, *others = enumerate((*large, *small))
    total = one_view(*first)
    for view in others:
        total = total.plus(one_view(*view))
    distributed.average_gradients(model.online.parameters())
    return total


def backward_all_views(
    model: ReLICv2,
    large: Tensor,
    small: Tensor,
    negatives: Tensor | None,
    config: LossConfig,
    *,
    autocast: AbstractContextManager[object] | None = None,
) -> LossTerms:
    """See `backward`; the full sum, with the activations of all views in memory."""
    context = nullcontext() if autocast is None else autocast
    targets = _embed_targets(model, large, context)
    with context:
        online = torch.stack([model.embed_online(pixels) for pixels in (*large, *small)])
    terms = relic_loss(
        online,
        targets,
        negatives=negatives,
        config=config,
        candidates_online=_candidates(online, config),
        candidates_target=_candidates(targets, config),
        positives=_positives(targets, config),
    )
    terms.total.backward()
    distributed.average_gradients(model.online.parameters())
    return replace(terms.detached(), embeddings=online[0].detach())


def _embed_targets(
    model: ReLICv2, large: Tensor, context: AbstractContextManager[object]
) -> Tensor:
    """Embed the large views, one forward each: [L, B, D]."""
    with context:
        return torch.stack([model.embed_target(view) for view in large])


def _candidates(embeddings: Tensor, config: LossConfig) -> Tensor:
    """Whom anchors are compared with: [..., B, D] -> [..., C, D]."""
    if config.negatives == "local":
        return embeddings
    return distributed.all_gather_with_gradient(embeddings)


def _positives(targets: Tensor, config: LossConfig) -> Tensor:
    """Return the rows of the candidates that are the anchors themselves, int64 [B]."""
    rows = torch.arange(targets.shape[-2], device=targets.device)
    if config.negatives == "local":
        return rows
    return rows * distributed.world_size() + distributed.rank()
