"""Checkpoints: atomic to write, checked when read; and the encoder alone, as a file to give away.

DIRECTORY/checkpoint-00001234.pt is what torch.save writes of

    format     1
    step       completed steps: 1234
    config     the run's configuration, nested plain values
    model      state dict of ReLICv2: online and target with their BatchNorm statistics
    optimizer  its state dict

and all that a bit-identical continuation needs. States of random generators are not among it:
nothing draws from one during training, views and negatives are functions of seed and step.

A file appears under its name only when it is complete and on the disk; until then it is
DIRECTORY/.unfinished.pt, so one at a time is written in a directory. torch.save writes a zip with a
CRC-32 of each record, which torch.load does not check and `restore` does.

DIRECTORY/encoder-00001234.pt is the encoder alone at a milestone, DIRECTORY/encoder.pt at the end:
a plain state dict with torchvision's names. Its ResNetConfig lies beside it, in a JSON of the same
name. (Older versions wrote one file, {"format", "config", "state_dict"}; it is still read.)
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
import zipfile
from collections.abc import Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import nn

from files import write_text_whole, write_whole
from model.relicv2 import ReLICv2
from model.resnet import ResNet, ResNetConfig

FORMAT = 1
_NAME = re.compile(r"(?:checkpoint|encoder)-(\d{8,})\.pt")
UNFINISHED = ".unfinished.pt"
_UNREADABLE = (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """A checkpoint that was read."""

    state: dict[str, Any]
    path: Path
    warning: str  # a line about newer checkpoints that could not be read; empty if all is well


def save(
    directory: Path,
    step: int,
    state: Mapping[str, Any],
    *,
    keep: int = 3,
    milestones: Container[int] = (),
) -> Path:
    """Write a checkpoint; then remove all but the newest `keep` up to this step, and milestones.

    Checkpoints of later steps stay: they are there when a run fell back to an older one.

    Raises:
        ValueError: keep < 1.
        OSError: the disk is full or not writable; what was there is still there.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1 checkpoint, got {keep}")
    directory.mkdir(parents=True, exist_ok=True)
    path = path_of(directory, step)
    _write(path, state)
    earlier = [(other, old) for other, old in _checkpoints(directory).items() if other <= step]
    for other, old in earlier[:-keep]:
        if other not in milestones:
            old.unlink(missing_ok=True)  # a person may tidy up meanwhile
    return path


def path_of(directory: Path, step: int) -> Path:
    """Return the path of the checkpoint of so many completed steps, whether it exists or not."""
    return directory / f"checkpoint-{step:08d}.pt"


def latest(directory: Path) -> Path | None:
    """Return the newest checkpoint, unread; None if there is none."""
    found = list(_checkpoints(directory).values())
    return found[-1] if found else None


def completed_steps(directory: Path) -> int:
    """Return the steps that the newest checkpoint has completed; 0 without one."""
    return max(_checkpoints(directory), default=0)


def restore(directory: Path) -> Restored | None:
    """Read the newest checkpoint that is intact; None if there is no checkpoint at all.

    Raises:
        ValueError: there are checkpoints and none can be read.
    """
    complaints: list[str] = []
    for path in reversed(_checkpoints(directory).values()):
        try:
            state = read_file(path)
        except ValueError as error:
            complaints.append(str(error))
            continue
        went_back = f"; going on from {path.name}" if complaints else ""
        return Restored(state=state, path=path, warning="; ".join(complaints) + went_back)
    if complaints:
        raise ValueError(
            f"no checkpoint in {directory} can be read: {'; '.join(complaints)}. "
            "Restore one from a copy, or start anew in another directory"
        )
    return None


def capture(
    model: ReLICv2, optimizer: torch.optim.Optimizer, *, step: int, config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the state after `step` completed steps. Its tensors are the live ones, not copies."""
    return {
        "format": FORMAT,
        "step": step,
        "config": dict(config),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }


def apply(state: Mapping[str, Any], model: ReLICv2, optimizer: torch.optim.Optimizer) -> int:
    """Load a captured state into model and optimizer; return the number of completed steps.

    Raises:
        ValueError: the state is of another format, model or optimizer. Nothing was loaded then.
    """
    if state.get("format") != FORMAT:
        raise ValueError(
            f"checkpoint of format {state.get('format')}, this version reads {FORMAT}; "
            "use the version of this project that wrote it"
        )
    _require_same_shapes(model, state["model"])
    _require_same_settings(optimizer, state["optimizer"])
    optimizer.load_state_dict(state["optimizer"])
    model.load_state_dict(state["model"])
    return int(state["step"])


def export_encoder(path: Path, model: ReLICv2) -> None:
    """Write the online encoder for `load_encoder`: PATH, its weights, and PATH's .json, its config.

    PATH is a state dict of CPU tensors, named as torchvision's: `resnet50()` takes it with
    `strict=True` once its `fc` is an Identity (for width 1, stem "imagenet", padding "symmetric").

    Raises:
        OSError: the disk is full or not writable; an older file is still there.
    """
    _export(path, model.online.encoder.config, model.online.encoder.state_dict())


def export_milestone(
    directory: Path, step: int, state: Mapping[str, Any], config: ResNetConfig
) -> Path:
    """Write the online encoder of a captured state as encoder-STEP.pt; else as `export_encoder`."""
    path = directory / f"encoder-{step:08d}.pt"
    _export(path, config, online_encoder(state))
    return path


def online_encoder(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the online encoder's state dict out of a captured state."""
    prefix = "online.encoder."
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in state["model"].items()
        if name.startswith(prefix)
    }


def exported_steps(directory: Path) -> list[int]:
    """Return the steps that `export_milestone` wrote encoders of, ascending."""
    return list(_numbered(directory, "encoder"))


def take_unfinished(directory: Path) -> Path | None:
    """Remove what a save that was cut off has left; return its path, None if there is nothing."""
    path = directory / UNFINISHED
    if not path.is_symlink() and not path.exists():
        return None
    path.unlink()
    return path


def load_encoder(path: Path | str) -> ResNet:
    """Return the encoder of an exported file, on the CPU and in evaluation mode.

    Raises:
        ValueError: the file or its JSON is missing or damaged, or holds no encoder.
    """
    path = Path(path)
    return encoder_from(read_file(path), path)


def encoder_from(content: Mapping[str, Any], path: Path) -> ResNet:
    """Return the encoder that `read_file` has read from `path`, as `load_encoder` does.

    Raises:
        ValueError: as `load_encoder`.
    """
    if {"config", "state_dict"} <= content.keys():
        config, weights = content["config"], content["state_dict"]
    elif is_state_dict(content):
        config, weights = _read_config(path), content
    else:
        raise ValueError(f"{path} is no exported encoder (it holds {', '.join(map(str, content))})")
    try:
        encoder = ResNet(ResNetConfig(**config))
        _require_no_prefix(weights)
        _require_same_shapes(encoder, weights)
        encoder.load_state_dict(weights)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} holds no encoder of this version: {error}") from error
    return encoder.eval()


def _require_no_prefix(weights: Mapping[str, Any]) -> None:
    """Raise ValueError where names begin as those of a module around the encoder do."""
    first = "conv1.weight"
    wrapped = [name for name in weights if name.endswith(f".{first}")]
    if first not in weights and wrapped:
        prefix = min(wrapped, key=len).removesuffix(first)
        raise ValueError(f"the names begin with {prefix!r}; take that away from each of them")


def is_state_dict(content: Mapping[str, Any]) -> bool:
    """Whether a file holds tensors by name and nothing else."""
    return bool(content) and all(isinstance(value, torch.Tensor) for value in content.values())


def _export(path: Path, config: ResNetConfig, weights: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    described = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
    write_text_whole(path.with_suffix(".json"), described)  # first: weights alone cannot be read
    _write(path, {name: tensor.detach().cpu() for name, tensor in weights.items()})


def _read_config(path: Path) -> Any:
    """Return what the JSON beside an exported encoder holds."""
    beside = path.with_suffix(".json")
    try:
        return json.loads(beside.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(
            f"{path} holds weights alone, and {beside.name} is not beside it; copy it there from "
            "the run directory"
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {beside}: {error}") from error


def _checkpoints(directory: Path) -> dict[int, Path]:
    """Return step -> path, oldest first."""
    return _numbered(directory, "checkpoint")


def _numbered(directory: Path, kind: str) -> dict[int, Path]:
    """Return step -> path of the files KIND-STEP.pt, oldest first."""
    matches = [(_NAME.fullmatch(path.name), path) for path in directory.glob(f"{kind}-*.pt")]
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a file whole or not at all; a killed run leaves one that is unfinished at most."""
    write_whole(path, lambda file: _dump(content, file), partial=path.with_name(UNFINISHED))


def _dump(content: Mapping[str, Any], file: BinaryIO) -> None:
    """torch.save, whose errors of the disk are OSErrors."""
    try:
        torch.save(dict(content), file)
    except RuntimeError as error:
        # After an error of the file torch still ends its zip, fails at that, and hides the first.
        hidden = error.__context__
        while hidden is not None and not isinstance(hidden, OSError):
            hidden = hidden.__context__
        if hidden is None:
            raise
        raise hidden from None


def read_file(path: Path) -> dict[str, Any]:
    """Read a checkpoint or an exported encoder onto the CPU.

    Raises:
        ValueError: the file is missing, not whole, or something else; it is named.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"wrong checksum of {damaged}")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (*_UNREADABLE, zipfile.BadZipFile) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"cannot read {path}: it holds no checkpoint")
    return content


def _require_same_shapes(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Raise ValueError that names the first difference unless the module takes this state."""
    own = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    saved = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in [*own, *saved]:
        if own.get(name) != saved.get(name):
            raise ValueError(
                f"the saved weights are of another model: {name} is {saved.get(name, 'missing')} "
                f"there and {own.get(name, 'missing')} here; use the configuration they were "
                "saved with"
            )


def _require_same_settings(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Raise ValueError unless a saved optimizer has the groups of this one, by their settings."""
    own, saved = (
        [(len(group["params"]), sorted(group.keys() - {"params"})) for group in groups]
        for groups in (optimizer.param_groups, state["param_groups"])
    )
    if own != saved:
        raise ValueError(
            f"the checkpoint is of another optimizer: its groups (parameters, settings) are "
            f"{saved}, here {own}; use the configuration it was saved with"
        )
