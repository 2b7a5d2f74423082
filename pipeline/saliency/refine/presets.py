"""Budgets: settings for a kind of machine, laid over the published ones."""

from __future__ import annotations

from pipeline.saliency.refine.config import (
    PhaseOneConfig,
    PhaseTwoConfig,
    RefineConfig,
    StartConfig,
    StudentConfig,
)
from pipeline.saliency.refine.network import NetworkConfig
from pipeline.saliency.refine.u2net import StudentNetworkConfig


def paper() -> RefineConfig:
    """The settings of DeepUSPS, for thousands of photos on a GPU."""
    return RefineConfig()


def small() -> RefineConfig:
    """For a few hundred photos within an hour on two CPU cores, from random weights.

    Networks are narrow and see small pictures; epochs are few. What the published way has from
    supervised weights comes from a network that learns all hand-crafted maps first; the student
    learns from the photos where the methods agree. docs/saliency_training.md says what each gave.
    """
    return RefineConfig(
        network=NetworkConfig(architecture="resnet18", width=0.5, size=128),
        start=StartConfig(epochs=24),
        phase_one=PhaseOneConfig(epochs=3, learning_rates=(3e-4, 3e-4), correct_history=True),
        phase_two=PhaseTwoConfig(epochs=8, learning_rate=3e-4, poly_power=0.9, effective_batch=20),
        student=StudentConfig(
            network=StudentNetworkConfig(side=128),
            epochs=260,
            jitter=0.3,
            share=0.6,
            teacher_fusion=0.5,
            mirrored_test=True,
            crf_test=True,
        ),
    )


BUDGETS = {"small": small, "paper": paper}

# The hand-crafted methods that teach: DeepUSPS's, and the four that were best on outlined photos.
TEACHERS = {"small": ("rbd", "mr", "mc", "mbd"), "paper": ("mc", "hs", "dsr", "rbd")}
