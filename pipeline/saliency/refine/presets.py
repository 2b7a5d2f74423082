"""Budgets: settings for a kind of machine, laid over the published ones."""

from __future__ import annotations

from pipeline.saliency.refine.config import (
    PhaseOneConfig,
    PhaseTwoConfig,
    RefineConfig,
    StudentConfig,
)
from pipeline.saliency.refine.network import NetworkConfig


def paper() -> RefineConfig:
    """The settings of DeepUSPS, for thousands of photos on a GPU."""
    return RefineConfig()


def small() -> RefineConfig:
    """For a few hundred photos within an hour on two CPU cores, from random weights.

    Networks are narrow and see small pictures; epochs are fewer; learning rates are a thousand
    times the published ones, which are for finetuning. The way is the same.
    """
    return RefineConfig(
        network=NetworkConfig(architecture="resnet18", width=0.5, size=128),
        phase_one=PhaseOneConfig(epochs=8, learning_rates=(1e-3, 1e-3, 1e-3)),
        phase_two=PhaseTwoConfig(epochs=24, learning_rate=1e-3, poly_power=0.9, effective_batch=20),
        student=StudentConfig(epochs=80),
    )


BUDGETS = {"small": small, "paper": paper}
