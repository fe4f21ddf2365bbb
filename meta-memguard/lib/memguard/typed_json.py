# SPDX-License-Identifier: MIT
"""JSON objects -> dataclasses, and back: what one process writes, another reads as the same value.

Runs in: everywhere; pure.
Covers: fields that are text, numbers, flags, members of an enumeration, or None.
Does not cover: nested values (their owner puts them together), files and pipes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from memguard.model import Outcome

T = TypeVar("T")

# Bytes or seconds beyond this, and longer names, are no numbers and names that anybody wrote.
MOST = 1 << 60
LONGEST_TEXT = 4096
_KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (float, int), "str": (str,), "bool": (bool,)}
_ENUMERATIONS: dict[str, type[Enum]] = {"Outcome": Outcome}


class _Field(NamedTuple):
    """A field as its annotation and default describe it; `kind` without "| None"."""

    name: str
    kind: str
    is_optional: bool
    default: Any


_FIELDS: dict[type, tuple[_Field, ...]] = {}


def _fields_of(of: type) -> tuple[_Field, ...]:
    known = _FIELDS.get(of)
    if known is not None:
        return known
    found = []
    for field in fields(of):
        kind, _, none = str(field.type).partition(" | ")
        if kind in _KINDS or kind in _ENUMERATIONS:
            found.append(_Field(field.name, kind, none == "None", field.default))
    _FIELDS[of] = tuple(found)
    return _FIELDS[of]


def values_of(of: type, told: Mapping[str, Any], is_lenient: bool = False) -> dict[str, Any]:
    """The plain fields of dataclass `of` out of a JSON object, whose other keys are passed over.

    is_lenient: a value that cannot be used counts as missing. What is missing has its default.
    Raises ValueError with the name of the first field that cannot be used and has no default to fall back on.
    """
    found = {}
    for name, kind, is_optional, default in _fields_of(of):
        value = told.get(name, default)
        if not (value is None and is_optional):
            value = _convert(kind, value)
            if value is None and is_lenient:
                value = default
            if value is None or value is MISSING:
                if not (is_lenient and is_optional and default is None):
                    raise ValueError(name)
                value = None
        found[name] = value
    return found


def from_json(of: type[T], told: Mapping[str, Any], is_lenient: bool = False) -> T:
    """A dataclass that has plain fields only, out of a JSON object; raises as values_of()."""
    return of(**values_of(of, told, is_lenient))


def as_json(value: Any) -> dict[str, Any]:
    """The plain fields of a dataclass as a JSON object; text that is empty by default and flags that are off are left
    out while they are."""
    told = {}
    for name, _, _, default in _fields_of(type(value)):
        held = getattr(value, name)
        if not (held == default and (default == "" or default is False)):
            told[name] = held.value if isinstance(held, Enum) else held
    return told


def _convert(kind: str, value: Any) -> Any:
    """`value` where it is of that kind, else None; true is no number, and nor is what is not finite."""
    enumeration = _ENUMERATIONS.get(kind)
    if enumeration is not None:
        try:
            return enumeration(value)
        except ValueError:
            return None
    if type(value) not in _KINDS[kind]:
        return None
    if kind == "str":
        return value[:LONGEST_TEXT]
    if kind != "bool" and not (-MOST < value < MOST and math.isfinite(value)):
        return None
    return value
