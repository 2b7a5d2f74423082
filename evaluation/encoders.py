"""Opens the encoder of a run directory, of a training checkpoint or of an exported file.

The files are described in model/checkpoint.py. What evaluation needs beside the weights travels
with them: the number of steps, the size of the large views, the seed of the initial weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from model.checkpoint import encoder_from, is_state_dict, online_encoder, read_file, restore
from model.resnet import ResNet, ResNetConfig, make_encoder


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedEncoder:
    """An encoder and what is known of its training."""

    encoder: ResNet
    path: Path
    step: int | None  # completed steps; None: not known
    view_size: int | None  # pixels of the large views in training; None: not known
    seed: int  # of the initial weights; 0 where it is not known
    warning: str = ""


def open_encoder(path: Path) -> OpenedEncoder:
    """Open a run directory (its newest intact checkpoint, else its encoder.pt) or a file.

    Raises:
        ValueError: there is nothing to open, or it is damaged or something else.
    """
    if path.is_dir():
        return _open_run(path)
    if not path.exists():
        raise ValueError(
            f"{path}: no such checkpoint; give a run directory of train.py, a checkpoint-*.pt or "
            "an exported encoder.pt"
        )
    content = read_file(path)
    if {"config", "model", "step"} <= content.keys():
        return _from_training(content, path)
    if {"config", "state_dict"} <= content.keys() or is_state_dict(content):
        return _from_export(content, path)
    raise ValueError(f"{path} is neither a checkpoint of train.py nor an exported encoder")


def initial_encoder(opened: OpenedEncoder) -> OpenedEncoder:
    """Return the same architecture with the initial weights of the run's seed, after 0 steps."""
    generator = torch.Generator().manual_seed(opened.seed)
    return OpenedEncoder(
        encoder=make_encoder(opened.encoder.config, generator).eval(),
        path=opened.path,
        step=0,
        view_size=opened.view_size,
        seed=opened.seed,
        warning=opened.warning,
    )


def _open_run(folder: Path) -> OpenedEncoder:
    found = restore(folder)
    if found is not None:
        return _from_training(found.state, found.path, found.warning)
    exported = folder / "encoder.pt"
    if exported.is_file():
        return _from_export(read_file(exported), exported)
    raise ValueError(
        f"{folder} holds no checkpoint; give the --out directory of a training that has saved one"
    )


def _from_training(state: Mapping[str, Any], path: Path, warning: str = "") -> OpenedEncoder:
    try:
        config = state["config"]
        encoder = ResNet(ResNetConfig(**config["model"]["encoder"]))
        encoder.load_state_dict(online_encoder(state))
        return OpenedEncoder(
            encoder=encoder.eval(),
            path=path,
            step=int(state["step"]),
            view_size=int(config["recipe"]["large_size"]),
            seed=int(config["seed"]),
            warning=warning,
        )
    except (KeyError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} is of another version of this project, or of another program ({reason})"
        ) from error


def _from_export(content: Mapping[str, Any], path: Path) -> OpenedEncoder:
    description = path.parent / "config.json"  # of the run, where the file still lies in it
    config: dict[str, Any] = {}
    if description.is_file():
        try:
            config = json.loads(description.read_text(encoding="utf-8"))["config"]
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{description} does not describe a run ({error!r})") from error
    return OpenedEncoder(
        encoder=encoder_from(content, path),
        path=path,
        step=None,
        view_size=config.get("recipe", {}).get("large_size"),
        seed=int(config.get("seed", 0)),
    )
