"""`python -m pipeline.saliency train`: from a folder of photos to a student that predicts masks."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import torch

from pipeline.batch import Bytes, Floats
from pipeline.saliency.console import list_bad, refusing, report
from pipeline.saliency.methods import FUSION, estimate_all, named_methods
from pipeline.saliency.refine.handcrafted import HandCrafted
from pipeline.saliency.refine.initial import read_encoder
from pipeline.saliency.refine.presets import BUDGETS, TEACHERS
from pipeline.saliency.refine.run import train_masks
from pipeline.saliency.refine.settings import apply_settings
from pipeline.sources import list_records

_DEFAULTS = "; ".join(f"{budget}: {','.join(names)}" for budget, names in TEACHERS.items())


@click.command("train")
@click.option("--photos", required=True, help="Folder or tar of photos, without labels; or demo.")
@click.option(
    "--out", required=True, type=Path, help="Folder to train in; the same goes on with a training."
)
@click.option(
    "--budget",
    type=click.Choice(list(BUDGETS)),
    default="small",
    show_default=True,
    help="small: some hundred photos, minutes on two cores; paper: DeepUSPS's settings, on a GPU.",
)
@click.option(
    "--encoder",
    type=Path,
    help="An encoder.pt that train.py exported: where networks start.  [default: random weights]",
)
@click.option(
    "--methods",
    metavar="NAME,NAME",
    help=f"Hand-crafted methods that teach.  [default: {_DEFAULTS}]",
)
@click.option("--limit", type=click.IntRange(min=1), help="Take so many photos, spread evenly.")
@click.option(
    "--set", "settings", multiple=True, metavar="PATH=VALUE", help="Change a setting, repeatedly."
)
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda")
@click.option(
    "--threads", type=click.IntRange(min=1), help="Beside the network.  [default: all cores]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object as the last line.")
def train_command(
    photos: str,
    out: Path,
    budget: str,
    encoder: Path | None,
    methods: str | None,
    limit: int | None,
    settings: tuple[str, ...],
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Train masks as DeepUSPS does, without labels, and distil them into a fast student."""
    with refusing():
        names = TEACHERS[budget] if methods is None else named_methods(methods)
        config = apply_settings(BUDGETS[budget](), settings)
        fusion = FUSION if config.student.teacher_fusion > 0 else None
        trained = train_masks(
            list_records(photos, limit=limit).records,
            HandCrafted(names=names, estimate=estimator(names, fusion), fusion=fusion),
            config,
            encoder=None if encoder is None else read_encoder(encoder),
            out=out,
            device=choose_device(device),
            threads=threads or len(os.sched_getaffinity(0)),
            report=report,
        )
    list_bad(list(trained.bad), "photos were left out")
    click.echo(f"{trained.student}: trained on {trained.num_photos} photos", err=True)
    if as_json:
        found = {"student": str(trained.student), "photos": trained.num_photos}
        click.echo(json.dumps(found | {"bad": len(trained.bad)}))


def estimator(
    names: tuple[str, ...], fusion: str | None = None
) -> Callable[[Bytes], Mapping[str, Floats]]:
    """The hand-crafted methods of these names, and the fusion if wanted, as one function."""
    wanted = names if fusion is None else (*names, fusion)

    def estimate(picture: Bytes) -> Mapping[str, Floats]:
        return {name: found.saliency for name, found in estimate_all(picture, wanted).items()}

    return estimate


def choose_device(name: str) -> torch.device:
    """Return the device; auto: a GPU if there is one.

    Raises:
        ValueError: it is unknown or not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise ValueError(f"--device {name}: unknown; choose auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch finds no CUDA device; choose cpu")
    return torch.device(name)
