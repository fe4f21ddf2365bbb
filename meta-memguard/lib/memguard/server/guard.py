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

from memguard.channels.grants import Handed, Handover
from memguard.channels.notes import Note, TaskGrant, TaskHold, TaskWant
from memguard.channels.state import StateFile
from memguard.decide.admit import Verdict
from memguard.decide.chain import NICE, Chain
from memguard.decide.growth import Growth
from memguard.decide.ledger import Entry, Hold, Ledger, Release, all_jobs
from memguard.model import BuildUse, Grant, Policy, Reading, Task
from memguard.record.event_log import EventLog
from memguard.record.events import BuildEnded, BuildStarted, Ended, Granted, Held, Released, Started, of_task
from memguard.sense.container import Sensor
from memguard.server.lines import HoldLines, start_line, summary_lines
from memguard.server.needs import Needs
from memguard.server.news import News
from memguard.units import format_bytes
from memguard.version import VERSION

_NO_USE = BuildUse({}, is_watched=False)


class Guard:
    """One build, its ledger and all around it. Not thread-safe: the server calls it from one thread.

    chain: what the end of the build waits for, as far as earlier builds tell. needs: what tasks wait for.
    The ledger is there for all to read. Holds and grants change through here, so that others learn of them.
    """

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
        self._events, self._handover = events, handover
        self._state_file = state
        self._tell, self._say, self._clock = tell, say, clock
        self._warn = self._warn_unwritten = warn
        self.chain: Chain[str] = Chain({}, {})
        self.news, self.needs = News(tell), Needs()
        self._sent: set[str] = set()
        self._hold_lines = HoldLines()
        self._growth = Growth()
        self._started_s = clock()
        self._oom_kills_before = sensor.oom_kills()
        reading = sensor.read()
        self.ledger = Ledger(policy, reading, self._started_s)
        self.held: Mapping[str, Hold] = self.ledger.held
        self.peak_bytes = reading.used_bytes
        events.write(_started(policy, reading))

    @property
    def is_crowded(self) -> bool:
        """Whether running tasks keep all CPUs busy."""
        return self.ledger.is_crowded

    @property
    def is_hungry(self) -> bool:
        """Whether a CPU idles although tasks are held."""
        return self.ledger.is_hungry

    @property
    def log(self) -> Path | None:
        """The file of the events, None where none are written."""
        return self._events.path

    def settle(self, ended: Iterable[str], is_idle: bool) -> None:
        """Bring ledger and reading up to date: `ended` tasks no longer run; `is_idle` when no task at all does."""
        now_s = self._clock()
        ended = list(ended)
        self.chain.end(ended)
        if self.ledger.settle(ended, now_s):
            self._look(now_s, is_idle)

    def sample(self) -> None:
        """Read the container and remember the peak."""
        self._look(self._clock(), is_idle=False)

    def releasable(self, is_idle: bool) -> Iterator[Task]:
        """The held tasks that may start now, oldest first; all of them when nothing runs."""
        return self.ledger.releasable(is_idle)

    def bold(self) -> Iterator[Task]:
        """The held tasks that may start since a CPU idles, the best first."""
        return self.ledger.bold()

    def offer(self, task: Task, is_idle: bool, is_bold: bool = False) -> bool:
        """Grant `task`, which BitBake would start next, its jobs and memory, or hold it; whether it starts."""
        verdict = self.ledger.judge(task, is_idle, is_bold)
        if verdict.grant is None:
            self._hold(task, verdict)
        else:
            self._grant(task, verdict, verdict.grant)
        return verdict.starts

    def note_only(self, task: Task, verdict: Verdict) -> None:
        """Record what `verdict` would have done with `task`, which starts with all its jobs all the same."""
        if verdict.grant is None:
            self._record_hold(task, verdict)
            self._tell(TaskHold(task.tid, task.recipe, task.name, ""))  # it counts, and is over at once
            self._say(f"would hold {task}: {verdict.reason}")
        elif verdict.grant.jobs < task.wanted_jobs:
            self._say(f"would start {task} with fewer jobs: {verdict.reason}")
        self._record_grant(self.ledger.observe(task, verdict), verdict.reason)

    def release(self, tid: str) -> None:
        """Drop a held task that BitBake took back (covered from sstate, no longer buildable)."""
        self._drop(tid, "nothing to run")

    def task_started(self, tid: str, task: Task | None) -> None:
        """Record that BitBake has sent a task to its worker; `task` is None where no scheduler of ours knows it."""
        self._sent.add(tid)
        self._events.write(Started(_time(), **_names(tid, task), tid=tid, after=self.needs.start(tid)))

    def task_ended(self, tid: str, task: Task | None, outcome: str) -> None:
        """Record the end of a task that was started: "ok" or "failed"."""
        if tid in self._sent:
            self._sent.remove(tid)
            self._events.write(Ended(_time(), **_names(tid, task), tid=tid, outcome=outcome))

    def start_line(self) -> str:
        """One line for the build's start: limit, how it was found, reserve, mode."""
        return start_line(self.policy, self.ledger.reading)

    def finish(self) -> list[str]:
        """End the build: write the last event, remove what is left for children, and return the summary's lines."""
        for tid in list(self.held):
            self._drop(tid, "the build ended")
        if self._handover is not None:
            self._handover.clear()
        kills = self._kernel_kills()
        totals = self.ledger.totals
        self._events.write(
            BuildEnded(
                _time(),
                peak_bytes=self.peak_bytes,
                limit_bytes=self.ledger.reading.limit_bytes,
                granted=totals.granted,
                held=totals.held,
                held_s=round(totals.held_s, 3),
                shrunk=totals.shrunk,
                forced=totals.forced,
                oom_kills=kills,
                wall_s=round(self._clock() - self._started_s, 3),
                idle_s=round(totals.idle_s, 3),
            )
        )
        self._events.close()
        lines = summary_lines(totals, self.peak_bytes, self.ledger.reading.bound_bytes, kills, self.ledger.is_observing)
        if self.log is not None:
            lines += [f"events in {self.log}", f"more of this build: memguard report {self.log.parent.parent}"]
        return lines

    def _look(self, now_s: float, is_idle: bool) -> None:
        self._events.flush()
        reading = self._sensor.read()
        self.peak_bytes = max(self.peak_bytes, reading.used_bytes)
        state = self._state_file.read(now_s) if self._state_file is not None else None
        self.ledger.look(reading, _NO_USE if state is None else state.use, now_s, is_idle)
        self.news.tell_reasons(now_s, self.ledger)
        for line in self._hold_lines.due(self.ledger.held, now_s):
            self._say(line)
        if self.policy.pressure_command:
            self._ask_for_more(now_s)

    def _ask_for_more(self, now_s: float) -> None:
        """Have the platform asked for what a held task lacks, where it is time."""
        wish = self._growth.look(self.ledger, now_s)
        if wish is not None:
            self._say(f"asks for {format_bytes(wish.wanted_bytes)} more: {wish.task} waits while CPUs idle")
            self._tell(TaskWant(wish.task.recipe, wish.task.name, wish.wanted_bytes))

    def _hold(self, task: Task, verdict: Verdict) -> None:
        hold = self.ledger.hold(task, verdict)
        if hold is not None:
            self._record_hold(task, verdict)
            self._hold_lines.note(hold)

    def _grant(self, task: Task, verdict: Verdict, grant: Grant) -> None:
        nice = NICE if self.chain.start(task.tid, self._clock()) else 0
        if (nice or grant.jobs < task.wanted_jobs) and not self._hand_over(task, Handed(grant.jobs, nice)):
            grant = all_jobs(task)
        free_bytes = self.ledger.free_bytes if verdict.is_forced else 0
        entry, release = self.ledger.grant(task, verdict, grant)
        if release is not None:
            self._tell_release(release, verdict.reason)
        line = self._hold_lines.start(task, grant, verdict.reason, release)
        if line is not None:
            self._say(line)
        if verdict.is_forced:
            self._warn_if_too_large(task, free_bytes)
        self._record_grant(entry, verdict.reason)

    def _drop(self, tid: str, reason: str) -> None:
        """End a hold without a start."""
        self.ledger.settle((), self._clock())
        release = self.ledger.release(tid)
        if release is not None:
            self._tell_release(release, reason)

    def _hand_over(self, task: Task, handed: Handed) -> bool:
        """Leave a task its grant; False where that cannot be written (a full disk), and it runs with all it wants."""
        try:
            if self._handover is not None:
                self._handover.put(task.tid, handed)
        except OSError as error:
            warn, self._warn_unwritten = self._warn_unwritten, self._say
            warn(f"{task} starts with all its jobs, not {handed.jobs}: its grant cannot be written: {error}")
            return False
        return True

    def _record_hold(self, task: Task, verdict: Verdict) -> None:
        self._tell(TaskHold(task.tid, task.recipe, task.name, verdict.reason))
        self._events.write(
            Held(
                _time(),
                **of_task(task),
                reason=verdict.reason,
                used_bytes=self.ledger.reading.used_bytes,
                observed=self.ledger.is_observing,
            )
        )

    def _record_grant(self, entry: Entry, reason: str) -> None:
        task, grant, ledger = entry.task, entry.grant, self.ledger
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
        # A guess would have the first compiler of a task stopped before anything is known of it.
        job_bytes = 0 if task.footprint.is_guess else task.footprint.likely.per_job_bytes
        largest_bytes = task.footprint.likely.serial_bytes if task.footprint.is_history else 0
        place, wanted, need_bytes = entry.place, task.wanted_jobs, entry.need_bytes
        self._tell(TaskGrant(task.tid, place, grant.jobs, grant.bytes, job_bytes, wanted, largest_bytes, need_bytes))

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


def _names(tid: str, task: Task | None) -> dict[str, str]:
    """The fields that name a task in an event; of one that is known by its id only, the recipe by its file's name."""
    if task is not None:
        return of_task(task)
    place, _, name = tid.rpartition(":")
    mc = place.split(":")[1] if place.startswith("mc:") else ""
    return {"recipe": place.rpartition("/")[2].partition("_")[0].removesuffix(".bb"), "task": name, "mc": mc}


def _started(policy: Policy, reading: Reading) -> BuildStarted:
    return BuildStarted(
        _time(),
        mode=policy.mode.value,
        limit_bytes=reading.limit_bytes,
        limit_source=reading.limit_source,
        used_bytes=reading.used_bytes,
        reserve_bytes=policy.reserve_of(reading.bound_bytes),
        cpus=reading.cpus,
        version=VERSION,
    )


def _time() -> float:
    """When an event takes place, in seconds since 1970."""
    return round(time.time(), 3)
