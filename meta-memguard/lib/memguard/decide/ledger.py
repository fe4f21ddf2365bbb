# SPDX-License-Identifier: MIT
"""The ledger of one build: which tasks run with which grant, which wait for memory, and what that lets start.

Runs in: the BitBake server and every simulation; pure: time, readings and what tasks take come in as arguments.
Covers: grants and holds as changes of state, what running tasks will take, idle and crowded CPUs.
Does not cover: the rules of admission (admit), which ready task comes first (choose), telling anybody (server/guard).

Times are seconds of any one clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from memguard.decide.admit import Situation, Verdict, admit, admit_alone, admit_boldly
from memguard.decide.order import HALF
from memguard.model import BuildUse, Grant, Mode, Policy, Reading, Task, TaskUse

# A reading costs some 50 us of kernel time, as much as BitBake needs to pick a task out of a thousand. In this time
# the fastest fill rate seen on build hosts (6 GB/s, by the authors of earlyoom) takes less than a default reserve.
# evidence: earlyoom's fill rate, and scripts/bench sense
READING_AGE_S = 0.1
# BitBake asks what to start several times a second. Where it has not for longer than this, all its threads were taken:
# a CPU that idled then did so whatever would have fitted.
# evidence: in the replay one such time came to 27 s of 30 s in all
ASKED_S = 1.0

# A task that is held for this long has its memory kept.
# evidence: chosen, not measured; on real recipes no task waits for as long
STARVED_S = 300.0


# While so many tasks for each CPU have not begun, some of them will run beside one that starts now.
# evidence: chosen, not measured; a native recipe has eleven tasks that run, of which two follow its compile
LEFT_PER_CPU = 8


@dataclass(frozen=True)
class Hold:
    """A task that waits for memory. `place` counts up over the build, so that the oldest has the smallest.

    need_bytes: its peak with the fewest jobs it starts with.
    """

    task: Task
    place: int
    since_s: float
    reason: str
    need_bytes: int


@dataclass(frozen=True)
class Release:
    """A hold that has ended, and the seconds it lasted."""

    hold: Hold
    held_s: float


@dataclass(frozen=True)
class Entry:
    """The grant of a running task, its place in the queue for memory, and what it needs at least."""

    task: Task
    grant: Grant
    place: int
    need_bytes: int


class Admission(NamedTuple):
    """A task that was let through: its entry, and the hold that ended with it, None where it was not held."""

    entry: Entry
    release: Release | None


@dataclass
class Totals:
    """What was decided so far, in tasks.

    held_s: seconds that tasks waited, all together; idle_s: CPU seconds that idled although a held task would have fit.
    """

    granted: int = 0
    held: int = 0
    shrunk: int = 0
    forced: int = 0
    held_s: float = 0.0
    idle_s: float = 0.0


class Ledger:
    """The state of one build. Who keeps it calls settle() before each decision, and look() when that says so.

    left:    tasks of the build that have not begun; 0 where nobody says.
    use:     what was seen of running tasks at the last look.
    is_bold: where a CPU idles, a task may start that may prove too much: somebody stops it within a tenth of a second.
    """

    def __init__(self, policy: Policy, reading: Reading, now_s: float, is_bold: bool = True) -> None:
        self.policy = policy
        self.reading = reading
        self.is_observing = policy.mode is Mode.OBSERVE
        self._is_bold = is_bold
        self.left = 0
        self.held: dict[str, Hold] = {}
        self.running: dict[str, Entry] = {}
        self.totals = Totals()
        self.use = BuildUse({}, is_watched=False)
        self._now_s = self._read_at_s = now_s
        self._idle_bytes = reading.used_bytes - reading.shmem_bytes
        self._granted_bytes = 0
        self._places = 0
        # Thousands of tasks are asked about between two changes: what they are judged by is worked out once.
        self._situation: Situation | None = None
        self._waiting_in: Situation | None = None
        self._timid_in: Situation | None = None
        self._basis: tuple[bool, bool, int] | None = None

    def settle(self, ended: Iterable[str], now_s: float) -> bool:
        """Bring it up to date: it is `now_s`, and `ended` tasks no longer run. Whether a new reading is due."""
        for tid in ended:
            gone = self.running.pop(tid, None)
            if gone is not None:
                self._granted_bytes -= gone.grant.bytes
                self._situation = None
        self._now_s = now_s
        return now_s - self._read_at_s >= READING_AGE_S

    def look(self, reading: Reading, use: BuildUse, now_s: float, is_idle: bool = False) -> None:
        """Take what is seen of container and tasks at `now_s`.

        is_idle: no task runs, so that what is in use is nobody's grant.
        """
        passed_s = now_s - self._read_at_s
        is_asked = passed_s <= ASKED_S and self.is_hungry
        if is_asked and any(hold.need_bytes <= self.free_bytes for hold in self.held.values()):
            self.totals.idle_s += passed_s * (self.reading.cpus - self._busy_cpus)
        self.reading, self.use, self._read_at_s = reading, use, now_s
        if is_idle or use.others_bytes:
            # What a neighbour's tasks hold is there now, and not for ever.
            ours_bytes = 0 if is_idle else sum(task.current_bytes for task in use.tasks.values())
            self._idle_bytes = max(0, reading.used_bytes - reading.shmem_bytes - ours_bytes - use.others_bytes)
        self._situation = None

    @property
    def is_crowded(self) -> bool:
        """Whether running tasks keep all CPUs busy while less than half of the memory will be free.

        One more would take CPU time from those that are waited for most, and hold memory all the same; what they leave
        idle light tasks take. Where there is memory for all, as many run as in a stock build.
        """
        is_busy = self.use.is_watched and self._busy_cpus >= self.reading.cpus
        return is_busy and self.free_bytes < HALF * self.budget_bytes

    @property
    def is_hungry(self) -> bool:
        """Whether a CPU idles although tasks are held, and one of them may be tried."""
        may_try = self._is_bold and bool(self.held) and self.use.is_watched
        return may_try and self._busy_cpus + self.use.others_cpus < self.reading.cpus

    @property
    def emergency(self) -> str:
        """In words, why nothing may start now; "" for no reason."""
        return f"{self.use.alone} runs again, alone" if self.use.alone and not self.is_observing else ""

    @property
    def situation(self) -> Situation:
        """All that an admission depends on now."""
        return self._now()

    @property
    def budget_bytes(self) -> int:
        """What tasks may use together."""
        return self._now().budget_bytes

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
            most_bytes = self._now().most_bytes
            holds = [hold for hold in holds if hold.need_bytes <= most_bytes]
        for hold in holds:
            if is_idle or admit(hold.task, self._now()).starts:
                found = True
                yield hold.task
        if not found:
            self._waiting_in = self._now()

    def bold(self) -> Iterator[Task]:
        """The held tasks that may start since a CPU idles, those first that need least: peaks that are small meet none.

        One that has starved comes before all others.
        """
        situation = self._now()
        if situation is self._timid_in:
            return
        found = False
        holds = [hold for hold in self.held.values() if hold.need_bytes <= situation.room_bytes]
        for hold in sorted(holds, key=lambda hold: (hold.need_bytes, hold.place)):
            if admit_boldly(hold.task, situation).starts:
                found = True
                yield hold.task
        if not found:
            self._timid_in = situation

    def judge(self, task: Task, is_idle: bool, is_bold: bool = False) -> Verdict:
        """May `task`, which would start next, start now? When nothing runs, it always may.

        is_bold: since a CPU idles.
        """
        verdict = admit(task, self._now())
        if not verdict.starts and is_bold:
            verdict = admit_boldly(task, self._now())
        return admit_alone(task, self._now()) if is_idle and not verdict.starts else verdict

    def offer(self, task: Task, is_idle: bool, is_bold: bool = False) -> bool:
        """Judge `task` and keep the verdict; whether it starts."""
        verdict = self.judge(task, is_idle, is_bold)
        if verdict.grant is None:
            self.hold(task, verdict)
        else:
            self.grant(task, verdict, verdict.grant)
        return verdict.starts

    def hold(self, task: Task, verdict: Verdict) -> Hold | None:
        """Hold `task`, which keeps its place from the first time on; None where it was held already."""
        known = self.held.get(task.tid)
        if known is not None:
            self.held[task.tid] = replace(known, reason=verdict.reason)
            return None
        situation = self._now()
        need_bytes, place = situation.need_bytes(task), self._next_place()
        hold = self.held[task.tid] = Hold(task, place, self._now_s, verdict.reason, need_bytes)
        self._timid_in = None
        if len(self.held) == 2 or situation.is_heavy(need_bytes):
            self._situation = None
        self.totals.held += 1
        return hold

    def grant(self, task: Task, verdict: Verdict, grant: Grant) -> Admission:
        """Let `task` run with `grant`; a second grant replaces the first."""
        self.totals.granted += 1
        self.totals.shrunk += grant.jobs < task.wanted_jobs
        self.totals.forced += verdict.is_forced
        release = self.release(task.tid)
        return Admission(self._enter(task, grant, release.hold.place if release else self._next_place()), release)

    def revise(self, task: Task) -> None:
        """More is known of a held task: it keeps its place."""
        known = self.held.get(task.tid)
        if known is not None:
            self.held[task.tid] = replace(known, task=task, need_bytes=self._now().need_bytes(task))
            self._situation = None

    def count_in(self, task: Task) -> None:
        """`task` runs, although nobody was asked: what it needs is counted from here on."""
        self._enter(task, all_jobs(task), self._next_place())

    def observe(self, task: Task, verdict: Verdict) -> Entry:
        """Let `task` run with all its jobs, and count what `verdict` would have done with it."""
        if verdict.grant is None:
            self.totals.held += 1
        elif verdict.grant.jobs < task.wanted_jobs:
            self.totals.shrunk += 1
        self.totals.granted += 1
        return self._enter(task, all_jobs(task), self._next_place())

    def release(self, tid: str) -> Release | None:
        """End the hold of a task; None where it is not held."""
        hold = self.held.pop(tid, None)
        if hold is None:
            return None
        if self._situation is not None and (self._situation.kept is hold.task or len(self.held) == 1):
            self._situation = None
        held_s = self._now_s - hold.since_s
        self.totals.held_s += held_s
        return Release(hold, held_s)

    def _enter(self, task: Task, grant: Grant, place: int) -> Entry:
        before = self.running.pop(task.tid, None)
        need_bytes = self._now().need_bytes(task)
        entry = self.running[task.tid] = Entry(task, grant, place, need_bytes)
        self._granted_bytes += grant.bytes - (before.grant.bytes if before else 0)
        self._situation = None
        return entry

    @property
    def _busy_cpus(self) -> float:
        """CPUs that running tasks keep busy; one that nobody has seen yet is taken to keep one."""
        seen = self.use.tasks
        return sum(seen[tid].cpus if tid in seen else 1.0 for tid in self.running)

    def _now(self) -> Situation:
        if self._situation is None:
            use, running = self.use, self.running
            situation = Situation(
                reading=self.reading,
                policy=self.policy,
                idle_bytes=self._idle_bytes,
                rise_bytes=use.rise_bytes,
                parked_bytes=0 if self.is_observing else use.parked_bytes,
                pending_bytes=use.others_pending_bytes
                + sum(_pending_bytes(entry, use.tasks.get(tid)) for tid, entry in running.items()),
                granted_bytes=self._granted_bytes,
                is_watched=use.is_watched,
                stopped=0 if self.is_observing else use.stopped,
                emergency=self.emergency,
                # Who is asked about is mostly one of the held.
                others_wait=len(self.held) > 1 or self.left > LEFT_PER_CPU * self.reading.cpus,
            )
            if situation.basis != self._basis:
                # As before the sentinel has begun to watch: then tasks counted with the margins of their predictions.
                self._basis = situation.basis
                for tid, hold in self.held.items():
                    self.held[tid] = replace(hold, need_bytes=situation.need_bytes(hold.task))
            filling = next((entry.task for entry in running.values() if situation.fills(entry.task)), None)
            self._situation = self._keep(replace(situation, filling=filling) if filling else situation)
        return self._situation

    def _keep(self, situation: Situation) -> Situation:
        """The situation, with the held task for which memory is kept."""
        oldest = next((hold for hold in self.held.values() if situation.fits_empty(hold.task)), None)
        if oldest is not None and self._now_s - oldest.since_s >= STARVED_S:
            return replace(situation, kept=oldest.task, is_starved=True)
        if not self.use.is_watched or any(situation.is_heavy(entry.need_bytes) for entry in self.running.values()):
            return situation
        heavy = next((hold for hold in self.held.values() if situation.is_heavy(hold.need_bytes)), None)
        return situation if heavy is None else replace(situation, kept=heavy.task)

    def _next_place(self) -> int:
        self._places += 1
        return self._places


def _pending_bytes(entry: Entry, use: TaskUse | None) -> int:
    """What a task will take that the forecast of its compilers does not know of.

    It is too young to be seen, it has run none yet, or it is the user's word what it takes.
    """
    if use is None:
        return entry.need_bytes
    if use.most_compilers and not entry.task.footprint.is_own:
        return 0
    return max(0, entry.need_bytes - use.current_bytes)


def all_jobs(task: Task) -> Grant:
    """What a stock build would give `task`."""
    return Grant(task.wanted_jobs, task.footprint.peak_bytes(task.wanted_jobs))
