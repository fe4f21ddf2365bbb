# SPDX-License-Identifier: MIT
"""What the sentinel knows of one task and of what no task holds, and what it reports of a whole build.

Runs in: the sentinel; pure.
Covers: what is kept of a task from its note to its end.
Does not cover: its jobs (job_memory), and what is remembered when it has ended (remember).
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from memguard.channels.notes import TaskEnd, TaskGrant, TaskNote, TaskWait
from memguard.decide.turn import Waiting
from memguard.model import Outcome, Policy, Reading
from memguard.sense.proc_files import ProcessId
from memguard.sense.process_tree import Usage
from memguard.sense.tally import Tally
from memguard.sentinel.others import place_of
from memguard.sentinel.ward import Ward

# A fetch has a server that waits, so it is not stopped.
NEVER_STOPPED = ("do_fetch",)
# The CPU time of a process is read anew every few seconds; a rate is that of no less than this time.
# evidence: LOOK_EVERY scans at four a second
RATE_S = 4.0
# A task that holds less than this and compiles nothing does not count as working.
# evidence: chosen, not measured
WORKING_BYTES = 128 << 20
# A task that was let start begins within this time, or never.
# evidence: chosen; a worker reads the recipe first, which takes a second or two
BEGINS_S = 10.0


class Instant(NamedTuple):
    """Now, by two clocks: the monotonic one, and seconds since 1970 to the millisecond."""

    now_s: float
    time: float


class KernelCounts(NamedTuple):
    """How often the kernel has killed for memory in this container, and slowed it down at memory.high."""

    kills: int = 0
    throttles: int = 0


@dataclass
class Watched:
    """A task that runs: what it said, what it took so far, and the kernel's counts when it began.

    need_bytes: what it takes at least, as the server sees it; 0 where that has not said so.
    earlier_s: how long its attempts before this one have run, together.
    """

    note: TaskNote
    since_s: float
    began: float
    place: int
    before: KernelCounts
    granted_bytes: int = 0
    need_bytes: int = 0
    tally: Tally = field(default_factory=Tally)
    usage: Usage = field(default_factory=Usage)
    most_swapped_bytes: int = 0
    jobs_at_peak: int | None = None
    end: TaskEnd | None = None
    wait: TaskWait | None = None
    waits_since_s: float = 0.0
    has_turn: bool = False
    earlier_s: float = 0.0
    wants_alone: bool = False
    rate: float = 1.0
    rated: tuple[float, float] | None = None

    @property
    def leader(self) -> ProcessId:
        """The process that is the task."""
        return ProcessId(self.note.pid, self.note.start_ticks)

    @property
    def waits(self) -> bool:
        """Whether it waits for its turn to run again."""
        return self.wait is not None and not self.has_turn

    @property
    def is_alone(self) -> bool:
        """It runs again and wants no other beside it."""
        return self.wants_alone and self.has_turn

    @property
    def ended_well(self) -> bool:
        """Whether it has said that it ended, and well."""
        return self.end is not None and self.end.outcome is Outcome.OK

    @property
    def works(self) -> bool:
        """Whether it compiles or holds memory that counts."""
        return bool(self.usage.compilers) or self.usage.current_bytes > WORKING_BYTES

    @property
    def pending_bytes(self) -> int:
        """What it will take that the lives of its jobs do not show: it has run none yet (as decide/ledger has it)."""
        return 0 if self.tally.most_compilers else max(0, self.need_bytes - self.usage.current_bytes)

    def __str__(self) -> str:
        return f"{self.note.recipe} {self.note.task}"

    def wall_s(self, now_s: float) -> float:
        """How long it has run; of one that has run again, from its turn on."""
        return self.end.wall_s if self.end and not self.has_turn else now_s - self.since_s

    @property
    def most_jobs(self) -> int:
        """What it may run at once."""
        return self.note.most_jobs if self.note.pool else self.note.jobs

    def ward(self, grant: TaskGrant | None) -> Ward:
        """What the reflex needs to know of it."""
        note = self.note
        return Ward(
            leader=self.leader,
            place=self.place,
            most_jobs=self.most_jobs,
            job_bytes=grant.job_bytes if grant and grant.job_bytes else None,
            largest_bytes=grant.largest_bytes if grant else 0,
            pool=note.pool,
            may_stop=not note.task.startswith(NEVER_STOPPED),
            may_kill=note.may_kill,
        )

    def cpus(self, stopped: int) -> float:
        """The CPUs that it keeps busy now, where so many of its processes are stopped.

        Its compilers that run; where it has none, what it has computed of late, one CPU at the most.
        """
        if self.waits:
            return 0.0
        compilers = len(self.usage.compilers)
        if compilers:
            return float(max(0, compilers - stopped))
        return 0.0 if stopped else self.rate

    def take(self, usage: Usage, jobs_now: int | None, now_s: float) -> None:
        """Take in what it uses now. At its peak it ran as many jobs as are remembered with that.

        jobs_now: the jobs that its pool lets it run at this moment, None where it has none.
        """
        if self.rated is None:
            self.rated = now_s, usage.cpu_s
        elif now_s - self.rated[0] >= RATE_S:
            since_s, before_s = self.rated
            self.rate = min(1.0, max(0.0, usage.cpu_s - before_s) / (now_s - since_s))
            self.rated = now_s, usage.cpu_s
        before = self.tally.peak_bytes
        self.usage = usage
        self.most_swapped_bytes = max(self.most_swapped_bytes, usage.swapped_bytes)
        self.tally.add(usage)
        if self.tally.peak_bytes > before:
            self.jobs_at_peak = jobs_now

    def waiting(self, now_s: float, is_only_build: bool = True) -> Waiting | None:
        """What it waits for, None where it does not. is_only_build: none shares the limit, so that its place counts."""
        if self.wait is None or self.has_turn:
            return None
        waits_s, place = now_s - self.waits_since_s, self.place if is_only_build else place_of(self.leader)
        return Waiting(self.note.tid, place, self.wait.need_bytes, self.wants_alone, waits_s)

    def begin_turn(self, now_s: float) -> None:
        """It runs again from now on."""
        self.has_turn, self.since_s = True, now_s

    def wait_for_turn(self, wait: TaskWait, now_s: float, counts: KernelCounts, most_bytes: float) -> None:
        """It lost a job, and begins anew once it has its turn: alone if it needs more than `most_bytes`, too."""
        self.earlier_s += self.wall_s(now_s)
        self.tally, self.since_s, self.before, self.end = Tally(), now_s, counts, None
        self.wait, self.waits_since_s, self.has_turn = wait, now_s, False
        self.wants_alone = wait.alone or wait.need_bytes > most_bytes


class Grants:
    """What tasks were granted, until they end."""

    def __init__(self) -> None:
        self._given: dict[str, tuple[float, TaskGrant]] = {}

    def take(self, grant: TaskGrant, now_s: float) -> bool:
        """A task is granted something, for the first time or anew; whether it is the first."""
        is_new = grant.tid not in self._given
        self._given[grant.tid] = (now_s if is_new else self._given[grant.tid][0], grant)
        return is_new

    def of(self, tid: str) -> TaskGrant | None:
        """The newest grant of a task."""
        return self._given.get(tid, (0.0, None))[1]

    def end(self, tid: str) -> None:
        """A task has ended."""
        self._given.pop(tid, None)

    def pending_bytes(self, now_s: float, begun: Container[str]) -> int:
        """What those need at least that have not begun, and were let start only just now."""
        given = self._given.items()
        return sum(one.need_bytes for tid, (at_s, one) in given if tid not in begun and now_s - at_s <= BEGINS_S)


@dataclass(frozen=True)
class Report:
    """What the sentinel says when it ends: tasks recorded, the heaviest of them, what was done, and what went wrong."""

    recorded: int = 0
    heaviest: tuple[tuple[str, int], ...] = ()
    stopped: int = 0
    killed: int = 0
    retried: int = 0
    warnings: tuple[str, ...] = ()


class Outside:
    """What is used that no task holds: BitBake's own, and what others in the container hold that are no builds."""

    def __init__(self) -> None:
        self._bytes = self._least_bytes = math.inf

    def take(self, used_bytes: int, runs: Iterable[Watched], others_bytes: int = 0) -> None:
        """So much is used in all while these tasks run, and tasks of other builds hold `others_bytes`."""
        self._bytes = max(0, used_bytes - others_bytes - sum(run.usage.current_bytes for run in runs))
        self._least_bytes = min(self._least_bytes, self._bytes)

    def most_bytes(self, reading: Reading | None, policy: Policy) -> float:
        """What a task may have by plan where no other runs; infinite before the first look."""
        if reading is None or self._least_bytes == math.inf:
            return math.inf
        return reading.bound_bytes - policy.reserve_of(reading.bound_bytes) - self._least_bytes

    @property
    def is_least(self) -> bool:
        """Whether it is about the least that was seen, so that no more memory is to be expected."""
        return self._bytes <= self._least_bytes + WORKING_BYTES
