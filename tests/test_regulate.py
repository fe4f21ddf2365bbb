# SPDX-License-Identifier: MIT
"""What is done to running tasks, as a pure function of a moment."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from memguard.jobsizes import Expected, JobSizes, Life
from memguard.regulate import Act, Action, Job, Moment, Running, regulate
from memguard.units import GIB, MIB

LIFE = Expected(peak_bytes=200 * MIB, wall_s=4.0, rise_s=2.0, spread_bytes=0)


def job(pid: int, size: int = 100 * MIB, age_s: float = 1.0, growth: float = 50e6, is_stopped: bool = False) -> Job:
    """A job that is half grown."""
    return Job(pid, 1, "cc1plus", size, age_s, growth, LIFE, is_stopped)


def running(tid: str, place: int, jobs: tuple[Job, ...] = (), held: int | None = 0, most: int = 8) -> Running:
    """A task with a pool."""
    return Running(tid, place, most, jobs, LIFE, held, current_bytes=sum(each.bytes for each in jobs))


def moment(left: int, *tasks: Running, slots: int = 8, fill: float = 0.0) -> Moment:
    """A container with 256 MiB in reserve: stops below 128 MiB, kills below 64 MiB."""
    return Moment(left, 256 * MIB, fill, slots, tasks)


def of(actions: list[Action], act: Act) -> list[Action]:
    """The actions of one kind."""
    return [action for action in actions if action.act is act]


def tokens(actions: list[Action]) -> dict[str, int]:
    """What each pool shall have."""
    return {action.tid: action.tokens for action in of(actions, Act.TOKENS)}


def test_tokens_are_given_as_they_are_used_up() -> None:
    """A pool that is empty gets as many again as are held, the oldest task first, and no more than the slots."""
    old, new = running("old", 1, (job(1), job(2)), held=1), running("new", 2, (job(3),))
    assert tokens(regulate(moment(8 * GIB, new, old))) == {"old": 3, "new": 1}
    assert tokens(regulate(moment(8 * GIB, new, old, slots=4))) == {"old": 2, "new": 0}


def test_tokens_are_given_only_while_the_forecast_fits() -> None:
    """What is not there for a job more is not given, and nothing above the grant."""
    task = running("a", 1, (job(1),))
    assert tokens(regulate(moment(256 * MIB + 120 * MIB, task))) == {"a": 0}
    assert tokens(regulate(moment(8 * GIB, replace(task, most_jobs=1)))) == {"a": 0}


def test_tokens_are_withdrawn_from_the_newest_task() -> None:
    """Where running jobs and those that follow them do not fit, the newest task loses first."""
    old = running("old", 1, (job(1), job(2), job(3)), held=2)
    new = running("new", 2, (job(4), job(5), job(6)), held=2)
    given = tokens(regulate(moment(256 * MIB + 400 * MIB, old, new)))
    assert given["new"] < 2
    assert given["old"] >= given["new"]


def test_the_youngest_job_of_the_newest_task_is_stopped() -> None:
    """Below the stop mark jobs that grow are stopped, youngest first; the oldest job of the oldest task never."""
    old = running("old", 1, (job(2, age_s=0.5), job(1, age_s=2.0)), held=1)
    new = running("new", 2, (job(4, age_s=0.2), job(3, age_s=0.4)), held=1)
    stops = of(regulate(moment(100 * MIB, old, new)), Act.STOP)
    assert [action.job.pid for action in stops if action.job] == [4, 3, 2]


def test_what_has_grown_is_not_stopped() -> None:
    """A job as large as it gets would free nothing."""
    grown = job(2, size=200 * MIB, age_s=3.0, growth=0.0)
    assert of(regulate(moment(100 * MIB, running("a", 1, (grown, job(1, age_s=3.5)), held=1))), Act.STOP) == []


def test_the_oldest_job_has_room_to_end() -> None:
    """Others are stopped before they take what the oldest job needs, although the stop mark is not reached."""
    old, new = running("old", 1, (job(1, size=10 * MIB),)), running("new", 2, (job(2),))
    assert of(regulate(moment(300 * MIB, old, new)), Act.STOP)
    assert not of(regulate(moment(2 * GIB, old, new)), Act.STOP)


def test_a_kill_is_the_last_resort() -> None:
    """Near the limit, with all others stopped, the youngest job dies whose task may lose it; after that a pause."""
    old = running("old", 1, (job(1, age_s=2.0),))
    new = running("new", 2, (job(3, age_s=0.2, is_stopped=True), job(2, age_s=0.4, is_stopped=True)), held=1)
    (kill,) = of(regulate(moment(32 * MIB, old, new)), Act.KILL)
    assert kill.job is not None
    assert kill.job.pid == 3
    assert not of(regulate(replace(moment(32 * MIB, old, new), since_kill_s=0.1)), Act.KILL)
    spared = tuple(replace(task, may_kill=False) for task in (old, new))
    assert not of(regulate(moment(32 * MIB, *spared)), Act.KILL)


def test_a_job_that_is_alone_may_be_killed() -> None:
    """It would be killed by the kernel otherwise, and perhaps the whole container with it."""
    (kill,) = of(regulate(moment(10 * MIB, running("a", 1, (job(1),)))), Act.KILL)
    assert kill.tid == "a"


def test_the_oldest_stopped_job_is_woken_first_and_alone() -> None:
    """One at a time, once as much as it held is free."""
    old = running("old", 1, (job(2, is_stopped=True), job(1, age_s=3.0, size=200 * MIB)), held=1)
    new = running("new", 2, (job(3, is_stopped=True),))
    (wake,) = of(regulate(moment(2 * GIB, old, new)), Act.WAKE)
    assert wake.job is not None
    assert wake.job.pid == 2
    assert not of(regulate(moment(200 * MIB, old, new)), Act.WAKE)


def test_something_always_goes_on() -> None:
    """Where everything is stopped the oldest job is woken whatever is left."""
    tasks = [running(tid, place, (job(place, is_stopped=True),)) for place, tid in enumerate("ab", 1)]
    (wake,) = of(regulate(moment(70 * MIB, *tasks)), Act.WAKE)
    assert wake.tid == "a"


def test_a_whole_task_without_jobs_is_stopped_but_never_the_oldest() -> None:
    """What compiles nothing and takes memory is stopped as a whole, the newest first."""
    idle = [replace(running(tid, place, held=None), current_bytes=GIB) for place, tid in enumerate("ab", 1)]
    (stop,) = of(regulate(moment(64 * MIB, *idle)), Act.STOP)
    assert (stop.tid, stop.job) == ("b", None)


JOBS = st.builds(
    job,
    st.integers(1, 10_000),
    st.integers(1, 4 * GIB),
    st.floats(0, 100),
    st.floats(-1e9, 1e9),
    st.booleans(),
)
TASKS = st.lists(
    st.builds(
        running,
        st.text("abcdefgh", min_size=3, max_size=3),
        st.integers(1, 100),
        st.lists(JOBS, max_size=4, unique_by=lambda each: each.pid).map(tuple),
        st.none() | st.integers(0, 8),
        st.integers(1, 8),
    ),
    max_size=4,
    unique_by=(lambda task: task.tid, lambda task: task.place),
)


@given(TASKS, st.integers(-GIB, 16 * GIB), st.integers(1, 16), st.floats(-1e10, 1e10))
def test_what_holds_at_any_moment(tasks: list[Running], left: int, slots: int, fill: float) -> None:
    """No pool beyond its grant, no more jobs than slots but one a task, the oldest job goes on, twice is the same."""
    now = moment(left, *tasks, slots=slots, fill=fill)
    actions = regulate(now)
    assert actions == regulate(now)
    given_ = tokens(actions)
    by_tid = {task.tid: task for task in tasks}
    assert given_.keys() == {task.tid for task in tasks if task.held_tokens is not None}
    assert all(0 <= count <= by_tid[tid].most_jobs - 1 for tid, count in given_.items())
    static = sum(len(task.jobs) for task in tasks if task.held_tokens is None)
    if sum(given_.values()):
        assert sum(given_.values()) + len(given_) + static <= slots
    stopped = [action.job for action in of(actions, Act.STOP) if action.job]
    going = [each for task in tasks for each in task.jobs if not each.is_stopped]
    if going:
        assert len(stopped) < len(going)
    assert len(of(actions, Act.KILL)) <= 1
    assert len(of(actions, Act.WAKE)) <= 1


def test_jobs_are_like_those_that_have_ended() -> None:
    """Of many small jobs and a few large ones, one that is large at its age is taken for a large one."""
    sizes = JobSizes()
    for number in range(40):
        sizes.add(Life((800 if number % 10 == 0 else 100) * MIB, 4.0, 2.0))
    assert 150 * MIB < sizes.expect_new().peak_bytes < 200 * MIB
    assert sizes.expect(100 * MIB, 3.0).peak_bytes < 130 * MIB
    assert sizes.expect(400 * MIB, 1.0).peak_bytes > 700 * MIB
    assert sizes.expect(2 * GIB, 1.0).peak_bytes > 2 * GIB


def test_a_job_of_an_unknown_task_has_its_prior() -> None:
    """Before any has ended, what was thought counts, and fades as they end."""
    sizes = JobSizes(300 * MIB)
    assert sizes.expect_new().peak_bytes == 300 * MIB
    for _ in range(8):
        sizes.add(Life(50 * MIB, 1.0, 0.5))
    assert sizes.expect_new().peak_bytes == 50 * MIB
