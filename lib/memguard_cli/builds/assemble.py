# SPDX-License-Identifier: MIT
"""A build's record out of its two logs, put together by task.

Runs in: outside BitBake.
Covers: which logs there are, in the order of their builds; runs of one task apart from each other; builds without an
end, logs without readings.
Does not cover: lines that are no events (log_lines), what the record is good for (record).
See also: docs/events.md, which has the fields.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path

from memguard.channels.build_directory import BuildDirectory
from memguard.channels.state import Marks
from memguard.decide.moment import KILL_SHARE, STOP_SHARE
from memguard.model import Outcome
from memguard.record.events import (
    BuildEnded,
    BuildStarted,
    Deed,
    Ended,
    Event,
    Extended,
    Granted,
    Held,
    JobNow,
    JobRow,
    Killed,
    ReadingTaken,
    Released,
    Retried,
    Started,
    Stopped,
    TaskEvent,
    TaskMeasured,
    Withdrawn,
    Woken,
)
from memguard_cli.builds.log_lines import Lines, first_event, last_event
from memguard_cli.builds.record import NOT_RUN, RUNNING, BuildRecord, Sight, Span, TaskRun
from memguard_cli.errors import UserError


class NoRecord(UserError):
    """There is no record of a build."""


def logs_of(directory: Path) -> list[Path]:
    """The events logs of a MEMGUARD_DIR, the oldest build first. Raises OSError where they cannot be listed."""
    logs = [path for path in BuildDirectory(directory).events.iterdir() if path.suffix == ".jsonl"]
    return sorted(logs, key=lambda path: _order(path.stem))


def _order(stamp: str) -> tuple[str, int]:
    """Of several builds of one second the later ones have a number: STAMP-2 comes before STAMP-10."""
    second, _, number = stamp.partition("-")
    return second, int(number) if number.isdecimal() and len(number) < 9 else 0


def first_s(events_path: Path) -> float | None:
    """When the build of an events log began (seconds since 1970). Raises OSError."""
    event = first_event(events_path)
    return event.time if event else None


def end_of(events_path: Path) -> BuildEnded | None:
    """What the build of an events log said at its end, by the last line alone. Raises OSError."""
    event = last_event(events_path)
    return event if isinstance(event, BuildEnded) else None


def read_build(events_path: Path) -> BuildRecord:
    """The record of the build with this events log. Raises NoRecord where nothing of a build is in its logs."""
    builder = _Builder()
    events = Lines(events_path)
    try:
        for event in events.read():
            builder.take(event)
    except OSError as error:
        raise NoRecord(f"{events_path} cannot be read: {error.strerror}") from None
    remarks = events.remarks()
    readings_path = BuildDirectory(events_path.parent.parent).readings / events_path.name
    if readings_path.is_file():
        readings = Lines(readings_path)
        try:
            for event in readings.read():
                builder.take(event)
            remarks += readings.remarks()
        except OSError as error:
            remarks.append(f"{readings_path} cannot be read: {error.strerror}")
    else:
        remarks.append(
            f"there are no readings of this build ({readings_path} does not exist): memory over time and what each "
            "task took are not known; the sentinel did not run"
        )
    if builder.is_empty:
        if events.count == 0:
            raise NoRecord(
                f"{events_path} is empty: the build was killed within its first second, or its disk was full"
            )
        raise NoRecord(f"{events_path} holds no events of a build", "memguard/events/20260131120000.jsonl")
    return builder.build(events_path, remarks)


def _marks(sights: list[Sight]) -> Marks | None:
    """The marks that regulate() acts by, from the last limit and reserve; None where these are not known."""
    last = sights[-1] if sights else None
    if last is None or last.limit_bytes is None or last.reserve_bytes is None:
        return None
    limit, reserve = last.limit_bytes, last.reserve_bytes
    return Marks(limit - reserve, limit - int(reserve * STOP_SHARE), limit - int(reserve * KILL_SHARE))


@dataclass
class _Run:
    """A TaskRun that is being put together; fields that both have mean the same.

    hold, stop: since when, and why, it is held or processes of it are stopped.
    stopped:    these processes; 0 is all of them.
    seen_bytes: the most that a reading saw.
    """

    recipe: str
    task: str
    mc: str = ""
    began_s: float | None = None
    ended_s: float | None = None
    outcome: str = ""
    hold: tuple[float, str] | None = None
    holds: list[Span] = field(default_factory=list)
    stopped: set[int] = field(default_factory=set)
    stop: tuple[float, str] | None = None
    stops: list[Span] = field(default_factory=list)
    deeds: list[Deed] = field(default_factory=list)
    would_hold: str = ""
    is_shrunk: bool = False
    jobs: int | None = None
    wanted_jobs: int | None = None
    granted_bytes: int | None = None
    origin: str = ""
    peak_bytes: int | None = None
    swapped_bytes: int | None = None
    seen_bytes: int = 0
    wall_s: float | None = None
    cpu_s: float | None = None
    heaviest_jobs: tuple[JobRow, ...] = ()
    seen_jobs: dict[tuple[str, str], JobRow] = field(default_factory=dict)
    number: int | None = None
    after: tuple[int, ...] = ()

    def take_event(self, event: TaskEvent) -> None:
        """Take what the server says of it."""
        if isinstance(event, Held):
            if event.observed:
                self.would_hold = self.would_hold or event.reason
            else:
                self.hold = self.hold or (event.time, event.reason)
        elif isinstance(event, Released):
            self._end_hold(event.time)
        elif isinstance(event, Granted):
            self.jobs, self.wanted_jobs, self.is_shrunk = event.jobs, event.wanted_jobs, event.is_shrunk
            self.granted_bytes, self.origin = event.bytes, event.origin
        elif isinstance(event, Extended):
            self.jobs, self.granted_bytes = event.jobs, event.bytes
        elif isinstance(event, Started):
            self.began_s, self.after = event.time, event.after
        else:
            self.ended_s, self.outcome = event.time, event.outcome
            self.began_s = event.time if self.began_s is None else self.began_s

    def take_measure(self, measured: TaskMeasured) -> None:
        """Take what the sentinel measured of it."""
        self.peak_bytes, self.wall_s, self.cpu_s = measured.peak_bytes, measured.wall_s, measured.cpu_s
        self.swapped_bytes, self.heaviest_jobs = measured.swapped_bytes, measured.heaviest_jobs
        self.began_s = measured.began if self.began_s is None else self.began_s
        self.ended_s = measured.time if self.ended_s is None else self.ended_s
        self.jobs = measured.jobs if self.jobs is None else self.jobs
        self.granted_bytes = measured.granted_bytes if self.granted_bytes is None else self.granted_bytes
        # The sentinel knows what was done to a task, the server whether it ended well in the end. A task that was
        # stopped is throttled, too; its stops say that.
        outcome = measured.outcome
        is_slowed = False
        if outcome == Outcome.THROTTLED:
            was_stopped = any(isinstance(deed, Stopped) for deed in self.deeds)
            is_slowed = self.outcome in ("", Outcome.OK) and not was_stopped
            outcome = outcome if is_slowed else Outcome.OK.value
        was_killed = self.outcome == Outcome.FAILED and outcome == Outcome.MEMORY_KILL
        if not self.outcome or is_slowed or was_killed:
            self.outcome = outcome

    def take_job(self, job: JobNow) -> None:
        """Take a job that was the largest of all at one moment; how it ended is not known."""
        before = self.seen_jobs.get((job.source, job.program))
        if before is None or job.bytes > before.peak_bytes:
            self.seen_jobs[job.source, job.program] = JobRow(job.source, job.program, job.bytes, job.age_s, 1)

    def take_deed(self, deed: Deed) -> None:
        """Take what the sentinel did to it."""
        self.deeds.append(deed)
        if isinstance(deed, Stopped):
            self.stop = self.stop or (deed.time, deed.reason)
            self.stopped.add(deed.pid or 0)
        elif isinstance(deed, (Woken, Killed)):
            self.stopped.discard(deed.pid or 0)
            if not self.stopped or (isinstance(deed, Woken) and deed.pid is None):
                self._end_stop(deed.time)
        elif isinstance(deed, Retried):
            self._end_stop(deed.time)

    def finished(self, last_s: float) -> TaskRun:
        """The run as it is when the logs end at `last_s`."""
        self._end_hold(last_s)
        self._end_stop(self.ended_s if self.ended_s is not None else last_s)
        values = {known.name: getattr(self, known.name) for known in fields(TaskRun)}
        values.update({name: tuple(values[name]) for name in ("holds", "stops", "deeds")})
        # What has not ended was not measured.
        seen = sorted(self.seen_jobs.values(), key=lambda job: -job.peak_bytes)
        values["heaviest_jobs"] = self.heaviest_jobs or (tuple(seen) if self.wall_s is None else ())
        values["outcome"] = self.outcome or (NOT_RUN if self.began_s is None else RUNNING)
        # What is measured of a task that ran again is of its last attempt.
        values["peak_bytes"] = max(self.peak_bytes or 0, self.seen_bytes) or None
        return TaskRun(**values)

    def _end_hold(self, time_s: float) -> None:
        if self.hold is not None:
            self.holds.append(Span(self.hold[0], max(time_s, self.hold[0]), self.hold[1]))
            self.hold = None

    def _end_stop(self, time_s: float) -> None:
        if self.stop is not None:
            self.stops.append(Span(self.stop[0], max(time_s, self.stop[0]), self.stop[1]))
            self.stop = None
            self.stopped.clear()

    def distance_s(self, time_s: float) -> float:
        """How far from a time it ran."""
        begin = self.began_s if self.began_s is not None else math.inf
        end = self.ended_s if self.ended_s is not None else math.inf
        return 0.0 if begin <= time_s <= end else min(abs(time_s - begin), abs(time_s - end))


class _Builder:
    """Puts events and readings together by task; events come first, since runs are known by them."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []
        self._current: dict[tuple[str, str, str], _Run] = {}
        self._named: dict[tuple[str, str], list[int]] = {}
        self._start: BuildStarted | None = None
        self._end: BuildEnded | None = None
        self._sights: list[Sight] = []
        self._times: list[float] = []
        self._starts = 0

    @property
    def is_empty(self) -> bool:
        return not self._times

    def take(self, event: Event) -> None:
        """Take one line of either log."""
        self._times.append(event.time)
        if isinstance(event, BuildStarted):
            self._start = event
        elif isinstance(event, BuildEnded):
            self._end = event
        elif isinstance(event, ReadingTaken):
            self._take_reading(event)
        elif isinstance(event, TaskMeasured):
            time_s = event.time if event.began is None else event.began
            self._runs[self._at(event.recipe, event.task, time_s)].take_measure(event)
        elif isinstance(event, (Withdrawn, Stopped, Woken, Killed, Retried)):
            self._runs[self._at(event.recipe, event.task, event.time)].take_deed(event)
        else:
            self._take_task_event(event)

    def _take_task_event(self, event: TaskEvent) -> None:
        key = (event.mc, event.recipe, event.task)
        run = self._current.get(key)
        if run is None or (run.ended_s is not None and not isinstance(event, Ended)):
            run = self._current[key] = _Run(event.recipe, event.task, event.mc)
            self._add(run)
        if isinstance(event, Started):
            run.number = self._starts
            self._starts += 1
        run.take_event(event)

    def _take_reading(self, reading: ReadingTaken) -> None:
        tasks = []
        for row in reading.tasks:
            place = self._at(row.recipe, row.task, reading.time)
            self._runs[place].seen_bytes = max(self._runs[place].seen_bytes, row.current_bytes)
            tasks.append((place, row.current_bytes))
        if reading.heaviest_job is not None:
            job = reading.heaviest_job
            self._runs[self._at(job.recipe, job.task, reading.time)].take_job(job)
        sight = Sight(reading.time, reading.used_bytes, reading.limit_bytes, reading.reserve_bytes, tuple(tasks))
        self._sights.append(sight)

    def _at(self, recipe: str, task: str, time_s: float) -> int:
        """The place of the run of a task that was nearest to running at a time; readings know no multiconfigs."""
        places = self._named.get((recipe, task))
        if not places:
            return self._add(_Run(recipe, task, began_s=time_s))
        return places[0] if len(places) == 1 else min(places, key=lambda place: self._runs[place].distance_s(time_s))

    def _add(self, run: _Run) -> int:
        self._runs.append(run)
        place = len(self._runs) - 1
        self._named.setdefault((run.recipe, run.task), []).append(place)
        return place

    def build(self, events_path: Path, remarks: list[str]) -> BuildRecord:
        """The record of all that was taken."""
        began_s = self._start.time if self._start else min(self._times)
        ended_s = self._end.time if self._end else max(began_s, *self._times)
        sights = sorted(self._sights, key=lambda sight: sight.time_s)
        return BuildRecord(
            stamp=events_path.stem,
            events_path=events_path,
            start=self._start,
            end=self._end,
            runs=tuple(run.finished(ended_s) for run in self._runs),
            sights=tuple(sights),
            marks=_marks(sights),
            began_s=began_s,
            ended_s=ended_s,
            remarks=tuple(remarks),
        )
