"""Files of torch.save that are there whole or not at all."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from files import write_whole


def save_state(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file under its name only when it is complete and on the disk.

    Raises:
        OSError: it cannot be written; an older file of that name is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda file: torch.save(dict(content), file))


def load_state(path: Path) -> dict[str, Any]:
    """Read such a file onto the CPU.

    Raises:
        ValueError: it is missing, damaged, or something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path}: damaged, or no file of torch.save") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}, no state")
    return content


def save_progress(
    path: Path, network: nn.Module, optimizer: torch.optim.Optimizer, epochs: int, **more: Any
) -> None:
    """Write what a stage goes on from after so many epochs; see `load_progress`."""
    states = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
    save_state(path, states | {"epochs": epochs} | more)


def load_progress(
    path: Path, network: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """Bring network and optimizer to where they were, and return the state; None: there is none.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.is_file():
        return None
    state = load_state(path)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return state
