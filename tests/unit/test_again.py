# SPDX-License-Identifier: MIT
"""A build that has ended, simulated once more: what more memory or CPUs would have saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from memguard.predict.job_lives import Life
from memguard.record.events import BuildEnded, BuildStarted
from memguard.units import GIB
from memguard_cli.advice.build import advise
from memguard_cli.advice.limits import By, find_limits
from memguard_cli.builds.record import BuildRecord, Span, TaskRun
from memguard_cli.simulation.again import MOST_TASKS, gains_of


def run(
    number: int, began_s: float, ended_s: float, gib: float, after: tuple[int, ...] = (), ready_s: float = -1.0
) -> TaskRun:
    """A task with one job that computed all the time; held from `ready_s` on if that is not negative."""
    holds = (Span(ready_s, began_s, "needs more"),) if ready_s >= 0 else ()
    size = int(gib * GIB)
    return TaskRun(
        f"r{number}",
        "do_compile",
        "",
        began_s,
        ended_s,
        "ok",
        holds,
        jobs=1,
        wanted_jobs=1,
        granted_bytes=size,
        peak_bytes=size,
        wall_s=ended_s - began_s,
        cpu_s=ended_s - began_s,
        number=number,
        after=after,
    )


def build(runs: list[TaskRun], cpus: float, wall_s: float) -> BuildRecord:
    """A build in 4 GiB, of which BitBake takes a quarter."""
    start = BuildStarted(0.0, "enforce", 4 * GIB, "memory.max", GIB // 4, GIB // 4, cpus)
    end = BuildEnded(wall_s, peak_bytes=3 * GIB, limit_bytes=4 * GIB, oom_kills=0, wall_s=wall_s)
    return BuildRecord("20260131120000", Path("e"), start, end, tuple(runs), (), None, 0.0, wall_s, ())


FIRST = run(0, 0, 10, 0.1)
# Of four tasks of 3 GiB one ran after the other, although there are four CPUs.
SHORT = [FIRST, *(run(n, 60 * n - 50, 60 * n + 10, 2.2, (0,), 10.0 if n > 1 else -1) for n in (1, 2, 3, 4))]
# Four tasks of little memory on two CPUs, with four threads: each at half its speed.
CROWDED = [
    FIRST,
    *(
        replace(run(n, 10, 130, 0.3, (0,)), cpu_s=60.0, holds=(Span(10.0, 30.0, "x"),) if n > 2 else ())
        for n in (1, 2, 3, 4)
    ),
]
# Each needs the one before.
CHAIN = [FIRST, *(run(n, 60 * n - 50, 60 * n + 10, 0.3, (n - 1,)) for n in (1, 2, 3, 4))]


@pytest.mark.parametrize(
    ("runs", "cpus", "wall_s", "by", "words"),
    [
        (
            SHORT,
            4,
            250,
            By.MEMORY,
            "6.0 GiB of memory instead of 4.0 GiB would save at most about",
        ),
        (CROWDED, 2, 130, By.CPUS, "3 CPUs instead of 2 would save at most about"),
        (CHAIN, 4, 250, By.CHAIN, "saves more than 12 s."),
    ],
    ids=["memory", "cpus", "chain"],
)
def test_what_limits_a_build_is_what_more_of_it_saves(
    runs: list[TaskRun], cpus: float, wall_s: float, by: By, words: str
) -> None:
    """The simulation decides, whatever waited; and more memory is advised only where memory limits."""
    record = build(runs, cpus, wall_s)
    limits = find_limits(record)
    assert limits.by is by, limits
    assert words in limits.sentence
    advised = {said.code for said in advise(record, limits)}
    assert by is By.MEMORY or "larger-limit" not in advised


def test_where_nothing_can_be_simulated_there_is_a_bound() -> None:
    """An older log has no graph, a damaged one not all of it; too many tasks would take too long."""
    assert gains_of(build(SHORT, 4, 250)) is not None
    assert gains_of(build([replace(task, after=()) for task in SHORT], 4, 250)) is None
    assert gains_of(build(SHORT[1:], 4, 250)) is None
    assert gains_of(replace(build(SHORT, 4, 250), end=None)) is None
    assert gains_of(build([*SHORT, *(run(n, 10, 11, 0.1, (0,)) for n in range(5, MOST_TASKS + 5))], 4, 250)) is None
    bound = find_limits(build([replace(task, after=()) for task in SHORT], 4, 250))
    assert "simulation" not in bound.sentence
    assert bound.by is By.MEMORY


def test_a_simulation_that_misses_the_build_says_nothing() -> None:
    """Of tasks that computed for ten seconds and took a minute each, of which nobody knows why all at once."""
    slow = [FIRST, *(replace(task, ended_s=task.began_s + 9) for task in CHAIN[1:])]
    assert gains_of(build(slow, 4, 250)) is None


def test_single_compilers_say_what_a_crowded_compile_computed() -> None:
    """A compile that shared its CPUs is simulated by its compilers, and what all took longer is taken for BitBake's."""
    compiles = [replace(run(n, 10, 120, 0.4, (0,)), jobs=2, wanted_jobs=2, cpu_s=50.0) for n in (1, 2, 3, 4)]
    record = build([FIRST, *compiles], 2, 120)

    def lives(recipe: str, task: str) -> list[Life]:
        return [] if recipe == "r0" else [Life(GIB // 8, 15.0, 5.0)] * 5

    gains = gains_of(record, lives)
    assert gains is not None
    # Two hundred CPU seconds on two CPUs, of which there would be three, in a build that took a tenth longer.
    assert gains.cpus_s == pytest.approx((200 / 2 - 200 / 3) * 120 / 110, rel=0.2)
    assert gains.memory_s < 0.05 * 120
