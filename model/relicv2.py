"""The two networks of ReLICv2: online, which learns, and target, its moving average.

Online is encoder, projector, predictor; target is encoder and projector. Both turn a normalised
view into unit-norm embeddings. BatchNorm statistics are per view, as in BYOL's code [SRC].

Shapes: V views, B local batch, H/W sides of a view, F features, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.choices import require_one_of
from model.distributed import keeps_parts_apart, statistics_by_part
from model.heads import make_head
from model.resnet import ResNetConfig, make_encoder


@dataclass(frozen=True, kw_only=True, slots=True)
class ReLICv2Config:
    """Sizes of the networks. Sources of the defaults: docs/provenance.md.

    Raises:
        ValueError: a size below 1 or an unknown target_init.
    """

    CHOICES: ClassVar = {"target_init": ("independent", "copy")}

    encoder: ResNetConfig = field(default_factory=ResNetConfig)
    hidden_size: int = 4096  # of the layer inside projector and predictor [BYOL]
    embedding_size: int = 256  # D: numbers in an embedding [BYOL]
    predictor: bool = True  # false: both networks end in the projector [BYOL; deduced]
    # where the target starts; independent: other random weights; copy: the online network's [BYOL]
    target_init: str = "independent"

    def __post_init__(self) -> None:
        require_one_of("target_init", self.target_init, self.CHOICES["target_init"])
        for name in ("hidden_size", "embedding_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class Branch(nn.Module):
    """Encoder, projector and, online, predictor: views [B, 3, H, W] to unit vectors [B, D]."""

    def __init__(
        self, config: ReLICv2Config, generator: torch.Generator | None, *, predictor: bool
    ) -> None:
        super().__init__()
        hidden, size = config.hidden_size, config.embedding_size
        self.encoder = make_encoder(config.encoder, generator)
        self.projector = make_head(self.encoder.feature_dim, hidden, size, generator)
        self.predictor = make_head(size, hidden, size, generator) if predictor else nn.Identity()

    def forward(self, views: Tensor) -> Tensor:
        """Return embeddings in float32 (float64 for float64 views), also under autocast."""
        embeddings = self.predictor(self.projector(self.encoder(views)))
        if embeddings.dtype != torch.float64:
            embeddings = embeddings.float()
        return F.normalize(embeddings, dim=-1)


class ReLICv2(nn.Module):
    """Both networks.

    Weights are drawn on the CPU from `generator` (None: torch's own), so they do not depend on the
    device. Parameters of the target take no gradient; its BatchNorm statistics are its own.
    """

    def __init__(self, config: ReLICv2Config, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.online = Branch(config, generator, predictor=config.predictor)
        self.target = Branch(config, generator, predictor=False)
        self.target.requires_grad_(False)
        if config.target_init == "copy":
            self.update_target(0.0)

    def embed_online(self, view: Tensor) -> Tensor:
        """Return the online embeddings [B, D] of one view [B, 3, H, W]."""
        embeddings = self.online(view)
        assert isinstance(embeddings, Tensor)
        return embeddings

    @torch.no_grad()
    def embed_target(self, view: Tensor) -> Tensor:
        """Return the target embeddings [B, D] of one large view, without gradient.

        In training mode the target, too, normalises by batch statistics [SRC: BYOL's loss_fn].
        """
        embeddings = self.target(view)
        assert isinstance(embeddings, Tensor)
        return embeddings

    def embed_together(self, embed: Callable[[Tensor], Tensor], views: Tensor) -> Tensor:
        """Return embeddings [V, B, D] of views [V, B, 3, H, W] by one of the two functions above.

        Among several processes all views go through in one forward, in which each has statistics
        of its own; else, and with another BatchNorm, they go through one by one.
        """
        if not keeps_parts_apart(self):
            return torch.stack([embed(view) for view in views])
        with statistics_by_part(self, len(views)):
            embeddings = embed(views.flatten(0, 1))
        return embeddings.view(len(views), -1, embeddings.shape[-1])

    def features(self, view: Tensor) -> Tensor:
        """Return what is kept after training: the online encoder's features [B, F]."""
        return self.online.encoder(view)  # type: ignore[no-any-return]

    @torch.no_grad()
    def update_target(self, decay: float, *, found_inf: Tensor | None = None) -> None:
        """Move the target: g = decay * g + (1 - decay) * f, for parameters and never BN statistics.

        The predictor has no counterpart in the target. Source: paper's pseudo-code, BYOL's
        _update_fn [SRC].

        Args:
            found_inf: float32 [] on the device; where it is 1, the target keeps its bits. The
                host does not look at it.
        """
        online = dict(self.online.named_parameters())
        names, target = zip(*self.target.named_parameters(), strict=True)
        sources: list[Tensor] = [online[name] for name in names]
        if found_inf is None:
            torch._foreach_lerp_(list(target), sources, 1 - decay)
            return
        # A step of SGD at rate 1 - decay on |g - f|^2 / 2, whose gradient is -f (to be maximised)
        # plus a weight decay of 1: the one kernel that looks at found_inf where it runs.
        torch._fused_sgd_(
            list(target),
            sources,
            [],
            weight_decay=1.0,
            momentum=0.0,
            lr=1 - decay,
            dampening=0.0,
            nesterov=False,
            maximize=True,
            is_first_step=False,
            found_inf=found_inf,
        )
