"""What one image costs in each stage, and the figures of GPUs that were measured elsewhere.

A cost is seconds of one unit of a resource: of one core, of one GPU, of its link, of the disk. A
figure of another data set or preset is scaled by what the stage's time goes with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

DISK, CORES, LINK, GPU = "disk", "cores", "link", "GPU"
HERE = "measured here"
SHIPPED = Path(__file__).resolve().parents[1] / "figures"


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One image of a data set under a preset; means."""

    stored_bytes: float  # JPEG and mask
    megapixels: float  # of the decoded picture
    view_megapixels: float  # of all its views
    upload_bytes: float  # that go to a GPU: its pixels and mask, or its views
    gigamacs: float  # multiply-adds of a training step


SCALES_WITH = {
    "disk": "stored_bytes",
    "read": "stored_bytes",
    "decode": "megapixels",
    "upload": "upload_bytes",
    "augment": "view_megapixels",
    "step": "gigamacs",
}
STAGES = tuple(SCALES_WITH)  # in the order of the data


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Seconds of a resource for one image; None: not known."""

    resource: str
    seconds: float | None
    source: str  # where the figure comes from


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Seconds of one GPU for one image, by stage, as measured on a machine that had it."""

    gpu: str  # its whole name
    work: Work
    seconds: Mapping[str, float]  # of "upload", "augment" and "step"
    environment: Mapping[str, Any]

    def of(self, stage: str, work: Work) -> float | None:
        """Seconds of a stage for other work; None: it was not measured."""
        name = SCALES_WITH[stage]
        if stage not in self.seconds:
            return None
        return self.seconds[stage] * getattr(work, name) / getattr(self.work, name)


def find_figures(gpu: str, folder: Path = SHIPPED) -> Figures | None:
    """Return the newest figures of a GPU whose name has the word `gpu` in it; None: never measured.

    Raises:
        ValueError: a file in the folder holds no figures.
    """
    every = [read_figures(path) for path in sorted(folder.glob("*.json"))]
    found = [figures for figures in every if gpu.lower() in figures.gpu.lower()]
    return max(found, key=lambda figures: str(figures.environment.get("date")), default=None)


def read_figures(path: Path) -> Figures:
    """Read one file of figures.

    Raises:
        ValueError: it holds none.
    """
    try:
        values = json.loads(path.read_text())
        return Figures(**{**values, "work": Work(**values["work"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not figures of a GPU ({error}); remove it") from error


def keep_figures(path: Path, plan: Mapping[str, Any]) -> None:
    """Write the figures of a plan whose GPU was measured, as `find_figures` finds them.

    Raises:
        ValueError: it was not.
    """
    costs = plan["costs"]
    seconds = {
        name: cost["seconds"] for name, cost in costs.items() if cost["resource"] in (LINK, GPU)
    }
    if not seconds or any(costs[name]["source"] != HERE for name in seconds):
        raise ValueError(
            f"--keep {path}: there is no {plan['machine']['gpu']} on this machine to be measured"
        )
    environment = plan["environment"]
    figures = Figures(
        gpu=environment["gpu"]["name"],
        work=Work(**plan["work"]),
        seconds=seconds,
        environment=environment,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(figures)) + "\n")
