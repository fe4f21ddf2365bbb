# SPDX-License-Identifier: MIT
"""What a good record is: JSON objects and records that are good, and the sentences about those that are not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.model import Record
from memguard.record.history.samples import EXAMPLE, BadSample, check_record, content_key, format_sample, parse_sample
from testbed.histories import RECORDS

WRONG = [
    *[(key, value) for key in ("build", "pn", "task") for value in ("", None, 5, "a\nb", "\ud800", "x" * 501)],
    *[(key, value) for key in ("pv", "machine") for value in (None, 5, "a\0b")],
    *[("jobs", value) for value in (0, -1, 8.0, "8", True, 1 << 64)],
    *[(key, value) for key in ("peak_bytes", "serial_bytes", "per_job_bytes") for value in (-1, 1.5, "1G", 1 << 63)],
    *[("largest_process_bytes", value) for value in (None, -1, False)],
    *[(key, value) for key in ("duration_s", "cpu_s") for value in (None, -0.1, float("nan"), float("inf"), "1", [])],
    *[("recorded_s", value) for value in ("now", -1, 10**400)],
    *[("outcome", value) for value in ("OK", None, 1, ["ok"])],
]


def test_the_example_is_a_sample() -> None:
    """What messages show as good is good, and needs its first ten names only."""
    record, recorded_s = parse_sample(EXAMPLE)
    assert format_sample(record, recorded_s) == EXAMPLE
    needed = dict(list(EXAMPLE.items())[:10])
    assert list(needed) == [
        *("build", "pn", "pv", "task", "jobs", "peak_bytes", "largest_process_bytes", "duration_s", "cpu_s", "outcome")
    ]
    assert parse_sample(needed) == (replace(record, machine="", per_job_bytes=None, serial_bytes=None, kind=""), None)


@pytest.mark.parametrize("key", list(EXAMPLE)[:10])
def test_a_name_that_is_missing_is_named(key: str) -> None:
    """The sentence has the name and a good value."""
    with pytest.raises(BadSample) as caught:
        parse_sample({name: value for name, value in EXAMPLE.items() if name != key})
    assert str(caught.value) == f'"{key}" is missing, as in {{"{key}": {json.dumps(EXAMPLE[key])}}}'


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_value_that_is_wrong_is_shown(key: str, value: Any) -> None:
    """The sentence has the name, what is wrong, and a good value, in a line that can be printed."""
    with pytest.raises(BadSample) as caught:
        parse_sample({**EXAMPLE, key: value})
    text = str(caught.value)
    assert text.startswith(f'"{key}" is ')
    assert text.endswith(f', as in {{"{key}": {json.dumps(EXAMPLE[key])}}}')
    assert text.isprintable()
    assert len(text) < 300


@pytest.mark.parametrize("sample", [None, 5, "x" * 10_000, [], [EXAMPLE]])
def test_what_is_no_object_is_no_sample(sample: Any) -> None:
    """The sentence shows a whole sample."""
    with pytest.raises(BadSample, match="a sample is an object"):
        parse_sample(sample)


@given(RECORDS)
def test_a_good_record_is_the_same_after_json(record: Record) -> None:
    """What check_record() accepts comes back from a line of JSON."""
    check_record(record, 1e9)
    assert parse_sample(json.loads(json.dumps(format_sample(record, 1e9)))) == (record, 1e9)


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_record_is_wrong_as_its_object_is(key: str, value: Any) -> None:
    """A value that is refused in an object is refused in a record, in the same words."""
    record, recorded_s = parse_sample(EXAMPLE)
    if key == "recorded_s":
        recorded_s = value
    else:
        name = {"pn": "recipe", "pv": "version", "duration_s": "wall_s"}.get(key, key)
        record = replace(record, **{name: value})
    with pytest.raises(BadSample) as in_record:
        check_record(record, recorded_s)
    with pytest.raises(BadSample) as in_object:
        parse_sample({**EXAMPLE, key: value})
    assert str(in_record.value) == str(in_object.value)


@given(st.binary())
def test_a_key_fits_into_a_database(content: bytes) -> None:
    """It has 64 bits with a sign."""
    assert -(1 << 63) <= content_key(content) < 1 << 63


def test_a_key_stays_what_it_was() -> None:
    """Files and databases of earlier versions know samples by it."""
    assert content_key(b"zlib") == 5984130457271358081
