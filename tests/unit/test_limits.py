# SPDX-License-Identifier: MIT
"""What is said to limit a build, and what has changed from one build to another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from memguard.record.events import BuildEnded, BuildStarted
from memguard.units import GIB, MIB
from memguard_cli.advice.build import advise
from memguard_cli.advice.limits import find_limits, shares
from memguard_cli.builds.record import RUNNING, BuildRecord, Span, TaskRun
from memguard_cli.report.comparison import compare, comparison_data
from memguard_cli.report.words import Standing, deviation, figures, measured

START = BuildStarted(0.0, "enforce", 4 * GIB, "memory.max", GIB // 4, GIB // 4, 2.0)
END = BuildEnded(100.0, peak_bytes=3 * GIB, limit_bytes=4 * GIB, oom_kills=0, wall_s=100.0)


def run(name: str, began_s: float, ended_s: float, cpu_s: float = 0.0, **fields: object) -> TaskRun:
    """A run that ended well, of one GiB."""
    made = TaskRun(name, "do_compile", "", began_s, ended_s, "ok", cpu_s=cpu_s, peak_bytes=GIB, granted_bytes=GIB)
    return replace(made, wall_s=ended_s - began_s, **fields)  # type: ignore[arg-type]


def build(*runs: TaskRun) -> BuildRecord:
    """A build of 100 seconds on two CPUs."""
    return BuildRecord("20260131120000", Path("e"), START, END, runs, (), None, 0.0, 100.0, ())


HELD = (Span(0.0, 40.0, "needs 1.0 GiB"),)


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        (
            [run("a", 0, 95, 90), run("b", 0, 95, 90)],
            "CPUs limit this build: its tasks used 90 % of their time. Twice",
        ),
        ([run("a", 0, 60, 60), run("b", 40, 90, 40, holds=HELD)], "Memory limits this build: for 40 % of its time a"),
        ([run("a", 0, 60, 60), run("b", 60, 100, 40)], "One task after the other limits this build: for 100 % of its"),
        (
            [run("a", 0, 60, 50), run("b", 0, 80, 60)],
            "No single thing limits this build: its tasks used 55 % of the CPUs' time",
        ),
    ],
)
def test_one_sentence_says_what_limits_a_build(runs: list[TaskRun], words: str) -> None:
    """CPUs that are busy, tasks that wait for memory, or one task after the other; what is more is left out."""
    assert find_limits(build(*runs)).sentence.startswith(words)


def test_nothing_is_said_of_what_has_not_ended() -> None:
    """A build that runs, was killed, or was over at once is limited by nothing that could be told."""
    runs = [run("a", 0, 60, 60)]
    assert find_limits(replace(build(*runs), end=None)).sentence == ""
    assert find_limits(replace(build(*runs), end=replace(END, wall_s=3.0))).sentence == ""


def test_times_in_which_several_waited_count_once() -> None:
    """The shares are of the build's time, however many tasks wait side by side."""
    stops = (Span(30.0, 50.0, "memory is short"),)
    found = shares(build(run("a", 0, 50, stops=stops), run("b", 40, 100, holds=HELD), run("c", 40, 100, holds=HELD)))
    assert found.memory == 0.5
    assert (found.alone, found.alone_name, found.alone_s) == (0.4, "a do_compile", 40.0)


def test_nothing_follows_from_what_did_not_end_or_was_hardly_seen() -> None:
    """The peak of a task that failed, still runs, or took a tenth of a second is no prediction's judge."""
    off = run("a", 0, 60, granted_bytes=400 * MIB)
    assert {said.code for said in advise(build(off), find_limits(build(off)))} >= {"predicted-too-low"}
    for odd in (
        replace(off, outcome=RUNNING),
        replace(off, outcome="failed"),
        replace(off, ended_s=0.1, wall_s=0.1),
    ):
        assert "predicted-too-low" not in {said.code for said in advise(build(odd), find_limits(build(odd)))}
        assert deviation(odd) == "-"
    assert measured(replace(off, outcome="failed")) == "> 1.0 GiB"
    assert measured(off) == "1.0 GiB"


def test_an_observed_build_would_have_held() -> None:
    """In observe mode nothing was held, and no figure says so."""
    observed = replace(build(run("a", 0, 60, would_hold="needs 1.0 GiB")), start=replace(START, mode="observe"))
    assert ("would be held", "1", "nothing was: observe mode") in figures(observed)


def test_what_was_parked_is_counted() -> None:
    """Tasks of which something lay in swap, and the most of one."""
    parked = build(run("a", 0, 60, swapped_bytes=700 * MIB), run("b", 0, 60, swapped_bytes=0))
    assert ("parked", "1", "up to 700 MiB of one task in swap") in figures(parked)
    assert "parked" not in {name for name, _, _ in figures(build(run("a", 0, 60)))}


def test_two_builds_are_compared() -> None:
    """Tasks that changed by more than runs of one task do, the most first; those that only one build ran."""
    first = build(run("a", 0, 60), run("b", 0, 10), run("c", 0, 10), run("gone", 0, 1))
    second = build(run("a", 0, 30), run("b", 0, 10, peak_bytes=2 * GIB), run("c", 0, 11), run("new", 0, 1))
    found = compare((first, Standing.ENDED), (second, Standing.FAILED))
    assert [change.name for change in found.changes] == ["a do_compile", "b do_compile"]
    assert (found.gone, found.new) == (("gone do_compile",), ("new do_compile",))
    told = comparison_data(found)
    assert told["figures"]["standing"] == ["ended", "failed"]
    assert told["changed"][1] == {"task": "b do_compile", "wall_s": [10, 10], "peak_bytes": [GIB, 2 * GIB]}
