# SPDX-License-Identifier: MIT
"""Each line of the logs is written and read by its dataclass."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.model import Footprint, Task
from memguard.record.events import (
    Event,
    Granted,
    Held,
    JobNow,
    JobRow,
    Killed,
    ReadingTaken,
    Started,
    TaskMeasured,
    TaskRow,
    UnknownEvent,
    as_line,
    as_object,
    from_object,
    of_task,
    parse,
)
from memguard.typed_json import MOST
from testbed.values import JSON, NUMBER, TEXT, any_of

KINDS: tuple[type[Any], ...] = get_args(Event)
NAMES = st.builds("".join, st.tuples(st.sampled_from("aä☃\udce9"), TEXT))
ROWS = st.builds(
    TaskRow, NAMES, TEXT, st.integers(0, MOST), st.integers(0, 9), st.integers(0, 9), st.none() | st.integers(0, 9)
)


JOBS = st.builds(JobRow, NAMES | st.just(""), TEXT, st.integers(0, MOST), st.floats(0, 1e9), st.integers(0, 1))


def any_event(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Any event of a kind; one of a task names the recipe."""
    given: dict[str, st.SearchStrategy[Any]] = {}
    if "recipe" in {field.name for field in fields(kind)}:
        given["recipe"] = NAMES
    if kind is ReadingTaken:
        given["tasks"] = st.lists(ROWS, max_size=3).map(tuple)
        given["heaviest_job"] = st.none() | st.builds(
            JobNow, NAMES, TEXT, NAMES | st.just(""), TEXT, st.integers(0, MOST), st.floats(0, 1e9)
        )
    if kind is Started:
        given["after"] = st.lists(st.integers(0, 9), max_size=3).map(tuple)
    if kind is TaskMeasured:
        given["heaviest_jobs"] = st.lists(JOBS, max_size=3).map(tuple)
    return any_of(kind, **given)


def test_no_two_events_have_one_name() -> None:
    """The name alone says which dataclass a line is of."""
    assert len({kind.event for kind in KINDS}) == len(KINDS)
    assert all(kind.event for kind in KINDS)


@given(st.sampled_from(KINDS).flatmap(any_event))
def test_what_is_written_is_read(event: Any) -> None:
    """A line of any event is one line of ASCII, which is read as that event, by its bytes too."""
    line = as_line(event)
    assert line.count("\n") == 1
    assert line.isascii()
    assert parse(line) == parse(line.encode()) == event
    assert type(parse(line)) is type(event)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.event)
def test_what_another_version_adds_is_passed_over(kind: type[Any]) -> None:
    """A field that this version does not know changes nothing, and one that is missing has its default."""
    least = {"event": kind.event, "time": 1.5, "recipe": "zlib", "task": "do_compile", "used_bytes": 7}
    event = from_object({**least, "colour": "blue"})
    assert event == from_object(least)
    assert (type(event), event.time) == (kind, 1.5)


@given(JSON)
def test_any_json_is_an_event_or_a_value_error(told: Any) -> None:
    """Whatever a file holds, nothing but ValueError comes of it."""
    with pytest.raises(ValueError, match="no event"):
        from_object(told)


FIELDS = sorted({field.name for kind in KINDS for field in fields(kind)})


@given(
    st.sampled_from(KINDS), st.dictionaries(st.sampled_from(FIELDS), JSON | NUMBER | TEXT | st.lists(st.lists(JSON)))
)
def test_an_event_with_odd_values_is_one_or_a_value_error(kind: type[Any], told: dict[str, Any]) -> None:
    """Fields of any type make an event of that kind, which can be written again, or a ValueError."""
    try:
        event = from_object({**told, "event": kind.event})
    except ValueError:
        return
    assert type(event) is kind
    assert parse(as_line(event)) == event


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_any_line_is_an_event_or_a_value_error(line: bytes | str) -> None:
    """So with a line that is cut, damaged, or of another file."""
    with pytest.raises(ValueError, match=r"."):
        parse(line)


def test_a_line_that_is_cut_is_none() -> None:
    """The last line of a build that was killed."""
    line = as_line(Killed(1.0, "zlib", "do_compile", 5, "cc1plus", 17, 1 << 30, "the limit is near"))
    for end in range(len(line) - 2):
        with pytest.raises(ValueError, match=r"."):
            parse(line[:end])


def test_nesting_without_end_is_a_value_error() -> None:
    """Nor does a line of brackets end the reader."""
    with pytest.raises(ValueError, match="no event"):
        parse("[" * 100_000)


def test_an_event_that_is_not_known_has_its_name() -> None:
    """Another version's event is told from a damaged one, which has no time."""
    with pytest.raises(UnknownEvent, match=r"^pondered$"):
        parse('{"event": "pondered", "time": 3}')
    with pytest.raises(ValueError, match=r"^time$") as damaged:
        parse('{"event": "pondered"}')
    assert not isinstance(damaged.value, UnknownEvent)


@pytest.mark.parametrize("value", ["4", True, [4], 4.0, 1 << 60, None])
def test_a_value_of_another_type_is_not_told(value: object) -> None:
    """Only a number that a memguard could have written counts as a number of jobs."""
    told = {**as_object(Granted(1.0, "zlib", "do_compile", jobs=4)), "jobs": value}
    assert from_object(told) == Granted(1.0, "zlib", "do_compile")


@pytest.mark.parametrize("missing", ["time", "recipe", "task"])
def test_who_and_when_must_be_there(missing: str) -> None:
    """An event of a task says of which, and when."""
    told = as_object(Held(1.0, "zlib", "do_compile", reason="needs 4.0 GiB"))
    del told[missing]
    with pytest.raises(ValueError, match=missing):
        from_object(told)


def test_rows_of_a_reading_that_are_none_are_left_out() -> None:
    """A reading keeps the tasks that it tells of properly, with what their rows tell."""
    good = ["zlib", "do_compile", 5]
    odd = [None, 7, [], ["zlib", "do_compile"], ["", "x", 1], ["a", "b", -1], ["a", "b", True], ["a", 2, 3]]
    told = {"event": "reading", "time": 1, "used_bytes": 9, "tasks": [*odd, good, [*good, 2, "x", 4, "more"]]}
    event = from_object(told)
    assert isinstance(event, ReadingTaken)
    assert event.tasks == (TaskRow(*good), TaskRow(*good, 2, 0, 4))


def test_a_grant_of_fewer_jobs_is_shrunk() -> None:
    """It is not where either number is unknown."""
    cases = ((2, 4), (4, 4), (None, 4), (2, None))
    grants = [Granted(1.0, "zlib", "do_compile", jobs=jobs, wanted_jobs=wanted) for jobs, wanted in cases]
    assert [grant.is_shrunk for grant in grants] == [True, False, False, False]


def test_a_multiconfig_is_told_where_there_is_one() -> None:
    """`mc` stands in the line of a multiconfig's task only."""
    tasks = [Task("zlib.bb:do_compile", mc, "zlib", "do_compile", Footprint(0, 0, 0, ""), 1) for mc in ("", "two")]
    plain, other = (Held(1.0, **of_task(task)) for task in tasks)
    assert "mc" not in json.loads(as_line(plain))
    assert json.loads(as_line(other))["mc"] == "two"
