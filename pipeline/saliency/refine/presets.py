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
    """For some hundred photos on two CPU cores, from random weights: 400 take 10 minutes.

    Networks are narrow and see small pictures; epochs are few. What the published way has from
    supervised weights comes from a network that learns all hand-crafted maps first, and the student
    learns them too. docs/saliency_training.md says what each gave.
    """
    return RefineConfig(
        network=NetworkConfig(architecture="resnet18", width=0.5, size=128),
        start=StartConfig(epochs=30),
        phase_one=PhaseOneConfig(epochs=2, learning_rates=(3e-4, 3e-4), correct_history=True),
        phase_two=PhaseTwoConfig(epochs=4, learning_rate=3e-4, poly_power=0.9, effective_batch=20),
        student=StudentConfig(
            network=StudentNetworkConfig(side=128),
            epochs=60,
            jitter=0.3,
            methods_weight=1.0,
            teacher_fusion=0.5,
            teacher_cut=True,
            mirrored_test=True,
            lean_test=0.5,
            crf_test=True,
            cut_test=True,
        ),
    )


BUDGETS = {"small": small, "paper": paper}

# The hand-crafted methods that teach: DeepUSPS's, and the four that were best on outlined photos.
TEACHERS = {"small": ("rbd", "mr", "mc", "mbd"), "paper": ("mc", "hs", "dsr", "rbd")}
