# SPDX-License-Identifier: MIT
"""The order of tasks by the longest chain that waits for them, and what that is made of."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.decide.order import Circle, by_remaining_path, one_after_the_other, remaining_paths
from memguard.model import Duration, PastRun
from memguard.predict.durations import by_kind, learn_duration
from memguard.units import MIB


def test_a_path_counts_the_longest_chain_behind_a_task() -> None:
    """Of two chains behind a task the longer counts, by seconds and not by the number of tasks."""
    needs = {"a": (), "b": ("a",), "c": ("a",), "d": ("c",), "e": ("d",)}
    seconds = {"a": 1.0, "b": 100.0, "c": 5.0, "d": 5.0, "e": 5.0}
    assert remaining_paths(list(needs), needs.__getitem__, seconds) == {
        "a": 101.0,
        "b": 100.0,
        "c": 15.0,
        "d": 10.0,
        "e": 5.0,
    }


def test_equals_keep_bitbakes_order() -> None:
    """Where paths say nothing, the order is the one there was."""
    assert by_remaining_path(["c", "a", "b"], {"a": 1.0, "b": 2.0, "c": 1.0}) == ["b", "c", "a"]


def test_a_circle_is_refused() -> None:
    """Tasks that need each other have no path."""
    with pytest.raises(Circle):
        remaining_paths(["a", "b"], {"a": ("b",), "b": ("a",)}.__getitem__, {"a": 1.0, "b": 1.0})


@given(st.lists(st.tuples(st.floats(0, 1e6), st.sets(st.integers(0, 30), max_size=4)), min_size=1, max_size=30))
def test_a_path_is_its_task_and_the_longest_that_follows(tasks: list[tuple[float, set[int]]]) -> None:
    """Bellman's equation holds for every task, so an order by paths never puts a task before one it needs."""
    names = [str(place) for place in range(len(tasks))]
    needs = {str(place): [str(n) for n in needed if n < place] for place, (_, needed) in enumerate(tasks)}
    seconds = {str(place): s for place, (s, _) in enumerate(tasks)}
    paths = remaining_paths(names, needs.__getitem__, seconds)
    for name in names:
        behind = [paths[other] for other in names if name in needs[other]]
        assert paths[name] == seconds[name] + max(behind, default=0.0)
    order = by_remaining_path(names, paths)
    assert sorted(order) == sorted(names)
    assert all(paths[needed] >= paths[name] for name in names for needed in needs[name])


@pytest.mark.parametrize(
    ("run", "jobs", "seconds"),
    [
        (PastRun(8, 20.0, 90.0), 8, 20.0),  # 10 s alone, 80 s shared by eight
        (PastRun(8, 20.0, 90.0), 1, 90.0),
        (PastRun(8, 20.0, 90.0), 4, 30.0),
        (PastRun(None, 20.0, 90.0), 4, 20.0),  # jobs unknown: it takes what it took
        (PastRun(1, 20.0, 19.0), 4, 20.0),
        (PastRun(8, 20.0, 3.0), 8, 20.0),  # it waits more than it works
        (PastRun(2, 10.0, 40.0), 2, 10.0),  # it took no heed of its jobs
    ],
)
def test_a_run_tells_what_other_jobs_would_take(run: PastRun, jobs: int, seconds: float) -> None:
    """Wall and CPU seconds of one run give the part that jobs share, and that runs alone."""
    assert learn_duration(run).seconds(jobs) == pytest.approx(seconds)


@given(
    st.builds(
        PastRun, st.one_of(st.none(), st.integers(1, 512)), st.floats(0, 1e6, allow_subnormal=False), st.floats(0, 1e7)
    ),
    st.integers(1, 512),
)
def test_durations_are_sane(run: PastRun, jobs: int) -> None:
    """No run makes a duration negative, longer with more jobs, or busier than its jobs."""
    duration = learn_duration(run)
    assert 0 <= duration.seconds(jobs + 1) <= duration.seconds(jobs)
    assert 0 <= duration.cpus(jobs) <= jobs
    assert duration.seconds(run.jobs or 1) == pytest.approx(run.wall_s)


def test_an_unknown_compile_is_longer_than_an_unknown_fetch() -> None:
    """Kinds say which of two unknown tasks is the longer, and every task has one."""
    assert by_kind("do_compile").seconds(4) > by_kind("do_package").seconds(4) > by_kind("do_fetch").seconds(4)
    assert by_kind("do_whatever_comes") == Duration(0.5, 0.0)


def test_tasks_that_cannot_run_beside_each_other_are_a_chain() -> None:
    """Each counts as long as all of them take, the largest a little more; the others count as they are."""
    seconds = {"a": 45.0, "b": 35.0, "light": 100.0}
    found = one_after_the_other(seconds, {"a": 0.6, "b": 0.9, "light": 0.5})
    assert found["light"] == 100.0
    assert 80.0 < found["a"] < found["b"] < 81.0
    assert one_after_the_other(seconds, {}) == seconds


def test_a_heavy_compile_counts_longer_than_a_light_one() -> None:
    """By its kind only; a task that is no compile is as long whatever it takes."""
    assert by_kind("do_compile", 512 * MIB).parallel_s > 3 * by_kind("do_compile", 100 * MIB).parallel_s
    assert by_kind("do_compile", 100 * MIB) == by_kind("do_compile")
