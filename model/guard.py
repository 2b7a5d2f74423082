"""A step whose loss or gradients are not finite changes nothing, and the host need not ask.

Whether it is so is a number on the device, `found_inf`: 1 or 0. The optimizer, the target and the
BatchNorm statistics take it as it is, and a short memory of it is kept there until somebody wants
to wait for it, at a log line. Among several processes it comes from the averaged gradients, so
that all ranks keep or skip the same steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from model.lars import LARS, AdamW
from model.reduction import FlatGradients
from model.relicv2 import ReLICv2


class Guard:
    """Holds the gradients of a model's steps, and what undoes those that are not finite.

    ::

        guard.begin()
        backward(model, ..., gradients=guard.gradients)
        guard.update(optimizer, step, target_decay)
    """

    def __init__(
        self, model: ReLICv2, *, remembered: int, group: dist.ProcessGroup | None = None
    ) -> None:
        """Take over the model's gradients.

        Args:
            model: on its device, BatchNorm synchronised already.
            remembered: steps between two looks at `skipped`, at most.
            group: of processes, for the gradients; None: the default one.
        """
        self.gradients = FlatGradients(model.online.parameters(), group=group)
        self.skipped = SkippedSteps(remembered, self.gradients.loss.device)
        self._model = model
        self._statistics = _Statistics(model.buffers())

    def begin(self) -> None:
        """Begin a step, before its first forward."""
        self.gradients.zero()
        self._statistics.keep()

    def update(self, optimizer: torch.optim.Optimizer, step: int, target_decay: float) -> None:
        """End the step after its backward: new weights and target, or all as before `begin`."""
        assert isinstance(optimizer, LARS | AdamW)
        found_inf = self.gradients.found_inf()
        optimizer.found_inf = found_inf
        optimizer.step()
        self._model.update_target(target_decay, found_inf=found_inf)
        self._statistics.restore(found_inf)
        self.skipped.note(step, found_inf)


@dataclass(frozen=True, kw_only=True, slots=True)
class Skipped:
    """What a look at the memory finds."""

    steps: tuple[int, ...]  # skipped since the last look, 0-based
    in_a_row: int  # the most in a row that went on, or ended, since the last look


class SkippedSteps:
    """Which of the last steps were skipped; on the device until `read`."""

    def __init__(self, remembered: int, device: torch.device) -> None:
        self._flags = torch.zeros(remembered, device=device)  # of step s: at s % remembered
        self._in_a_row = torch.zeros((), device=device)
        self._most_in_a_row = torch.zeros((), device=device)
        self._steps = range(0)  # noted since the last look

    def note(self, step: int, found_inf: Tensor) -> None:
        """Remember a step; steps follow each other."""
        self._flags[step % len(self._flags)].copy_(found_inf)
        self._in_a_row.add_(1).mul_(found_inf)
        torch.maximum(self._most_in_a_row, self._in_a_row, out=self._most_in_a_row)
        self._steps = range(self._steps.start if self._steps else step, step + 1)

    def read(self) -> Skipped:
        """Return what was skipped since the last call. Waits for the device."""
        *flags, most = torch.cat([self._flags, self._most_in_a_row[None]]).tolist()
        self._most_in_a_row.copy_(self._in_a_row)
        known = self._steps[-len(flags) :]
        self._steps = range(0)
        return Skipped(
            steps=tuple(step for step in known if flags[step % len(flags)]), in_a_row=int(most)
        )


class _Statistics:
    """Copies of BatchNorm's statistics, to go back to: they move in the forward, before anybody
    knows that the step comes to nothing.
    """

    def __init__(self, buffers: Iterable[Tensor]) -> None:
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for buffer in buffers:
            by_type.setdefault(buffer.dtype, []).append(buffer)
        self._kept = [_Kept.of(group) for group in by_type.values()]

    def keep(self) -> None:
        """Copy the statistics as they are."""
        for kept in self._kept:
            torch._foreach_copy_(kept.before, kept.buffers)

    def restore(self, found_inf: Tensor) -> None:
        """Go back to the copies if found_inf is 1."""
        for kept in self._kept:
            torch._foreach_copy_(kept.after, kept.buffers)
            # chosen, not computed: 0 * nan is no number
            kept.after_flat.copy_(torch.where(found_inf.bool(), kept.before_flat, kept.after_flat))
            torch._foreach_copy_(kept.buffers, kept.after)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kept:
    """Buffers of one type, and room for two copies of all of them."""

    buffers: list[Tensor]
    before_flat: Tensor  # [elements]
    after_flat: Tensor  # [elements]
    before: list[Tensor]  # views of before_flat, shaped as the buffers
    after: list[Tensor]

    @classmethod
    def of(cls, buffers: list[Tensor]) -> _Kept:
        sizes = [buffer.numel() for buffer in buffers]
        flats = [buffers[0].new_empty(sum(sizes)) for _ in range(2)]
        before, after = (
            [part.view_as(buffer) for part, buffer in zip(flat.split(sizes), buffers, strict=True)]
            for flat in flats
        )
        return cls(
            buffers=buffers,
            before_flat=flats[0],
            after_flat=flats[1],
            before=before,
            after=after,
        )
