# SPDX-License-Identifier: MIT
"""JSON objects and dataclasses: the same value comes back, and nothing else is believed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.model import Outcome
from memguard.typed_json import LONGEST_TEXT, MOST, as_json, from_json, values_of
from testbed.values import JSON, any_of, there_and_back


@dataclass(frozen=True)
class Thing:
    """A field of each kind, with a default and without."""

    number: int
    seconds: float
    name: str
    is_on: bool
    outcome: Outcome
    size_bytes: int | None
    limit_bytes: int | None = None
    jobs: int = 4
    pool: str = ""
    mode: str = "enforce"
    alone: bool = False
    acts: bool = True
    others: tuple[Any, ...] = field(default=())


THING = Thing(1, 2.5, "x", True, Outcome.OK, None)
OTHERS = st.just(())


@given(any_of(Thing, others=OTHERS))
def test_what_is_written_is_read(thing: Thing) -> None:
    """A value comes back as it was, whether readers are strict or lenient."""
    told = there_and_back(as_json(thing))
    assert from_json(Thing, told) == from_json(Thing, told, is_lenient=True) == thing


def test_what_says_nothing_is_left_out() -> None:
    """Empty text and flags that are off, where that is their default; everything else is there, None included."""
    assert as_json(THING) == {
        "number": 1,
        "seconds": 2.5,
        "name": "x",
        "is_on": True,
        "outcome": "ok",
        "size_bytes": None,
        "limit_bytes": None,
        "jobs": 4,
        "mode": "enforce",
        "acts": True,
    }
    assert {"pool": "p", "alone": True}.items() <= as_json(Thing(**{**vars(THING), "pool": "p", "alone": True})).items()


def test_values_that_are_not_plain_are_their_owners() -> None:
    """Nested values are neither written nor read."""
    assert "others" not in as_json(THING)
    assert "others" not in values_of(Thing, {**as_json(THING), "others": [1], "colour": "blue"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", True),
        ("number", 1.0),
        ("number", "1"),
        ("number", None),
        ("number", MOST),
        ("number", -MOST),
        ("seconds", math.inf),
        ("seconds", math.nan),
        ("seconds", 1e300),
        ("seconds", False),
        ("name", 1),
        ("name", None),
        ("is_on", 1),
        ("outcome", "splendid"),
        ("outcome", []),
        ("outcome", None),
        ("size_bytes", "1"),
        ("jobs", None),
        ("jobs", "4"),
    ],
)
def test_a_strict_reader_names_what_it_cannot_use(name: str, value: object) -> None:
    """A value of another type, or one that nobody could have meant, is refused even where there is a default."""
    with pytest.raises(ValueError, match=f"^{name}$"):
        from_json(Thing, {**as_json(THING), name: value})


@pytest.mark.parametrize("name", ["number", "seconds", "name", "is_on", "outcome", "size_bytes"])
def test_a_strict_reader_names_what_is_missing(name: str) -> None:
    """A field without a default must be there; of two that are not, the first is named."""
    told = as_json(THING)
    del told[name]
    with pytest.raises(ValueError, match=f"^{name}$"):
        from_json(Thing, told)
    with pytest.raises(ValueError, match=r"^number$"):
        from_json(Thing, {})


def test_a_lenient_reader_takes_the_default() -> None:
    """A value that it cannot use counts as missing; one that must be there still must."""
    odd = {"limit_bytes": "1", "jobs": [], "pool": 7, "mode": None, "alone": 0, "acts": "yes"}
    assert from_json(Thing, {**as_json(THING), **odd}, is_lenient=True) == THING
    with pytest.raises(ValueError, match=r"^number$"):
        from_json(Thing, {**as_json(THING), "number": "1"}, is_lenient=True)


def test_a_whole_number_is_good_for_seconds() -> None:
    """JSON of other writers has no point in 2."""
    assert from_json(Thing, {**as_json(THING), "seconds": 2}).seconds == 2


def test_a_name_without_end_is_cut() -> None:
    """A text is at most so long that nobody's memory suffers."""
    assert len(from_json(Thing, {**as_json(THING), "name": "x" * (LONGEST_TEXT + 1)}).name) == LONGEST_TEXT


@given(st.dictionaries(st.sampled_from(sorted(vars(THING))), JSON), st.booleans())
def test_anything_else_is_a_value_error(odd: dict[str, Any], is_lenient: bool) -> None:
    """Whatever stands in the fields, it is a value that can be written again, or a ValueError."""
    try:
        thing = from_json(Thing, {**as_json(THING), **odd}, is_lenient)
    except ValueError:
        return
    assert from_json(Thing, there_and_back(as_json(thing))) == thing
