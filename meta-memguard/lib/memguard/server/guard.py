# SPDX-License-Identifier: MIT
"""Takes one build through the steps: sense, predict, decide, act, record.

Runs in: the BitBake server, called by the adapters; knows no bb.
Covers: the ledger of grants, the tasks that are held, the reading's age, events and the summary.
Does not cover: which tasks BitBake would start (scheduler), how a task obeys its grant (worker).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

from memguard.channels.grants import Handover
from memguard.channels.notes import Note, TaskGrant, TaskHold
from memguard.channels.state import StateFile
from memguard.decide.admit import Situation, admit, admit_alone, extend, is_worth_asking, shortest_s
from memguard.model import BuildUse, Grant, Mode, Policy, Reading, Task, Verdict
from memguard.record.event_log import EventLog
from memguard.sense.container import Sensor
from memguard.units import format_bytes

# A reading costs some 50 us of kernel time, as much as BitBake needs to pick a task out of a thousand. In this time
# the fastest fill rate seen on build hosts (6 GB/s, by the authors of earlyoom) takes less than a default reserve.
READING_AGE_S = 0.1

# How long a task that has started, and that nobody measures, is taken not to have grown yet. A compiler of 600 MB
# reaches half of its peak in two to three seconds, after a second or two in which make or ninja find out what to do.
GROWTH_S = 5.0

# Tasks are started until those that run are expected to keep so many times the CPUs busy. They do so on average; what
# one leaves idle while it links another takes.
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
class Running:
    """The grant of a task that was let through, and its place in the queue for memory.

    ends_s: when it is expected to end, None where that is not known.
    cpus:   CPUs it is expected to keep busy, 0 where that is not known.
    """

    task: Task
    grant: Grant
    place: int
    since_s: float
    ends_s: float | None = None
    cpus: float = 0.0

    @property
    def bytes(self) -> int:
        return self.grant.bytes


@dataclass
class Totals:
    """What the summary tells."""

    granted: int = 0
    held: int = 0
    shrunk: int = 0
    forced: int = 0
    held_s: float = 0.0
    peak_bytes: int = 0


class Guard:
    """The state of one build. Not thread-safe: the server calls it from one thread."""

    def __init__(
        self,
        policy: Policy,
        sensor: Sensor,
        events: EventLog,
        handover: Handover | None,
        state: StateFile | None = None,
        tell: Callable[[Note], object] = lambda note: None,
        say: Callable[[str], None] = lambda text: None,
        warn: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy = policy
        self.held: dict[str, Hold] = {}
        self.running: dict[str, Running] = {}
        self.totals = Totals()
        self._sensor = sensor
        self._events = events
        self._handover = handover
        self._state_file = state
        self._use = BuildUse({})
        self._tell = tell
        self._say = say
        self._warn = self._warn_unwritten = warn
        self._clock = clock
        self._observed = {"observed": True} if policy.mode is Mode.OBSERVE else {}
        self._granted_bytes = 0
        self._busy_cpus = 0.0
        self._places = 0
        self._sent: set[str] = set()
        self._started_s = clock()
        self._oom_kills_before = sensor.oom_kills()
        self._reading = sensor.read()
        self._read_at_s = self._settled_s = self._started_s
        self._idle_bytes = self._reading.used_bytes - self._reading.shmem_bytes
        self._situation: Situation | None = None
        self._waiting_in: Situation | None = None
        self.totals.peak_bytes = self._reading.used_bytes
        events.write(
            "build_start",
            mode=policy.mode.value,
            limit_bytes=self._reading.limit_bytes,
            limit_source=self._reading.limit_source,
            used_bytes=self._reading.used_bytes,
            reserve_bytes=policy.reserve_of(self._reading.bound_bytes),
            cpus=self._reading.cpus,
        )

    @property
    def is_observing(self) -> bool:
        return self.policy.mode is Mode.OBSERVE

    @property
    def is_crowded(self) -> bool:
        """Whether running tasks, as far as earlier builds tell, keep all CPUs busy: one more would slow them down.

        The most urgent ones run already, so it would gain nothing and hold memory all the same.
        """
        return self._busy_cpus >= self._reading.cpus * CROWD

    @property
    def reading(self) -> Reading:
        return self._reading

    @property
    def log(self) -> Path | None:
        """The file of the events, None where none are written."""
        return self._events.path

    def settle(self, ended: Iterable[str], is_idle: bool) -> None:
        """Bring ledger and reading up to date: `ended` tasks no longer run; `is_idle` when no task at all does."""
        for tid in ended:
            gone = self.running.pop(tid, None)
            if gone is not None:
                self._granted_bytes -= gone.bytes
                self._busy_cpus -= gone.cpus
                self._situation = None
        self._settled_s = now = self._clock()
        if now - self._read_at_s >= READING_AGE_S:
            self.sample(now)
            if is_idle:
                self._idle_bytes = self._reading.used_bytes - self._reading.shmem_bytes

    def sample(self, now_s: float | None = None) -> None:
        """Read the container and remember the peak."""
        self._read_at_s = self._clock() if now_s is None else now_s
        self._events.flush()
        self._reading = self._sensor.read()
        if self._state_file is not None:
            state = self._state_file.read(self._read_at_s)
            self._use = BuildUse({}) if state is None else state.use
        self._situation = None
        self.totals.peak_bytes = max(self.totals.peak_bytes, self._reading.used_bytes)
        self._extend_grants()

    @property
    def emergency(self) -> str:
        """In words, why nothing may start now whatever fits; "" for no reason."""
        if self.is_observing:
            return ""
        if self._use.alone:
            return f"{self._use.alone} runs again, alone"
        return f"memory is short: {self._use.stopped} jobs are stopped" if self._use.stopped else ""

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
        """May `task`, which BitBake would start next, start now? When nothing runs, it always may."""
        verdict = admit(task, self._now())
        return admit_alone(task, self._now()) if is_idle and not verdict.starts else verdict

    def carry_out(self, task: Task, verdict: Verdict) -> None:
        """Grant `task` what `verdict` says, or hold it, and record which."""
        if verdict.grant is None:
            self._hold(task, verdict)
        else:
            self._grant(task, verdict, verdict.grant)

    def note_only(self, task: Task, verdict: Verdict) -> None:
        """Record what `verdict` would have done with `task`, which starts with all its jobs all the same."""
        if verdict.grant is None:
            self.totals.held += 1
            self._events.write("hold", task, reason=verdict.reason, **self._observed)
            self._say(f"would hold {task}: {verdict.reason}")
        elif verdict.grant.jobs < task.wanted_jobs:
            self.totals.shrunk += 1
            self._say(f"would start {task} with fewer jobs: {verdict.reason}")
        self._record_grant(task, verdict, Grant(task.wanted_jobs, task.footprint.peak_bytes(task.wanted_jobs)))

    def forget_hold(self, tid: str) -> None:
        """Drop a held task that BitBake took back (covered from sstate, no longer buildable)."""
        hold = self.held.get(tid)
        if hold is not None:
            self._release(hold, reason="nothing to run")

    def task_started(self, tid: str, task: Task | None) -> None:
        """Record that BitBake has sent a task to its worker; `task` is None where no scheduler of ours knows it."""
        self._sent.add(tid)
        self._events.write("start", task, tid=tid)

    def task_ended(self, tid: str, task: Task | None, outcome: str) -> None:
        """Record the end of a task that was started: "ok" or "failed"."""
        if tid in self._sent:
            self._sent.remove(tid)
            self._events.write("end", task, tid=tid, outcome=outcome)

    def start_line(self) -> str:
        """One line for the build's start: limit, how it was found, reserve, mode."""
        reading = self._reading
        limit = "no limit, all memory" if reading.limit_bytes is None else "limit"
        return (
            f"{limit} {format_bytes(reading.bound_bytes)} ({reading.limit_source}), "
            f"{format_bytes(reading.used_bytes)} used, "
            f"{format_bytes(self.policy.reserve_of(reading.bound_bytes))} in reserve, "
            f"{reading.cpus:g} CPUs, mode {self.policy.mode.value}"
        )

    def finish(self) -> list[str]:
        """End the build: write the last event, remove what is left for children, and return the summary's lines."""
        for hold in list(self.held.values()):
            self._release(hold, reason="the build ended")
        if self._handover is not None:
            self._handover.clear()
        kills = self._kernel_kills()
        totals, reading = self.totals, self._reading
        self._events.write(
            "build_end",
            peak_bytes=totals.peak_bytes,
            limit_bytes=reading.limit_bytes,
            held=totals.held,
            held_s=round(totals.held_s, 3),
            shrunk=totals.shrunk,
            forced=totals.forced,
            granted=totals.granted,
            oom_kills=kills,
            wall_s=round(self._clock() - self._started_s, 3),
        )
        self._events.close()
        would = "would have " if self.is_observing else ""
        lines = [
            f"peak {format_bytes(totals.peak_bytes)} of {format_bytes(reading.bound_bytes)} "
            f"({100 * totals.peak_bytes // max(1, reading.bound_bytes)} %)"
            + ("" if kills is None else f", {kills} killed by the kernel for memory"),
            f"{would}held {totals.held} tasks"
            + ("" if self.is_observing else f" ({totals.held_s / 60:.1f} min in all)")
            + f", {would}shrunk {totals.shrunk}, let {totals.granted} start"
            + (f", {totals.forced} of them although they may not fit" if totals.forced else ""),
        ]
        if self._events.path is not None:
            lines.append(f"events in {self._events.path}")
            lines.append(f"more of this build: memguard report {self._events.path.parent.parent}")
        return lines

    def _now(self) -> Situation:
        if self._situation is None:
            growth_bytes, ends = self._outlook()
            situation = Situation(
                reading=self._reading,
                policy=self.policy,
                idle_bytes=self._idle_bytes,
                granted_bytes=self._granted_bytes,
                growth_bytes=growth_bytes,
                emergency=self.emergency,
                ends=ends,
            )
            head = next((hold for hold in self.held.values() if situation.fits_empty(hold.task)), None)
            if head is not None:
                passed = sum(run.bytes for run in self.running.values() if run.place > head.place)
                situation = replace(situation, head=head.task, head_bytes=head.need_bytes, passed_bytes=passed)
            self._situation = situation
        return self._situation

    def _outlook(self) -> tuple[int, list[tuple[float, int]]]:
        """What running tasks are expected to take beyond what they take now, and when they are expected to end.

        With its end each task's grant, which it then gives back; none at all while one of them is unknown.
        """
        growth_bytes = 0
        ends: list[tuple[float, int]] | None = []
        states, now_s = self._use.tasks, self._settled_s
        for tid, run in self.running.items():
            grant_bytes = run.grant.bytes
            state = states.get(tid)
            if state is not None:
                growth_bytes += max(0, grant_bytes - state.current_bytes)
            elif now_s - run.since_s <= GROWTH_S:
                growth_bytes += grant_bytes
            if run.ends_s is None:
                ends = None
            elif ends is not None:
                ends.append((max(0.0, run.ends_s - now_s), grant_bytes))
        return growth_bytes, sorted(ends) if ends else []

    def _extend_grants(self) -> None:
        """Give running tasks that take their jobs from a pool more of them, where nobody waits for memory."""
        if self.held or self.is_observing:
            return
        for tid, state in self._use.tasks.items():
            run = self.running.get(tid)
            if run is None or state.tokens is None or run.grant.jobs >= run.task.wanted_jobs:
                continue
            grant = extend(run.task, run.grant, self._now())
            if grant is not None:
                self.running[tid] = replace(run, grant=grant)
                self._granted_bytes += grant.bytes - run.bytes
                self._situation = None
                self._tell_grant(run.task, grant, run.place)
                self._events.write("extend", run.task, jobs=grant.jobs, bytes=grant.bytes)

    def _tell_grant(self, task: Task, grant: Grant, place: int) -> None:
        job_bytes = task.footprint.per_job_bytes
        self._tell(TaskGrant(task.tid, place, grant.jobs, grant.bytes, job_bytes, task.wanted_jobs))

    def _release(self, hold: Hold, reason: str) -> float:
        """End a hold; the seconds it lasted."""
        del self.held[hold.task.tid]
        self._tell(TaskHold(hold.task.tid, hold.task.recipe, hold.task.name, ""))
        self._situation = None
        held_s = self._clock() - hold.since_s
        self.totals.held_s += held_s
        self._events.write("release", hold.task, held_s=round(held_s, 3), reason=reason)
        return held_s

    def _grant(self, task: Task, verdict: Verdict, grant: Grant) -> None:
        if grant.jobs < task.wanted_jobs and not self._hand_over(task, grant):
            grant = Grant(task.wanted_jobs, task.footprint.peak_bytes(task.wanted_jobs))
        is_shrunk = grant.jobs < task.wanted_jobs
        self.totals.shrunk += is_shrunk
        hold = self.held.get(task.tid)
        waited_s = self._release(hold, verdict.reason) if hold else 0.0
        if is_shrunk or hold:
            after = f" after {waited_s:.0f} s" if waited_s >= 1 else ""
            self._say(f"start {task}{after}: {verdict.reason}")
        if verdict.is_forced:
            self.totals.forced += 1
            self._tell_if_too_large(task)
        self._record_grant(task, verdict, grant, hold)

    def _hand_over(self, task: Task, grant: Grant) -> bool:
        """Leave a task its jobs; False where that cannot be written (a full disk), and it runs with all it wants."""
        try:
            if self._handover is not None:
                self._handover.put(task.tid, grant.jobs)
        except OSError as error:
            tell, self._warn_unwritten = self._warn_unwritten, self._say
            tell(f"{task} starts with all its jobs, not {grant.jobs}: its grant cannot be written: {error}")
            return False
        return True

    def _record_grant(self, task: Task, verdict: Verdict, grant: Grant, hold: Hold | None = None) -> None:
        self.totals.granted += 1
        self._events.write(
            "grant",
            task,
            jobs=grant.jobs,
            wanted_jobs=task.wanted_jobs,
            bytes=grant.bytes,
            origin=task.footprint.origin,
            reason=verdict.reason,
            used_bytes=self._reading.used_bytes,
            **self._observed,
        )
        before = self.running.pop(task.tid, None)
        ends_s, cpus = None, 0.0
        if task.duration is not None:
            ends_s, cpus = self._settled_s + task.duration.seconds(grant.jobs), task.duration.cpus(grant.jobs)
        place = hold.place if hold else self._next_place()
        self.running[task.tid] = Running(task, grant, place, self._settled_s, ends_s, cpus)
        self._tell_grant(task, grant, place)
        self._granted_bytes += grant.bytes - (before.bytes if before else 0)
        self._busy_cpus += cpus - (before.cpus if before else 0.0)
        self._situation = None

    def _hold(self, task: Task, verdict: Verdict) -> None:
        hold = self.held.get(task.tid)
        if hold is not None:
            self.held[task.tid] = replace(hold, reason=verdict.reason, need_bytes=verdict.need_bytes)
            return
        least_bytes = task.footprint.peak_bytes(self._now().fewest_jobs(task))
        self.held[task.tid] = Hold(
            task,
            self._next_place(),
            self._clock(),
            verdict.reason,
            least_bytes,
            verdict.need_bytes,
            shortest_s(task),
        )
        self._situation = None
        self.totals.held += 1
        self._tell(TaskHold(task.tid, task.recipe, task.name, verdict.reason))
        self._events.write("hold", task, reason=verdict.reason, used_bytes=self._reading.used_bytes)
        self._say(f"hold {task}: {verdict.reason}")

    def _tell_if_too_large(self, task: Task) -> None:
        """Say that a task may not fit although it runs alone: a warning the first time, then notes."""
        least, free = task.footprint.peak_bytes(1), self._now().free_bytes
        if least > free:
            tell, self._warn = self._warn, self._say
            tell(
                f"{task} is expected to need {format_bytes(least)} with one job ({task.footprint.origin}), and "
                f"{format_bytes(max(0, free))} are free with nothing else running: it runs alone"
            )

    def _next_place(self) -> int:
        self._places += 1
        return self._places

    def _kernel_kills(self) -> int | None:
        kills = self._sensor.oom_kills()
        if kills is None or self._oom_kills_before is None:
            return None
        return max(0, kills - self._oom_kills_before)
