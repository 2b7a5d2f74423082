"""Settings changed by `path=value`, for nested frozen dataclasses.

(training/config.py does this for trainings of encoders; the pipeline does not know it.)
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

Config = TypeVar("Config")


def apply_settings(config: Config, settings: Sequence[str]) -> Config:
    """Return the config with `path=value` applied, in order; lists are JSON: `[1e-4, 2e-4]`.

    Raises:
        ValueError: no '=', an unknown path (with those that exist), a value of another type than
            the present one or out of range.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set takes path=value, got {setting!r}")
        known = dict(_flattened(config))
        if path not in known:
            raise ValueError(f"unknown setting {path!r}; there are {', '.join(known)}")
        config = _replaced(config, path.split("."), _parsed(path, text, known[path]))
    return config


def _flattened(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _flattened(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, value


def _parsed(path: str, text: str, present: Any) -> Any:
    if isinstance(present, str):
        return text
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}={text}: want a value like {_as_json(present)}") from error
    if isinstance(present, float) and type(value) is int:
        value = float(value)
    if isinstance(present, tuple) and isinstance(value, list):
        return _as_tuple(value, present[0], path, text)
    if type(value) is not type(present):
        raise ValueError(f"{path}={text}: want a value like {_as_json(present)}")
    return value


def _as_tuple(values: Sequence[Any], example: Any, path: str, text: str) -> tuple[Any, ...]:
    """Lists of numbers, or of pairs like the example, as tuples."""
    if isinstance(example, tuple):
        kinds = [type(part) for part in example]
        row: tuple[Any, ...] = tuple(
            tuple(value) if isinstance(value, list) else () for value in values
        )
        fits = all([type(part) for part in pair] == kinds for pair in row)
    else:
        row = tuple(float(value) if type(value) is int else value for value in values)
        fits = all(type(value) is type(example) for value in row)
    if not fits:
        raise ValueError(f"{path}={text}: want a list like {_as_json([example])}")
    return row


def _replaced(config: Any, names: Sequence[str], value: Any) -> Any:
    name, *rest = names
    if rest:
        value = _replaced(getattr(config, name), rest, value)
    return dataclasses.replace(config, **{name: value})


def _as_json(value: Any) -> str:
    return json.dumps(value)
