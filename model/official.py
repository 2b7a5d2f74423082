"""Weights of the authors' released checkpoints, renamed for our encoder with padding="same".

The released files are pickles of haiku trees: module name -> parameter name -> array, each with a
leading device axis. Names and layouts were checked on trees that haiku 0.0.17 makes: its ResNet-18,
-50 and -101 and ours agree in their features to 5e-6, 6e-5 and 4e-4 of the largest one (float32);
with padding="symmetric" nothing agrees. No released file was at hand. The authors' own ResNet-18
and -34 have a projection in the first block of the first group, which ours (and haiku's) lack.

    res_net50/~/initial_conv                                     conv1
    res_net50/~/initial_batchnorm                                bn1
    res_net50/~/block_group_G/~/block_B/~/conv_K                 layer{G+1}.{B}.conv{K+1}
    res_net50/~/block_group_G/~/block_B/~/batchnorm_K            layer{G+1}.{B}.bn{K+1}
    res_net50/~/block_group_G/~/block_B/~/shortcut_conv          layer{G+1}.{B}.downsample.0
    res_net50/~/block_group_G/~/block_B/~/shortcut_batchnorm     layer{G+1}.{B}.downsample.1

Statistics stand in the state under <batchnorm>/~/mean_ema and var_ema, as `average`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

Tree = Mapping[str, Mapping[str, Any]]

_NETWORK = r"(?:.*/)?res_?net\w*/~/"  # it may stand inside another module
# BYOL's files sometimes number the stem: initial_conv_1
_STEM = re.compile(_NETWORK + r"initial_(conv|batchnorm)(?:_1)?")
_BLOCK = re.compile(
    _NETWORK + r"block_group_(\d)/~/block_(\d+)/~/(shortcut_)?(conv|batchnorm)(?:_(\d))?"
)
_NORM_LEAVES = {"scale": "weight", "offset": "bias"}
_STATISTICS = {"/~/mean_ema": "running_mean", "/~/var_ema": "running_var"}


def convert_haiku(params: Tree, state: Tree) -> dict[str, Tensor]:
    """Return the state dict of our encoder for haiku's `online_params` and `online_state`.

    Heads and classifiers are left out. Leaves may be any array; a leading device axis is recognised
    by the stem's weight having five dims, and its first entry is taken.

    Raises:
        ValueError: no stem of a ResNet among the names.
    """
    stems = [leaves["w"] for name, leaves in params.items() if _module(name) == "conv1"]
    if len(stems) != 1:
        raise ValueError(
            f"{len(stems)} ResNets in the haiku tree, expected one; modules: {', '.join(params)}"
        )
    first = 0 if np.ndim(stems[0]) == 5 else ...
    converted: dict[str, Tensor] = {}
    for name, leaves in params.items():
        module = _module(name)
        if module is not None:
            for leaf, value in leaves.items():
                converted |= _parameter(module, leaf, np.asarray(value)[first])
    for name, leaves in state.items():
        for ending, buffer in _STATISTICS.items():
            module = _module(name.removesuffix(ending)) if name.endswith(ending) else None
            if module is not None:
                average = np.asarray(leaves["average"])[first]
                converted[f"{module}.{buffer}"] = _channels(average)
                converted[f"{module}.num_batches_tracked"] = torch.tensor(0)
    return converted


def _module(name: str) -> str | None:
    """Return our name of a haiku module; None if it is not the encoder's."""
    if stem := _STEM.fullmatch(name):
        return "conv1" if stem[1] == "conv" else "bn1"
    if block := _BLOCK.fullmatch(name):
        group, number, shortcut, kind, index = block.groups()
        place = f"layer{int(group) + 1}.{number}"
        if shortcut:
            return f"{place}.downsample.{0 if kind == 'conv' else 1}"
        return f"{place}.{'conv' if kind == 'conv' else 'bn'}{int(index) + 1}"
    return None


def _parameter(module: str, leaf: str, value: np.ndarray[Any, Any]) -> dict[str, Tensor]:
    """Rename and turn one parameter: kernels are HWIO there, OIHW here."""
    if leaf == "w":
        kernel = np.ascontiguousarray(value.transpose(3, 2, 0, 1))
        return {f"{module}.weight": torch.from_numpy(kernel).float()}
    return {f"{module}.{_NORM_LEAVES[leaf]}": _channels(value)}


def _channels(value: np.ndarray[Any, Any]) -> Tensor:
    """[1, 1, 1, C] -> [C]."""
    return torch.from_numpy(value.reshape(-1).copy()).float()
