"""Where networks start: random weights, or an encoder that this project trained without labels.

The file is what model/checkpoint.py: export_encoder writes, with its JSON beside it. Weights of
other origin are not taken: those that come with saliency networks were trained with labels.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.saliency.refine.chance import torch_generator
from pipeline.saliency.refine.network import NetworkConfig, SaliencyNetwork, draw_weights
from pipeline.saliency.refine.resnet import ARCHITECTURES, DilatedResNet

_UNREADABLE = (
    *(RuntimeError, EOFError, KeyError, TypeError, ValueError, AttributeError),
    pickle.UnpicklingError,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoder:
    """An exported encoder that fits the networks' trunk."""

    path: str
    architecture: str
    width: float
    weights: Mapping[str, Tensor]


def read_encoder(path: Path) -> Encoder:
    """Read an exported encoder.pt.

    Raises:
        ValueError: it is missing, damaged, something else, or no network here can hold it.
    """
    config, weights = _read(path)
    architecture, width = str(config.get("architecture")), float(config.get("width", 1.0))
    if architecture not in ARCHITECTURES:
        raise ValueError(f"{path} is a {architecture}; --encoder takes {', '.join(ARCHITECTURES)}")
    for name, wanted in (("stem", "imagenet"), ("padding", "symmetric")):
        if config.get(name, wanted) != wanted:
            raise ValueError(
                f"{path} has {name} {config[name]!r}, and masks need {wanted!r}; train an encoder "
                f"with model.encoder.{name}={wanted}"
            )
    trunk = DilatedResNet(architecture, width).state_dict()
    for name in [*trunk, *weights]:
        own, given = (tuple(d[name].shape) if name in d else None for d in (trunk, weights))
        if own != given:
            raise ValueError(
                f"{path} does not fit a {architecture} of width {width}: {name} is "
                f"{given or 'missing'} there, {own or 'missing'} here"
            )
    return Encoder(path=str(path), architecture=architecture, width=width, weights=weights)


def fitted(config: NetworkConfig, encoder: Encoder | None) -> NetworkConfig:
    """Return the config with the encoder's architecture and width."""
    if encoder is None:
        return config
    return replace(config, architecture=encoder.architecture, width=encoder.width)


def fresh_network(
    config: NetworkConfig,
    encoder: Encoder | None,
    seed: int,
    *words: int | str,
    start: Mapping[str, Tensor] | None = None,
) -> SaliencyNetwork:
    """Return a network in training mode.

    Its weights are those of `start`, if given; else its trunk is the encoder's, or random as all
    the rest is.
    """
    network = SaliencyNetwork(config)
    draw_weights(network, torch_generator(seed, *words))
    nn.init.normal_(network.head.weight, std=0.01, generator=torch_generator(seed, *words, "head"))
    if encoder is not None:
        network.trunk.load_state_dict(dict(encoder.weights))
    if start is not None:
        network.load_state_dict(dict(start))
    network.train()
    return network


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    beside = path.with_suffix(".json")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if "state_dict" in content:  # as older versions wrote it
            return dict(content["config"]), dict(content["state_dict"])
        weights = {name: value.detach() for name, value in content.items()}
        return dict(json.loads(beside.read_text(encoding="utf-8"))), weights
    except OSError as error:
        missing = error.filename == str(beside) and "; copy it there from the run directory"
        raise ValueError(
            f"{error.filename or path}: cannot be read: {error.strerror}{missing or ''}"
        ) from error
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            f"{path} is no encoder.pt that train.py wrote ({type(error).__name__}: {reason})"
        ) from error
