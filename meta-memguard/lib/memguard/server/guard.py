# SPDX-License-Identifier: MIT
"""Takes one build through the steps: sense, predict, decide, act, record.

Runs in: the BitBake server, called by the adapters; knows no bb.
Covers: when the container is read, and all that follows from a decision: events, notes to the sentinel, grants on their
way to tasks, lines for people, the summary.
Does not cover: the decisions (decide/ledger), which tasks BitBake would start (scheduler), how a task obeys its grant.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Callable

from memguard.channels.grants import Handover
from memguard.channels.notes import Note, TaskGrant, TaskHold
from memguard.channels.state import StateFile
from memguard.decide.ledger import Entry, Hold, Ledger, Release, Totals, all_jobs
from memguard.model import BuildUse, Grant, Policy, Reading, Task, Verdict
from memguard.record.event_log import EventLog
from memguard.record.events import BuildEnded, BuildStarted, Ended, Extended, Granted, Held, Released, Started, of_task
from memguard.sense.container import Sensor
from memguard.units import format_bytes

_NO_USE = BuildUse({})


class Guard:
    """One build, its ledger and all around it. Not thread-safe: the server calls it from one thread."""

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
        self._sensor = sensor
        self._events = events
        self._handover = handover
        self._state_file = state
        self._tell = tell
        self._say = say
        self._warn = self._warn_unwritten = warn
        self._clock = clock
        self._sent: set[str] = set()
        self._started_s = clock()
        self._oom_kills_before = sensor.oom_kills()
        reading = sensor.read()
        self._ledger = Ledger(policy, reading, self._started_s)
        self.held: Mapping[str, Hold] = self._ledger.held
        self.running: Mapping[str, Entry] = self._ledger.running
        self.peak_bytes = reading.used_bytes
        events.write(
            BuildStarted(
                _time(),
                mode=policy.mode.value,
                limit_bytes=reading.limit_bytes,
                limit_source=reading.limit_source,
                used_bytes=reading.used_bytes,
                reserve_bytes=policy.reserve_of(reading.bound_bytes),
                cpus=reading.cpus,
            )
        )

    @property
    def is_observing(self) -> bool:
        return self._ledger.is_observing

    @property
    def is_crowded(self) -> bool:
        """Whether running tasks keep all CPUs busy."""
        return self._ledger.is_crowded

    @property
    def emergency(self) -> str:
        """In words, why nothing may start now whatever fits; "" for no reason."""
        return self._ledger.emergency

    @property
    def reading(self) -> Reading:
        return self._ledger.reading

    @property
    def totals(self) -> Totals:
        return self._ledger.totals

    @property
    def log(self) -> Path | None:
        """The file of the events, None where none are written."""
        return self._events.path

    def settle(self, ended: Iterable[str], is_idle: bool) -> None:
        """Bring ledger and reading up to date: `ended` tasks no longer run; `is_idle` when no task at all does."""
        now_s = self._clock()
        if self._ledger.settle(ended, now_s):
            self._look(now_s, is_idle)

    def sample(self) -> None:
        """Read the container and remember the peak."""
        self._look(self._clock(), is_idle=False)

    def releasable(self, is_idle: bool) -> Iterator[Task]:
        """The held tasks that may start now, oldest first; all of them when nothing runs."""
        return self._ledger.releasable(is_idle)

    def judge(self, task: Task, is_idle: bool) -> Verdict:
        """May `task`, which BitBake would start next, start now? When nothing runs, it always may."""
        return self._ledger.judge(task, is_idle)

    def offer(self, task: Task, is_idle: bool) -> bool:
        """Grant `task`, which BitBake would start next, its jobs and memory, or hold it; whether it starts."""
        verdict = self._ledger.judge(task, is_idle)
        if verdict.grant is None:
            self._hold(task, verdict)
        else:
            self._grant(task, verdict, verdict.grant)
        return verdict.starts

    def note_only(self, task: Task, verdict: Verdict) -> None:
        """Record what `verdict` would have done with `task`, which starts with all its jobs all the same."""
        if verdict.grant is None:
            self._record_hold(task, verdict)
            self._say(f"would hold {task}: {verdict.reason}")
        elif verdict.grant.jobs < task.wanted_jobs:
            self._say(f"would start {task} with fewer jobs: {verdict.reason}")
        self._record_grant(self._ledger.observe(task, verdict), verdict.reason)

    def release(self, tid: str) -> None:
        """Drop a held task that BitBake took back (covered from sstate, no longer buildable)."""
        self._drop(tid, "nothing to run")

    def task_started(self, tid: str, task: Task | None) -> None:
        """Record that BitBake has sent a task to its worker; `task` is None where no scheduler of ours knows it."""
        self._sent.add(tid)
        self._events.write(Started(_time(), **_names(tid, task), tid=tid))

    def task_ended(self, tid: str, task: Task | None, outcome: str) -> None:
        """Record the end of a task that was started: "ok" or "failed"."""
        if tid in self._sent:
            self._sent.remove(tid)
            self._events.write(Ended(_time(), **_names(tid, task), tid=tid, outcome=outcome))

    def start_line(self) -> str:
        """One line for the build's start: limit, how it was found, reserve, mode."""
        return _start_line(self.policy, self.reading)

    def finish(self) -> list[str]:
        """End the build: write the last event, remove what is left for children, and return the summary's lines."""
        for tid in list(self.held):
            self._drop(tid, "the build ended")
        if self._handover is not None:
            self._handover.clear()
        kills = self._kernel_kills()
        totals = self.totals
        self._events.write(
            BuildEnded(
                _time(),
                peak_bytes=self.peak_bytes,
                limit_bytes=self.reading.limit_bytes,
                granted=totals.granted,
                held=totals.held,
                held_s=round(totals.held_s, 3),
                shrunk=totals.shrunk,
                forced=totals.forced,
                oom_kills=kills,
                wall_s=round(self._clock() - self._started_s, 3),
            )
        )
        self._events.close()
        lines = _summary(totals, self.peak_bytes, self.reading.bound_bytes, kills, self.is_observing)
        if self.log is not None:
            lines += [f"events in {self.log}", f"more of this build: memguard report {self.log.parent.parent}"]
        return lines

    def _look(self, now_s: float, is_idle: bool) -> None:
        self._events.flush()
        reading = self._sensor.read()
        self.peak_bytes = max(self.peak_bytes, reading.used_bytes)
        state = self._state_file.read(now_s) if self._state_file is not None else None
        for entry in self._ledger.look(reading, _NO_USE if state is None else state.use, now_s, is_idle):
            self._tell_grant(entry)
            grant = entry.grant
            self._events.write(Extended(_time(), **of_task(entry.task), jobs=grant.jobs, bytes=grant.bytes))

    def _hold(self, task: Task, verdict: Verdict) -> None:
        if self._ledger.hold(task, verdict) is not None:
            self._tell(TaskHold(task.tid, task.recipe, task.name, verdict.reason))
            self._record_hold(task, verdict)
            self._say(f"hold {task}: {verdict.reason}")

    def _grant(self, task: Task, verdict: Verdict, grant: Grant) -> None:
        if grant.jobs < task.wanted_jobs and not self._hand_over(task, grant):
            grant = all_jobs(task)
        free_bytes = self._ledger.free_bytes if verdict.is_forced else 0
        entry, release = self._ledger.grant(task, verdict, grant)
        if release is not None:
            self._tell_release(release, verdict.reason)
        if release is not None or grant.jobs < task.wanted_jobs:
            after = f" after {release.held_s:.0f} s" if release is not None and release.held_s >= 1 else ""
            self._say(f"start {task}{after}: {verdict.reason}")
        if verdict.is_forced:
            self._warn_if_too_large(task, free_bytes)
        self._record_grant(entry, verdict.reason)

    def _drop(self, tid: str, reason: str) -> None:
        """End a hold without a start."""
        self._ledger.settle((), self._clock())
        release = self._ledger.release(tid)
        if release is not None:
            self._tell_release(release, reason)

    def _hand_over(self, task: Task, grant: Grant) -> bool:
        """Leave a task its jobs; False where that cannot be written (a full disk), and it runs with all it wants."""
        try:
            if self._handover is not None:
                self._handover.put(task.tid, grant.jobs)
        except OSError as error:
            warn, self._warn_unwritten = self._warn_unwritten, self._say
            warn(f"{task} starts with all its jobs, not {grant.jobs}: its grant cannot be written: {error}")
            return False
        return True

    def _record_hold(self, task: Task, verdict: Verdict) -> None:
        self._events.write(
            Held(
                _time(),
                **of_task(task),
                reason=verdict.reason,
                used_bytes=self.reading.used_bytes,
                observed=self.is_observing,
            )
        )

    def _record_grant(self, entry: Entry, reason: str) -> None:
        task, grant, ledger = entry.task, entry.grant, self._ledger
        self._events.write(
            # By position: this is written of every task, while BitBake waits, and names cost as much as all the rest.
            Granted(
                *(_time(), task.recipe, task.name, task.mc),
                *(grant.jobs, task.wanted_jobs, grant.bytes, task.footprint.origin),
                *(reason, ledger.reading.used_bytes, ledger.is_observing),
            )
        )
        self._tell_grant(entry)

    def _tell_grant(self, entry: Entry) -> None:
        task, grant = entry.task, entry.grant
        job_bytes = task.footprint.per_job_bytes
        self._tell(TaskGrant(task.tid, entry.place, grant.jobs, grant.bytes, job_bytes, task.wanted_jobs))

    def _tell_release(self, release: Release, reason: str) -> None:
        task = release.hold.task
        self._tell(TaskHold(task.tid, task.recipe, task.name, ""))
        self._events.write(Released(_time(), **of_task(task), held_s=round(release.held_s, 3), reason=reason))

    def _warn_if_too_large(self, task: Task, free_bytes: int) -> None:
        """Say that a task may not fit although it runs alone: a warning the first time, then notes."""
        least_bytes = task.footprint.peak_bytes(1)
        if least_bytes > free_bytes:
            warn, self._warn = self._warn, self._say
            warn(
                f"{task} is expected to need {format_bytes(least_bytes)} with one job ({task.footprint.origin}), and "
                f"{format_bytes(max(0, free_bytes))} are free with nothing else running: it runs alone"
            )

    def _kernel_kills(self) -> int | None:
        kills = self._sensor.oom_kills()
        if kills is None or self._oom_kills_before is None:
            return None
        return max(0, kills - self._oom_kills_before)


def _start_line(policy: Policy, reading: Reading) -> str:
    limit = "no limit, all memory" if reading.limit_bytes is None else "limit"
    return (
        f"{limit} {format_bytes(reading.bound_bytes)} ({reading.limit_source}), "
        f"{format_bytes(reading.used_bytes)} used, "
        f"{format_bytes(policy.reserve_of(reading.bound_bytes))} in reserve, "
        f"{reading.cpus:g} CPUs, mode {policy.mode.value}"
    )


def _summary(totals: Totals, peak_bytes: int, bound_bytes: int, kills: int | None, is_observing: bool) -> list[str]:
    """What came of a build; `kills` by the kernel, None where they cannot be counted."""
    would = "would have " if is_observing else ""
    return [
        f"peak {format_bytes(peak_bytes)} of {format_bytes(bound_bytes)} "
        f"({100 * peak_bytes // max(1, bound_bytes)} %)"
        + ("" if kills is None else f", {kills} killed by the kernel for memory"),
        f"{would}held {totals.held} tasks"
        + ("" if is_observing else f" ({totals.held_s / 60:.1f} min in all)")
        + f", {would}shrunk {totals.shrunk}, let {totals.granted} start"
        + (f", {totals.forced} of them although they may not fit" if totals.forced else ""),
    ]


def _names(tid: str, task: Task | None) -> dict[str, str]:
    """The fields that name a task in an event; of one that is known by its id only, the recipe by its file's name."""
    if task is not None:
        return of_task(task)
    place, _, name = tid.rpartition(":")
    mc = place.split(":")[1] if place.startswith("mc:") else ""
    return {"recipe": place.rpartition("/")[2].partition("_")[0].removesuffix(".bb"), "task": name, "mc": mc}


def _time() -> float:
    """When an event takes place, in seconds since 1970."""
    return round(time.time(), 3)
