"""`train.py --settings`: every setting with its value, default, choices, meaning and source.

A setting's meaning stands once, in a comment beside its field: at the end of the field's line or in
the lines right above it, with its source in brackets at the end.

    prefetch: int = 2  # batches of views that are ready ahead of the step [ours]
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from training.config import TrainConfig, flattened

# What the sources are, docs/provenance.md.
SOURCES = {
    "paper": "the paper's abstract or its printed pseudo-code",
    "recalled": "recalled from the paper, not checked against it",
    "authors": "the authors' evaluation code",
    "BYOL": "BYOL's code, on which the method builds",
    "SwAV": "SwAV's code",
    "deduced": "follows from one of the others",
    "unknown": "not published: a choice of this project",
    "ours": "a choice of this project that is no part of the method",
}
_WIDTH = 80  # columns


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One setting of a configuration."""

    path: str
    value: Any
    default: Any
    choices: tuple[str, ...]  # empty: it takes any value of its type
    meaning: str
    source: str  # words of SOURCES, separated by "; "


def listed_settings(config: TrainConfig) -> list[Setting]:
    """Return all settings, in the order of their groups."""
    defaults = dict(flattened(TrainConfig()))
    return [
        Setting(
            path=path,
            value=value,
            default=defaults[path],
            choices=tuple(getattr(group, "CHOICES", {}).get(name, ())),
            meaning=meaning,
            source=source,
        )
        for path, value, group, name in _walked(config)
        for meaning, source in [meanings(type(group))[name]]
    ]


def settings_text(config: TrainConfig) -> str:
    """Return the list as a person reads it, in 80 columns."""
    lines = textwrap.wrap(
        f"settings of {config.name}; --set NAME=VALUE changes one, where an end of its name will "
        "do; in brackets the source of the default, explained at the end",
        _WIDTH,
    )
    for each in listed_settings(config):
        head = f"{each.path} = {shown(each.value)}"
        if each.value != each.default:
            head += f"  (default {shown(each.default)})"
        lines += ["", *textwrap.wrap(head, _WIDTH, subsequent_indent="    ")]
        text = each.meaning
        if each.choices:
            text += f"; one of {', '.join(each.choices)}"
        lines += _indented(f"{text} [{each.source}]")
    lines += ["", "sources (docs/provenance.md says how sure each is):"]
    for word, meaning in SOURCES.items():
        lines += _indented(f"{word}: {meaning}")
    return "\n".join(lines)


def shown(value: Any) -> str:
    """Return a value as --set takes it."""
    if isinstance(value, tuple):
        return ",".join(map(shown, value))
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def meanings(kind: type) -> dict[str, tuple[str, str]]:
    """Return (meaning, source) of each field of a dataclass that is no group of settings.

    Raises:
        ValueError: a field has no comment, or the comment has no source.
    """
    lines = textwrap.dedent(inspect.getsource(kind)).splitlines()
    comments = _comments("\n".join(lines))
    (definition,) = ast.parse("\n".join(lines)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for node in definition.body:
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        name = node.target.id
        if name == "CHOICES" or "field(" in ast.unparse(node):
            continue
        said = [comments[node.lineno]] if node.lineno in comments else []
        above = node.lineno - 1
        while above in comments and lines[above - 1].lstrip().startswith("#"):
            said.insert(0, comments[above])
            above -= 1
        match = re.fullmatch(r"(.+) \[(.+)\]", " ".join(said))
        if not match:
            raise ValueError(f"{kind.__name__}.{name} needs a comment that ends with its [source]")
        found[name] = (match[1], match[2])
    return found


def _walked(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    """Yield (path, value, group that holds it, its name there): first a group's own settings."""
    fields = [item.name for item in dataclasses.fields(config)]
    inner = [name for name in fields if dataclasses.is_dataclass(getattr(config, name))]
    for name in fields:
        if name not in inner:
            yield f"{prefix}{name}", getattr(config, name), config, name
    for name in inner:
        yield from _walked(getattr(config, name), f"{prefix}{name}.")


def _comments(source: str) -> dict[int, str]:
    """Line number -> its comment."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: token.string.lstrip("# ")
        for token in tokens
        if token.type == tokenize.COMMENT
    }


def _indented(text: str) -> list[str]:
    indent = " " * 4
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=indent)
