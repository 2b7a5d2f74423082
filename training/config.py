"""The configuration of a run: frozen dataclasses composed, changed by path, kept as JSON.

Each module owns the dataclass of its settings; TrainConfig puts them together. `--set path=value`
walks the fields by name and is checked against their types.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from model.lars import OptimizerConfig
from model.loss import LossConfig
from model.relicv2 import ReLICv2Config
from pipeline.augment.recipe import MultiCropRecipe
from pipeline.loader import LoaderConfig
from pipeline.order import OrderConfig
from training.launch import PATIENCE_SECONDS

Config = TypeVar("Config")

# Settings that change how a run is fed, watched and kept, and where it stops, but not what a step
# computes: a run may be resumed with others. (Another decoder may differ by a level, so it is not
# among them.)
FREE_TO_CHANGE = (
    "name",
    "max_steps",
    "log_every",
    "checkpoint_every",
    "keep_checkpoints",
    "milestone_every",
    "max_skipped",
    "monitor_every",
    "patience_seconds",
    "loader.threads",
    "loader.prefetch",
    "loader.max_bad",
    "loader.stall_seconds",
)

# Left to `auto`, these stand for what the run was started with, also when it is resumed.
DECIDED_AT_START = ("loader.decoder", "loader.gpu_decode_share", "loader.hw_decoder_load")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Everything that a run is set to. Sources of the defaults: docs/provenance.md.

    Raises:
        ValueError: a value out of range.
    """

    name: str = "imagenet-rn50"
    recipe: MultiCropRecipe = field(default_factory=MultiCropRecipe)
    model: ReLICv2Config = field(default_factory=ReLICv2Config)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    order: OrderConfig = field(default_factory=OrderConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    epochs: int = 1000
    max_steps: int = 0  # stop after so many steps, with the schedules of `epochs`; 0: run them all
    global_batch_size: int = 4096
    accumulate: int = 1  # parts of a batch, each with BatchNorm and negatives of its own
    target_decay: float = 0.996  # at step 0; rises to 1 along a cosine
    seed: int = 0
    precision: str = "auto"  # float32 | bfloat16; auto: bfloat16 autocast on GPUs
    log_every: int = 10  # steps
    checkpoint_every: int = 1000  # steps
    keep_checkpoints: int = 3
    milestone_every: int = 0  # epochs between two checkpoints that are kept for good; 0: none
    monitor_every: int = 10  # epochs between two kNN measurements; 0: never
    patience_seconds: float = PATIENCE_SECONDS  # so long a process waits for another
    max_skipped: int = 10  # steps in a row that are not finite, and skipped, before the run stops

    def __post_init__(self) -> None:
        for name in (
            *("epochs", "global_batch_size", "accumulate"),
            *("log_every", "checkpoint_every", "max_skipped"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.keep_checkpoints < 1:
            raise ValueError(f"keep_checkpoints must be at least 1, got {self.keep_checkpoints}")
        for name in ("max_steps", "monitor_every", "milestone_every"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.target_decay <= 1:
            raise ValueError(f"target_decay must lie in 0..1, got {self.target_decay}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed must lie in 0..2**32-1, got {self.seed}")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(
                f"unknown precision {self.precision!r}; choose auto, float32 or bfloat16"
            )


def apply_settings(config: Config, settings: Sequence[str]) -> Config:
    """Return the config with `path=value` strings applied, in order.

    A name that occurs once may stand for its path: `executor` for `loader.executor`.

    Raises:
        ValueError: no '=', an unknown path (with the names that exist there), a value that does
            not fit the field's type or its range.
    """
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set takes path=value, got {setting!r}")
        path = _whole_path(config, path.strip())
        config = _replaced(config, path.split("."), value.strip(), path)
    return config


def to_dict(config: Any) -> dict[str, Any]:
    """Return the config as nested plain values, for JSON."""
    return dataclasses.asdict(config)


def from_dict(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """Build a config from nested plain values; what is missing keeps its default.

    Raises:
        ValueError: an unknown name or a value of another type.
    """
    return merged(kind(), values)


def merged(config: Config, values: Mapping[str, Any], *, prefix: str = "") -> Config:
    """Return the config with nested plain values (of JSON or TOML) laid over it."""
    for name, value in values.items():
        path = f"{prefix}{name}"
        _require_field(config, name, path)
        current = getattr(config, name)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, Mapping):
                raise ValueError(f"{path} holds settings of its own, got {value!r}")
            new = merged(current, value, prefix=f"{path}.")
        else:
            new = _checked(value, _types(config)[name], path)
        config = _replace(config, name, new)
    return config


def flattened(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, value) of every setting."""
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            yield from flattened(value, f"{prefix}{item.name}.")
        else:
            yield f"{prefix}{item.name}", value


def differences(old: Any, new: Any) -> list[str]:
    """Describe the settings that differ and may not change within one run."""
    before = dict(flattened(old))
    return [
        f"{path} was {before[path]}, is {value}"
        for path, value in flattened(new)
        if path not in FREE_TO_CHANGE
        and before[path] != value
        and not (path in DECIDED_AT_START and value == "auto")
    ]


def _whole_path(config: Any, path: str) -> str:
    if "." in path or path in {item.name for item in dataclasses.fields(config)}:
        return path
    found = [whole for whole, _ in flattened(config) if whole.endswith(f".{path}")]
    if len(found) > 1:
        raise ValueError(f"setting {path!r} is one of several: {', '.join(found)}; name one whole")
    return found[0] if found else path


def _replaced(config: Any, names: list[str], value: str, path: str) -> Any:
    name, *rest = names
    _require_field(config, name, path)
    current = getattr(config, name)
    if dataclasses.is_dataclass(current):
        if not rest:
            raise ValueError(f"{path} holds settings of its own: {_names(current, path + '.')}")
        return _replace(config, name, _replaced(current, rest, value, path))
    if rest:
        raise ValueError(f"unknown setting {path!r}: {name} has no settings of its own")
    return _replace(config, name, _parsed(value, _types(config)[name], path))


def _replace(config: Any, name: str, value: Any) -> Any:
    return dataclasses.replace(config, **{name: value})


def _require_field(config: Any, name: str, path: str) -> None:
    names = [item.name for item in dataclasses.fields(config)]
    if name in names:
        return
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ValueError(f"unknown setting {path!r}; {hint}valid here: {_names(config)}")


def _names(config: Any, prefix: str = "") -> str:
    return ", ".join(prefix + item.name for item in dataclasses.fields(config))


def _types(config: Any) -> dict[str, Any]:
    return typing.get_type_hints(type(config))


def _parsed(text: str, kind: Any, path: str, also: str = "") -> Any:
    """Read the text of a --set value as the field's type; `also`: what else it could have been."""
    origin = typing.get_origin(kind)
    if origin is tuple:
        parts = text.strip("()[]").split(",")
        inner = typing.get_args(kind)
        if len(parts) != len(inner):
            raise ValueError(f"{path} takes {len(inner)} values separated by commas, got {text!r}")
        return tuple(_parsed(part.strip(), inner[0], path) for part in parts)
    if origin in (typing.Union, types.UnionType):
        words, inner = _words(kind)
        if text.lower() in words:
            return words[text.lower()]
        return _parsed(text, inner, path, also="".join(f" or {word}" for word in words))
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{path} takes true or false, got {text!r}")
        return text.lower() == "true"
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(f"{path} takes {_article(kind)}{also}, got {text!r}") from None
    return _finite(value, path)


def _checked(value: Any, kind: Any, path: str, also: str = "") -> Any:
    """Return a JSON or TOML value as the field's type."""
    origin = typing.get_origin(kind)
    if origin is tuple and isinstance(value, (list, tuple)):
        if len(value) != len(typing.get_args(kind)):
            raise ValueError(f"{path} takes {len(typing.get_args(kind))} values, got {value!r}")
        return tuple(_checked(part, typing.get_args(kind)[0], path) for part in value)
    if origin in (typing.Union, types.UnionType):
        words, inner = _words(kind)
        if value in words.values():
            return value
        return _checked(value, inner, path, also="".join(f" or {word}" for word in words))
    if kind is float and type(value) is int:
        return float(value)
    if origin is not None or type(value) is not kind:
        raise ValueError(f"{path} takes {_article(kind)}{also}, got {value!r}")
    return _finite(value, path)


def _words(kind: Any) -> tuple[dict[str, Any], Any]:
    """Of `float | Literal["auto"]` or `int | None`: the words with their values, and the type."""
    inner, *others = typing.get_args(kind)
    words: dict[str, Any] = {}
    for other in others:
        if other is types.NoneType:
            words["none"] = None
        else:
            words |= {word: word for word in typing.get_args(other)}
    return words, inner


def _finite(value: Any, path: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{path} takes a finite number, got {value}")
    return value


def _article(kind: Any) -> str:
    known = {int: "a whole number", float: "a number", str: "a word", bool: "true or false"}
    return known.get(kind, str(kind))
