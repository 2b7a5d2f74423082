"""Settings that take one of a few words."""

from __future__ import annotations


def require_one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError that lists the choices unless `value` is one of them."""
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(choices)}")
