"""What follows from a configuration and a data set: the steps of the run and their schedules."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from model import checkpoint
from model.loss import num_pairs
from model.schedules import learning_rate, target_decay
from pipeline.augment.params import check_local_batch
from pipeline.sampler import Sampler, check_negatives, make_sampler
from pipeline.shards import Shards
from training import SMALL_PRESET
from training.config import TrainConfig
from training.presets import load_preset
from training.runlog import check_same_run


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The steps of a run."""

    sampler: Sampler
    warmup_steps: int
    total_steps: int
    end_step: int

    @classmethod
    def of(cls, config: TrainConfig, shards: Shards, out: Path) -> Plan:
        """Make the plan.

        Raises:
            ValueError: the data are too few for a batch, or `out` cannot be this run's directory.
        """
        if config.optimizer.warmup_epochs >= config.epochs:
            raise ValueError(
                f"epochs={config.epochs} end within the warm-up; set optimizer.warmup_epochs "
                f"below {config.epochs}, it is {config.optimizer.warmup_epochs}"
            )
        check_same_run(out, config, shards.manifest)
        _check_batch(config, len(shards))
        plan = cls.along(sampler_of(config, shards), config)
        done = checkpoint.completed_steps(out)
        if plan.end_step < done:
            raise ValueError(
                f"max_steps={config.max_steps} lies before step {done}, to which the run in {out} "
                f"has come; set it to {done} or more, or give another --out"
            )
        return plan

    @classmethod
    def along(cls, sampler: Sampler, config: TrainConfig) -> Plan:
        """Make the plan of a run along a sampler; nothing is checked."""
        total_steps = config.epochs * sampler.steps_per_epoch
        return cls(
            sampler=sampler,
            warmup_steps=config.optimizer.warmup_epochs * sampler.steps_per_epoch,
            total_steps=total_steps,
            end_step=min(config.max_steps or total_steps, total_steps),
        )

    def learning_rate(self, config: TrainConfig, step: int) -> float:
        return learning_rate(
            step,
            base=config.optimizer.base_learning_rate,
            global_batch_size=config.global_batch_size,
            warmup_steps=self.warmup_steps,
            total_steps=self.total_steps,
        )

    def target_decay(self, config: TrainConfig, step: int) -> float:
        return target_decay(step, base=config.target_decay, total_steps=self.total_steps)

    def check_world(self, config: TrainConfig, size: int) -> None:
        """Raise ValueError unless `size` processes can share a global batch, negatives included."""
        batch = config.global_batch_size
        if batch % size:
            raise ValueError(
                f"global_batch_size={batch} cannot be divided among {size} processes; "
                f"--set global_batch_size to a multiple of {size}"
            )
        part = self._part(config, batch // size, size)
        candidates = part * size if config.loss.negatives == "global" else part
        # At least one other candidate is also what BatchNorm needs.
        try:
            check_negatives(max(config.loss.num_negatives, 1), candidates)
        except ValueError as error:
            lower = "" if config.accumulate == 1 else f", or lower accumulate={config.accumulate}"
            raise ValueError(f"{error}{lower}") from None
        check_local_batch(config.recipe, batch // size)
        num_pairs(config.recipe.num_views, config.recipe.num_large, config.loss)
        if size > 1 and config.patience_seconds <= config.loader.stall_seconds:
            raise ValueError(
                f"patience_seconds={config.patience_seconds:g} must be above loader.stall_seconds="
                f"{config.loader.stall_seconds:g}: a process whose loader is stuck says so after "
                "that time, and the others must still be there"
            )

    def _part(self, config: TrainConfig, local_batch: int, size: int) -> int:
        """Samples of one process in each part of a batch."""
        if local_batch % config.accumulate:
            raise ValueError(
                f"accumulate={config.accumulate} does not divide the {local_batch} samples that "
                f"each of {size} process(es) has of global_batch_size={config.global_batch_size}; "
                f"--set global_batch_size to a multiple of {config.accumulate * size}"
            )
        return local_batch // config.accumulate


def _check_batch(config: TrainConfig, num_samples: int) -> None:
    """Raise ValueError where the data set does not fill a batch; with what would do."""
    batch = config.global_batch_size
    if num_samples >= batch:
        return
    small = load_preset(SMALL_PRESET).global_batch_size
    if num_samples < 2:
        hint = "give more images"
    elif batch > small and num_samples >= small:
        hint = f"for a small data set give --preset {SMALL_PRESET} (batches of {small})"
    else:
        fits = 2 ** (num_samples.bit_length() - 1)  # the largest power of two
        hint = f"--preset {SMALL_PRESET} " if batch > small else ""
        negatives = load_preset(SMALL_PRESET).loss if batch > small else config.loss
        hint = f"give {hint}--set global_batch_size={fits}"
        if negatives.num_negatives >= fits:
            hint += f" --set num_negatives={fits - 1}"
    raise ValueError(f"{num_samples} samples do not fill one global batch of {batch}; {hint}")


def sampler_of(config: TrainConfig, shards: Shards) -> Sampler:
    """The order in which a run of this configuration shows the samples.

    Raises:
        ValueError: too few samples for a batch, a window too small for two batches or blocks.
    """
    return make_sampler(
        shards.stored_bytes,
        global_batch_size=config.global_batch_size,
        seed=config.seed,
        order=config.order,
    )
