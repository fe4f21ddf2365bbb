# SPDX-License-Identifier: MIT
"""What is done to running tasks as memory changes: rule by rule, and what holds whatever comes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.decide.moment import Act, Action, Job, Moment, Running
from memguard.decide.regulate import CRAWL_ALONE_S, CRAWL_S, KILL_PAUSE_S, STALLED_S, TASK_PAUSE_S, WAKES_MOST, regulate
from memguard.predict.job_lives import Expected
from memguard.units import MIB

RESERVE = 256 * MIB
STOP, KILL = RESERVE // 2, RESERVE // 4


def life(peak_mib: int, wall_s: float = 2.0, rise_s: float = 1.0, ended: int = 64) -> Expected:
    """A job that is known well."""
    return Expected(peak_mib * MIB, wall_s, rise_s, ended=ended)


def job(
    pid: int, mib: int, age_s: float, peak_mib: int = 100, growth_mib_s: int = 100, is_stopped: bool = False
) -> Job:
    """One that holds `mib` of the peak it is expected to have."""
    return Job(pid, 10 * pid, "cc1plus", mib * MIB, age_s, growth_mib_s * MIB, life(peak_mib), is_stopped)


def task(*jobs: Job, tid: str = "a", place: int = 1, **more: object) -> Running:
    """A task with a pool, whose jobs hold a token each but one; the youngest job first."""
    known = {"most_jobs": 16, "held_tokens": max(0, len(jobs) - 1), "next_job": life(100)}
    return Running(tid, place, jobs=jobs, **{**known, **more})  # type: ignore[arg-type]


def moment(left_mib: int, *tasks: Running, fill_mib_s: float = 0, slots: int = 16, **more: object) -> Moment:
    """So much is left, and memory fills so fast."""
    return Moment(left_mib * MIB, RESERVE, fill_mib_s * MIB, slots, tasks, **more)  # type: ignore[arg-type]


def acts(found: list[Action], act: Act) -> list[int | None]:
    """The pids that something is done to; None for a whole task."""
    return [action.job.pid if action.job else None for action in found if action.act is act]


def tokens(found: list[Action]) -> dict[str, int]:
    """What each pool shall have."""
    return {action.tid: action.tokens for action in found if action.act is Act.TOKENS}


# -- tokens ------------------------------------------------------------------------------------------------------------


def test_all_tokens_where_memory_is_ample() -> None:
    """With memory for all, a task has what it was granted, and no more."""
    assert tokens(regulate(moment(100 * 1024, task(job(1, 50, 0.5))))) == {"a": 15}
    assert tokens(regulate(moment(100 * 1024, task(job(1, 50, 0.5), most_jobs=4)))) == {"a": 3}


def test_of_unknown_jobs_there_are_no_more_than_twice_as_many_at_the_next_look() -> None:
    """What a job takes that nobody has seen is found out with few of them."""
    unknown = task(job(2, 5, 0.1), job(1, 5, 0.1), next_job=life(100, ended=0))
    assert tokens(regulate(moment(100 * 1024, unknown))) == {"a": 3}


def test_tokens_are_given_while_their_jobs_fit() -> None:
    """What running jobs will still take and what new ones will is within what is left less the reserve."""
    long = life(100, wall_s=20.0)
    # One job has risen; of the 350 MiB above the reserve three new ones of 100 MiB may have theirs.
    risen = replace(job(1, 100, 1.0), expected=long)
    assert tokens(regulate(moment(256 + 350, task(risen, next_job=long)))) == {"a": 3}
    # One that is still to take 90 MiB leaves room for one less.
    rising = replace(job(1, 10, 0.1), expected=long)
    assert tokens(regulate(moment(256 + 350, task(rising, next_job=long)))) == {"a": 2}


def test_held_tokens_are_withdrawn_where_what_follows_does_not_fit() -> None:
    """Jobs that end soon are not followed by others that would be too much; the implicit job always is."""
    heavier = task(*[job(pid, 100, 1.9) for pid in (4, 3, 2, 1)], next_job=life(300))
    assert tokens(regulate(moment(256 + 400, heavier))) == {"a": 1}
    assert tokens(regulate(moment(256 + 4000, heavier)))["a"] >= 3


def test_no_token_is_withdrawn_where_that_helps_nothing() -> None:
    """Where those that run will be too much whatever follows them, they keep their tokens: others follow later."""
    rising = task(*[job(pid, 10, 0.1) for pid in (4, 3, 2, 1)], next_job=life(100, wall_s=2.0))
    found = regulate(moment(256 + 300, rising))
    assert tokens(found) == {"a": 3}


def test_the_newest_task_gives_its_tokens_back_first() -> None:
    """The oldest task keeps what it has while a newer one has some to give."""
    old = task(*[job(pid, 100, 1.9) for pid in (3, 2, 1)], next_job=life(200))
    new = task(*[job(pid, 100, 1.9) for pid in (6, 5, 4)], next_job=life(200), tid="b", place=2)
    found = tokens(regulate(moment(256 + 400, new, old)))
    assert found["b"] < 2
    assert found["a"] >= found["b"]


def test_the_oldest_task_gets_tokens_first() -> None:
    """What fits for one of two tasks goes to the older one."""
    old, new = task(job(1, 100, 1.0)), task(job(2, 100, 1.0), tid="b", place=2)
    found = tokens(regulate(moment(256 + 350, new, old)))
    assert found["a"] >= 3
    assert found["b"] == 0


def test_slots_are_shared() -> None:
    """The jobs of all tasks together stay within the slots, those without a pool included."""
    old = task(job(1, 10, 1.5, peak_mib=10), next_job=life(10))
    without = task(job(9, 10, 1.5, peak_mib=10), tid="c", place=3, held_tokens=None)
    new = task(job(2, 10, 1.5, peak_mib=10), tid="b", place=2, next_job=life(10))
    found = tokens(regulate(moment(256 + 200, old, new, without, slots=8)))
    assert sum(1 + count for count in found.values()) + 1 == 8


def test_with_ample_memory_as_many_jobs_run_as_one_task_asks_for() -> None:
    """More jobs than slots keep the CPUs busy whatever some wait for; where memory is less than ample they end."""
    old = task(job(1, 10, 1.5, peak_mib=10), next_job=life(10), most_jobs=12)
    new = task(job(2, 10, 1.5, peak_mib=10), tid="b", place=2, next_job=life(10), most_jobs=12)
    found = tokens(regulate(moment(100 * 1024, old, new, slots=3)))
    assert sum(1 + count for count in found.values()) == 12
    many = task(*[job(pid, 10, 0.5, peak_mib=30) for pid in range(8, 0, -1)], held_tokens=7, next_job=life(30))
    assert tokens(regulate(moment(256 + 1000, many, slots=3)))["a"] >= 7
    assert tokens(regulate(moment(256 + 500, many, slots=3)))["a"] == 2


def test_idle_tokens_go_where_they_are_used() -> None:
    """A task that leaves its tokens lying gives them to one that has used up its own."""
    idle = task(job(1, 10, 1.5, peak_mib=10), next_job=life(10), idle_tokens=6)
    busy = task(*[job(pid, 10, 1.5, peak_mib=10) for pid in (3, 2)], next_job=life(30), tid="b", place=2)
    assert tokens(regulate(moment(256 + 400, idle, busy, slots=8))) == {"a": 0, "b": 6}


def test_under_pressure_nothing_is_given() -> None:
    """The container's own pressure says that memory is short, whatever use says."""
    assert tokens(regulate(moment(100 * 1024, task(job(1, 50, 0.5)), is_pressed=True))) == {"a": 0}


def test_no_more_begins_at_once_than_fits_whole() -> None:
    """That others will end is not certain: new jobs do not count on it."""
    ending = task(*[job(pid, 1000, 1.99, peak_mib=1000) for pid in (3, 2, 1)], next_job=life(100))
    assert tokens(regulate(moment(256 + 100, ending)))["a"] <= 2 + 2


# -- stop --------------------------------------------------------------------------------------------------------------


def test_the_youngest_jobs_are_stopped_until_the_others_fit() -> None:
    """Those that hold least and have most still to take wait; the others may have their peaks."""
    growing = task(*[job(pid, 50, 0.5) for pid in (4, 3, 2, 1)])
    assert acts(regulate(moment(128 + 110, growing)), Act.STOP) == [4, 3]
    assert acts(regulate(moment(128 + 210, growing)), Act.STOP) == []


def test_the_youngest_job_is_stopped_first_whosever_it_is() -> None:
    """What was begun first ends first, also beside an older task that begins more and more."""
    old = task(job(9, 50, 0.5), job(1, 50, 0.5))
    new = task(job(5, 50, 0.5), job(4, 50, 0.5), tid="b", place=2)
    assert acts(regulate(moment(128 + 110, old, new)), Act.STOP) == [9, 5]


def test_what_was_begun_first_goes_on_before_what_an_older_task_begins() -> None:
    """Nothing stands still with memory while an older task has one compiler after the other."""
    newborn, frozen = job(9, 60, 0.1, peak_mib=400), job(5, 300, 0.5, peak_mib=700, is_stopped=True)
    old, new = task(newborn), task(frozen, tid="b", place=2)
    found = regulate(moment(128 + 300, old, new))
    assert acts(found, Act.STOP) == [9]
    found = regulate(moment(128 + 300, task(replace(newborn, is_stopped=True)), new))
    assert acts(found, Act.WAKE) == [5]


def test_what_has_grown_goes_on() -> None:
    """A job that takes no more is not stopped: its end is what frees memory."""
    mixed = task(job(3, 100, 1.2, growth_mib_s=0), job(2, 50, 0.5), job(1, 50, 0.5))
    assert acts(regulate(moment(128 + 55, mixed)), Act.STOP) == [2]


def test_the_oldest_job_of_the_oldest_task_is_never_stopped() -> None:
    """Whatever little is left, one goes on."""
    for left in (0, 1, 64, 128, 200):
        stopped = acts(regulate(moment(left, task(job(2, 50, 0.5), job(1, 50, 0.5)), fill_mib_s=4000)), Act.STOP)
        assert 1 not in stopped


def test_memory_that_fills_faster_than_expected_stops_jobs() -> None:
    """Where the next look would come too late, what was expected does not matter."""
    known = task(job(2, 95, 1.0, growth_mib_s=2000), job(1, 95, 1.0, growth_mib_s=2000))
    assert acts(regulate(moment(500, known, fill_mib_s=4000)), Act.STOP) == [2]
    assert acts(regulate(moment(2000, known, fill_mib_s=4000)), Act.STOP) == []


def test_jobs_that_grow_fast_are_stopped_though_others_end() -> None:
    """One is about to end and will free more than the others take, but not for certain before the next look."""
    ending = replace(job(1, 600, 1.99, growth_mib_s=0), expected=life(600, wall_s=2.0))
    fast = task(*[job(pid, 100, 0.5, peak_mib=300, growth_mib_s=800) for pid in (4, 3, 2)], ending)
    assert acts(regulate(moment(128 + 300, fast, fill_mib_s=-500)), Act.STOP) == []
    assert acts(regulate(moment(128 + 250, fast, fill_mib_s=-500)), Act.STOP) == [4]


def test_no_job_grows_beyond_the_largest_of_its_kind() -> None:
    """The pace of one that is nearly grown up does not last."""
    grown = job(1, 95, 0.9, peak_mib=100, growth_mib_s=800)
    assert grown.soon_bytes(0.01) == pytest.approx(5 * MIB, rel=0.7)
    assert grown.soon_bytes(1.0) == 5 * MIB
    unknown = replace(grown, expected=life(100, ended=0))
    assert unknown.soon_bytes(1.0) == 800 * MIB


def test_looks_that_come_late_stop_earlier() -> None:
    """What fits until the next look need not fit until a late one; nothing is killed for that alone."""
    known = task(job(2, 95, 1.0, growth_mib_s=2000), job(1, 95, 1.0, growth_mib_s=2000))
    assert acts(regulate(moment(1200, known, fill_mib_s=4000)), Act.STOP) == []
    assert acts(regulate(moment(1200, known, fill_mib_s=4000, late_s=0.3)), Act.STOP) == [2]
    for late_s in (0.0, 0.5):
        assert acts(regulate(moment(600, task(job(1, 95, 1.0)), fill_mib_s=4000, late_s=late_s)), Act.KILL) == []


def test_pressure_stops_earlier() -> None:
    """Under pressure the stop mark is half as high again."""
    growing = task(job(2, 50, 0.5), job(1, 50, 0.5))
    assert acts(regulate(moment(128 + 130, growing)), Act.STOP) == []
    assert acts(regulate(moment(128 + 130, growing, is_pressed=True)), Act.STOP) == [2]


def test_whole_tasks_are_stopped_where_no_job_is_left() -> None:
    """Tasks that run no compilers are stopped as a whole, the newest first, but never the oldest."""
    packing = [
        task(tid=tid, place=place, current_bytes=500 * MIB, held_tokens=None)
        for place, tid in enumerate("abc", start=1)
    ]
    (found,) = [action for action in regulate(moment(50, *packing)) if action.act is Act.STOP]
    assert (found.tid, found.job) == ("c", None)
    assert acts(regulate(moment(50, packing[0])), Act.STOP) == []


def test_what_must_not_be_stopped_is_not() -> None:
    """A task may be exempt."""
    assert acts(regulate(moment(0, task(job(2, 50, 0.5), job(1, 50, 0.5), may_stop=False))), Act.STOP) == []


def test_small_jobs_are_stopped_after_all_others() -> None:
    """What frees next to nothing goes on, though it is the youngest, as long as memory lasts until the next look."""
    small = task(job(5, 20, 0.3, peak_mib=60, growth_mib_s=40), tid="b", place=2)
    large = task(job(2, 50, 0.5, peak_mib=400), job(1, 50, 0.5, peak_mib=400), place=1)
    assert acts(regulate(moment(128 + 450, small, large)), Act.STOP) == [2]
    assert acts(regulate(moment(128 + 360, small, large)), Act.STOP) == [2]
    assert acts(regulate(moment(128 + 200, small, large)), Act.STOP) == [2]
    assert acts(regulate(moment(100, small, large)), Act.STOP) == [2, 5]


def test_what_has_just_begun_is_stopped_once_it_has_grown() -> None:
    """However large it may become: it holds nothing yet, and a CPU would idle for it."""
    large = task(job(1, 300, 0.5, peak_mib=700), place=1)
    for mib, stopped in ((6, []), (60, [5])):
        newborn = task(job(5, mib, 0.1, peak_mib=400), tid="b", place=2)
        assert acts(regulate(moment(128 + 300, newborn, large)), Act.STOP) == stopped
        frozen = task(job(5, mib, 0.1, peak_mib=400, is_stopped=True), tid="b", place=2)
        assert acts(regulate(moment(128 + 300, frozen, large)), Act.WAKE) == ([] if stopped else [5])


def test_small_jobs_do_not_keep_the_first_one_waiting() -> None:
    """Where all others that go on are small it goes on as if none did."""
    first = task(job(1, 200, 0.5, peak_mib=900, is_stopped=True), place=1)
    for mib, woken in ((10, [1]), (100, [])):
        other = task(job(5, mib, 1.0, peak_mib=mib + 60), tid="b", place=2, may_stop=False)
        assert acts(regulate(moment(128 + 100, other, first)), Act.WAKE) == woken


def test_many_small_jobs_are_small_no_more() -> None:
    """Jobs are small together or not at all: of forty that take 20 MiB more each, those are stopped that do not fit."""
    crowd = task(*[job(pid, 5, 0.3, peak_mib=25, growth_mib_s=10) for pid in range(40, 0, -1)])
    assert len(acts(regulate(moment(128 + 400, crowd)), Act.STOP)) > 10
    assert acts(regulate(moment(128 + 1000, crowd)), Act.STOP) == []


# -- wake --------------------------------------------------------------------------------------------------------------


def test_the_oldest_are_woken_first_while_they_fit() -> None:
    """Of three stopped jobs those two go on that fit, the older ones."""
    waiting = [job(pid, 20, 0.2, is_stopped=True) for pid in (4, 3, 2)]
    found = regulate(moment(256 + 170, task(*waiting, job(1, 100, 1.2, growth_mib_s=0))))
    assert acts(found, Act.WAKE) == [2, 3]


def test_an_older_one_that_does_not_fit_is_passed_by_small_ones_only() -> None:
    """A large stopped job waits for no crowd; what takes next to nothing does not wait for it."""
    large = job(2, 200, 0.3, peak_mib=900, is_stopped=True)
    small = job(3, 5, 0.2, peak_mib=10, is_stopped=True)
    middle = job(4, 60, 0.2, peak_mib=200, is_stopped=True)
    assert acts(regulate(moment(256 + 300, task(middle, small, large, job(1, 100, 1.2)))), Act.WAKE) == [3]


def test_only_so_many_wake_at_one_look() -> None:
    """However much is free, what wakes at once is bounded, and there is a pause since the last one."""
    waiting = task(*[job(pid, 5, 0.2, is_stopped=True) for pid in range(40, 1, -1)], job(1, 100, 1.2), most_jobs=64)
    assert len(acts(regulate(moment(100 * 1024, waiting, slots=64)), Act.WAKE)) == WAKES_MOST
    assert acts(regulate(moment(100 * 1024, waiting, slots=64, since_wake_s=0.01)), Act.WAKE) == []


def test_those_that_grow_fast_wake_one_after_the_other() -> None:
    """Others may be about to end: what is woken grows on now."""
    ends_soon = life(400, wall_s=2.0)
    ending = replace(job(1, 400, 1.99, growth_mib_s=0), expected=ends_soon)
    fast = [job(pid, 100, 0.5, peak_mib=200, growth_mib_s=800, is_stopped=True) for pid in (5, 4, 3, 2)]
    slow = [replace(one, growth_bytes_s=1.0 * MIB) for one in fast]
    assert acts(regulate(moment(128 + 200, task(*fast, ending))), Act.WAKE) == [2, 3]
    assert acts(regulate(moment(128 + 200, task(*slow, ending))), Act.WAKE) == [2, 3, 4, 5]


def test_the_first_job_is_woken_where_no_other_goes_on() -> None:
    """Though it may not fit: nothing else would free memory."""
    stuck = task(job(2, 50, 0.5, is_stopped=True), job(1, 200, 0.5, peak_mib=900, is_stopped=True))
    assert acts(regulate(moment(10, stuck)), Act.WAKE) == [1]
    assert acts(regulate(moment(10, stuck, is_pressed=True)), Act.WAKE) == [1]


def test_the_room_of_a_stopped_first_job_is_kept() -> None:
    """A young job does not take what the oldest needs to go on."""
    found = regulate(moment(128 + 50, task(job(2, 60, 0.1), job(1, 70, 0.2, is_stopped=True))))
    assert acts(found, Act.STOP) == [2]


def test_a_whole_task_is_woken_where_as_much_as_it_holds_fits() -> None:
    """Nobody knows what it will take; and there is a pause before the next."""
    stopped = task(tid="b", place=2, current_bytes=400 * MIB, is_stopped=True, held_tokens=None)
    running = task(job(1, 100, 1.2, growth_mib_s=0))
    assert acts(regulate(moment(256 + 500, running, stopped)), Act.WAKE) == [None]
    assert acts(regulate(moment(256 + 300, running, stopped)), Act.WAKE) == []
    soon = moment(256 + 500, running, stopped, since_wake_s=TASK_PAUSE_S / 2)
    assert acts(regulate(soon), Act.WAKE) == []


def test_nothing_is_woken_under_pressure() -> None:
    """Pressure is a sign that there is too little, whatever use says."""
    waiting = task(job(2, 20, 0.2, is_stopped=True), job(1, 100, 1.2))
    assert acts(regulate(moment(100 * 1024, waiting, is_pressed=True)), Act.WAKE) == []


# -- kill --------------------------------------------------------------------------------------------------------------


def all_stopped(*more: Job) -> Running:
    """A task whose jobs are stopped but the first one, which grows."""
    return task(*more, job(1, 900, 3.0, peak_mib=1000, growth_mib_s=100))


def test_where_nothing_can_be_stopped_the_youngest_that_holds_enough_is_killed() -> None:
    """One that holds nothing would be killed in vain."""
    jobs = [job(4, 2, 0.1, is_stopped=True), job(3, 97, 0.8, is_stopped=True), job(2, 99, 0.9, is_stopped=True)]
    assert acts(regulate(moment(30, all_stopped(*jobs))), Act.KILL) == [3]


def test_what_is_killed_lasts_until_the_next_may_be() -> None:
    """The first job grows on; one that holds what it takes at once would be gone before there is another kill."""
    jobs = [job(3, 80, 0.8, is_stopped=True), job(2, 200, 0.9, peak_mib=300, is_stopped=True)]
    fast = task(*jobs, job(1, 700, 3.0, peak_mib=1000, growth_mib_s=300))
    assert acts(regulate(moment(30, fast)), Act.KILL) == [2]
    slow = task(*jobs, job(1, 700, 3.0, peak_mib=1000, growth_mib_s=30))
    assert acts(regulate(moment(30, slow)), Act.KILL) == [3]


def test_the_largest_is_killed_where_none_holds_enough() -> None:
    """No more are killed than must be."""
    jobs = [job(3, 60, 0.1, is_stopped=True), job(2, 90, 0.9, is_stopped=True)]
    assert acts(regulate(moment(0, all_stopped(*jobs))), Act.KILL) == [2]


def test_what_would_free_next_to_nothing_is_not_killed() -> None:
    """The one that holds all the rest is, when its turn comes; among small ones a small one is worth it."""
    small = [job(3, 2, 0.1, is_stopped=True), job(2, 40, 0.9, is_stopped=True)]
    assert acts(regulate(moment(30, all_stopped(*small))), Act.KILL) == []
    assert acts(regulate(moment(3, all_stopped(*small))), Act.KILL) == [1]
    slow = task(*small, job(1, 900, 3.0, peak_mib=1000, growth_mib_s=1))
    assert acts(regulate(moment(60, slow)), Act.KILL) == []
    many = task(*small, job(1, 60, 1.0, peak_mib=90, growth_mib_s=100))
    assert acts(regulate(moment(30, many)), Act.KILL) == [2]


def test_what_holds_nothing_is_not_killed() -> None:
    """Compilers that have only begun, where something else has taken the memory: their end would free none of it."""
    assert acts(regulate(moment(-10, task(job(1, 0, 0.0)))), Act.KILL) == []


def test_the_first_job_is_killed_only_where_it_is_the_last() -> None:
    """With another to kill it goes on, however large it is; alone it has nearly all that is left."""
    assert acts(regulate(moment(30, all_stopped(job(2, 80, 0.1, is_stopped=True)))), Act.KILL) == [2]
    assert acts(regulate(moment(30, all_stopped())), Act.KILL) == []
    assert acts(regulate(moment(3, all_stopped())), Act.KILL) == [1]


def test_the_nearer_the_kill_mark_the_sooner_is_the_next_look() -> None:
    """A kill then waits until it must be; where looks come late it does not."""
    running = task(job(1, 900, 3.0))
    assert not moment(129, running).is_near
    assert moment(127, running).is_near
    assert moment(129, running, fill_mib_s=500).is_near
    assert not moment(10, task()).is_near
    growing = all_stopped(job(2, 300, 0.9, is_stopped=True))
    assert acts(regulate(moment(70, growing, fill_mib_s=100)), Act.KILL) == []
    assert acts(regulate(moment(70, growing, fill_mib_s=100, late_s=0.1)), Act.KILL) == [2]


def test_who_holds_nearly_all_has_nearly_all_that_is_left() -> None:
    """Its death would help nobody: what runs beside it holds next to nothing, and it would take as much again."""
    small, large = task(job(1, 10, 0.1, is_stopped=True), current_bytes=60 * MIB), job(5, 600, 9.0, peak_mib=700)
    alone = task(replace(large, growth_bytes_s=0.0), tid="b", place=2, current_bytes=610 * MIB, may_stop=False)
    assert acts(regulate(moment(40, small, alone)), Act.KILL) == []
    assert acts(regulate(moment(6, small, alone)), Act.KILL) == [5]
    assert acts(regulate(moment(40, small, alone, crawl_s=CRAWL_S)), Act.KILL) == [5]
    assert acts(regulate(moment(40, small, alone, crawl_s=CRAWL_S, stalled_s=CRAWL_S)), Act.KILL) == []
    waits = task(tid="w", place=3, current_bytes=27 * MIB)
    assert acts(regulate(moment(40, waits, alone, crawl_s=CRAWL_S)), Act.KILL) == []
    assert acts(regulate(moment(40, waits, alone, crawl_s=CRAWL_ALONE_S)), Act.KILL) == [5]
    assert acts(regulate(moment(70, small, alone, crawl_s=CRAWL_S)), Act.KILL) == []
    other = task(job(7, 400, 9.0, peak_mib=700, is_stopped=True), tid="c", place=3, current_bytes=400 * MIB)
    assert acts(regulate(moment(40, small, alone, other)), Act.KILL) == [7]


def test_no_second_kill_before_the_first_has_shown() -> None:
    """Memory of a killed process comes back some time after the signal."""
    assert acts(regulate(moment(30, all_stopped(), since_kill_s=KILL_PAUSE_S / 2)), Act.KILL) == []


def test_nothing_is_killed_where_something_can_be_stopped() -> None:
    """A stop costs time, a kill work."""
    found = regulate(moment(30, all_stopped(job(2, 50, 0.5))))
    assert acts(found, Act.STOP) == [2]
    assert acts(found, Act.KILL) == []


def test_what_must_not_be_killed_is_not() -> None:
    """A task may be exempt."""
    assert acts(regulate(moment(0, replace(all_stopped(), may_kill=False))), Act.KILL) == []


# -- park --------------------------------------------------------------------------------------------------------------


def test_what_is_stopped_is_as_good_as_free_as_far_as_swap_goes() -> None:
    """Beside a stopped job of 400 MiB others go on below the stop mark, where that job can go to swap."""
    held = task(job(3, 400, 1.0, peak_mib=600, is_stopped=True), job(2, 90, 1.0), job(1, 300, 2.0, peak_mib=400))
    assert acts(regulate(moment(100, held)), Act.STOP) == [2]
    assert acts(regulate(moment(100, held, swap_left_bytes=1024 * MIB)), Act.STOP) == []
    assert acts(regulate(moment(100, held, swap_left_bytes=16 * MIB)), Act.STOP) == [2]


def test_a_parked_job_is_woken_when_it_fits_whole() -> None:
    """What it has in swap comes back, and what others that are stopped have in memory makes room for it."""
    going = task(job(1, 100, 1.0, growth_mib_s=0))
    parked = replace(job(2, 50, 1.0, peak_mib=500, is_stopped=True), swapped_bytes=400 * MIB)
    assert parked.need_bytes == 450 * MIB
    newer = task(parked, tid="b", place=2)
    assert acts(regulate(moment(256 + 440, going, newer)), Act.WAKE) == []
    assert acts(regulate(moment(256 + 460, going, newer)), Act.WAKE) == [2]
    third = task(job(3, 200, 0.5, peak_mib=900, is_stopped=True), tid="c", place=3)
    assert acts(regulate(moment(256 + 300, going, newer, third)), Act.WAKE) == []
    assert acts(regulate(moment(256 + 300, going, newer, third, swap_left_bytes=1024 * MIB)), Act.WAKE) == [2]


def test_nothing_is_killed_while_there_is_swap() -> None:
    """What waits goes there first; where that is full, or nothing gets on any more, a job is killed as without."""
    full = task(job(2, 60, 1.0, growth_mib_s=0), job(1, 600, 3.0, growth_mib_s=0), may_stop=False)
    assert acts(regulate(moment(10, full)), Act.KILL) == [2]
    assert acts(regulate(moment(10, full, swap_left_bytes=1024 * MIB)), Act.KILL) == []
    assert acts(regulate(moment(10, full, swap_left_bytes=8 * MIB)), Act.KILL) == [2]
    assert acts(regulate(moment(10, full, swap_left_bytes=1024 * MIB, crawl_s=CRAWL_S)), Act.KILL) == [2]


def test_what_has_grown_up_is_parked_too() -> None:
    """To stop it makes room where it can go to swap, and none where it cannot."""
    grown = job(2, 300, 1.5, peak_mib=300, growth_mib_s=0)
    both = task(grown, job(1, 300, 2.0, peak_mib=900))
    assert acts(regulate(moment(60, both)), Act.STOP) == []
    assert acts(regulate(moment(60, both, swap_left_bytes=1024 * MIB)), Act.STOP) == [2]
    assert acts(regulate(moment(60, both, swap_left_bytes=100 * MIB)), Act.STOP) == []


# -- what always holds -------------------------------------------------------------------------------------------------

lives = st.builds(
    lambda peak, wall, rise, ended: Expected(peak * MIB, wall, wall * rise, ended=ended),
    st.integers(1, 2000),
    st.floats(0.2, 60),
    st.floats(0.1, 1.0),
    st.integers(0, 64),
)


@st.composite
def moments(draw: st.DrawFn) -> Moment:
    """Anything that can be met: tasks with and without pools, jobs running and stopped, little left or much."""
    tasks = []
    for place in range(draw(st.integers(0, 4))):
        jobs = tuple(
            Job(
                pid=1000 * place + 100 - number,
                start_ticks=100 - number,
                program="cc1plus",
                bytes=draw(st.integers(0, 2000)) * MIB,
                age_s=draw(st.floats(0, 60)),
                growth_bytes_s=draw(st.integers(-500, 2000)) * MIB,
                expected=draw(lives),
                is_stopped=draw(st.booleans()),
                swapped_bytes=draw(st.sampled_from([0, 0, 50, 1000])) * MIB,
            )
            for number in range(draw(st.integers(0, 4)))
        )
        has_pool = draw(st.booleans())
        tasks.append(
            Running(
                tid=f"task-{place}",
                place=place,
                most_jobs=draw(st.integers(1, 16)),
                jobs=jobs,
                next_job=draw(lives),
                held_tokens=draw(st.integers(0, 16)) if has_pool else None,
                idle_tokens=draw(st.integers(0, 8)) if has_pool else 0,
                current_bytes=sum(job.bytes for job in jobs) + draw(st.integers(0, 500)) * MIB,
                is_stopped=not jobs and draw(st.booleans()),
                may_stop=draw(st.booleans()),
                may_kill=draw(st.booleans()),
            )
        )
    return Moment(
        left_bytes=draw(st.integers(-100, 8000)) * MIB,
        reserve_bytes=draw(st.integers(16, 2048)) * MIB,
        fill_bytes_s=draw(st.integers(-4000, 6000)) * float(MIB),
        slots=draw(st.integers(1, 64)),
        tasks=tuple(draw(st.permutations(tasks))),
        is_pressed=draw(st.booleans()),
        late_s=draw(st.floats(0, 0.5)),
        since_wake_s=draw(st.floats(0, 10)),
        since_kill_s=draw(st.floats(0, 10)),
        crawl_s=draw(st.sampled_from([0.0, 5.0, 90.0])),
        swap_left_bytes=draw(st.sampled_from([0, 0, 100, 4000])) * MIB,
    )


@given(moments())
def test_pools_stay_within_grants_and_slots(at: Moment) -> None:
    """Each pool is told once; none has more than its grant, and all no more than slots, or than one asks for."""
    found = [action for action in regulate(at) if action.act is Act.TOKENS]
    pools = {task.tid: task for task in at.tasks if task.held_tokens is not None}
    assert sorted(action.tid for action in found) == sorted(pools)
    for action in found:
        assert 0 <= action.tokens < pools[action.tid].most_jobs
    others = sum(len(task.jobs) for task in at.tasks if task.tid not in pools)
    jobs = sum(1 + action.tokens for action in found) + others
    assert jobs <= max(at.slots, len(pools) + others, *(task.most_jobs for task in at.tasks))


@given(moments())
def test_the_first_job_goes_on(at: Moment) -> None:
    """The oldest job is never stopped, and not killed while another may be."""
    jobs = [job for task in sorted(at.tasks, key=lambda task: task.place) for job in reversed(task.jobs)]
    if not jobs:
        return
    first = min(jobs, key=lambda job: job.start_ticks)
    found = regulate(at)
    assert first.pid not in acts(found, Act.STOP)
    if first.pid in acts(found, Act.KILL):
        assert [job.pid for task in at.tasks if task.may_kill for job in task.jobs] == [first.pid]


@given(moments())
def test_something_always_goes_on(at: Moment) -> None:
    """After what is done some job or task runs, where there is one that may and no kill was needed."""
    found = regulate(at)
    stopped = {job.pid for task in at.tasks for job in task.jobs if job.is_stopped} | set(acts(found, Act.STOP))
    going = {job.pid for task in at.tasks if not task.is_stopped for job in task.jobs} - stopped
    whole = [task for task in at.tasks if not task.jobs and task.current_bytes and not task.is_stopped]
    if at.tasks and any(task.jobs or task.is_stopped for task in at.tasks) and not acts(found, Act.KILL):
        whole_stopped = {action.tid for action in found if action.act is Act.STOP and action.job is None}
        assert going or acts(found, Act.WAKE) or any(task.tid not in whole_stopped for task in whole)


@given(moments())
def test_nothing_is_done_twice_or_in_vain(at: Moment) -> None:
    """Only what runs is stopped, only what is stopped is woken, once each; at most one is killed.

    Where something is stopped nothing is woken but the first job, so that one goes on.
    """
    found = regulate(at)
    running = {job.pid for task in at.tasks for job in task.jobs if not job.is_stopped}
    stops = [pid for pid in acts(found, Act.STOP) if pid is not None]
    wakes = [pid for pid in acts(found, Act.WAKE) if pid is not None]
    assert len(set(stops)) == len(stops)
    assert set(stops) <= running
    assert len(set(wakes)) == len(wakes)
    assert not set(wakes) & running
    assert len(wakes) <= 1 or not stops
    assert len(acts(found, Act.KILL)) <= 1


@given(moments(), st.integers(1, 8000))
def test_more_memory_gives_no_fewer_tokens_and_stops_no_more(at: Moment, more_mib: int) -> None:
    """What is left and what is done go the same way."""
    wider = replace(at, left_bytes=at.left_bytes + more_mib * MIB)
    less, more = regulate(at), regulate(wider)
    assert sum(tokens(less).values()) <= sum(tokens(more).values())
    assert set(acts(more, Act.STOP)) <= set(acts(less, Act.STOP))


@given(moments())
def test_the_order_of_tasks_does_not_matter(at: Moment) -> None:
    """The same moment has the same answer, however its tasks are listed."""
    assert regulate(at) == regulate(replace(at, tasks=tuple(reversed(at.tasks))))


@pytest.mark.parametrize("left", [-500, 0, 500])
def test_nothing_to_do_is_nothing_done(left: int) -> None:
    """Without tasks nothing happens, whatever is left."""
    assert regulate(moment(left)) == []


def test_where_nothing_goes_on_the_oldest_that_is_stopped_is_woken_for_good() -> None:
    """An older task may wait for what a stopped one has: after a while that is woken, whatever is left."""
    waits = Running("a", 1, 1, (), life(100), current_bytes=500 * MIB)
    stopped = [
        Running(tid, place, 1, (), life(100), current_bytes=300 * MIB, is_stopped=True)
        for tid, place in (("c", 3), ("b", 2))
    ]
    short = moment(20, waits, *stopped, stalled_s=STALLED_S - 1)
    assert acts(regulate(short), Act.WAKE) == []
    (wake,) = [found for found in regulate(replace(short, stalled_s=STALLED_S)) if found.act is Act.WAKE]
    assert (wake.tid, wake.job, wake.is_final) == ("b", None, True)


def test_a_job_for_which_others_wait_is_woken_for_good_and_not_stopped_again() -> None:
    """The same of single jobs: the oldest that is stopped, and it goes on from there."""
    jobs = [job(3, 50, 1.0, is_stopped=True), job(2, 50, 1.0, is_stopped=True), job(1, 50, 1.0, growth_mib_s=0)]
    (wake,) = [
        found for found in regulate(moment(STOP // MIB - 20, task(*jobs), stalled_s=STALLED_S)) if found.act is Act.WAKE
    ]
    assert wake.job is not None
    assert (wake.job.pid, wake.is_final) == (2, True)
    woken = [jobs[0], replace(jobs[1], is_stopped=False, may_stop=False), jobs[2]]
    assert acts(regulate(moment(STOP // MIB - 20, task(*woken))), Act.STOP) == []
    assert acts(regulate(moment(STOP // MIB - 20, task(jobs[0], replace(woken[1], may_stop=True), jobs[2]))), Act.STOP)
