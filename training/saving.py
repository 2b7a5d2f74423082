"""Saves checkpoints beside the training: the step waits for a copy in memory, not for the disk.

    with CheckpointWriter(out, config, steps_per_epoch, end_step, ...) as writer:
        ...a step...
        writer.check()                              # tells of an error of the save before
        if writer.due(step):
            writer.save(step, model, optimizer)     # copies; a thread writes
        writer.wait()                               # now the step is on the disk

What is saved is in docs/stability.md; what a file holds, in model/checkpoint.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import torch

from model import checkpoint
from model.relicv2 import ReLICv2
from model.resnet import ResNetConfig
from model.snapshot import HostCopy, Snapshot, first_not_finite
from training.config import TrainConfig, to_dict
from training.meter import Diverged


class NotSaved(OSError):
    """A checkpoint could not be written: the disk is full, gone, or not writable."""


class CheckpointWriter:
    """Saves on rank 0, one step at a time; on other ranks it does nothing. A context manager.

    At most one save is on its way; one that comes meanwhile waits, and says so once. What goes
    wrong in the thread ends the run: whichever of `check`, `save` and `wait` comes next hands it to
    `fail`, once, and nothing is saved any more. It is NotSaved, Diverged for weights that are not
    finite, or whatever else it was. Leaving the context waits for the thread; where that is because
    of an exception, an error of the thread is said, and does not hide the exception.

    Args:
        out: the run directory.
        steps_per_epoch: milestones are saved at the last step of their epoch.
        end_step: the run's last step.
        is_main: whether this process is the one that saves.
        say: prints a line for a person to read.
        fail: is told what went wrong.
    """

    def __init__(
        self,
        out: Path,
        config: TrainConfig,
        steps_per_epoch: int,
        end_step: int,
        *,
        is_main: bool,
        say: Callable[[str], object],
        fail: Callable[[Exception], object],
    ) -> None:
        self._out, self._config, self._say, self._fail = out, config, say, fail
        self._milestone = config.milestone_every * steps_per_epoch  # steps; 0: none
        self._end_step = end_step
        self._is_main = is_main
        self._host = HostCopy()
        self._thread: threading.Thread | None = None
        self._step = 0  # that the thread saves
        self._error: Exception | None = None
        self._has_failed = False  # and `fail` knows
        self._has_waited = False
        if is_main:
            self._tell_of_a_save_cut_off()

    def due(self, step: int) -> bool:
        """Whether `step` completed steps are saved; the same on every rank."""
        regular = step % self._config.checkpoint_every == 0
        return regular or step == self._end_step or self._is_milestone(step)

    def save(self, step: int, model: ReLICv2, optimizer: torch.optim.Optimizer) -> None:
        """Take a copy of the state after `step` completed steps, and begin to write it."""
        if not self._is_main:
            return
        self._wait_for_the_last(step)
        if self._has_failed:
            return
        state = checkpoint.capture(model, optimizer, step=step, config=to_dict(self._config))
        snapshot = self._host.take(state)
        encoder = model.online.encoder.config
        self._step = step
        self._thread = threading.Thread(
            target=self._run, args=(step, snapshot, encoder), name="checkpoint", daemon=True
        )
        self._thread.start()

    def check(self) -> None:
        """Tell `fail` what went wrong with a save, if one has; wait for nothing."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Wait until what was saved is on the disk, or `fail` has been told why it is not."""
        self._join()
        if self._error is not None and not self._has_failed:
            self._has_failed = True
            self._fail(self._error)

    def finish(self, step: int, model: ReLICv2, optimizer: torch.optim.Optimizer) -> None:
        """Wait until the state after `step` steps, which was saved, is on the disk.

        It is saved again where somebody has removed it.
        """
        self.wait()
        if step and not checkpoint.path_of(self._out, step).exists():
            self.save(step, model, optimizer)
            self.wait()

    def kept(self, step: int) -> str:
        """Return, after `wait`, what is left of a run that ended after so many completed steps."""
        if self._has_failed:
            return "what was saved before is kept"
        return f"step {step} is saved, run again to go on" if step else "no step was done yet"

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.wait()
            return
        self._join()
        if self._error is not None and not self._has_failed:
            self._say(f"beside that: {self._error}")

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _is_milestone(self, step: int) -> bool:
        return self._milestone > 0 and step > 0 and step % self._milestone == 0

    def _wait_for_the_last(self, step: int) -> None:
        waits = self._thread is not None and self._thread.is_alive()
        if waits and not self._has_waited:
            self._has_waited = True
            self._say(
                f"step {step} waits for the checkpoint of step {self._step}, which is still being "
                f"written: {self._out} is slower than checkpoint_every="
                f"{self._config.checkpoint_every} asks; set it higher (said once)"
            )
        self.wait()

    def _run(self, step: int, snapshot: Snapshot, encoder: ResNetConfig) -> None:
        """What the thread does."""
        try:
            snapshot.wait()
            try:
                self._write(step, snapshot, encoder)
            except FileNotFoundError:  # the directory was removed meanwhile: into a new one, then
                self._write(step, snapshot, encoder)
        except OSError as error:
            self._error = NotSaved(
                f"step {step} is not saved in {self._out}: {error}; what was saved before is still "
                "there. Make room there, or make it writable, and run again to go on"
            )
            self._error.__cause__ = error
        except Exception as error:
            self._error = error

    def _write(self, step: int, snapshot: Snapshot, encoder: ResNetConfig) -> None:
        broken = first_not_finite(snapshot.state)
        if broken:
            raise Diverged(
                f"weights are not finite after step {step} ({broken}); the last checkpoint is "
                "kept. Lower optimizer.base_learning_rate, and start again"
            )
        if self._is_milestone(step):
            checkpoint.export_milestone(self._out, step, snapshot.state, encoder)
        checkpoint.save(
            self._out,
            step,
            snapshot.state,
            keep=self._config.keep_checkpoints,
            # Also those of another milestone_every that the run had once: nobody's are removed.
            milestones=checkpoint.exported_steps(self._out),
        )

    def _tell_of_a_save_cut_off(self) -> None:
        """Also where no newer checkpoint is damaged, a person is to know that one is missing."""
        left = checkpoint.take_unfinished(self._out)
        if left is not None:
            self._say(f"a save was cut off: {left} was half a file, and is removed")
