# SPDX-License-Identifier: MIT
"""Tasks of other builds under the same limit, as regulation sees them: beside our own, and ordered with them by age.

Runs in: the sentinel; pure.
Covers: what one build says of itself (Entry) out of its moment, and what it makes of the entries of all others.
Does not cover: files and processes (neighbours, channels/neighbours).

Every build judges the same tasks by the same rules, and carries out what concerns its own. So the youngest job over all
is stopped first, and the oldest over all goes on, without a word between them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import NamedTuple

from memguard.channels.neighbours import Entry, JobEntry, LifeEntry, TaskEntry
from memguard.decide.moment import Act, Action, Caution, Job, Moment, Running
from memguard.decide.turn import Beside, Elsewhere, Waiting
from memguard.predict.job_lives import Expected, Life
from memguard.sense.proc_files import ProcessId
from memguard.sense.process_tree import Compiler, Usage
from memguard.sentinel.pace import LATE_MOST_S

# A life that somebody else has measured is no shorter than this.
# evidence: as in job_memory, where no life is shorter than a look
LEAST_WALL_S = 0.1
LEAST_RISE_S = 0.05
# What is shown of a name that another build has.
# evidence: chosen; no recipe's name is as long
NAME_MOST = 200
# No pool has more tokens than this, and no more tasks of others are judged, the oldest first, whatever somebody says.
# evidence: chosen; the largest build hosts have some hundred CPUs, and fifty builds 200 tasks
TOKENS_MOST = 256
TASKS_MOST = 256
# What another build should have stopped, woken or killed for this long is done by nobody; for this long, then, its jobs
# are only there, and ours are all that can be stopped.
# evidence: chosen; looks come ten times a second where memory is short, and one may be late by LATE_MOST_S
UNANSWERED_S = 1.0
DISTRUST_S = 5.0


@dataclass(frozen=True)
class Others:
    """The builds that share our limit.

    builds:        how many are counted.
    tasks:         theirs that run.
    pending_bytes: what these will take besides, as far as it is not in the lives of their jobs.
    cpus:          CPUs that they keep busy.
    cpu_s:         CPU seconds of all of them.
    kills:         how many jobs of theirs they have killed so far.
    turns:         how often they have let a task run again so far.
    alone:         in words, the task that wants to run, or runs, with no other beside it; "" for none.
    elsewhere:     their tasks that wait to run again, and what runs of theirs meanwhile.
    caution:       how carefully the most careful of them judges memory.
    """

    builds: int = 0
    tasks: tuple[Running, ...] = ()
    pending_bytes: int = 0
    cpus: float = 0.0
    cpu_s: float = 0.0
    kills: int = 0
    turns: int = 0
    alone: str = ""
    elsewhere: Elsewhere = field(default_factory=Elsewhere)
    caution: Caution = field(default_factory=Caution)

    def caution_within(self, bound_bytes: int) -> Caution:
        """How carefully they judge memory; what they keep free counts up to half of a limit."""
        return replace(self.caution, reserve_bytes=min(bound_bytes // 2, self.caution.reserve_bytes))

    @property
    def current_bytes(self) -> int:
        """What they hold in memory."""
        return sum(task.current_bytes for task in self.tasks)

    @property
    def usages(self) -> dict[str, Usage]:
        """What they use, as of tasks of our own; CPU seconds are in the first."""
        used = {task.tid: Usage(task.current_bytes, compilers=tuple(map(_compiler, task.jobs))) for task in self.tasks}
        return {"": Usage(cpu_s=self.cpu_s), **used} if used else {}


NOBODY = Others()


def place_of(leader: ProcessId) -> int:
    """The place of a task among those of all builds: by its start, and the same in each of them."""
    return (leader.start_ticks << 32) + leader.pid


class Told(NamedTuple):
    """What a build says of one of its tasks beside what a moment has. waiting: of one that waits to run again."""

    leader: ProcessId
    pending_bytes: int = 0
    works: bool = False
    is_alone: bool = False
    waiting: Waiting | None = None


def others_of(entries: Mapping[ProcessId, Entry]) -> Others:
    """What the other builds say together, by their sentinels."""
    found = [task for sentinel, entry in entries.items() for task in _tasks(sentinel, entry)]
    tasks = sorted(found, key=lambda task: task.place)[:TASKS_MOST]
    all_tasks = [task for entry in entries.values() for task in entry.tasks]
    going = [task for task in all_tasks if task.waits_s is None]
    alone = [entry.alone for entry in entries.values() if entry.alone]
    return Others(
        builds=len(entries),
        tasks=tuple(tasks),
        pending_bytes=sum(_pending_bytes(entry) for entry in entries.values()),
        cpus=sum(max(0.0, entry.cpus) for entry in entries.values()),
        cpu_s=sum(entry.cpu_s for entry in entries.values()),
        kills=sum(entry.kills for entry in entries.values()),
        turns=sum(entry.turns for entry in entries.values()),
        elsewhere=Elsewhere(
            tuple(waiting for sentinel, entry in entries.items() for waiting in _waiting(sentinel, entry)),
            Beside(bool(going), any(task.works for task in going), any(task.is_alone for task in going)),
        ),
        caution=reduce(Caution.joined, map(_caution, entries.values()), Caution()),
        # People read it in BitBake's output.
        alone=f"{''.join(one for one in alone[0][:NAME_MOST] if one.isprintable())} of another build" if alone else "",
    )


def unheard(entry: Entry, lives: Callable[[ProcessId], bool]) -> Entry:
    """What is left of an entry whose sentinel is silent: what lives of it still, as memory that nobody regulates.

    Who took them for gone would give away what they are still to take.
    """
    tasks = tuple(
        replace(
            task,
            held_tokens=None,
            may_stop=False,
            may_kill=False,
            works=False,
            is_alone=False,
            waits_s=None,
            jobs=tuple(job for job in task.jobs if lives(ProcessId(job.pid, job.start_ticks))),
        )
        for task in entry.tasks
        if lives(ProcessId(task.pid, task.start_ticks))
    )
    return replace(entry, alone="", reserve_bytes=0, late_s=0.0, is_pressed=False, tasks=tasks)


def _pending_bytes(entry: Entry) -> int:
    return max(0, entry.pending_bytes) + sum(max(0, task.pending_bytes) for task in entry.tasks)


def entry_of(moment: Moment | None, told: Mapping[str, Told], acts: bool, entry: Entry) -> Entry:
    """What a build says of itself: `entry` with its tasks in a moment, and what else is `told` of them.

    acts: whether it may stop and kill; else others must not count on it.
    """
    if moment is None:
        return entry
    tasks = tuple(_task_entry(task, told[task.tid], acts) for task in moment.tasks if task.is_ours and task.tid in told)
    return replace(entry, tasks=tasks)


class Rise:
    """A count that others keep of what they have done: whether it has risen since the last time."""

    def __init__(self) -> None:
        self._before = 0

    def take(self, count: int) -> bool:
        """Whether `count` is more than the last one."""
        before, self._before = self._before, count
        return count > before


class Trust:
    """Whether other builds do what the rules say of their jobs. Where they do not, nobody waits for it."""

    def __init__(self) -> None:
        self._due: dict[tuple[Act, str, int], float] = {}
        self._distrusts_until_s = float("-inf")

    def leave_theirs(self, now_s: float, actions: Sequence[Action], ours: Container[str]) -> list[Action]:
        """The actions for tasks of `ours`; those for others' are theirs to carry out."""
        theirs = [one for one in actions if one.tid not in ours and one.act is not Act.TOKENS]
        due = [(one.act, one.tid, one.job.pid if one.job else 0) for one in theirs]
        self._due = {key: self._due.get(key, now_s) for key in due}
        if any(now_s - since_s >= UNANSWERED_S for since_s in self._due.values()):
            self._distrusts_until_s = now_s + DISTRUST_S
        return [action for action in actions if action.tid in ours]

    def tasks(self, now_s: float, others: Others) -> tuple[Running, ...]:
        """Their tasks; of those that do not do what they should only what goes on by itself, which nobody stops."""
        return others.tasks if now_s >= self._distrusts_until_s else tuple(map(_left_alone, others.tasks))


def _left_alone(task: Running) -> Running:
    going = tuple(job for job in task.jobs if not job.is_stopped)
    return replace(task, jobs=going, held_tokens=None, is_stopped=False, may_stop=False, may_kill=False)


def _tasks(sentinel: ProcessId, entry: Entry) -> list[Running]:
    return [
        Running(
            tid=f"{sentinel.mark}:{number}",
            place=place_of(ProcessId(task.pid, task.start_ticks)),
            most_jobs=1 + _tokens(task.most_jobs - 1),
            jobs=tuple(map(_job, task.jobs)),
            next_job=_expected(
                LifeEntry(task.next_peak_bytes, task.next_wall_s, task.next_rise_s, task.next_begun_s),
                task.next_ended,
                task.next_lives,
            ),
            held_tokens=None if task.held_tokens is None else _tokens(task.held_tokens),
            idle_tokens=_tokens(task.idle_tokens),
            current_bytes=max(0, task.current_bytes),
            is_stopped=task.is_stopped,
            may_stop=task.may_stop,
            may_kill=task.may_kill,
            swapped_bytes=max(0, task.swapped_bytes),
            is_ours=False,
        )
        for number, task in enumerate(entry.tasks)
    ]


def _tokens(told: int) -> int:
    return min(TOKENS_MOST, max(0, told))


def _job(job: JobEntry) -> Job:
    return Job(
        pid=job.pid,
        start_ticks=job.start_ticks,
        program="",
        bytes=max(0, job.bytes),
        age_s=max(0.0, job.age_s),
        growth_bytes_s=job.growth_bytes_s,
        expected=_expected(LifeEntry(job.peak_bytes, job.wall_s, job.rise_s, job.begun_s), job.ended, job.lives),
        is_stopped=job.is_stopped,
        may_stop=job.may_stop,
        swapped_bytes=max(0, job.swapped_bytes),
    )


def _expected(told: LifeEntry, ended: int, lives: Sequence[LifeEntry]) -> Expected:
    mean = _life(told)
    return Expected(
        mean.peak_bytes, mean.wall_s, mean.rise_s, mean.begun_s, ended=_tokens(ended), lives=tuple(map(_life, lives))
    )


def _life(told: LifeEntry) -> Life:
    rise_s = max(LEAST_RISE_S, told.rise_s)
    begun_s = min(max(0.0, told.begun_s), rise_s / 2)
    return Life(max(0, told.peak_bytes), max(LEAST_WALL_S, told.wall_s), rise_s, begun_s)


def _waiting(sentinel: ProcessId, entry: Entry) -> list[Waiting]:
    """Those that wait to run again; by names that none of our own tasks has."""
    return [
        Waiting(
            f"{sentinel.mark}:{number}",
            place_of(ProcessId(task.pid, task.start_ticks)),
            max(0, task.again_bytes),
            task.alone_next,
            max(0.0, task.waits_s),
        )
        for number, task in enumerate(entry.tasks)
        if task.waits_s is not None
    ]


def _caution(entry: Entry) -> Caution:
    return Caution(max(0, entry.reserve_bytes), min(LATE_MOST_S, max(0.0, entry.late_s)), entry.is_pressed)


def _compiler(job: Job) -> Compiler:
    return Compiler(job.pid, job.start_ticks, job.program, job.bytes, job.age_s)


def _task_entry(task: Running, told: Told, acts: bool) -> TaskEntry:
    following, waiting = task.next_job, told.waiting
    return TaskEntry(
        pid=told.leader.pid,
        start_ticks=told.leader.start_ticks,
        most_jobs=task.most_jobs,
        current_bytes=task.current_bytes,
        next_peak_bytes=following.peak_bytes,
        next_wall_s=round(following.wall_s, 3),
        next_rise_s=round(following.rise_s, 3),
        next_begun_s=round(following.begun_s, 3),
        next_ended=following.ended,
        pending_bytes=told.pending_bytes,
        swapped_bytes=task.swapped_bytes,
        held_tokens=task.held_tokens if acts else None,
        idle_tokens=task.idle_tokens,
        is_stopped=task.is_stopped,
        may_stop=task.may_stop and acts,
        may_kill=task.may_kill and acts,
        works=told.works,
        is_alone=told.is_alone,
        waits_s=round(waiting.waits_s, 3) if waiting else None,
        alone_next=waiting is not None and waiting.alone,
        again_bytes=waiting.need_bytes if waiting else 0,
        next_lives=tuple(map(_life_entry, following.lives)),
        jobs=tuple(map(_job_entry, task.jobs)),
    )


def _job_entry(job: Job) -> JobEntry:
    return JobEntry(
        pid=job.pid,
        start_ticks=job.start_ticks,
        bytes=job.bytes,
        age_s=round(job.age_s, 3),
        growth_bytes_s=round(job.growth_bytes_s),
        peak_bytes=job.expected.peak_bytes,
        wall_s=round(job.expected.wall_s, 3),
        rise_s=round(job.expected.rise_s, 3),
        begun_s=round(job.expected.begun_s, 3),
        ended=job.expected.ended,
        swapped_bytes=job.swapped_bytes,
        is_stopped=job.is_stopped,
        may_stop=job.may_stop,
        lives=tuple(map(_life_entry, job.expected.lives)),
    )


def _life_entry(life: Life) -> LifeEntry:
    return LifeEntry(life.peak_bytes, round(life.wall_s, 3), round(life.rise_s, 3), round(life.begun_s, 3))
