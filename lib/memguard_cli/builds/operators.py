# SPDX-License-Identifier: MIT
"""Operators and methods of expressions that somebody else wrote, none of which takes long or makes much.

Runs in: outside BitBake; pure.
Covers: numbers and texts that would be too large, formats that look into objects; what is raised instead.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# More than any real expression makes.
LONGEST_TEXT = 1 << 16
LARGEST_NUMBER = 1 << 256
_LARGEST_EXPONENT = 256
_MOST_FIELDS = 64


class CannotTell(Exception):
    """Only BitBake can work it out; the text says why."""


class Mistake(Exception):
    """BitBake stops at it; the text says why."""


def _power(base: Any, exponent: Any) -> Any:
    if not abs(exponent) <= _LARGEST_EXPONENT or not abs(base) <= LARGEST_NUMBER:
        raise CannotTell("a number in it is too large")
    return base**exponent


def _shift(number: Any, places: Any) -> Any:
    if places > _LARGEST_EXPONENT:
        raise CannotTell("a number in it is too large")
    return number << places


def _times(left: Any, right: Any) -> Any:
    for text, count in ((left, right), (right, left)):
        if isinstance(text, (list, tuple)) or (isinstance(text, str) and len(text) * count > LONGEST_TEXT):
            raise CannotTell("a text in it is too long")
    return left * right


def _percent(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        check_format(left)
    return left % right


OPERATORS: Mapping[type, Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: _times,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: _percent,
    ast.Pow: _power,
    ast.LShift: _shift,
    ast.RShift: operator.rshift,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda one, all_: one in all_,
    ast.NotIn: lambda one, all_: one not in all_,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}


def check_length(method: str, text: str, arguments: Sequence[Any]) -> None:
    """Raises CannotTell for a call of a text's method that could make one of any length."""
    most = 0
    if method == "format":
        check_format(text)
    elif method == "join":
        most = len(text) * len(arguments[0])
    elif method == "replace":
        most = (len(text) + 1) * max(1, len(arguments[1]))
    if most > LONGEST_TEXT:
        raise CannotTell("a text in it is too long")


def check_format(text: str) -> None:
    """Raises CannotTell for a format that could make a text of any length, or look into an object."""
    digits = "".join(character if character.isdigit() else " " for character in text).split()
    is_long = text.count("{") + text.count("%") > _MOST_FIELDS or any(len(number) > 3 for number in digits)
    if is_long or ".__" in text or "*" in text:
        raise CannotTell("its format is for BitBake to work out")
