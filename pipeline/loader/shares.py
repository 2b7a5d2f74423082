"""Whether a GPU decodes, and which samples: decided before a run, and part of its record.

Light to import: nothing of DALI, nothing that decodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from pipeline.augment import installed

ShareOrAuto = float | Literal["auto"]  # 0..1; auto: measured at the start of a run

# One core feeds the training thread; two decode 1,400 ImageNet photos a second, about twice what a
# GPU takes in at ResNet-50.
ENOUGH_THREADS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuShares:
    """How samples are divided: `gpu` of all go to the GPU, `hardware` of these to its engine."""

    gpu: float
    hardware: float

    @property
    def parts(self) -> tuple[float, float, float]:
        """Of all samples: hardware engine, CUDA, CPU; they add up to 1."""
        return self.gpu * self.hardware, self.gpu * (1 - self.hardware), 1 - self.gpu


def choose_decoder(name: str, *, device: torch.device, executor: str, threads: int) -> str:
    """Return "dali-gpu" where `auto` should decode on the GPU; else the name as it is.

    Decoding on the CPU is proven and the same to the bit everywhere, and a few cores are enough for
    a GPU. So `auto` leaves it only where a process on a GPU has fewer than three, and all else is
    there: DALI, and an executor that reads pixels on the GPU.
    """
    starved = threads < ENOUGH_THREADS
    possible = device.type == "cuda" and executor == "fused" and has_dali()
    return "dali-gpu" if name == "auto" and starved and possible else name


def check_gpu_decode(device: torch.device, executor: str) -> None:
    """Make sure that decoding on a GPU can be tried at all.

    Raises:
        ValueError: no CUDA device, no DALI, or an executor that reads pixels on the CPU.
    """
    if device.type != "cuda":
        raise ValueError(
            f"decoder dali-gpu decodes on CUDA devices, not on {device.type!r}; use turbojpeg"
        )
    if not has_dali():
        raise ValueError(
            "decoder dali-gpu needs DALI, which is not installed; pip install nvidia-dali-cuda130, "
            "or use turbojpeg"
        )
    if executor != "fused":
        raise ValueError(
            f"decoder dali-gpu leaves pixels on the GPU, where executor {executor} cannot read "
            "them; use executor fused, or decoder turbojpeg"
        )


def has_dali() -> bool:
    """Whether DALI is installed; it is not imported."""
    return installed("nvidia.dali")
