# SPDX-License-Identifier: MIT
"""How the text of a job variable is read and lowered."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memguard.act.job_variables import KNOBS, jobs_in, lower

FORMS = [
    ("-j8", "-j3"),
    ("-j 8", "-j 3"),
    ("-j  8", "-j  3"),
    ("--jobs=8", "--jobs=3"),
    ("--jobs 8", "--jobs 3"),
    ("-j", "-j 3"),
    ("--jobs", "--jobs 3"),
    ("-j0", "-j3"),
    ("-j 8 -l 10", "-j 3 -l 10"),
    ("-l 8 -j 8", "-l 8 -j 3"),
    ("-l 8", "-l 8"),
    ("-l8", "-l8"),
    ("-j -l 8", "-j 3 -l 8"),
    ("-k -j8 V=1", "-k -j3 V=1"),
    ("-j8 -j2", "-j3 -j2"),
    ("-j2", "-j2"),
    ("-j 3", "-j 3"),
    ("", ""),
    ("  ", "  "),
    ("0", "3"),
    ("8", "3"),
    (" 8 ", "3"),
    ("2", "2"),
    ("-p 8", "-p 3"),
    ("-p8", "-p3"),
    ("-p=8", "-p=3"),
    ("--jobserver-auth=fifo:/tmp/8", "--jobserver-auth=fifo:/tmp/8"),
    ("V=1", "V=1"),
    ("-jfoo", "-jfoo"),
    ("\u00b2", "\u00b2"),
    ("-j\u00b2", "-j\u00b2"),
]


@pytest.mark.parametrize(("value", "lowered"), FORMS)
def test_lowers_every_form(value: str, lowered: str) -> None:
    """Each way of writing a job count is lowered to three, and nothing else is touched."""
    assert lower(value, 3) == lowered


@pytest.mark.parametrize(("value", "lowered"), [("8", "2"), ("2", "2"), ("1", "1"), ("0", "2")])
def test_xz_keeps_two_threads(value: str, lowered: str) -> None:
    """A knob with a least value is not lowered below it, nor raised to it."""
    assert lower(value, 1, least=2) == lowered


@pytest.mark.parametrize("jobs", [0, -3])
def test_never_asks_for_no_job(jobs: int) -> None:
    """A grant below one job still leaves one."""
    assert lower("-j8", jobs) == "-j1"


WORDS = st.sampled_from(["-j", "-j8", "--jobs=4", "--jobs", "-p", "8", "0", "-l", "-j\t7", "V=1", "\n", "-l2.5", "x"])
VALUES = st.one_of(st.text(), st.lists(WORDS).map(" ".join))


@given(VALUES, st.integers(1, 64), st.integers(1, 2))
@example("9" * 5000, 3, 1)
@example("-j " + "9" * 5000, 3, 1)
def test_lowering_twice_is_lowering_once(value: str, jobs: int, least: int) -> None:
    """What was lowered stays as it is, for any text."""
    once = lower(value, jobs, least)
    assert lower(once, jobs, least) == once


@given(VALUES, st.integers(1, 64))
def test_no_number_is_raised(value: str, jobs: int) -> None:
    """No number in the text becomes larger, but for the 0 that means no limit."""
    before = [int(number) for number in re.findall(r"\d+", value)]
    after = [int(number) for number in re.findall(r"\d+", lower(value, jobs))]
    fresh = [number for number in after if number not in before]
    assert all(number == jobs for number in fresh)
    if before and fresh and 0 not in before and not re.search(r"(?<!\S)(-j|--jobs)(?=\s|$)", value):
        assert max(after) <= max(before)


@given(st.integers(1, 10_000), st.integers(1, 64), st.sampled_from(["{}", "-j{}", "-j {}", "--jobs={}", "-p {}"]))
def test_lowers_to_the_smaller_of_both(number: int, jobs: int, form: str) -> None:
    """A count ends as the smaller of itself and the grant."""
    assert lower(form.format(number), jobs) == form.format(min(number, jobs))


@pytest.mark.parametrize(
    ("value", "jobs"),
    [
        ("-j8", 8),
        ("-j 8 -l 10", 8),
        ("--jobs=8", 8),
        ("8", 8),
        ("-j2 -j8", 8),
        ("-j", None),
        ("", None),
        ("0", None),
        ("-j0", None),
        ("-l 8", None),
        ("\u00b2", None),
        ("9" * 5000, None),
    ],
)
def test_reads_the_jobs_asked_for(value: str, jobs: int | None) -> None:
    """The last count stands, as in make; no count and no limit are None."""
    assert jobs_in(value) == jobs


def test_knobs_are_listed_once() -> None:
    """No variable has two entries, and the compressors keep two threads."""
    assert len({knob.variable for knob in KNOBS}) == len(KNOBS)
    assert {knob.variable for knob in KNOBS if knob.least == 2} == {"XZ_THREADS", "ZSTD_THREADS"}
