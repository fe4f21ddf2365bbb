# SPDX-License-Identifier: MIT
"""What the sentinel answers to what happens: a stimulus goes in, a list of instructions comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from memguard.channels.neighbours import Entry
from memguard.channels.notes import Note, TaskEnd, TaskGrant, TaskHold, TaskNote, TaskWait, TaskWant
from memguard.channels.state import FRESHEN_S, IDLE_FRESHEN_S, KILLED_SHARE, Counts, HeldTask, State
from memguard.decide.moment import Act, Action, Job, Moment, Running
from memguard.model import Kill, Outcome, Policy, Reading, Record
from memguard.predict.job_lives import Expected
from memguard.record.events import (
    JobNow,
    Killed,
    ReadingTaken,
    Retried,
    Stopped,
    TaskMeasured,
    TaskRow,
    Withdrawn,
    Woken,
)
from memguard.sense.proc_files import ProcessId
from memguard.sense.process_tree import Compiler, Usage
from memguard.sentinel.instructions import (
    Announce,
    BeginWard,
    ChangeWard,
    Closed,
    EndWard,
    Found,
    GiveKillNote,
    Heard,
    Instruction,
    Killing,
    Looked,
    OfferToKernel,
    Publish,
    Remember,
    RenewWard,
    RunCommand,
    ServerLost,
    WriteLine,
)
from memguard.sentinel.sentinel import Sentinel
from memguard.sentinel.ward import Acted, Sight, Ward, WardUse
from memguard.sentinel.watched import Instant, KernelCounts, Report
from memguard.units import GIB, MIB

TID = "/heavy.bb:do_compile"
NOTE = TaskNote(42, 17, TID, "heavy", "1.0", "do_compile", "m", 4, 8, "/pool", may_kill=True)
LEADER = ProcessId(42, 17)
GRANT = TaskGrant(TID, 3, 6, 2 * GIB, 300 * MIB, wanted_jobs=8, largest_bytes=450 * MIB)
WAIT = TaskWait(42, 17, 2, True, 1, "cc1plus", "was killed", GIB, 10.0, 9.0, 500 * MIB)
END = TaskEnd(42, 17, Outcome.OK, 12.5, 30.0, 500 * MIB)
LARGE = Compiler(7, 70, "cc1plus", 200 * MIB, 2.5, source="a.cpp")
JOB = Job(50, 60, "cc1plus", 400 * MIB, 2.0, 0.0, Expected(500 * MIB, 4.0, 2.0))
POLICY = Policy(reserve_bytes=GIB)
EPOCH = 1764000000.0


def reading(used_gib: float = 4.0) -> Reading:
    """A container of 8 GiB."""
    used = int(used_gib * GIB)
    return Reading(8 * GIB, "memory.max", used, 0, 8 * GIB - used, None, None, 4.0)


def sight(
    usages: dict[ProcessId, Usage] | None = None, acted: Sequence[Acted] = (), used_gib: float = 4.0, held: int = 3
) -> Sight:
    """One look, at which the task's jobs held so many tokens."""
    task = Running(TID, 3, 6, (), Expected(GIB, 1.0, 1.0), held_tokens=held)
    left = 8 * GIB - int(used_gib * GIB)
    moment = Moment(left, GIB, 0.0, 4, (task,))
    return Sight(0.0, reading(used_gib), usages or {}, int(used_gib * GIB), moment, acted)


class World:
    """A sentinel, and the time that passes between what happens to it."""

    def __init__(self, acts: bool = True) -> None:
        self.sentinel = Sentinel("b1", POLICY, acts, 99, KernelCounts(kills=3))
        self.now_s = 100.0
        self.counts = KernelCounts(kills=3)
        self.published: list[State] = []
        self.announced: list[Entry] = []

    @property
    def at(self) -> Instant:
        return Instant(self.now_s, EPOCH + self.now_s)

    def hear(self, *notes: Note, used_gib: float = 4.0) -> list[Instruction]:
        """Notes come."""
        return self.sentinel.handle(Heard(self.at, self.counts, notes, reading(used_gib)))

    def look(self, seen: Sight | None = None, after_s: float = 0.3, **more: Any) -> list[Instruction]:
        """A look after some time; what is to be done beside publishing, announcing and keeping a reading."""
        self.now_s += after_s
        answered = self.sentinel.handle(Looked(self.at, self.counts, sight() if seen is None else seen, **more))
        self.published += [found.state for found in answered if isinstance(found, Publish)]
        self.announced += [found.entry for found in answered if isinstance(found, Announce)]
        return [
            found
            for found in answered
            if not isinstance(found, (Publish, Announce))
            and not (isinstance(found, WriteLine) and isinstance(found.event, ReadingTaken))
        ]


def record(outcome: Outcome = Outcome.OK, **more: Any) -> Record:
    """What is remembered of the task as END tells it, where it was never seen."""
    known: dict[str, Any] = {"peak_bytes": None, "largest_process_bytes": 500 * MIB, "jobs": 4}
    known |= {"wall_s": 12.5, "cpu_s": 30.0, **more}
    return Record("b1", "heavy", "1.0", "do_compile", "m", outcome=outcome, **known)


def test_a_task_that_begins_gets_a_ward() -> None:
    """The reflex takes charge of it by its grant, and the kernel may have it first by the share it was granted."""
    world = World()
    assert world.hear(GRANT) == []
    ward = Ward(LEADER, 3, 8, 300 * MIB, 450 * MIB, "/pool", may_stop=True, may_kill=True)
    assert world.hear(NOTE) == [OfferToKernel(42, 0.25), BeginWard(NOTE, ward)]
    assert world.sentinel.tasks == {LEADER: TID}


def test_a_task_without_a_grant_has_what_it_says() -> None:
    """An older server grants nothing: the note's jobs count, and tasks are taken to be as old as they were met."""
    fetch = replace(NOTE, task="do_fetch", pool="", may_kill=False)
    ward = Ward(LEADER, 1, 4, may_stop=False, may_kill=False)
    assert World(acts=False).hear(fetch) == [BeginWard(fetch, ward)]


def test_a_second_grant_changes_what_is_said_of_a_task() -> None:
    """Its jobs are its pool's; nothing is counted twice."""
    world = World()
    world.hear(GRANT, NOTE)
    assert world.hear(replace(GRANT, jobs=12, bytes=GIB)) == []
    world.look()
    assert world.published[-1].tasks[TID].granted_bytes == GIB
    assert world.sentinel.counts == Counts(granted=1, shrunk=1)


def test_a_task_that_waits_begins_anew() -> None:
    """What it took until then is remembered, its pool is emptied; it may ask twice."""
    world = World()
    world.hear(GRANT, NOTE)
    world.look(sight({LEADER: Usage(700 * MIB, 3, 2)}))
    world.now_s += 10
    lost = record(
        Outcome.MEMORY_KILL,
        peak_bytes=700 * MIB,
        largest_process_bytes=0,
        jobs=4,
        wall_s=10.0,
        cpu_s=9.0,
    )
    line = Retried(EPOCH + 110.3, "heavy", "do_compile", 4 * GIB, "cc1plus", 2, 1, "was killed")
    assert world.hear(WAIT) == [Remember((lost,)), WriteLine(line), RenewWard(TID), ChangeWard(TID, 2)]
    assert world.hear(WAIT) == []


def test_who_waits_gets_a_turn_once_it_fits() -> None:
    """The state names its mark and attempt, and no other may start while it is alone."""
    world = World()
    world.look(sight(used_gib=4.0))
    world.hear(GRANT, NOTE, WAIT)
    world.look(sight(used_gib=7.5))
    assert (world.published[-1].turns, world.published[-1].alone) == ({}, "heavy do_compile")
    assert world.published[-1].tasks[TID].state == "retrying"
    world.look(sight(used_gib=4.0))
    assert world.published[-1].turns == {LEADER.mark: 1}


def test_who_needs_more_than_there_is_by_plan_runs_again_alone() -> None:
    """It says so only when it has its turn: until then others may start."""
    world = World()
    world.look(sight(used_gib=4.0))
    world.hear(GRANT, NOTE, replace(WAIT, alone=False, need_bytes=5 * GIB))
    world.look(sight(used_gib=4.3))
    assert (world.published[-1].turns, world.published[-1].alone) == ({}, "")
    world.look(sight(used_gib=4.0))
    assert (world.published[-1].turns, world.published[-1].alone) == ({LEADER.mark: 1}, "heavy do_compile")


def test_who_will_never_fit_does_not_wait_for_more() -> None:
    """Where nothing holds memory but what always does, a task runs again although it may not fit."""
    world = World()
    world.look(sight(used_gib=4.0))
    world.hear(GRANT, NOTE, replace(WAIT, need_bytes=7 * GIB))
    world.look(sight(used_gib=4.3))
    assert world.published[-1].turns == {}
    world.look(sight(used_gib=4.1))
    assert world.published[-1].turns == {LEADER.mark: 1}


def acted(act: Act, **more: Any) -> Acted:
    """Something that was done to the task; `before` are the tokens that it had."""
    before = more.pop("before", 0)
    return Acted(Action(act, TID, "why", **more), before)


@pytest.mark.parametrize(
    ("done", "event"),
    [
        (acted(Act.STOP, job=JOB), Stopped(0.0, "heavy", "do_compile", 4 * GIB, "cc1plus", 50, 400 * MIB, "why")),
        (acted(Act.KILL, job=JOB), Killed(0.0, "heavy", "do_compile", 4 * GIB, "cc1plus", 50, 400 * MIB, "why")),
        (acted(Act.WAKE), Woken(0.0, "heavy", "do_compile", 4 * GIB, bytes=700 * MIB, reason="why")),
        (acted(Act.TOKENS, tokens=2, is_short=True, before=5), Withdrawn(0.0, "heavy", "do_compile", 4 * GIB, 2, 5)),
        (acted(Act.TOKENS, tokens=5, is_short=True, before=2), None),
        (acted(Act.TOKENS, tokens=2, before=5), None),
    ],
)
def test_what_was_done_is_a_line(done: Acted, event: Any) -> None:
    """Stops, wakes and kills are written down, and tokens where they are taken back since memory is short."""
    world = World()
    world.hear(GRANT, NOTE)
    told = world.look(sight({LEADER: Usage(700 * MIB, 3, 2)}, [done]))
    assert told == ([] if event is None else [WriteLine(replace(event, time=world.at.time))])
    assert world.sentinel.counts.stopped == (done.action.act is Act.STOP)
    assert world.sentinel.counts.killed == (done.action.act is Act.KILL)
    assert [event["event"] for event in world.published[-1].events] == ([] if event is None else [event.event])


def test_before_a_kill_its_task_gets_a_note() -> None:
    """And the user's command learns of it."""
    world = World()
    world.hear(GRANT, NOTE)
    kill = Kill(100.0, "cc1plus", 400 * MIB, 7 * GIB, 8 * GIB, ("/half.o",))
    assert world.sentinel.handle(Killing(world.at, TID, JOB, ("/half.o",), 7 * GIB, reading())) == [
        GiveKillNote(LEADER.mark, kill),
        RunCommand(8 * GIB, 7 * GIB, "heavy", "do_compile"),
    ]


def test_what_a_held_task_lacks_is_asked_for() -> None:
    """The user's command runs for it, with what the container has and uses."""
    world = World()
    world.look()
    limit_bytes = world.sentinel._reading.limit_bytes if world.sentinel._reading else None
    told = world.hear(TaskWant("heavy", "do_compile", 3 * GIB))
    assert [deed for deed in told if isinstance(deed, RunCommand)] == [
        RunCommand(limit_bytes, 4 * GIB, "heavy", "do_compile", 3 * GIB)
    ]


def measured(world: World, record: Record) -> WriteLine:
    """The line of a task that has ended now, having begun at 100 s."""
    took = (record.wall_s, record.cpu_s, record.jobs, 2 * GIB, record.peak_bytes, record.outcome.value)
    return WriteLine(TaskMeasured(world.at.time, "heavy", "do_compile", EPOCH + 100.0, *took))


def test_a_task_that_has_said_so_has_ended() -> None:
    """Its line, its ward, its record: with its largest process only where it was too short to be seen."""
    world = World()
    world.hear(GRANT, NOTE)
    world.hear(END)
    told = world.look()
    assert told == [measured(world, record()), EndWard(NOTE, has_lives=True), Remember((record(),))]
    assert world.sentinel.tasks == {}
    assert world.sentinel.report(["odd"]) == Report(recorded=1, warnings=("odd",))


@pytest.mark.parametrize(
    ("kills", "use", "notes", "outcome"),
    [
        (3, WardUse(), (), Outcome.FAILED),
        (4, WardUse(), (), Outcome.MEMORY_KILL),
        (3, WardUse(kills=1), (), Outcome.MEMORY_KILL),
        (3, WardUse(), (END,), Outcome.OK),
        (3, WardUse(stopped_s=9.0), (END,), Outcome.OK),
    ],
)
def test_a_task_whose_process_is_gone_has_ended(
    kills: int, use: WardUse, notes: tuple[Note, ...], outcome: Outcome
) -> None:
    """With what it says last, or failed; for memory, if the kernel or the reflex has killed since it began.

    What was stopped meanwhile took what it takes where memory is short.
    """
    world = World()
    world.hear(GRANT, NOTE)
    world.counts = KernelCounts(kills)
    told = world.look(gone=[LEADER], notes=notes, uses={TID: use})
    (remembered,) = [found for found in told if isinstance(found, Remember)]
    assert [record.outcome for record in remembered.records] == [outcome]
    assert EndWard(NOTE, has_lives=outcome in (Outcome.OK, Outcome.THROTTLED)) in told
    assert world.sentinel.counts.lost == (outcome is Outcome.MEMORY_KILL)


def test_what_was_made_before_a_kill_and_beside_a_stopped_job_is_remembered_as_time() -> None:
    """A task runs 10 s, waits, runs 20 s more, and 4 s of all this were lost to stops: it takes 26 s by itself."""
    world = World()
    world.look()
    world.hear(GRANT, NOTE, WAIT)
    world.look(after_s=7.0)
    world.now_s += 20.0
    world.hear(replace(END, cpu_s=40.0))
    told = world.look(after_s=0.0, uses={TID: WardUse(stopped_s=25.0, lost_s=4.0)})
    (remembered,) = [found for found in told if isinstance(found, Remember)]
    assert [(record.wall_s, record.cpu_s) for record in remembered.records] == [(26.0, 40.0)]


def test_the_jobs_of_the_peak_are_remembered() -> None:
    """Those that its pool let it run at its largest, the implicit one included."""
    world = World()
    world.hear(GRANT, NOTE)
    for mib, tokens in ((100, 1), (900, 4), (500, 7)):
        world.look(sight({LEADER: Usage(mib * MIB, 3, 2)}, held=tokens))
    (remembered,) = [found for found in world.look(gone=[LEADER], notes=[END]) if isinstance(found, Remember)]
    assert [(record.peak_bytes, record.jobs) for record in remembered.records] == [(900 * MIB, 5)]
    assert world.sentinel.report().heaviest == (("heavy do_compile", 900 * MIB),)


def test_a_state_says_all_that_another_sentinel_needs() -> None:
    """Numbers of the container, marks, and the task with what the reflex knows of it."""
    world = World()
    world.hear(GRANT, NOTE)
    world.look(sight({LEADER: Usage(700 * MIB, 3, 2)}), uses={TID: WardUse(3, 350 * MIB, stopped=1)})
    state = world.published[-1]
    assert (state.build, state.pid, state.mode, state.limit_bytes) == ("b1", 99, "enforce", 8 * GIB)
    assert (state.marks.withdraw_bytes, state.marks.stop_bytes) == (7 * GIB, int(7.5 * GIB))
    task = state.tasks[TID]
    assert (task.note, task.state, task.place, task.since) == (NOTE, "stopped", 3, EPOCH + 100.0)
    assert (task.current_bytes, task.granted_bytes, task.job_bytes, task.tokens) == (700 * MIB, 2 * GIB, 350 * MIB, 3)


def test_a_state_is_published_where_there_is_news() -> None:
    """Else once in a while, more seldom where nothing runs."""
    world = World()
    world.look()
    world.look(after_s=IDLE_FRESHEN_S - 0.1)
    assert len(world.published) == 1
    world.hear(NOTE)
    world.look()
    assert len(world.published) == 2
    world.look(after_s=FRESHEN_S - 0.1)
    assert len(world.published) == 2
    world.look(after_s=0.2)
    assert len(world.published) == 3


def test_readings_are_kept_once_a_second_while_tasks_run() -> None:
    """With the largest tasks and the largest of their compilers; none where nothing runs."""
    world = World()
    looked = Looked(world.at, world.counts, sight())
    assert not [found for found in world.sentinel.handle(looked) if isinstance(found, WriteLine)]
    world.hear(GRANT, NOTE)
    lines = []
    for _ in range(12):
        world.now_s += 0.25
        usage = Usage(700 * MIB, 3, 2, (LARGE, replace(LARGE, pid=8, bytes=500 * MIB, source="b.cpp")))
        looked = Looked(world.at, world.counts, sight({LEADER: usage}), uses={TID: WardUse(3)})
        lines += [found.event for found in world.sentinel.handle(looked) if isinstance(found, WriteLine)]
    row = TaskRow("heavy", "do_compile", 700 * MIB, 2, 0, 3)
    largest = JobNow("heavy", "do_compile", "b.cpp", "cc1plus", 500 * MIB, 2.5)
    assert lines[0] == ReadingTaken(EPOCH + 100.25, 4 * GIB, 8 * GIB, GIB, (row,), largest)
    assert len(lines) == 3


def test_who_is_held_is_in_the_state_and_in_no_line() -> None:
    """Since when, until it is held no longer; the reason may change."""
    world = World()
    hold = TaskHold("/x.bb:do_compile", "x", "do_compile", "needs 4 GiB")
    assert world.hear(hold) == []
    world.look()
    world.hear(replace(hold, reason="needs 3 GiB"))
    world.look()
    assert world.published[-1].held == (HeldTask("x", "do_compile", "needs 3 GiB", EPOCH + 100.0),)
    assert [(event["event"], event["reason"]) for event in world.published[-1].events] == [("hold", "needs 4 GiB")]
    world.hear(replace(hold, reason=""))
    world.look()
    assert world.published[-1].held == ()
    assert world.sentinel.counts.held == 1


def test_without_a_reading_there_is_a_state_all_the_same() -> None:
    """A container that cannot be read costs no task its record."""
    world = World()
    world.sentinel.handle(Heard(world.at, world.counts, [GRANT, NOTE, END]))
    told = world.look(Sight(0.0, None, {LEADER: Usage(700 * MIB, 3, 2)}))
    assert [type(found) for found in told] == [WriteLine, EndWard, Remember]
    assert (world.published[-1].limit_bytes, world.published[-1].used_bytes) == (0, 0)


def left_by(build: str, used_gib: float) -> State:
    """What a sentinel has left."""
    world = World()
    world.sentinel = Sentinel(build, POLICY, True, 98, KernelCounts())
    world.hear(GRANT, NOTE)
    world.look(sight({LEADER: Usage(700 * MIB, 3, 2)}, used_gib=used_gib), uses={TID: WardUse(3, 350 * MIB)})
    return world.published[-1]


def test_another_sentinel_goes_on_with_tasks_that_live() -> None:
    """With their place, their peak and the tokens of their pools; those that are gone are nobody's."""
    world, left = World(), left_by("b1", 7.9)
    ward = Ward(LEADER, 3, 8, 350 * MIB, pool="/pool")
    assert world.sentinel.handle(Found(world.at, world.counts, left)) == []
    assert world.sentinel.handle(Found(world.at, world.counts, left, [LEADER])) == [BeginWard(NOTE, replace(ward), 3)]
    world.look()
    assert world.published[-1].tasks[TID].peak_bytes == 700 * MIB


@pytest.mark.parametrize(("share", "is_learned"), [(KILLED_SHARE + 0.01, True), (KILLED_SHARE - 0.01, False)])
def test_a_build_that_was_killed_near_its_limit_teaches(share: float, is_learned: bool) -> None:
    """Its heaviest task is remembered as killed for memory; of one that died far from its limit nothing is known."""
    world = World()
    told = world.sentinel.handle(Found(world.at, world.counts, left_by("b0", 8 * share), [LEADER]))
    took = {"peak_bytes": 700 * MIB, "largest_process_bytes": 0, "wall_s": 0.0, "cpu_s": 0.0}
    lost = replace(record(Outcome.MEMORY_KILL, **took), build="b0")
    assert told == ([Remember((lost,))] if is_learned else [])


def test_a_server_that_is_lost_takes_its_tasks_along() -> None:
    """The last state names them, also where they were gone a moment before that was known."""
    world = World()
    world.hear(GRANT, NOTE)
    world.look(sight({LEADER: Usage(700 * MIB, 3, 2)}))
    world.look(gone=[LEADER])
    assert world.published[-1].tasks == {}
    world.now_s += 1
    (told,) = world.sentinel.handle(ServerLost(world.at, world.counts))
    assert isinstance(told, Publish)
    assert [task.current_bytes for task in told.state.tasks.values()] == [700 * MIB]


def test_what_runs_when_all_is_over_has_failed() -> None:
    """Unless it has said otherwise; what the reflex did to it does not count any more."""
    world = World()
    world.hear(GRANT, NOTE)
    world.look(uses={TID: WardUse(kills=1)})
    told = world.sentinel.handle(Closed(world.at, world.counts))
    (remembered,) = [found for found in told if isinstance(found, Remember)]
    assert [record.outcome for record in remembered.records] == [Outcome.FAILED]
    assert world.sentinel.tasks == {}
