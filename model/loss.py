"""The loss of ReLICv2: pure functions of unit-norm embeddings.

Every online view is compared with every large view of the target. A pair gives two distributions
over the same 1 + n candidates of each anchor, the anchor's own image and n others; the loss is the
negative log-likelihood of the own image and the KL divergence between the two.

Sources: structure and pairs from the paper's pseudo-code [SRC]; unit norm, temperature and the two
distributions [MEM-H, INF]; weights [MEM-L]; docs/provenance.md has each default.

Shapes: B anchors (local batch), C candidates (B, or the global batch), D embedding, V online views,
L large views (of the target, and the first L of the online ones), n negatives, K candidates of one
anchor (1 + n, or C).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from model.choices import require_one_of


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Settings of the loss. Sources of the defaults: docs/provenance.md.

    `kl_form` says which distribution the invariance term compares with p, the online view's:

    - swap_roles (form B): the target view as anchor, the online view's batch as candidates. It
      needs nothing but the pair, as the printed pseudo-code does [INF].
    - swap_views (form A): the online embedding of the target's view as anchor, the target
      embeddings of the online's view as candidates: ReLIC v1 read literally. Only pairs of large
      views have those; pairs with a small view keep form B.

    `stop_gradient` says what of KL(p || q) = sum p log p - sum p log q is held constant: entropy,
    the term p log p [MEM-M]; none, nothing; all, p everywhere, so that only q learns (UDA's way).

    Raises:
        ValueError: an unknown name, a temperature not above 0, a negative weight or count, or
            both weights 0.
    """

    CHOICES: ClassVar = {
        "negatives": ("local", "global"),
        "kl_form": ("swap_roles", "swap_views"),
        "stop_gradient": ("entropy", "none", "all"),
    }

    temperature: float = 0.2  # similarities are divided by it; lower is sharper [recalled]
    # of the negative log-likelihood of the image itself among its negatives [recalled]
    contrastive_weight: float = 1.0
    invariance_weight: float = 1.0  # of the KL divergence between two views [recalled]
    num_negatives: int = 10  # images that each is compared with; 0: all others [recalled]
    # drawn from the batch of each process (local) or of all of them (global) [unknown]
    negatives: str = "local"
    kl_form: str = "swap_roles"  # which distributions the KL divergence compares [deduced]
    stop_gradient: str = "entropy"  # what of the KL divergence is held constant [recalled]
    same_view_pairs: bool = True  # compare a large view with itself, too [paper]

    def __post_init__(self) -> None:
        for name, choices in self.CHOICES.items():
            require_one_of(name, getattr(self, name), choices)
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")
        for name in ("contrastive_weight", "invariance_weight", "num_negatives"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.contrastive_weight == self.invariance_weight == 0:
            raise ValueError(
                "contrastive_weight and invariance_weight are both 0: nothing would be learned; "
                "set one above 0"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class LossTerms:
    """Scalars on the device; only `total` carries a gradient. And what collapse is seen by."""

    total: Tensor  # weighted sum of the next two
    contrastive: Tensor  # nats
    invariance: Tensor  # nats
    accuracy: Tensor  # share of anchors whose own image is the most similar candidate, 0..1
    positive_similarity: Tensor  # cosine between online and target of the same image, -1..1
    embeddings: Tensor | None = None  # [B, D] online, of the first large view, detached

    def scaled(self, factor: float) -> LossTerms:
        return replace(
            self,
            total=self.total * factor,
            contrastive=self.contrastive * factor,
            invariance=self.invariance * factor,
            accuracy=self.accuracy * factor,
            positive_similarity=self.positive_similarity * factor,
        )

    def detached(self) -> LossTerms:
        return replace(self, total=self.total.detach())

    def plus(self, other: LossTerms) -> LossTerms:
        """Return the sums, with the embeddings of the first."""
        return replace(
            self,
            total=self.total + other.total,
            contrastive=self.contrastive + other.contrastive,
            invariance=self.invariance + other.invariance,
            accuracy=self.accuracy + other.accuracy,
            positive_similarity=self.positive_similarity + other.positive_similarity,
        )


def pair_loss(
    online: Tensor,
    target: Tensor,
    *,
    candidates_online: Tensor,
    candidates_target: Tensor,
    positives: Tensor,
    negatives: Tensor | None,
    config: LossConfig,
) -> LossTerms:
    """Compare one online view with one target view, with the KL of form B.

    ::

        for b in range(B):
            ids = [positives[b], *negatives[b]]        # or all C candidates
            p = softmax([online[b] @ candidates_target[k] / temperature for k in ids])
            q = softmax([target[b] @ candidates_online[k] / temperature for k in ids])
            contrastive += -log(p[0]) / B
            invariance += sum(p * (log(p) - log(q))) / B
        total = contrastive_weight * contrastive + invariance_weight * invariance

    Args:
        online, target: [B, D] of unit norm.
        candidates_online, candidates_target: [C, D], the same two views of the candidates.
        positives: int64 [B], the row of the candidates that is the anchor's own image.
        negatives: int64 [B, n], rows of the candidates, distinct and none the anchor's own; None
            takes all others.

    Raises:
        ValueError: there is no negative at all.
    """
    first, second = (online, candidates_target), (target, candidates_online)
    return _compare(first, second, positives, negatives, config)


def view_loss(
    view: int,
    online: Tensor,
    target_views: Tensor,
    *,
    candidates_online: Tensor,
    candidates_target: Tensor,
    positives: Tensor,
    negatives: Tensor | None,
    config: LossConfig,
    large_online: Tensor | None = None,
) -> LossTerms:
    """Return the sum over the pairs of one online view: the inner loop of `relic_loss`.

    The pairs are computed side by side, so a view costs as many kernel launches as a pair.

    Args:
        view: its number among the online views.
        online: [B, D], its embeddings.
        target_views: [L, B, D].
        candidates_online: [C, D], this view of the candidates.
        candidates_target: [L, C, D].
        positives: int64 [B].
        negatives: int64 [L, B, n], or None.
        large_online: [L, B, D], for form A: the online embeddings of all large views.

    Raises:
        ValueError: there is no negative at all.
    """
    is_large = view < len(target_views)
    skipped = view if is_large and not config.same_view_pairs else None
    targets = _without(target_views, skipped)
    if is_large and config.kl_form == "swap_views":
        assert large_online is not None, "form A needs the online embeddings of all large views"
        second = (_without(large_online, skipped), candidates_target[view])
    else:
        second = (targets, candidates_online)
    first = (online, _without(candidates_target, skipped))
    chosen = None if negatives is None else _without(negatives, skipped)
    return _compare(first, second, positives, chosen, config).scaled(len(targets))


def relic_loss(
    online_views: Tensor,
    target_views: Tensor,
    *,
    negatives: Tensor | None,
    config: LossConfig,
    candidates_online: Tensor | None = None,
    candidates_target: Tensor | None = None,
    positives: Tensor | None = None,
) -> LossTerms:
    """Return the mean over all pairs of an online and a target view, as the paper prints it.

    ::

        for v in range(V):                             # online: large views first, then small
            for l in range(L):                         # target: large views
                if v == l and not same_view_pairs:
                    continue
                loss += pair_loss(online_views[v], target_views[l], negatives=negatives[v, l], ...)
        loss /= V * L                                  # or the number of pairs not skipped

    With kl_form swap_views, q of a pair with v < L is that of online_views[l] as anchors and
    target_views[v] as candidates, over the same ids.

    Args:
        online_views: [V, B, D] of unit norm, the first L of them in the order of `target_views`.
        target_views: [L, B, D] of unit norm.
        negatives: int64 [V, L, B, n], rows of the candidates; None: all others.
        candidates_online, candidates_target, positives: [V, C, D], [L, C, D] and int64 [B] where
            anchors are compared with another batch than their own.

    Raises:
        ValueError: there is no pair of views, or no negative.
    """
    num_views, num_large = len(online_views), len(target_views)
    if candidates_online is None or candidates_target is None or positives is None:
        candidates_online, candidates_target = online_views, target_views
        positives = torch.arange(online_views.shape[1], device=online_views.device)
    total: LossTerms | None = None
    for view in range(num_views):
        terms = view_loss(
            view,
            online_views[view],
            target_views,
            candidates_online=candidates_online[view],
            candidates_target=candidates_target,
            positives=positives,
            negatives=None if negatives is None else negatives[view],
            config=config,
            large_online=online_views[:num_large],
        )
        total = terms if total is None else total.plus(terms)
    assert total is not None
    return total.scaled(1 / num_pairs(num_views, num_large, config))


def num_pairs(num_views: int, num_large: int, config: LossConfig) -> int:
    """Return how many pairs the loss is the mean of: V * L, or V * L - L without same-view pairs.

    Raises:
        ValueError: a large view would be compared with nothing.
    """
    if config.same_view_pairs:
        return num_views * num_large
    if num_large < 2:
        raise ValueError(
            f"same_view_pairs=False needs at least 2 large views, got {num_large}; "
            "add large views or set loss.same_view_pairs=true"
        )
    return num_views * num_large - num_large


def _compare(
    first: tuple[Tensor, Tensor],
    second: tuple[Tensor, Tensor],
    positives: Tensor,
    negatives: Tensor | None,
    config: LossConfig,
) -> LossTerms:
    """Compare p of the first (anchors, candidates) with q of the second, over the same ids.

    Anchors are [B, D] or [L, B, D], candidates [C, D] or [L, C, D]; pairs l are averaged over.
    """
    # logits differ by less than bfloat16 resolves
    with torch.autocast(first[0].device.type, enabled=False):
        logits_p, logits_q = _similarities(*first), _similarities(*second)
        own = positives[:, None].expand(*logits_p.shape[:-1], 1)  # [(L,) B, 1]
        if negatives is not None:
            # one large product, then a gather: its gradient adds nothing up, unlike that of
            # gathered embeddings, so it is the same in every run
            ids = torch.cat([own, negatives], dim=-1)
            logits_p, logits_q = logits_p.gather(-1, ids), logits_q.gather(-1, ids)
            own = torch.zeros_like(own)
        if logits_p.shape[-1] < 2:
            raise ValueError("the loss needs negatives: a batch of at least 2 images")
        log_p = (logits_p / config.temperature).log_softmax(-1)
        log_q = (logits_q / config.temperature).log_softmax(-1)
        contrastive = -log_p.gather(-1, own).mean()
        invariance = _divergence(log_p, log_q, config.stop_gradient).mean()
    best = logits_p.detach().gather(-1, own)
    return LossTerms(
        total=config.contrastive_weight * contrastive + config.invariance_weight * invariance,
        contrastive=contrastive.detach(),
        invariance=invariance.detach(),
        accuracy=((logits_p >= best).sum(-1) == 1).to(best.dtype).mean(),
        positive_similarity=best.mean(),
    )


def _similarities(anchors: Tensor, candidates: Tensor) -> Tensor:
    return anchors @ candidates.mT  # [(L,) B, C]


def _divergence(log_p: Tensor, log_q: Tensor, stop_gradient: str) -> Tensor:
    """KL(p || q) of each anchor, with the part held constant that `stop_gradient` names."""
    if stop_gradient == "all":
        log_p = log_p.detach()
    p = log_p.exp()
    negative_entropy = (p * log_p).sum(-1)
    if stop_gradient == "entropy":
        negative_entropy = negative_entropy.detach()
    return negative_entropy - (p * log_q).sum(-1)


def _without(views: Tensor, skipped: int | None) -> Tensor:
    if skipped is None:
        return views
    return torch.cat([views[:skipped], views[skipped + 1 :]])
