"""One step's gradients: target embeddings first, then online views, one after another.

Every pair of the loss needs one online and one target view. So the target embeds all large views
without gradient, and each online view then runs forward, its loss against all of them, and
backward, and frees its activations: peak memory is that of one view, and the gradient is that of
the whole sum. Form A of the KL couples online views; there all of them are kept.

Among several processes BatchNorm's statistics travel in every layer of every forward and backward,
some hundreds of messages a step. Views that run together share them: the target's large views do,
always; the online network's views of a size do with `together`, which holds their activations.

A batch may be taken in several parts, one after the other, each of them a batch of its own: its
BatchNorm statistics and its negatives are its own, and the loss is the mean over the parts.

Among several processes gradients end as their mean; it is formed beside the last backward pass.
With `negatives="global"` anchors are compared with the embeddings of all processes, and the indices
in `negatives` are positions of the global batch: position p lives on rank p % world_size, row
p // world_size. Of several parts, each has its own positions. docs/step.md has the whole of it.

Shapes: L large views, S small views, V = L + S, B local batch (or the local rows of a part), C
candidates, n negatives, D embedding, H/W and h/w sides of large and small views.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from model import distributed
from model.loss import LossConfig, LossTerms, num_pairs, relic_loss, view_loss
from model.reduction import FlatGradients
from model.relicv2 import ReLICv2


def backward(
    model: ReLICv2,
    large: Tensor,
    small: Tensor,
    negatives: Tensor | None,
    config: LossConfig,
    *,
    gradients: FlatGradients | None = None,
    parts: int = 1,
    together: bool = False,
    autocast: AbstractContextManager[object] | None = None,
) -> LossTerms:
    """Add the gradient of the loss to the online parameters, averaged over the processes.

    Goes view by view, or, where the KL couples online views, over all at once.

    Args:
        large: [L, B, 3, H, W], normalised.
        small: [S, B, 3, h, w], normalised; S may be 0.
        negatives: int64 [V, L, B, n], rows of the local batch, or positions of the global one with
            config.negatives "global"; of several parts, of the anchor's part; None: all others.
        gradients: those of the online parameters, which begin as zeros; they get the loss, too.
            None, for one process alone: what the parameters have, as autograd keeps it.
        parts: into how many batches the rows are divided; must divide B.
        together: among several processes, whether online views of one size go through in one
            forward and backward: fewer messages, more memory, the same gradient.
        autocast: entered anew for each view's forward, so that casts of weights are not kept from
            one view's graph to the next; None: full precision.

    Returns:
        The mean over the pairs of this process, detached, with the embeddings of the first view.

    Raises:
        ValueError: there is no pair of views, or no negative.
    """
    assert gradients is not None or distributed.world_size() == 1, "nobody averages the gradients"
    assert large.shape[1] % parts == 0, f"{parts} parts of {large.shape[1]} rows"
    coupled = config.kl_form == "swap_views"
    one_part = backward_all_views if coupled else backward_view_by_view
    rows = large.shape[1] // parts
    total: LossTerms | None = None
    for part in range(parts):
        own = slice(part * rows, (part + 1) * rows)
        terms = one_part(
            model,
            large[:, own],
            small[:, own],
            None if negatives is None else negatives[:, :, own],
            config,
            gradients=gradients,
            share=1 / parts,
            last=part == parts - 1,
            together=together,
            autocast=autocast,
        )
        total = terms if total is None else total.plus(terms)
    assert total is not None
    return total


def backward_view_by_view(
    model: ReLICv2,
    large: Tensor,
    small: Tensor,
    negatives: Tensor | None,
    config: LossConfig,
    *,
    gradients: FlatGradients | None = None,
    share: float = 1.0,
    last: bool = True,
    together: bool = False,
    autocast: AbstractContextManager[object] | None = None,
) -> LossTerms:
    """See `backward`; one part, for form B of the KL only.

    Args:
        share: of this part in the loss.
        last: whether this part completes the gradients.
    """
    assert config.kl_form == "swap_roles", "form A couples online views"
    context = nullcontext() if autocast is None else autocast
    targets = _embed_targets(model, large, context)
    candidates = _candidates(targets, config)
    positives = _positives(targets, config)
    pairs = num_pairs(len(large) + len(small), len(large), config)

    def one_group(first: int, views: Tensor, *, completes: bool) -> LossTerms:
        """Forward, loss and backward of views [v, B, 3, H, W], the online views from `first` on."""
        with context:
            online = model.embed_together(model.embed_online, views)
        candidates_online = _candidates(online, config)
        total: LossTerms | None = None
        for number in range(len(views)):
            terms = view_loss(
                first + number,
                online[number],
                targets,
                candidates_online=candidates_online[number],
                candidates_target=candidates,
                positives=positives,
                negatives=None if negatives is None else negatives[first + number],
                config=config,
            )
            total = terms if total is None else total.plus(terms)
        assert total is not None
        total = total.scaled(share / pairs)
        _backward(total.total, gradients, completes=completes)
        return replace(total.detached(), embeddings=None if first else online[0].detach())

    groups = _groups(large, small, together)
    total: LossTerms | None = None
    first = 0
    for views in groups:
        terms = one_group(first, views, completes=last and views is groups[-1])
        total = terms if total is None else total.plus(terms)
        first += len(views)
    assert total is not None
    return total


def backward_all_views(
    model: ReLICv2,
    large: Tensor,
    small: Tensor,
    negatives: Tensor | None,
    config: LossConfig,
    *,
    gradients: FlatGradients | None = None,
    share: float = 1.0,
    last: bool = True,
    together: bool = False,
    autocast: AbstractContextManager[object] | None = None,
) -> LossTerms:
    """See `backward_view_by_view`; the full sum, with the activations of all views in memory."""
    context = nullcontext() if autocast is None else autocast
    targets = _embed_targets(model, large, context)
    with context:
        online = torch.cat(
            [
                model.embed_together(model.embed_online, views)
                for views in _groups(large, small, together)
            ]
        )
    terms = relic_loss(
        online,
        targets,
        negatives=negatives,
        config=config,
        candidates_online=_candidates(online, config),
        candidates_target=_candidates(targets, config),
        positives=_positives(targets, config),
    ).scaled(share)
    _backward(terms.total, gradients, completes=last)
    return replace(terms.detached(), embeddings=online[0].detach())


def _groups(large: Tensor, small: Tensor, together: bool) -> list[Tensor]:
    """Divide the online views into those that go through the network at once."""
    sizes = [views for views in (large, small) if len(views)]
    if together and distributed.world_size() > 1:
        return sizes
    return [view[None] for views in sizes for view in views]


def _backward(loss: Tensor, gradients: FlatGradients | None, *, completes: bool) -> None:
    """Add what a part of the loss contributes; average over the processes what is complete then."""
    if gradients is None:
        loss.backward()
        return
    gradients.loss.add_(loss.detach())
    with gradients.averaging() if completes else nullcontext():
        loss.backward()


def _embed_targets(
    model: ReLICv2, large: Tensor, context: AbstractContextManager[object]
) -> Tensor:
    """Embed the large views: [L, B, D]."""
    with context:
        return model.embed_together(model.embed_target, large)


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
