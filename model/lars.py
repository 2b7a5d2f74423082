"""LARS as BYOL's code has it, and the choice of the optimizer.

For each weight p with gradient g, in this order [SRC: BYOL, utils/optimizers.py]::

    g = g + weight_decay * p
    g = g * trust_coefficient * |p| / |g|        # unchanged where |p| or |g| is 0
    m = momentum * m + g
    p = p - learning_rate * m                    # the rate stays out of the buffer

Biases and norm parameters skip the first two lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from model.choices import require_one_of


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """How weights move. Sources of the defaults: docs/provenance.md.

    Raises:
        ValueError: an unknown name or a value out of range.
    """

    CHOICES: ClassVar = {"name": ("lars", "adamw")}

    name: str = "lars"  # adamw: torch's, for small images and small batches [recalled]
    # learning rate per 256 images: the rate at the end of the warm-up is this times
    # global_batch_size / 256 [BYOL; recalled]
    base_learning_rate: float = 0.3
    # pull of weights to 0; not of biases and norm parameters [BYOL; recalled]
    weight_decay: float = 1e-6
    momentum: float = 0.9  # of lars; of adamw its beta1 [authors]
    trust_coefficient: float = 1e-3  # of lars: norm of an update over that of its weight [authors]
    adam_beta2: float = 0.999  # of adamw, torch's default [ours]
    # epochs in which the learning rate rises from 0, linearly [BYOL; recalled]
    warmup_epochs: int = 10

    def __post_init__(self) -> None:
        require_one_of("optimizer", self.name, self.CHOICES["name"])
        for name in ("base_learning_rate", "weight_decay", "trust_coefficient", "warmup_epochs"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("momentum", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return the optimizer of all parameters that take gradients.

    Its learning rate is a place to write to: the training loop sets `lr` of the groups each step.
    """
    weights, excluded = parameter_groups(model)
    if config.name == "adamw":
        return AdamW(
            [
                {"params": weights, "weight_decay": config.weight_decay},
                {"params": excluded, "weight_decay": 0.0},
            ],
            lr=config.base_learning_rate,
            betas=(config.momentum, config.adam_beta2),
            fused=True,
        )
    groups: list[dict[str, Any]] = [{"params": weights}, {"params": excluded, "adaptive": False}]
    return LARS(
        groups,
        lr=config.base_learning_rate,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        trust_coefficient=config.trust_coefficient,
    )


def parameter_groups(model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Split what takes gradients into weights and (biases, norm parameters): those of one dim."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [p for p in trained if p.ndim > 1], [p for p in trained if p.ndim <= 1]


class AdamW(torch.optim.AdamW):
    """torch's, with the same `found_inf` as LARS; only its fused form heeds it."""

    found_inf: Tensor | None = None


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rates. A group with `adaptive` False gets plain SGD with momentum.

    All weights of a group are updated by a few calls, and nothing waits for the device. As torch's
    fused optimizers do, a step changes nothing at all, weights and momentum keep their bits, while
    `found_inf`, float32 [] on the device of the weights, is 1.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float = 1e-6,
        momentum: float = 0.9,
        trust_coefficient: float = 1e-3,
    ) -> None:
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "trust_coefficient": trust_coefficient,
            "adaptive": True,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update all parameters that have a gradient; gradients stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                self._update(params, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        updates = [_laid_out_as(p, p.grad) for p in params if p.grad is not None]
        if group["adaptive"]:
            updates = _adapted(params, updates, group["weight_decay"], group["trust_coefficient"])
        # The last two lines are SGD's with the adapted gradient: torch's kernel reads and writes
        # everything once, and looks at found_inf where it runs.
        torch._fused_sgd_(
            params,
            updates,
            [self._buffer(p) for p in params] if group["momentum"] else [],
            weight_decay=0.0,
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,  # buffers begin as zeros
            found_inf=self.found_inf,
        )

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"]
        assert isinstance(buffer, Tensor)
        if buffer.stride() != parameter.stride():  # loaded, of a model that was laid out otherwise
            buffer = state["momentum_buffer"] = _laid_out_as(parameter, buffer)
        return buffer


def _laid_out_as(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Return the tensor with the strides of the parameter: kernels go through memory."""
    if tensor.stride() == parameter.stride():
        return tensor
    return torch.empty_like(parameter).copy_(tensor)


def _adapted(
    params: list[Tensor], gradients: list[Tensor], weight_decay: float, trust_coefficient: float
) -> list[Tensor]:
    """Return the gradients with weight decay, scaled to trust_coefficient * |p|, as new tensors."""
    updates = list(torch._foreach_add(gradients, params, alpha=weight_decay))
    weight_norms = torch.stack(torch._foreach_norm(params))
    update_norms = torch.stack(torch._foreach_norm(updates))
    ratios = torch.where(
        (weight_norms > 0) & (update_norms > 0),
        trust_coefficient * weight_norms / update_norms,
        1.0,
    )
    torch._foreach_mul_(updates, list(ratios.unbind()))
    return updates
