# SPDX-License-Identifier: MIT
"""Values that nobody would think of: any JSON, and any value of a dataclass with plain fields.

Covers: what JSON brings back as it was, which leaves out numbers that are not finite, or that nobody wrote.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, TypeVar

from hypothesis import strategies as st

from memguard.model import Outcome
from memguard.typed_json import MOST

T = TypeVar("T")

# Bytes of a path that are no UTF-8 come as surrogates, each on its own.
TEXT = st.text(st.characters(exclude_categories=["Cs"]) | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF))
NUMBER = st.integers(1 - MOST, MOST - 1)
SECONDS = st.floats(-1e17, 1e17)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda some: st.lists(some, max_size=4) | st.dictionaries(st.text(), some, max_size=4),
    max_leaves=10,
)

_PLAIN: dict[str, st.SearchStrategy[Any]] = {
    "int": NUMBER,
    "float": SECONDS,
    "str": TEXT,
    "bool": st.booleans(),
    "Outcome": st.sampled_from(Outcome),
}


def any_of(kind: type[T], **given: st.SearchStrategy[Any]) -> st.SearchStrategy[T]:
    """Any value of a dataclass; `given` are the fields that are not plain, or not quite free."""
    drawn = {}
    for field in fields(kind):  # type: ignore[arg-type]  # mypy has no word for "a dataclass" that T may be bound to
        plain, _, none = str(field.type).partition(" | ")
        if field.name not in given:
            drawn[field.name] = _PLAIN[plain] | st.none() if none else _PLAIN[plain]
    return st.builds(kind, **drawn, **given)


def there_and_back(told: Any) -> Any:
    """A JSON value as another process reads it."""
    return json.loads(json.dumps(told))
