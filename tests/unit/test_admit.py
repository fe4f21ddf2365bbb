# SPDX-License-Identifier: MIT
"""Admission: what is expected to fit starts, an idle CPU makes bold, and nobody waits for ever."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from memguard.decide.admit import (
    LIGHT_BYTES,
    LONG_S,
    PARKED_FACTOR,
    TRIED_BYTES,
    Situation,
    admit,
    admit_alone,
    admit_boldly,
    room_for,
)
from memguard.model import HISTORY_ORIGIN, Duration, Footprint, Grant, Policy, Reading, Task
from memguard.units import GIB, MIB

NO_RESERVE = Policy(reserve_bytes=0)


def reading(limit: int = 8 * GIB, used: int = 0, shmem: int = 0, cpus: float = 16) -> Reading:
    """A container on a roomy host."""
    return Reading(limit, "test", used, shmem, limit - used, 1 << 50, 1 << 50, cpus)


def task(
    tid: str = "t", base: int = 0, per_job: int = 0, serial: int = 0, wanted: int = 8, is_guess: bool = False
) -> Task:
    """A task of that footprint."""
    return Task(tid, "", f"r-{tid}", "do_compile", Footprint(base, per_job, serial, "test", is_guess=is_guess), wanted)


def light(tid: str, size: int) -> Task:
    """A task that takes `size`, whatever its jobs."""
    return task(tid, base=size, wanted=1)


def situation(seen: Reading | None = None, policy: Policy = NO_RESERVE, **others: Any) -> Situation:
    """An 8 GiB container with nothing in it and no reserve, unless said otherwise."""
    return Situation(seen or reading(), policy, **{"idle_bytes": 0, **others})


SIZES = st.integers(0, 16 * GIB)
ORIGINS = st.sampled_from(("test", HISTORY_ORIGIN))
FOOTPRINTS = st.builds(Footprint, SIZES, SIZES, SIZES, ORIGINS, is_guess=st.booleans())
TASKS = st.builds(Task, st.just("t"), st.just(""), st.just("r"), st.just("do_x"), FOOTPRINTS, st.integers(1, 64))
KEPT = st.none() | TASKS.map(lambda task: replace(task, tid="kept")) | TASKS
READINGS = st.builds(
    Reading,
    st.none() | SIZES,
    st.just("test"),
    SIZES,
    SIZES,
    st.integers(-GIB, 16 * GIB),
    st.none() | SIZES,
    SIZES,
    st.floats(0.1, 128),
)
POLICIES = st.builds(
    Policy,
    reserve_bytes=st.none() | SIZES,
    min_jobs=st.none() | st.integers(1, 64),
    min_jobs_share=st.floats(0.01, 1),
)
SITUATIONS = st.builds(
    Situation,
    READINGS,
    POLICIES,
    SIZES,
    SIZES,
    SIZES,
    SIZES,
    st.booleans(),
    st.integers(0, 2),
    st.just(""),
    KEPT,
    st.booleans(),
    st.booleans(),
    st.none() | TASKS,
)


@given(TASKS, SITUATIONS)
def test_what_starts_fits_or_is_light(task: Task, situation: Situation) -> None:
    """Whatever the situation, what starts needs no more than is free, or next to nothing; its jobs are those wanted."""
    verdict = admit(task, situation)
    assert verdict.reason
    assert not verdict.is_forced
    if verdict.grant is not None:
        need_bytes = situation.need_bytes(task)
        assert need_bytes <= situation.most_bytes
        is_kept = situation.kept is not None and situation.kept.tid == task.tid
        assert need_bytes <= (situation.kept_bytes if is_kept else situation.free_bytes) or need_bytes <= LIGHT_BYTES
        assert verdict.grant.bytes == task.footprint.peak_bytes(verdict.grant.jobs)
        assert 1 <= verdict.grant.jobs <= task.wanted_jobs


@given(TASKS, SITUATIONS)
def test_what_starts_boldly_fits_beside_what_is_used_now(task: Task, situation: Situation) -> None:
    """Nothing starts boldly that would not fit even if nobody else grew."""
    verdict = admit_boldly(task, situation)
    if verdict.grant is not None:
        assert situation.need_bytes(task) <= situation.room_bytes


@given(TASKS, SITUATIONS)
def test_admit_alone_always_starts(task: Task, situation: Situation) -> None:
    """The liveness law: with nothing else running a task starts, with one job at least and no more than wanted."""
    verdict = admit_alone(task, situation)
    assert verdict.starts
    assert verdict.is_forced
    assert verdict.grant is not None
    assert 1 <= verdict.grant.jobs <= task.wanted_jobs
    if verdict.grant.jobs > 1:
        # More than one job only where they fit, or stay below the serial peak that comes with any number of jobs.
        assert verdict.grant.bytes <= max(situation.free_bytes, task.footprint.serial_bytes)


@given(TASKS, SITUATIONS, st.integers(1, 8 * GIB))
def test_more_in_use_never_starts_more(task: Task, situation: Situation, more: int) -> None:
    """Holding is monotonous: less room never starts a held task."""
    seen = situation.reading
    fuller = replace(situation, reading=replace(seen, used_bytes=seen.used_bytes + more, room_bytes=-more))
    assume(seen.room_bytes >= 0)
    if fuller.budget_bytes == situation.budget_bytes and admit(task, fuller).starts:
        assert admit(task, situation).starts


def test_a_task_that_fits_gets_all_its_jobs() -> None:
    """With room for all jobs nothing is taken away."""
    verdict = admit(task(base=GIB, per_job=512 * MIB), situation())
    assert verdict.grant is not None
    assert (verdict.grant.jobs, verdict.grant.bytes, verdict.reason) == (8, 5 * GIB, "it fits")


def test_a_task_gets_the_jobs_that_an_empty_container_fits() -> None:
    """Others end while it runs, and what does not fit until then is held back job by job."""
    for others_wait, jobs in ((True, 7), (False, 11)):  # more where else CPUs would idle: their peaks seldom meet
        where = situation(reading(used=3 * GIB), others_wait=others_wait)
        verdict = admit(task(base=GIB, per_job=GIB, wanted=32), where)
        assert verdict.grant is not None
        assert (verdict.grant.jobs, verdict.grant.bytes) == (jobs, (jobs + 1) * GIB)
        assert verdict.reason == f"{jobs} of 32 jobs fit into the container"


def test_what_no_job_makes_larger_is_not_shrunk() -> None:
    """A task whose jobs take nothing starts with all of them, also where less is free than it takes."""
    for is_watched in (True, False):
        full = situation(rise_bytes=8 * GIB, granted_bytes=8 * GIB, is_watched=is_watched)
        verdict = admit(task(base=50 * MIB), full)
        assert verdict.grant is not None
        assert (verdict.grant.jobs, verdict.reason) == (8, "it is light")


def test_a_task_gets_no_more_jobs_than_keep_the_cpus_busy() -> None:
    """One and a half for each CPU; one for each where other tasks wait that could run there."""
    many = task(per_job=GIB, wanted=12)
    for others_wait, jobs in ((False, 6), (True, 4)):
        verdict = admit(many, situation(reading(cpus=4), others_wait=others_wait))
        assert verdict.grant is not None
        assert (verdict.grant.jobs, verdict.reason) == (jobs, f"{jobs} of 12 jobs keep all CPUs busy")
    remote = admit(task(per_job=GIB // 4, wanted=40), situation(reading(cpus=4)))
    assert remote.grant is not None
    assert remote.grant.jobs == 40


def test_where_nobody_watches_a_task_gets_the_jobs_that_fit_now() -> None:
    """Nothing could be taken back: grants are added up, and jobs are those beside them."""
    alone = situation(is_watched=False, granted_bytes=4 * GIB)
    verdict = admit(task(base=GIB, per_job=GIB, wanted=8), alone)
    assert verdict.grant is not None
    assert verdict.grant.jobs == 3
    assert situation(reading(used=6 * GIB), is_watched=False, granted_bytes=2 * GIB).free_bytes == 2 * GIB
    assert situation(reading(used=1 * GIB), is_watched=False, granted_bytes=6 * GIB).free_bytes == 2 * GIB


def test_a_long_task_gets_its_jobs_though_others_wait() -> None:
    """It may be the last that runs, and what has no pool keeps the jobs that it began with."""
    heavy = task(per_job=3 * GIB, wanted=16)
    for seconds, jobs in ((LONG_S - 1, 2), (LONG_S, 4)):
        granted = admit(replace(heavy, duration=Duration(seconds, 0.0)), situation(others_wait=True)).grant
        assert granted is not None
        assert granted.jobs == jobs


def test_a_guess_by_the_kind_gets_a_job_for_each_cpu() -> None:
    """The guess is made for the heaviest of that kind; what is known gets what it needs."""
    heavy = task(per_job=3 * GIB, wanted=16, is_guess=True)
    for cpus, jobs in ((4, 4), (5, 5), (64, 5)):
        granted = admit(heavy, situation(reading(cpus=cpus))).grant
        assert granted is not None
        assert granted.jobs == jobs
    known = replace(heavy, footprint=replace(heavy.footprint, is_guess=False))
    for one, others_wait, jobs in ((known, False, 4), (known, True, 2), (heavy, True, 2)):
        granted = admit(one, situation(rise_bytes=2 * GIB, others_wait=others_wait)).grant
        assert granted is not None
        assert granted.jobs == jobs
    for is_guess, jobs in ((True, 4), (False, 8)):  # while others wait a guess has no more than fit now
        one = task(per_job=GIB, wanted=8, is_guess=is_guess)
        granted = admit(one, situation(rise_bytes=4 * GIB, others_wait=True)).grant
        assert granted is not None
        assert granted.jobs == jobs


def test_too_few_jobs_are_not_worth_a_start() -> None:
    """A task is held where less than a quarter of its jobs fits."""
    heavy = task(per_job=GIB, wanted=16)
    assert admit(heavy, situation(rise_bytes=4 * GIB)).starts
    verdict = admit(heavy, situation(rise_bytes=4 * GIB + 1))
    assert not verdict.starts
    assert verdict.reason == "needs 4.0 GiB, 4.0 GiB will be free"


def test_fewer_jobs_are_asked_for_where_an_empty_container_fits_no_more() -> None:
    """A task that can never get its quarter starts with what an empty container fits."""
    heavy = task(per_job=3 * GIB, wanted=16)
    verdict = admit(heavy, situation())
    assert verdict.grant is not None
    assert verdict.grant.jobs == 4
    assert not admit(heavy, situation(rise_bytes=3 * GIB)).starts


def test_a_task_that_nobody_has_seen_yet_counts() -> None:
    """Two tasks of one moment: the first has used nothing yet, and still the second is held, boldly or not."""
    heavy, where = light("b", 5 * GIB), situation(pending_bytes=5 * GIB)
    assert not admit(heavy, where).starts
    assert not admit_boldly(heavy, where).starts


@pytest.mark.parametrize("wanted", [1, 4, 64])
def test_a_serial_peak_holds_whatever_the_jobs(wanted: int) -> None:
    """A link that does not fit is not made to fit by fewer jobs."""
    heavy = task(base=64 * MIB, per_job=10 * MIB, serial=6 * GIB, wanted=wanted)
    assert not admit(heavy, situation(rise_bytes=3 * GIB)).starts
    assert admit(heavy, situation(rise_bytes=2 * GIB)).starts


def test_where_the_most_fits_all_jobs_do() -> None:
    """A recipe of few units is not shrunk for jobs that it has no work for."""
    few = replace(task(per_job=GIB, wanted=16), footprint=Footprint(0, GIB, 0, "test", 4 * GIB))
    assert admit(few, situation(rise_bytes=4 * GIB)).grant == Grant(16, 4 * GIB)
    assert admit(few, situation(rise_bytes=5 * GIB)).grant is None


def test_what_running_tasks_will_take_counts() -> None:
    """Not the sum of their peaks: what they are expected to take together, when that is most."""
    where = situation(reading(used=3 * GIB), rise_bytes=2 * GIB, granted_bytes=20 * GIB)
    assert where.free_bytes == 3 * GIB
    assert where.room_bytes == 5 * GIB


def test_an_idle_cpu_lets_start_what_fits_now() -> None:
    """The peaks of tasks seldom meet, and where they do the newest waits."""
    where = situation(reading(used=3 * GIB), rise_bytes=4 * GIB)
    assert not admit(light("b", 4 * GIB), where).starts
    assert admit_boldly(light("b", 4 * GIB), where).starts
    assert not admit_boldly(light("b", 6 * GIB), where).starts
    assert not admit_boldly(light("b", 4 * GIB), replace(where, emergency="a runs again, alone")).starts
    assert admit_boldly(light("b", 4 * GIB), replace(where, stopped=1)).starts
    assert not admit_boldly(light("b", 4 * GIB), replace(where, pending_bytes=2 * GIB)).starts
    for size, starts in ((TRIED_BYTES, True), (TRIED_BYTES + 1, False)):
        guess = replace(light("b", 0), footprint=Footprint(size, 0, 0, "test", is_guess=True))
        assert admit_boldly(guess, where).starts is starts


def test_a_light_task_starts_whatever_is_expected() -> None:
    """It waits where there is no room for it now, or where jobs are stopped."""
    where, small = situation(reading(used=3 * GIB), rise_bytes=6 * GIB), light("b", LIGHT_BYTES)
    assert admit(small, where).reason == "it is light"
    assert not admit(light("b", LIGHT_BYTES + 1), where).starts
    assert not admit(small, replace(where, stopped=1)).starts
    assert not admit(small, situation(reading(used=8 * GIB - 1))).starts


def test_what_is_parked_is_room_for_what_is_light() -> None:
    """It comes back, so nothing is free by it; but a light task has ended by then."""
    where, small = situation(reading(used=8 * GIB - 1), stopped=1), light("b", LIGHT_BYTES)
    assert not admit(small, where).starts
    parked = replace(where, parked_bytes=GIB)
    assert parked.free_bytes == where.free_bytes
    assert admit(small, parked).reason == "it is light"
    assert not admit(light("b", LIGHT_BYTES + 1), parked).starts


def test_what_is_within_reach_of_swap_starts_in_its_turn() -> None:
    """What proves too much is stopped and parked: a guess is tried, jobs go by what swap holds, and nothing fills."""
    seen, policy = replace(reading(), swap_left_bytes=8 * GIB), Policy(reserve_bytes=GIB)
    where, without = situation(seen, policy), situation(reading(), policy)
    large = Task("t", "", "r", "do_compile", Footprint(10 * GIB, 0, 0, HISTORY_ORIGIN), 1)
    assert (where.need_bytes(large), without.need_bytes(large)) == (7 * GIB // 2, 10 * GIB)
    assert (where.fits_empty(large), without.fits_empty(large)) == (True, False)
    assert (where.fills(large), without.fills(large)) == (False, True)
    assert situation(replace(seen, swap_left_bytes=4 * GIB), policy).need_bytes(large) == 6 * GIB
    assert situation(replace(seen, swap_left_bytes=2 * GIB), policy).need_bytes(large) == 10 * GIB
    assert situation(seen, replace(policy, parks=False)).need_bytes(large) == 10 * GIB
    assert not situation(replace(seen, limit_bytes=None), policy).parks
    assert replace(where, is_watched=False).need_bytes(large) == 10 * GIB
    many = task(base=0, per_job=4 * GIB, wanted=16)
    assert [replace(at, others_wait=True).jobs_for(many) for at in (where, without)] == [3, 1]
    full = [replace(at, rise_bytes=8 * GIB) for at in (where, without)]
    assert [admit(light("b", PARKED_FACTOR * LIGHT_BYTES), at).starts for at in full] == [True, False]
    guess = replace(light("b", 0), footprint=Footprint(TRIED_BYTES + 1, 0, 0, "test", is_guess=True))
    assert [admit_boldly(guess, at).starts for at in (where, without)] == [True, False]


def test_shmem_counts() -> None:
    """What lies in tmpfs is freed by no task's end."""
    where = situation(reading(used=3 * GIB, shmem=2 * GIB), idle_bytes=GIB)
    assert where.budget_bytes == 5 * GIB
    assert where.free_bytes == 5 * GIB


def test_page_cache_is_no_use() -> None:
    """A container whose limit is filled by page cache is empty to us."""
    assert situation(reading(used=100 * MIB)).free_bytes == 8 * GIB - 100 * MIB


def test_the_reserve_stays_free() -> None:
    """What is in reserve is granted to nobody."""
    where = situation(policy=Policy(reserve_bytes=GIB))
    assert where.free_bytes == 7 * GIB
    assert not admit(light("a", 7 * GIB + 1), where).starts


def test_a_host_short_of_memory_counts() -> None:
    """A limit beyond what the host still has is worth nothing."""
    seen = replace(reading(limit=64 * GIB, used=GIB), host_available_bytes=3 * GIB)
    assert situation(seen).free_bytes == 3 * GIB


def test_a_limit_that_fell_below_use_grants_nothing() -> None:
    """A pod that was made smaller in place starts nothing more, and raises nothing."""
    where = situation(reading(limit=2 * GIB, used=3 * GIB))
    assert where.free_bytes == 0
    assert not admit(light("b", 1), where).starts
    assert admit_alone(light("b", 1), where).starts


def test_memory_is_kept_for_a_task_that_waits() -> None:
    """Others start beside what it needs, and light ones, and what an idle CPU lets start; not once it starves."""
    kept = task("kept", per_job=GIB, wanted=4, base=2 * GIB)
    where = situation(reading(used=3 * GIB), kept=kept)
    assert where.spare_bytes == 2 * GIB  # one job is a quarter of what it wants
    assert admit(light("q", 2 * GIB), where).starts
    verdict = admit(light("q", 2 * GIB + 1), where)
    assert not verdict.starts
    assert verdict.reason == "needs 2.0 GiB, which would delay r-kept do_compile"
    assert admit(light("q", LIGHT_BYTES), replace(where, rise_bytes=3 * GIB)).starts
    short = replace(where, rise_bytes=4 * GIB)
    assert admit_boldly(light("q", 2 * GIB), short).starts
    assert not admit_boldly(light("q", 2 * GIB), replace(short, is_starved=True)).starts
    assert not admit(kept, short).starts
    assert admit_boldly(kept, replace(short, is_starved=True)).starts
    assert admit(kept, where).starts


def test_the_task_for_which_memory_is_kept_may_use_it_up_to_the_stop_mark() -> None:
    """What is light beside it has soon ended; where nobody watches nothing would stop it there."""
    kept = light("kept", 5 * GIB)
    where = situation(reading(used=2 * GIB), Policy(reserve_bytes=2 * GIB), kept=kept)
    assert admit(kept, where).starts
    assert not admit(light("kept", 5 * GIB + 1), where).starts
    assert not admit(light("q", 4 * GIB), where).starts
    assert not admit(kept, replace(where, is_watched=False)).starts


def test_alone_a_serial_peak_costs_no_jobs() -> None:
    """A link that fits nowhere comes with one job or with eight: the task gets the jobs that stay below it."""
    linking = task(base=0, per_job=GIB, serial=10 * GIB, wanted=16)
    verdict = admit_alone(linking, situation())
    assert verdict.grant is not None
    assert verdict.grant.jobs == 10


def test_what_takes_all_that_there_is_starts_in_its_turn() -> None:
    """What needs most of the reserve, too, counts with the budget if its own runs say so; what needs more is last."""
    where = situation(policy=Policy(reserve_bytes=GIB))

    def known(size: int, origin: str = HISTORY_ORIGIN) -> Task:
        return Task("t", "", "r", "do_compile", Footprint(size, 0, 0, origin), 1)

    most_bytes = 7 * GIB + GIB * 3 // 4
    assert where.need_bytes(known(most_bytes)) == where.budget_bytes == 7 * GIB
    assert where.fits_empty(known(most_bytes))
    assert admit(known(most_bytes), where).starts
    for other in (known(most_bytes + 1), known(most_bytes, "test")):
        assert not where.fits_empty(other)
    assert not replace(where, is_watched=False).fits_empty(known(most_bytes))
    assert where.fills(known(7 * GIB + 1))
    assert not where.fills(known(7 * GIB))


def test_beside_what_takes_all_only_light_tasks_start() -> None:
    """However little of it is used yet."""
    where = situation(filling=task("f", 9 * GIB))
    for judge in (admit, admit_boldly):
        assert judge(light("a", LIGHT_BYTES), where).starts
        assert (
            judge(light("b", LIGHT_BYTES + 1), where).reason == "needs 64 MiB beside r-f do_compile, which needs "
            "all that there is"
        )


def test_of_what_nobody_is_asked_about_as_many_start_as_fit() -> None:
    """Setscene tasks come many at once, each light: their sum counts. Where none fits, one that is light does."""
    one = light("one", LIGHT_BYTES)
    assert room_for(one, situation(reading(limit=1 * GIB, used=256 * MIB))) == 12
    assert room_for(one, situation(reading(limit=1 * GIB), rise_bytes=1 * GIB)) == 1
    assert room_for(one, situation(reading(limit=1 * GIB), rise_bytes=1 * GIB), has_such=True) == 0
    assert room_for(one, situation(reading(limit=1 * GIB), pending_bytes=1 * GIB)) == 0
    assert room_for(light("heavy", 600 * MIB), situation(reading(limit=1 * GIB, used=512 * MIB))) == 0
    assert room_for(one, situation(stopped=1, parked_bytes=1 * GIB)) == 0
    assert room_for(light("nothing", 0), situation(reading(limit=1 * GIB))) == 1 * GIB
