# SPDX-License-Identifier: MIT
"""A build in words and rows, as page and text of its report show it.

Runs in: outside BitBake; pure.
Covers: how the build ended, its figures, the heaviest tasks and the heaviest of their jobs, those that were held; the
course of its memory at a size that can be drawn.
Does not cover: how it looks (page, text), what to change (advice/build).
"""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass
from typing import Any

from memguard.model import Outcome
from memguard.record.events import JobRow, Killed, Retried, Stopped
from memguard.units import format_bytes, format_duration
from memguard_cli.advice.waiting import waiting_s
from memguard_cli.builds.record import NOT_RUN, RUNNING, BuildRecord, Sight, TaskRun
from memguard_cli.screens.text import count


class Standing(str, enum.Enum):
    """How a build stands. UNKNOWN: its log has no end, and nothing tells whether it still runs."""

    ENDED = "ended"
    FAILED = "failed"
    RUNNING = "running"
    KILLED = "killed"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class HeldRun:
    """One task that was held: for how long in all, and why, as said first."""

    run: TaskRun
    seconds: float
    reason: str


@dataclass(frozen=True)
class HeavyJob:
    """One job of a task, a compiler or a linker as a rule."""

    run: TaskRun
    job: JobRow

    @property
    def name(self) -> str:
        """What it built; the program where that is not known."""
        return self.job.source or self.job.program

    @property
    def peak(self) -> str:
        """The most it took; of one that was killed only a lower bound is known, which is marked."""
        return ("> " if self.is_bound else "") + format_bytes(self.job.peak_bytes)

    @property
    def is_bound(self) -> bool:
        """Whether it would have taken more."""
        return bool(self.job.was_killed)


# Of the peak; a task that took less tells nobody anything.
SMALL_SHARE = 0.005
_OUTCOMES: dict[str, str] = {
    Outcome.MEMORY_KILL: "killed for memory",
    Outcome.THROTTLED: "ok, slowed down at memory.high",
}


def failed_runs(record: BuildRecord) -> list[TaskRun]:
    """Tasks that did not end well."""
    return [run for run in record.runs if run.outcome in (Outcome.FAILED, Outcome.MEMORY_KILL)]


def verdict(record: BuildRecord, standing: Standing) -> str:
    """How it went, in a sentence or two."""
    after = format_duration(record.wall_s)
    if standing is Standing.RUNNING:
        return f"The build is still running, for {after} so far. {_memory(record)}"
    if standing is Standing.KILLED:
        return f"The build was killed after {after}: its log has no end. {_memory(record)}{_at_the_end(record)}"
    if standing is Standing.UNKNOWN:
        return (
            f"The log has no end after {after}: the build was killed, or still runs. {_memory(record)}"
            f"{_at_the_end(record)}"
        )
    if standing is Standing.FAILED:
        failed = failed_runs(record)
        return f"The build ended after {after} with {count(len(failed), 'failed task')}. {_memory(record)}"
    return f"The build ended well after {after}. {_memory(record)}"


def _memory(record: BuildRecord) -> str:
    peak, limit = record.peak_bytes, record.limit_bytes
    if peak is None:
        return "What it used is not known."
    if limit is None:
        return f"It used at most {format_bytes(peak)}; no limit was visible."
    return f"It used at most {format_bytes(peak)} of {format_bytes(limit)} ({100 * peak // max(1, limit)} %)."


def _at_the_end(record: BuildRecord) -> str:
    if not record.sights or not record.sights[-1].tasks:
        return ""
    place, size = max(record.sights[-1].tasks, key=lambda task: task[1])
    return f" The heaviest task at the end was {record.runs[place].name} with {format_bytes(size)}."


def figures(record: BuildRecord) -> list[tuple[str, str, str]]:
    """What there is to know at one look: name, value, and a note to it."""
    limit, peak, start = record.limit_bytes, record.peak_bytes, record.start
    facts = [("peak", "-" if peak is None else format_bytes(peak), "")]
    if limit is not None:
        share = "" if peak is None else f"{100 * peak // max(1, limit)} % of {format_bytes(limit)}"
        facts = [("peak", facts[0][1], share)]
    elif peak is not None:
        facts = [("peak", facts[0][1], "no limit visible")]
    cpus = f"{start.cpus:g} CPUs" if start and start.cpus else ""
    facts.append(("time", format_duration(record.wall_s), cpus))
    ran = [run for run in record.runs if run.outcome != NOT_RUN]
    failed = failed_runs(record)
    still = sum(run.outcome == RUNNING for run in ran)
    note = f"{len(failed)} failed" if failed else f"{still} without an end" if still else "none failed"
    facts.append(("tasks", f"{len(ran):,}", note))
    held = held_tasks(record)
    if record.mode == "observe":
        facts.append(("would be held", f"{len(held):,}", "nothing was: observe mode"))
    else:
        waited = f"{format_duration(waiting_s(record))} with one waiting" if held else "no task waited"
        facts.append(("held", f"{len(held):,}", waited))
    shrunk = sum(run.is_shrunk for run in record.runs)
    facts.append(("shrunk", f"{shrunk:,}", "with fewer jobs" if shrunk else "all with their jobs"))
    stopped_s = sum(run.stopped_s for run in record.runs)
    facts.append(
        ("stopped", f"{record.count(Stopped):,}", format_duration(stopped_s) + " in all" if stopped_s else "none")
    )
    parked = [run for run in record.runs if run.swapped_bytes]
    if parked:
        most = max(run.swapped_bytes or 0 for run in parked)
        facts.append(("parked", f"{len(parked):,}", f"up to {format_bytes(most)} of one task in swap"))
    facts.append(("killed", f"{record.count(Killed):,}", _retries(record.count(Retried))))
    kills = record.end.oom_kills if record.end else None
    facts.append(
        (
            "kernel killed",
            *(("-", "not known") if kills is None else (f"{kills:,}", "by the OOM killer" if kills else "none")),
        ),
    )
    return facts


def _retries(number: int) -> str:
    return "1 retry" if number == 1 else f"{number or 'no'} retries"


def held_tasks(record: BuildRecord) -> list[HeldRun]:
    """Tasks that were held, or would have been in observe mode; the longest first."""
    held = [
        HeldRun(run, run.held_s, run.holds[0].reason if run.holds else run.would_hold)
        for run in record.runs
        if run.holds or run.would_hold
    ]
    return sorted(held, key=lambda hold: (-hold.seconds, hold.run.name))


def deviation(run: TaskRun) -> str:
    """What was measured against what was predicted, as "+12 %"; "-" where what was measured is no whole peak."""
    if not run.peak_bytes or not run.granted_bytes or not run.is_judged:
        return "-"
    return f"{100 * (run.peak_bytes - run.granted_bytes) / run.granted_bytes:+.0f} %"


def measured(run: TaskRun) -> str:
    """The peak of a run; of one that did not end well only a lower bound is known, which is marked."""
    return "-" if not run.peak_bytes else ("> " if run.is_bound else "") + format_bytes(run.peak_bytes)


def heaviest_runs(record: BuildRecord, most: int) -> list[TaskRun]:
    """The runs that took most; of a build that took much those that took next to nothing are left out."""
    least = SMALL_SHARE * (record.peak_bytes or 0)
    return [run for run in record.heaviest(most) if (run.peak_bytes or 0) >= least]


def heaviest_jobs(record: BuildRecord, most: int) -> list[HeavyJob]:
    """The single jobs that took most; what took next to nothing is left out."""
    least = SMALL_SHARE * (record.peak_bytes or 0)
    found = [HeavyJob(run, job) for run in record.runs for job in run.heaviest_jobs if job.peak_bytes >= least]
    return sorted(found, key=lambda heavy: (-heavy.job.peak_bytes, heavy.name))[:most]


def jobs(run: TaskRun) -> str:
    """Jobs it had, of those it wanted."""
    if run.jobs is None:
        return "-"
    has_fewer = run.wanted_jobs is not None and run.jobs < run.wanted_jobs
    return f"{run.jobs} of {run.wanted_jobs}" if has_fewer else str(run.jobs)


def outcome(run: TaskRun) -> str:
    """How a run ended, with what happened on the way."""
    happened = [f"{words} {_times(number)}" for kind, words in _HAPPENED.items() if (number := run.count(kind))]
    return ", ".join([_OUTCOMES.get(run.outcome, run.outcome), *happened])


_HAPPENED: dict[type[Any], str] = {Stopped: "stopped", Killed: "lost a process", Retried: "run again"}


def _times(number: int) -> str:
    return {1: "once", 2: "twice"}.get(number, f"{number:,} times")


def course(record: BuildRecord, most: int) -> list[Sight]:
    """Memory over time in at most that many sights: of each stretch of time the one in which most was used."""
    sights = record.sights
    if len(sights) <= most:
        return list(sights)
    began_s, length_s = sights[0].time_s, max(1e-9, sights[-1].time_s - sights[0].time_s)
    chosen: dict[int, Sight] = {}
    for sight in sights:
        stretch = min(most - 1, int((sight.time_s - began_s) * most / length_s))
        if stretch not in chosen or sight.used_bytes > chosen[stretch].used_bytes:
            chosen[stretch] = sight
    return [chosen[stretch] for stretch in sorted(chosen)]


def local_time(time_s: float) -> str:
    """A time for people, here, with its time zone."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(time_s))
    except (ValueError, OverflowError, OSError):
        return "-"
