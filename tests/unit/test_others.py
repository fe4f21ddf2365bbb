# SPDX-License-Identifier: MIT
"""Builds that share a limit judge the same tasks by the same rules, and each acts on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from memguard.channels.neighbours import Entry, as_bytes, parse
from memguard.channels.notes import TaskNote, TaskWait
from memguard.decide.admit import admit
from memguard.decide.ledger import Ledger
from memguard.decide.moment import Act, Action, Caution, Job, Moment, Running
from memguard.decide.regulate import regulate
from memguard.decide.turn import PATIENCE_S
from memguard.model import BuildUse, Footprint, Policy, Reading, Task, TaskUse
from memguard.predict.job_lives import Expected, Life
from memguard.sense.proc_files import ProcessId
from memguard.sentinel.others import DISTRUST_S, UNANSWERED_S, Others, Rise, Told, Trust, entry_of, others_of, place_of
from memguard.sentinel.pace import LATE_MOST_S
from memguard.sentinel.reflex import Reflex
from memguard.sentinel.turn_queue import TurnQueue
from memguard.sentinel.ward import Sight
from memguard.sentinel.watched import KernelCounts, Outside, Watched
from memguard.units import GIB, MIB

RESERVE = 256 * MIB
ONE, TWO = ProcessId(100, 1), ProcessId(200, 2)


def job(pid: int, start: int, mib: int = 300, peak: int = 600, **more: object) -> Job:
    """A compiler that has half of its life behind it."""
    life = Expected(peak * MIB, 10.0, 8.0, ended=20)
    return replace(Job(pid, start, "cc1plus", mib * MIB, 4.0, 50.0 * MIB, life), **more)  # type: ignore[arg-type]


def task(leader: ProcessId, *jobs: Job, **more: object) -> Running:
    """A task of one's own with these jobs, the youngest first."""
    bytes_ = sum(one.bytes for one in jobs)
    made = Running(f"t{leader.pid}", place_of(leader), 4, jobs, Expected(500 * MIB, 5.0, 3.0), current_bytes=bytes_)
    return replace(made, **more)  # type: ignore[arg-type]


def seen_by(ours: Sequence[Running], theirs: Sequence[Running], left: int, sentinel: ProcessId = TWO) -> Moment:
    """The moment as one build sees it, once the other one's entry was written and read."""
    mine = Moment(left * MIB, RESERVE, 0.0, 3, tuple(theirs))
    leaders = {one.tid: Told(ProcessId(one.place & 0xFFFFFFFF, one.place >> 32)) for one in theirs}
    entry = parse(as_bytes(entry_of(mine, leaders, True, Entry())))
    return replace(mine, tasks=(*ours, *others_of({sentinel: entry}).tasks))


def acts(moment: Moment) -> list[tuple[Act, int]]:
    """What is done, by the pids of jobs, tokens left out."""
    return [(one.act, one.job.pid if one.job else 0) for one in regulate(moment) if one.act is not Act.TOKENS]


def test_both_builds_come_to_the_same() -> None:
    """Whoever looks, the youngest over all is stopped first, and the oldest over all is not."""
    old, young = task(ProcessId(10, 100), job(11, 110)), task(ProcessId(20, 105), job(22, 130), job(21, 120))
    for ours, theirs in ((old, young), (young, old)):
        assert acts(seen_by([ours], [theirs], left=150)) == [(Act.STOP, 22), (Act.STOP, 21)]


def test_the_oldest_of_all_is_woken_first() -> None:
    """Both builds would wake the same one, and only its own does."""
    old = task(ProcessId(10, 100), job(11, 110, is_stopped=True))
    young = task(ProcessId(20, 105), job(21, 120, is_stopped=True))
    for ours, theirs in ((old, young), (young, old)):
        assert acts(seen_by([ours], [theirs], left=300)) == [(Act.WAKE, 11)]


def test_two_that_began_at_once_are_ordered_alike() -> None:
    """By their pids, where their starts say nothing."""
    first, second = task(ProcessId(10, 100), job(11, 110)), task(ProcessId(20, 100), job(21, 110))
    for ours, theirs in ((first, second), (second, first)):
        assert acts(seen_by([ours], [theirs], left=150)) == [(Act.STOP, 21)]


def test_tokens_are_given_within_what_all_builds_take() -> None:
    """The older build's task has them first; the slots are those of all."""
    old = task(ProcessId(10, 100), job(11, 110, 20, 40), held_tokens=0)
    young = task(ProcessId(20, 105), job(21, 120, 20, 40), held_tokens=0)
    for ours, theirs in ((old, young), (young, old)):
        given = {one.tid: one.tokens for one in regulate(seen_by([ours], [theirs], left=1500)) if one.act is Act.TOKENS}
        assert sum(given.values()) == 1
        assert given[ours.tid] == (1 if ours is old else 0)


def test_a_job_is_expected_to_live_as_its_own_build_says() -> None:
    """It takes next to nothing more, or as much again: both builds know that in the middle of the two it would fit."""
    lives = (Life(620 * MIB, 10.0, 8.0, 1.5), Life(1400 * MIB, 10.0, 8.0, 1.5))
    doubtful = Expected(1010 * MIB, 10.0, 8.0, 1.5, ended=2, lives=lives)
    old = task(ProcessId(10, 100), job(11, 110, peak=300))
    young = task(ProcessId(20, 105), job(21, 120, mib=600, expected=doubtful), next_job=doubtful)
    for ours, theirs in ((old, young), (young, old)):
        moment = seen_by([ours], [theirs], left=800)
        assert acts(moment) == [(Act.STOP, 21)]
        seen = next(one for one in moment.tasks if one.place == young.place)
        assert (seen.jobs[0].expected, seen.next_job) == (doubtful, doubtful)
    calm = replace(young, jobs=(replace(young.jobs[0], expected=replace(doubtful, lives=lives[:1])),))
    assert acts(seen_by([old], [calm], left=800)) == []


def test_all_go_by_the_most_careful() -> None:
    """Else one would leave it to another to stop what that one, which keeps less free or looks in time, lets go on."""
    entries = {
        ONE: Entry(reserve_bytes=GIB, late_s=9.0),
        TWO: Entry(reserve_bytes=MIB, late_s=-1.0, is_pressed=True),
    }
    others = others_of({sentinel: parse(as_bytes(entry)) for sentinel, entry in entries.items()})
    assert others.caution == Caution(GIB, LATE_MOST_S, True)
    reflex = Reflex(3, lambda leader: [])
    reading = Reading(3 * GIB, "m", GIB, 0, 2 * GIB, None, None, 4.0)
    reflex.look(0.0, reading, RESERVE, {}, others=others)
    assert reflex.moment is not None
    assert (reflex.moment.reserve_bytes, reflex.moment.late_s, reflex.moment.is_pressed) == (GIB, LATE_MOST_S, True)
    assert reflex.caution == Caution(RESERVE)  # what it says itself does not grow by what it hears
    reflex.look(0.1, replace(reading, limit_bytes=GIB), RESERVE, {}, others=others)
    assert reflex.moment.reserve_bytes == GIB // 2


@pytest.mark.parametrize("is_old_first", [True, False])
def test_of_two_that_must_be_alone_one_is(is_old_first: bool) -> None:
    """Both lost a job for memory and want to run with no other beside: the builds come to the same one, and the other
    waits until it has ended."""
    now_s, moment = 100.0, Moment(900 * MIB, RESERVE, 0.0, 3, ())
    runs = {place: waiting_run(place, 600 * MIB) for place in (10, 20)}
    queues = {place: TurnQueue() for place in runs}
    outside = Outside()

    def look(place: int) -> None:
        theirs = others_of({ONE: parse(as_bytes(said_of(runs[30 - place], queues[30 - place], now_s)))})
        queues[place].give([runs[place]], Sight(now_s, moment=moment, others=theirs), outside, now_s)

    order = (10, 20) if is_old_first else (20, 10)
    for _ in range(3):
        for place in order:
            look(place)
    assert [run.is_alone for run in runs.values()] == [False, False]  # each must have seen the other wait
    for _ in range(30):
        now_s += 0.1
        for place in order:
            look(place)
    assert [run.is_alone for run in runs.values()] == [True, False]
    runs[10].wait, runs[10].has_turn = None, False
    now_s += PATIENCE_S + 1
    look(20)
    assert runs[20].is_alone  # the other build goes on: that one could wait for ever


def waiting_run(pid: int, need_bytes: int) -> Watched:
    """A task that lost a job, and must be alone when it runs again."""
    note = TaskNote(pid, pid, f"/t{pid}.bb:do_compile", f"t{pid}", "1.0", "do_compile", "m", 4, 4)
    run = Watched(note, 0.0, 0.0, 1, KernelCounts())
    wait = TaskWait(pid, pid, 1, True, 1, "cc1plus", "was killed", need_bytes, 1.0, 1.0, need_bytes)
    run.wait_for_turn(wait, 99.5, KernelCounts(), GIB)
    return run


def said_of(run: Watched, queue: TurnQueue, now_s: float) -> Entry:
    """What a build says that has this task alone."""
    seen = task(run.leader, tid=run.note.tid)
    told = Told(run.leader, is_alone=run.is_alone, works=run.works, waiting=run.waiting(now_s))
    return entry_of(Moment(GIB, RESERVE, 0.0, 3, (seen,)), {seen.tid: told}, True, Entry(turns=queue.given))


def test_who_only_observes_is_not_counted_on() -> None:
    """What it runs is neither stopped nor killed by anybody, so it is ours that are."""
    theirs = task(ProcessId(20, 105), job(21, 120), held_tokens=2)
    entry = entry_of(Moment(0, RESERVE, 0.0, 3, (theirs,)), {theirs.tid: Told(ProcessId(20, 105))}, False, Entry())
    (seen,) = others_of({TWO: entry}).tasks
    assert (seen.may_stop, seen.may_kill, seen.held_tokens) == (False, False, None)
    ours = task(ProcessId(10, 100), job(12, 115), job(11, 110))
    assert acts(Moment(150 * MIB, RESERVE, 0.0, 3, (ours, seen))) == [(Act.STOP, 12)]


def test_nobody_waits_for_long_for_what_others_do_not_do() -> None:
    """A build whose sentinel does not stop its job is taken not to, and is believed again later."""
    theirs = replace(task(ProcessId(20, 105), job(21, 120)), tid="theirs", is_ours=False)
    stop = Action(Act.STOP, "theirs", job=theirs.jobs[0])
    mine = Action(Act.TOKENS, "t10", tokens=2)
    others, trust = Others(1, (theirs,)), Trust()
    assert trust.leave_theirs(0.0, [stop, mine], {"t10"}) == [mine]
    assert trust.tasks(0.1, others) == (theirs,)
    trust.leave_theirs(UNANSWERED_S, [stop], {"t10"})
    assert [one.may_stop for one in trust.tasks(UNANSWERED_S, others)] == [False]
    assert trust.tasks(UNANSWERED_S + DISTRUST_S, others) == (theirs,)
    trust.leave_theirs(10.0, [], {"t10"})
    trust.leave_theirs(20.0, [stop], {"t10"})
    trust.leave_theirs(20.5, [], {"t10"})
    trust.leave_theirs(21.1, [stop], {"t10"})
    assert trust.tasks(21.2, others) == (theirs,)


def test_a_kill_of_another_build_is_waited_for() -> None:
    """What it held must come free before anything else is killed."""
    kills = Rise()
    assert [kills.take(count) for count in (0, 2, 2, 0, 1)] == [False, True, False, False, True]


def test_what_others_will_take_is_not_free() -> None:
    """Headroom for admission is less by it, and what they hold now is nobody's for ever."""
    reading = Reading(8 * GIB, "m", 5 * GIB, 0, 3 * GIB, None, 8 * GIB, 4.0)
    ledger = Ledger(Policy(reserve_bytes=GIB), reading, 0.0)
    fits = Task("a", "", "a", "do_compile", Footprint(0, GIB, 0, "history"), 1)
    beside = BuildUse({"x": TaskUse(GIB)}, others_bytes=3 * GIB, others_cpus=4.0)
    ledger.look(reading, beside, 1.0)
    assert ledger.judge(fits, is_idle=False).starts
    assert ledger.budget_bytes == 6 * GIB  # one GiB is neither ours nor theirs
    ledger.look(reading, replace(beside, others_pending_bytes=3 * GIB // 2), 2.0)
    verdict = ledger.judge(fits, is_idle=False)
    assert not verdict.starts
    ledger.hold(fits, verdict)
    assert not ledger.is_hungry  # their tasks keep the CPUs busy
    assert admit(fits, ledger._now()).reason == verdict.reason
    ledger.look(reading, replace(beside, rise_bytes=3 * GIB // 2), 3.0)
    assert not ledger.judge(fits, is_idle=False).starts
    assert ledger.judge(fits, is_idle=True).starts  # the liveness law
