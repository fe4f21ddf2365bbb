# SPDX-License-Identifier: MIT
"""The ledger of one build: which tasks run with which grant, which wait for memory, and what that lets start.

Runs in: the BitBake server and every simulation; pure: time, readings and what tasks take come in as arguments.
Covers: grants and holds as changes of state, the growth and the ends to expect of running tasks, crowded CPUs.
Does not cover: the rules of admission (admit), which ready task comes first (choose), telling anybody (server/guard).

Times are seconds of any one clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from memguard.decide.admit import Situation, admit, admit_alone, extend, is_worth_asking, shortest_s
from memguard.model import BuildUse, Grant, Mode, Policy, Reading, Task, Verdict

# A reading costs some 50 us of kernel time, as much as BitBake needs to pick a task out of a thousand. In this time
# the fastest fill rate seen on build hosts (6 GB/s, by the authors of earlyoom) takes less than a default reserve.
READING_AGE_S = 0.1

# A task that has started, and that nobody measures, counts as not grown yet for this time. A compiler of 600 MB
# reaches half of its peak in two to three seconds, after a second or two in which make or ninja find out what to do.
GROWTH_S = 5.0

# Tasks are started until those that run are expected to keep the CPUs busy this many times over. They do so on
# average; what one leaves idle while it links another takes.
CROWD = 1.25


@dataclass(frozen=True)
class Hold:
    """A task that waits for memory. `place` counts up over the build, so that the oldest has the smallest.

    least_bytes: its peak with the fewest jobs it starts with; need_bytes: what it waits for.
    shortest_s:  how long it takes at least.
    """

    task: Task
    place: int
    since_s: float
    reason: str
    least_bytes: int
    need_bytes: int
    shortest_s: float


@dataclass(frozen=True)
class Release:
    """A hold that has ended, and the seconds it lasted."""

    hold: Hold
    held_s: float


@dataclass(frozen=True)
class Entry:
    """The grant of a running task, and its place in the queue for memory.

    ends_s: when it is expected to end, None where that is not known.
    cpus:   CPUs it is expected to keep busy, 0 where that is not known.
    """

    task: Task
    grant: Grant
    place: int
    since_s: float
    ends_s: float | None = None
    cpus: float = 0.0


class Admission(NamedTuple):
    """A task that was let through: its entry, and the hold that ended with it, None where it was not held."""

    entry: Entry
    release: Release | None


@dataclass
class Totals:
    """What was decided so far, in tasks; held_s: seconds that tasks waited, all together."""

    granted: int = 0
    held: int = 0
    shrunk: int = 0
    forced: int = 0
    held_s: float = 0.0


class Ledger:
    """The state of one build. Who keeps it calls settle() before each decision, and look() when that says so."""

    def __init__(self, policy: Policy, reading: Reading, now_s: float) -> None:
        self.policy = policy
        self.reading = reading
        self.is_observing = policy.mode is Mode.OBSERVE
        self.held: dict[str, Hold] = {}
        self.running: dict[str, Entry] = {}
        self.totals = Totals()
        self._use = BuildUse({})
        self._now_s = self._read_at_s = now_s
        self._idle_bytes = reading.used_bytes - reading.shmem_bytes
        self._granted_bytes = 0
        self._busy_cpus = 0.0
        self._places = 0
        # Thousands of tasks are asked about between two changes: what they are judged by is worked out once.
        self._situation: Situation | None = None
        self._waiting_in: Situation | None = None

    def settle(self, ended: Iterable[str], now_s: float) -> bool:
        """Bring it up to date: it is `now_s`, and `ended` tasks no longer run. Whether a new reading is due."""
        for tid in ended:
            gone = self.running.pop(tid, None)
            if gone is not None:
                self._granted_bytes -= gone.grant.bytes
                self._busy_cpus -= gone.cpus
                self._situation = None
        self._now_s = now_s
        return now_s - self._read_at_s >= READING_AGE_S

    def look(self, reading: Reading, use: BuildUse, now_s: float, is_idle: bool = False) -> list[Entry]:
        """Take what is seen of container and tasks at `now_s`; the running tasks that may have more jobs from now on.

        is_idle: no task runs, so that what is in use is nobody's grant.
        """
        self.reading, self._use, self._read_at_s = reading, use, now_s
        if is_idle:
            self._idle_bytes = reading.used_bytes - reading.shmem_bytes
        self._situation = None
        return self._extend()

    @property
    def is_crowded(self) -> bool:
        """Whether running tasks, as far as earlier builds tell, keep all CPUs busy: one more would slow them down.

        The most urgent ones run already, so it would gain nothing and hold memory all the same.
        """
        return self._busy_cpus >= self.reading.cpus * CROWD

    @property
    def emergency(self) -> str:
        """In words, why nothing may start now whatever fits; "" for no reason."""
        if self.is_observing:
            return ""
        if self._use.alone:
            return f"{self._use.alone} runs again, alone"
        return f"memory is short: {self._use.stopped} jobs are stopped" if self._use.stopped else ""

    @property
    def free_bytes(self) -> int:
        """What one more task may use now; negative where running ones are expected to need more than there is."""
        return self._now().free_bytes

    def releasable(self, is_idle: bool) -> Iterator[Task]:
        """The held tasks that may start now, oldest first; all of them when nothing runs."""
        if not self.held or (self._waiting_in is self._now() and not is_idle):
            return
        found = False
        holds = list(self.held.values())
        if not is_idle:
            is_worth = is_worth_asking(self._now())
            holds = [hold for hold in holds if is_worth(hold.task, hold.least_bytes, hold.shortest_s)]
        for hold in holds:
            if is_idle or admit(hold.task, self._now()).starts:
                found = True
                yield hold.task
        if not found:
            self._waiting_in = self._now()

    def judge(self, task: Task, is_idle: bool) -> Verdict:
        """May `task`, which would start next, start now? When nothing runs, it always may."""
        verdict = admit(task, self._now())
        return admit_alone(task, self._now()) if is_idle and not verdict.starts else verdict

    def offer(self, task: Task, is_idle: bool) -> bool:
        """Judge `task` and keep the verdict; whether it starts."""
        verdict = self.judge(task, is_idle)
        if verdict.grant is None:
            self.hold(task, verdict)
        else:
            self.grant(task, verdict, verdict.grant)
        return verdict.starts

    def hold(self, task: Task, verdict: Verdict) -> Hold | None:
        """Hold `task`, which keeps its place from the first time on; None where it was held already."""
        known = self.held.get(task.tid)
        if known is not None:
            self.held[task.tid] = replace(known, reason=verdict.reason, need_bytes=verdict.need_bytes)
            return None
        least_bytes = task.footprint.peak_bytes(self._now().fewest_jobs(task))
        hold = self.held[task.tid] = Hold(
            task, self._next_place(), self._now_s, verdict.reason, least_bytes, verdict.need_bytes, shortest_s(task)
        )
        self._situation = None
        self.totals.held += 1
        return hold

    def grant(self, task: Task, verdict: Verdict, grant: Grant) -> Admission:
        """Let `task` run with `grant`; a second grant replaces the first."""
        self.totals.shrunk += grant.jobs < task.wanted_jobs
        self.totals.forced += verdict.is_forced
        release = self.release(task.tid)
        return Admission(self._enter(task, grant, release.hold.place if release else self._next_place()), release)

    def observe(self, task: Task, verdict: Verdict) -> Entry:
        """Let `task` run with all its jobs, and count what `verdict` would have done with it."""
        if verdict.grant is None:
            self.totals.held += 1
        elif verdict.grant.jobs < task.wanted_jobs:
            self.totals.shrunk += 1
        return self._enter(task, all_jobs(task), self._next_place())

    def release(self, tid: str) -> Release | None:
        """End the hold of a task; None where it is not held."""
        hold = self.held.pop(tid, None)
        if hold is None:
            return None
        self._situation = None
        held_s = self._now_s - hold.since_s
        self.totals.held_s += held_s
        return Release(hold, held_s)

    def _enter(self, task: Task, grant: Grant, place: int) -> Entry:
        self.totals.granted += 1
        before = self.running.pop(task.tid, None)
        ends_s, cpus = None, 0.0
        if task.duration is not None:
            ends_s, cpus = self._now_s + task.duration.seconds(grant.jobs), task.duration.cpus(grant.jobs)
        entry = self.running[task.tid] = Entry(task, grant, place, self._now_s, ends_s, cpus)
        self._granted_bytes += grant.bytes - (before.grant.bytes if before else 0)
        self._busy_cpus += cpus - (before.cpus if before else 0.0)
        self._situation = None
        return entry

    def _extend(self) -> list[Entry]:
        """Give running tasks that take their jobs from a pool more of them, where nobody waits for memory."""
        extended: list[Entry] = []
        if self.held or self.is_observing:
            return extended
        for tid, state in self._use.tasks.items():
            entry = self.running.get(tid)
            if entry is None or state.tokens is None or entry.grant.jobs >= entry.task.wanted_jobs:
                continue
            grant = extend(entry.task, entry.grant, self._now())
            if grant is not None:
                self._granted_bytes += grant.bytes - entry.grant.bytes
                self.running[tid] = entry = replace(entry, grant=grant)
                self._situation = None
                extended.append(entry)
        return extended

    def _now(self) -> Situation:
        if self._situation is None:
            growth_bytes, ends = self._outlook()
            situation = Situation(
                reading=self.reading,
                policy=self.policy,
                idle_bytes=self._idle_bytes,
                granted_bytes=self._granted_bytes,
                growth_bytes=growth_bytes,
                emergency=self.emergency,
                ends=ends,
            )
            head = next((hold for hold in self.held.values() if situation.fits_empty(hold.task)), None)
            if head is not None:
                passed = sum(entry.grant.bytes for entry in self.running.values() if entry.place > head.place)
                situation = replace(situation, head=head.task, head_bytes=head.need_bytes, passed_bytes=passed)
            self._situation = situation
        return self._situation

    def _outlook(self) -> tuple[int, list[tuple[float, int]]]:
        """What running tasks are expected to take beyond what they take now, and when they are expected to end.

        With its end each task's grant, which it then gives back; none at all while one of them is unknown.
        """
        growth_bytes = 0
        ends: list[tuple[float, int]] | None = []
        states, now_s = self._use.tasks, self._now_s
        for tid, entry in self.running.items():
            grant_bytes = entry.grant.bytes
            state = states.get(tid)
            if state is not None:
                growth_bytes += max(0, grant_bytes - state.current_bytes)
            elif now_s - entry.since_s <= GROWTH_S:
                growth_bytes += grant_bytes
            if entry.ends_s is None:
                ends = None
            elif ends is not None:
                ends.append((max(0.0, entry.ends_s - now_s), grant_bytes))
        return growth_bytes, sorted(ends) if ends else []

    def _next_place(self) -> int:
        self._places += 1
        return self._places


def all_jobs(task: Task) -> Grant:
    """What a stock build would give `task`."""
    return Grant(task.wanted_jobs, task.footprint.peak_bytes(task.wanted_jobs))
