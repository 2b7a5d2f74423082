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
from typing import Any, ClassVar, TypeVar

from model.choices import require_one_of
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
    "monitor_shards",
    "views_together",
    "patience_seconds",
    "loader.threads",
    "loader.prefetch",
    "loader.max_bad",
    "loader.stall_seconds",
)

# Left to `auto`, these stand for what the run was started with, also when it is resumed.
DECIDED_AT_START = (
    *("loader.executor", "loader.decoder", "loader.gpu_decode_share", "loader.hw_decoder_load"),
    "precision",
)

_FEW_ROWS = 64  # of a view in a process: six such views need the memory of one of 256

_HIGHEST_RATES = {"lars": 100.0, "adamw": 1.0}  # of the peak; the presets have 7.2 and 0.001

# What others call a setting, or write in short.
_COMMON_WORDS = {
    **dict.fromkeys(("lr", "learning_rate", "base_lr", "rate", "eta"), ("base_learning_rate",)),
    **dict.fromkeys(("bs", "batch", "batch_size", "batchsize"), ("global_batch_size",)),
    **dict.fromkeys(("t", "temp"), ("temperature",)),
    "tau": ("temperature", "target_decay"),
    **dict.fromkeys(("ema", "ema_decay", "ema_momentum", "m"), ("target_decay",)),
    **dict.fromkeys(("wd", "decay"), ("weight_decay", "target_decay")),
    **dict.fromkeys(("optim", "opt"), ("name",)),
    **dict.fromkeys(("warmup", "warm_up"), ("warmup_epochs",)),
    **dict.fromkeys(("arch", "backbone", "network", "resnet"), ("architecture",)),
    **dict.fromkeys(("dim", "out_dim", "proj_dim", "projection_size"), ("embedding_size",)),
    **dict.fromkeys(("hidden", "hidden_dim"), ("hidden_size",)),
    **dict.fromkeys(("workers", "num_workers", "jobs"), ("threads",)),
    **dict.fromkeys(("amp", "fp16", "bf16", "fp32", "dtype"), ("precision",)),
    **dict.fromkeys(("crops", "views", "num_crops", "num_views"), ("num_large", "num_small")),
    **dict.fromkeys(("size", "image_size", "crop_size", "res"), ("large_size", "small_size")),
    **dict.fromkeys(("steps", "num_steps", "iterations", "max_iter"), ("max_steps",)),
    **dict.fromkeys(("grad_accum", "accumulation"), ("accumulate",)),
    **dict.fromkeys(("save_every", "checkpoint", "save_freq"), ("checkpoint_every",)),
    **dict.fromkeys(("negatives", "k", "n_e"), ("num_negatives",)),
    "alpha": ("contrastive_weight",),
    **dict.fromkeys(("beta", "kl_weight"), ("invariance_weight",)),
    **dict.fromkeys(("crop", "scale", "min_scale"), ("area",)),
    **dict.fromkeys(("p_m", "mask"), ("mask_probability",)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Everything that a run is set to. Sources of the defaults: docs/provenance.md.

    Raises:
        ValueError: a value out of range.
    """

    CHOICES: ClassVar = {
        "precision": ("auto", "float32", "bfloat16"),
        "views_together": ("auto", "yes", "no"),
    }

    name: str = "imagenet-rn50"  # what the run is called where it is shown [ours]
    recipe: MultiCropRecipe = field(default_factory=MultiCropRecipe)
    model: ReLICv2Config = field(default_factory=ReLICv2Config)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    order: OrderConfig = field(default_factory=OrderConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    epochs: int = 1000  # passes over the data set [recalled]
    # stop after so many steps, with the schedules of `epochs`; 0: run them all [ours]
    max_steps: int = 0
    global_batch_size: int = 4096  # images in a step, of all processes [recalled]
    # among several processes, whether online views of a size share BatchNorm's messages: more
    # memory, the same gradient; auto: on CPUs, and for up to 64 images a GPU [ours]
    views_together: str = "auto"
    accumulate: int = 1  # parts of a batch, each with BatchNorm and negatives of its own [ours]
    # share of the target network that each step keeps (BYOL's tau); at step 0, it rises to 1
    # along a cosine [BYOL; recalled]
    target_decay: float = 0.996
    seed: int = 0  # of weights, order, views and negatives [ours]
    precision: str = "auto"  # numbers of the networks; auto: bfloat16 autocast on GPUs [ours]
    log_every: int = 10  # steps between two lines of the log [ours]
    checkpoint_every: int = 1000  # steps between two checkpoints [ours]
    keep_checkpoints: int = 3  # newest ones that are kept [ours]
    milestone_every: int = 0  # epochs between two checkpoints kept for good; 0: none [ours]
    monitor_every: int = 10  # epochs between two kNN measurements; 0: never [ours]
    # labelled shards whose images kNN classifies; none: training images among each other [ours]
    monitor_shards: str | None = None
    patience_seconds: float = PATIENCE_SECONDS  # so long a process waits for another [ours]
    # steps in a row that are not finite, and skipped, before the run stops [ours]
    max_skipped: int = 10

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
        for name, choices in self.CHOICES.items():
            require_one_of(name, getattr(self, name), choices)

    def runs_views_together(self, rows: int, *, on_cpu: bool) -> bool:
        """Whether online views of one size go through the network in one forward and backward.

        Args:
            rows: images of a view in one process, in one part of the batch.
        """
        if self.views_together != "auto":
            return self.views_together == "yes"
        return on_cpu or rows <= _FEW_ROWS


def apply_settings(config: Config, settings: Sequence[str]) -> Config:
    """Return the config with `path=value` strings applied, in order.

    An end of a path that no other setting has stands for it: `executor`, `encoder.width`.

    Raises:
        ValueError: no '=', an unknown path (with the nearest names), an end that several have, a
            value that does not fit the setting's type or its range.
    """
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals or not path.strip():
            raise ValueError(f"--set takes name=value, got {setting!r}; {_listed(config)}")
        path = _whole_path(config, path.strip())
        config = _replaced(config, path.split("."), value.strip(), path)
    return config


def doubts(config: TrainConfig) -> list[str]:
    """Say which settings are allowed and yet can hardly be meant, one line each."""
    optimizer, loss = config.optimizer, config.loss
    peak = optimizer.base_learning_rate * config.global_batch_size / 256
    found = []
    if peak > _HIGHEST_RATES[optimizer.name]:
        found.append(
            f"optimizer.base_learning_rate={optimizer.base_learning_rate:g} times "
            f"global_batch_size / 256 is a learning rate of {peak:g}: {optimizer.name} will diverge"
        )
    if peak == 0:
        found.append("optimizer.base_learning_rate=0: nothing is learned")
    if loss.contrastive_weight == 0:
        found.append(
            "loss.contrastive_weight=0: nothing keeps images apart, so embeddings may collapse"
        )
    if not 0.01 <= loss.temperature <= 2:
        found.append(
            f"loss.temperature={loss.temperature:g}: methods of this kind use 0.05 to 0.5; outside "
            "0.01..2 the loss is all but flat, or sees one negative alone"
        )
    if config.target_decay == 1:
        found.append("target_decay=1: the target network never moves")
    return found


def to_dict(config: Any) -> dict[str, Any]:
    """Return the config as nested plain values, for JSON."""
    return dataclasses.asdict(config)


def from_dict(kind: type[Config], values: Mapping[str, Any]) -> Config:
    """Build a config from nested plain values; what is missing keeps its default.

    Raises:
        ValueError: an unknown name or a value of another type.
    """
    return merged(kind(), values)


def merged(config: Config, values: Mapping[str, Any]) -> Config:
    """Return the config with nested plain values (of JSON or TOML) laid over it."""
    new: Config = _merged(config, values, prefix="", root=config)
    return new


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


def nearest(config: Any, path: str) -> list[str]:
    """Return the settings that a wrong name may mean, likely ones first; at most three.

    Names are compared without their groups; among equals, those of the groups that were named win.
    """
    paths = [known for known, _ in flattened(config)]
    *groups, name = path.lower().replace("-", "_").split(".")

    def of_leaves(leaves: Sequence[str]) -> list[str]:
        found = [known for leaf in leaves for known in paths if known.split(".")[-1] == leaf]
        return sorted(found, key=lambda known: -len({*groups} & {*known.split(".")}))

    leaves = list(dict.fromkeys(known.split(".")[-1] for known in paths))
    parts = {*name.split("_")}
    likely_first = (
        _COMMON_WORDS.get(name, ()),
        [leaf for leaf in leaves if leaf == name],
        difflib.get_close_matches(name, leaves, n=2, cutoff=0.75),
        [leaf for leaf in leaves if parts <= {*leaf.split("_")}],
        [leaf for leaf in leaves if len(name) > 2 and f"_{name}" in f"_{leaf}"],
        difflib.get_close_matches(name, leaves, n=2),
    )
    found = next(filter(None, map(of_leaves, likely_first)), [])
    return (found or difflib.get_close_matches(path, paths, n=1))[:3]


def setting_for_option(option: str, *, sure: bool) -> str | None:
    """Return the setting that somebody means who gives it as an option: `--epochs`, `--lr`.

    Args:
        sure: nothing else is meant, so that a name that is merely near will do.
    """
    name = option.lstrip("-").replace("-", "_")
    found = nearest(TrainConfig(), name)
    known = name in _COMMON_WORDS or any(path.split(".")[-1] == name for path in found)
    return found[0] if found and (known or sure) else None


def _merged(config: Any, values: Mapping[str, Any], *, prefix: str, root: Any) -> Any:
    for name, value in values.items():
        path = f"{prefix}{name}"
        if name not in _fields(config):
            raise _unknown(root, path)
        current = getattr(config, name)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, Mapping):
                raise ValueError(f"{path} holds settings of its own, got {value!r}")
            new = _merged(current, value, prefix=f"{path}.", root=root)
        else:
            new = _checked(value, _types(config)[name], path)
        config = _replace(config, name, new)
    return config


def _whole_path(config: Any, path: str) -> str:
    paths = [known for known, _ in flattened(config)]
    if path in paths:
        return path
    found = [known for known in paths if known.endswith(f".{path}")]
    if len(found) > 1:
        raise ValueError(f"setting {path!r} is one of several: {', '.join(found)}; name one whole")
    if found:
        return found[0]
    for known in paths:
        groups = known.split(".")[:-1]
        if f".{'.'.join(groups)}".endswith(f".{path}"):
            group = ".".join(groups) + "."
            inside = ", ".join(each for each in paths if each.startswith(group))
            raise ValueError(f"{path} holds settings of its own: {inside}")
    raise _unknown(config, path)


def _replaced(config: Any, names: list[str], value: str, path: str) -> Any:
    name, *rest = names
    current = getattr(config, name)
    new = (
        _replaced(current, rest, value, path)
        if rest
        else _parsed(value, _types(config)[name], path)
    )
    return _replace(config, name, new)


def _replace(config: Any, name: str, value: Any) -> Any:
    return dataclasses.replace(config, **{name: value})


def _unknown(config: Any, path: str) -> ValueError:
    found = nearest(config, path)
    hint = f"did you mean {' or '.join(found)}? " if found else ""
    group = config
    for name in path.split(".")[:-1]:
        inner = getattr(group, name, None) if name in _fields(group) else None
        if not dataclasses.is_dataclass(inner):
            break
        group = inner
    return ValueError(f"unknown setting {path!r}; {hint}{_listed(group)}")


def _listed(config: Any) -> str:
    """Where the names of the settings stand; here, if they are few."""
    if isinstance(config, TrainConfig):
        return "train.py --settings lists them all"
    return f"valid here: {', '.join(_fields(config))}"


def _fields(config: Any) -> list[str]:
    return [item.name for item in dataclasses.fields(config)]


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
