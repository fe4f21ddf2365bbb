# SPDX-License-Identifier: MIT
"""What one build did: its events and readings logs -> a BuildRecord.

Runs in: outside BitBake.
Covers: both logs of one build put together by task; lines that are half-written, of a newer version or no events at
all, which are counted and passed over; builds that have no end.
Does not cover: what to think of it (build_advice), how it looks (report_text, report_page).
See also: docs/events.md, which has the fields.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from memguard.regulate import KILL_SHARE, STOP_SHARE
from memguard.units import MIB

# The newest log that this version knows; a log of a newer one says so in its first line.
FORMAT = 1

# What a task was when the log ends without having said how it ended.
RUNNING, NOT_RUN = "running", "not run"

_LONGEST_NAME = 500
_LONGEST_LINE_BYTES = MIB
_LAST_BYTES = 4096  # the last event of a log takes less
_MOST = 1 << 60  # bytes or seconds; more is a damaged log
_ACTS = ("withdraw", "stop", "wake", "kill", "retry")
_EVENTS = ("build_start", "hold", "release", "grant", "extend", "start", "end", "build_end")


class NoRecord(Exception):
    """There is no record of a build; the text says why."""


@dataclass(frozen=True)
class Span:
    """A time from `begin_s` to `end_s` (seconds since 1970) and why it was."""

    begin_s: float
    end_s: float
    reason: str

    @property
    def seconds(self) -> float:
        return max(0.0, self.end_s - self.begin_s)


@dataclass(frozen=True)
class Act:
    """One thing done to a running task: kind is withdraw, stop, wake, kill or retry. None where it does not apply.

    run: the place of the task in BuildRecord.runs.
    """

    kind: str
    time_s: float
    run: int
    program: str
    pid: int | None
    bytes: int | None
    used_bytes: int | None
    jobs: int | None
    attempt: int | None
    reason: str


@dataclass(frozen=True)
class TaskRun:
    """One run of one task. Times are seconds since 1970; None is what no log tells.

    began_s:       None for a task that was held and never started.
    outcome:       ok, failed, memory-kill, throttled; running or "not run" where the log tells no end.
    holds, stops:  when it was held, and when processes of it were stopped.
    would_hold:    in observe mode, why it would have been held; else "".
    granted_bytes: its predicted footprint with `jobs` jobs, by `origin`.
    jobs:          the most it was granted; with `is_shrunk` it began with fewer than it wanted.
    """

    recipe: str
    task: str
    mc: str
    began_s: float | None
    ended_s: float | None
    outcome: str
    holds: tuple[Span, ...] = ()
    stops: tuple[Span, ...] = ()
    acts: tuple[Act, ...] = ()
    would_hold: str = ""
    is_shrunk: bool = False
    jobs: int | None = None
    wanted_jobs: int | None = None
    granted_bytes: int | None = None
    origin: str = ""
    reason: str = ""
    peak_bytes: int | None = None
    wall_s: float | None = None
    cpu_s: float | None = None

    @property
    def name(self) -> str:
        prefix = f"mc:{self.mc}:" if self.mc else ""
        return f"{prefix}{self.recipe} {self.task}"

    @property
    def held_s(self) -> float:
        return sum(hold.seconds for hold in self.holds)

    @property
    def stopped_s(self) -> float:
        return sum(stop.seconds for stop in self.stops)

    @property
    def first_s(self) -> float:
        """When it is first heard of."""
        times = [span.begin_s for span in self.holds[:1]] + ([self.began_s] if self.began_s is not None else [])
        return min(times, default=0.0)

    @property
    def largest_job_bytes(self) -> int:
        """The largest single process that was stopped or killed; 0 where none was."""
        return max((act.bytes or 0 for act in self.acts if act.pid is not None), default=0)

    def count(self, kind: str) -> int:
        """How often an act of this kind was done to it."""
        return sum(act.kind == kind for act in self.acts)


@dataclass(frozen=True)
class Moment:
    """The container at one time; `tasks` are (place in BuildRecord.runs, bytes), as the log has them."""

    time_s: float
    used_bytes: int
    limit_bytes: int | None
    reserve_bytes: int | None
    tasks: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class BuildStart:
    """What the build said at its start."""

    time_s: float
    mode: str
    limit_bytes: int | None
    limit_source: str
    used_bytes: int | None
    reserve_bytes: int | None
    cpus: float | None


@dataclass(frozen=True)
class BuildEnd:
    """What the build said at its end; None where it did not."""

    time_s: float
    peak_bytes: int | None
    limit_bytes: int | None
    forced: int | None
    oom_kills: int | None
    wall_s: float | None


@dataclass(frozen=True)
class Marks:
    """The levels of used at which tokens are withdrawn, processes stopped, and killed."""

    withdraw_bytes: int | None
    stop_bytes: int | None
    kill_bytes: int | None


@dataclass(frozen=True)
class BuildRecord:
    """One build. `remarks` are sentences about what the logs do not tell."""

    stamp: str
    events_path: Path
    start: BuildStart | None
    end: BuildEnd | None
    runs: tuple[TaskRun, ...]
    moments: tuple[Moment, ...]
    marks: Marks | None
    acts: tuple[Act, ...]
    began_s: float
    ended_s: float
    remarks: tuple[str, ...]

    @property
    def mode(self) -> str:
        return self.start.mode if self.start else ""

    @property
    def limit_bytes(self) -> int | None:
        """The limit the build ended with, None where none was visible."""
        if self.moments:
            return self.moments[-1].limit_bytes
        ends = [said.limit_bytes for said in (self.end, self.start) if said is not None]
        return ends[0] if ends else None

    @property
    def reserve_bytes(self) -> int | None:
        if self.moments and self.moments[-1].reserve_bytes is not None:
            return self.moments[-1].reserve_bytes
        return self.start.reserve_bytes if self.start else None

    @cached_property
    def peak_bytes(self) -> int | None:
        """The most that was used, as far as it was seen."""
        seen = [moment.used_bytes for moment in self.moments]
        if self.end and self.end.peak_bytes is not None:
            seen.append(self.end.peak_bytes)
        return max(seen, default=None)

    @property
    def wall_s(self) -> float:
        if self.end and self.end.wall_s is not None:
            return self.end.wall_s
        return max(0.0, self.ended_s - self.began_s)

    @cached_property
    def held_s(self) -> float:
        return sum(run.held_s for run in self.runs)

    def count(self, kind: str) -> int:
        """How often an act of this kind was done in the build."""
        return sum(act.kind == kind for act in self.acts)

    def heaviest(self, most: int) -> list[TaskRun]:
        """The runs that took the most, as far as it was measured."""
        measured = [run for run in self.runs if run.peak_bytes]
        return sorted(measured, key=lambda run: (-(run.peak_bytes or 0), run.name))[:most]


def logs_of(directory: Path) -> list[Path]:
    """The events logs of a MEMGUARD_DIR, the oldest build first. Raises OSError where they cannot be listed."""
    logs = [path for path in (directory / "events").iterdir() if path.suffix == ".jsonl"]
    return sorted(logs, key=lambda path: _order(path.stem))


def _order(stamp: str) -> tuple[str, int]:
    """Of several builds of one second the later ones have a number: STAMP-2 comes before STAMP-10."""
    second, _, number = stamp.partition("-")
    return second, int(number) if number.isdecimal() and len(number) < 9 else 0


def first_s(events_path: Path) -> float | None:
    """When the build of an events log began (seconds since 1970). Raises OSError."""
    with open(events_path, "rb") as file:
        event = _parsed(file.readline(_LONGEST_LINE_BYTES))
    return float(event["time"]) if event else None


def end_of(events_path: Path) -> BuildEnd | None:
    """What the build of an events log said at its end, by the last line alone. Raises OSError."""
    with open(events_path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _LAST_BYTES))
        event = _parsed(file.read().rstrip(b"\n").rpartition(b"\n")[2])
    return _build_end(event) if event and event["event"] == "build_end" else None


def read(events_path: Path) -> BuildRecord:
    """The record of the build with this events log. Raises NoRecord where nothing of a build is in its logs."""
    builder = _Builder()
    events = _Lines(events_path)
    try:
        for event in events.read():
            builder.take_event(event)
    except OSError as error:
        raise NoRecord(f"{events_path} cannot be read: {error.strerror}") from None
    remarks = events.remarks()
    readings_path = events_path.parent.parent / "readings" / events_path.name
    if readings_path.is_file():
        readings = _Lines(readings_path)
        try:
            for event in readings.read():
                builder.take_reading(event)
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
        raise NoRecord(f"{events_path} holds no events of a build; a good one is memguard/events/20260131120000.jsonl")
    return builder.build(events_path, remarks)


# -- lines -------------------------------------------------------------------------------------------------------------


class _Lines:
    """The JSON objects of one log, and what is wrong with its other lines."""

    def __init__(self, path: Path) -> None:
        self.count = 0
        self._path = path
        self._bad: list[int] = []
        self._is_torn = False
        self._unknown: Counter[str] = Counter()
        self._format = FORMAT

    def read(self) -> Iterator[dict[str, Any]]:
        """Objects with a known event and a time, in the order of the log. Raises OSError."""
        with open(self._path, "rb") as file:
            while line := file.readline(_LONGEST_LINE_BYTES):
                self.count += 1
                event = _parsed(line)
                if event is None:
                    self._bad.append(self.count)
                    self._is_torn = not line.endswith(b"\n")
                    continue
                told = event.get("format", event.get("version"))
                if type(told) is int and told > self._format:
                    self._format = told
                name = event["event"]
                if name in _EVENTS or name in _ACTS or name in ("reading", "task"):
                    yield event
                else:
                    self._unknown[_text(name)[:40]] += 1

    def remarks(self) -> list[str]:
        """What was passed over, in sentences."""
        said = []
        if self._format > FORMAT:
            said.append(
                f"{self._path} is of a newer version (format {self._format}, this command knows {FORMAT}): what is new "
                "in it is not shown; update meta-memguard where you run this command"
            )
        elif self._unknown:
            kinds = ", ".join(sorted(self._unknown)[:3])
            said.append(
                f"{self._path} has {sum(self._unknown.values()):,} events that this version does not know ({kinds}), "
                "which are not shown; update meta-memguard where you run this command"
            )
        torn = self._is_torn and self._bad[-1] == self.count
        bad = self._bad[:-1] if torn else self._bad
        if bad:
            places = ", ".join(map(str, bad[:3])) + (", ..." if len(bad) > 3 else "")
            lines = "1 line that is no event" if len(bad) == 1 else f"{len(bad):,} lines that are no events"
            said.append(f"{self._path} has {lines} (line {places}), passed over")
        if torn:
            said.append(f"the last line of {self._path} is half-written: its writer was killed, or is writing now")
        return said


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str) or _number(event.get("time")) is None:
        return None
    return event


def _text(value: object) -> str:
    return value[:_LONGEST_NAME] if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    """A finite number of a believable size, None for anything else; true is no number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if -_MOST < value < _MOST and math.isfinite(value) else None


def _whole(value: object) -> int | None:
    number = _number(value)
    return None if number is None or number < 0 else int(number)


def _build_end(event: dict[str, Any]) -> BuildEnd:
    return BuildEnd(
        float(event["time"]),
        _whole(event.get("peak_bytes")),
        _whole(event.get("limit_bytes")),
        _whole(event.get("forced")),
        _whole(event.get("oom_kills")),
        _number(event.get("wall_s")),
    )


def _planned_marks(moments: list[Moment]) -> Marks | None:
    """The marks that regulate() acts by, from the last limit and reserve; None where these are not known."""
    last = moments[-1] if moments else None
    if last is None or last.limit_bytes is None or last.reserve_bytes is None:
        return None
    limit, reserve = last.limit_bytes, last.reserve_bytes
    return Marks(limit - reserve, limit - int(reserve * STOP_SHARE), limit - int(reserve * KILL_SHARE))


# -- putting together --------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """A TaskRun that is being put together."""

    recipe: str
    task: str
    mc: str
    began_s: float | None = None
    ended_s: float | None = None
    outcome: str = ""
    hold: tuple[float, str] | None = None
    holds: list[Span] = field(default_factory=list)
    stopped: dict[int, None] = field(default_factory=dict)
    stop: tuple[float, str] | None = None
    stops: list[Span] = field(default_factory=list)
    acts: list[Act] = field(default_factory=list)
    would_hold: str = ""
    is_shrunk: bool = False
    jobs: int | None = None
    wanted_jobs: int | None = None
    granted_bytes: int | None = None
    origin: str = ""
    reason: str = ""
    peak_bytes: int | None = None
    seen_peak_bytes: int = 0
    wall_s: float | None = None
    cpu_s: float | None = None

    def finished(self, last_s: float) -> TaskRun:
        """The run as it is when the logs end at `last_s`."""
        if self.hold is not None:
            self.holds.append(Span(self.hold[0], max(last_s, self.hold[0]), self.hold[1]))
        self.end_stop(self.ended_s if self.ended_s is not None else last_s)
        outcome = self.outcome or (NOT_RUN if self.began_s is None else RUNNING)
        return TaskRun(
            self.recipe,
            self.task,
            self.mc,
            self.began_s,
            self.ended_s,
            outcome,
            tuple(self.holds),
            tuple(self.stops),
            tuple(self.acts),
            self.would_hold,
            self.is_shrunk,
            self.jobs,
            self.wanted_jobs,
            self.granted_bytes,
            self.origin,
            self.reason,
            # What is measured of a task that ran again is of its last attempt.
            max(self.peak_bytes or 0, self.seen_peak_bytes) or None,
            self.wall_s,
            self.cpu_s,
        )

    def end_stop(self, time_s: float) -> None:
        if self.stop is not None:
            self.stops.append(Span(self.stop[0], max(time_s, self.stop[0]), self.stop[1]))
            self.stop = None
            self.stopped.clear()


class _Builder:
    """Puts events and readings together by task; events first, since they tell the runs."""

    def __init__(self) -> None:
        self._runs: list[_Run] = []
        self._current: dict[tuple[str, str, str], int] = {}
        self._named: dict[tuple[str, str], list[int]] = {}
        self._start: BuildStart | None = None
        self._end: BuildEnd | None = None
        self._marks: Marks | None = None
        self._moments: list[Moment] = []
        self._acts: list[Act] = []
        self._times: list[float] = []

    @property
    def is_empty(self) -> bool:
        return not self._times

    def take_event(self, event: dict[str, Any]) -> None:
        """Take one line of the events log."""
        name, time_s = event["event"], float(event["time"])
        if name in _ACTS or name in ("reading", "task"):
            return self.take_reading(event)
        self._times.append(time_s)
        if name == "build_start":
            self._start = BuildStart(
                time_s,
                _text(event.get("mode")),
                _whole(event.get("limit_bytes")),
                _text(event.get("limit_source")),
                _whole(event.get("used_bytes")),
                _whole(event.get("reserve_bytes")),
                _number(event.get("cpus")),
            )
        elif name == "build_end":
            self._end = _build_end(event)
        elif _text(event.get("recipe")):
            self._take_task_event(name, time_s, event)
        return None

    def _take_task_event(self, name: str, time_s: float, event: dict[str, Any]) -> None:
        key = (_text(event.get("mc")), _text(event.get("recipe")), _text(event.get("task")))
        place = self._current.get(key)
        if place is None or (self._runs[place].ended_s is not None and name != "end"):
            place = self._current[key] = self._add(_Run(key[1], key[2], key[0]))
        run, reason = self._runs[place], _text(event.get("reason"))
        if name == "hold":
            if event.get("observed"):
                run.would_hold = run.would_hold or reason
            else:
                run.hold = run.hold or (time_s, reason)
        elif name == "release" and run.hold is not None:
            run.holds.append(Span(run.hold[0], max(time_s, run.hold[0]), run.hold[1]))
            run.hold = None
        elif name == "grant":
            run.jobs, run.wanted_jobs = _whole(event.get("jobs")), _whole(event.get("wanted_jobs"))
            run.granted_bytes, run.origin, run.reason = _whole(event.get("bytes")), _text(event.get("origin")), reason
            run.is_shrunk = None not in (run.jobs, run.wanted_jobs) and (run.jobs or 0) < (run.wanted_jobs or 0)
        elif name == "extend":
            run.jobs, run.granted_bytes = _whole(event.get("jobs")), _whole(event.get("bytes"))
        elif name == "start":
            run.began_s = time_s
        elif name == "end":
            run.ended_s, run.outcome = time_s, _text(event.get("outcome"))
            run.began_s = time_s if run.began_s is None else run.began_s

    def take_reading(self, event: dict[str, Any]) -> None:
        """Take one line of the readings log."""
        name, time_s = event["event"], float(event["time"])
        if name == "reading":
            self._take_moment(time_s, event)
        elif name == "task":
            self._take_measured(time_s, event)
        elif name in _ACTS:
            self._take_act(name, time_s, event)
        else:
            return
        self._times.append(time_s)

    def _take_moment(self, time_s: float, event: dict[str, Any]) -> None:
        marks = event.get("marks")
        if isinstance(marks, dict):
            self._marks = Marks(*(_whole(marks.get(f"{name}_bytes")) for name in ("withdraw", "stop", "kill")))
        tasks = []
        rows = event.get("tasks")
        for row in rows if isinstance(rows, list) else ():
            if not isinstance(row, list) or len(row) < 3 or not _text(row[0]):
                continue
            place = self._at(_text(row[0]), _text(row[1]), time_s)
            current = _whole(row[2]) or 0
            self._runs[place].seen_peak_bytes = max(self._runs[place].seen_peak_bytes, current)
            tasks.append((place, current))
        used, limit = _whole(event.get("used_bytes")), _whole(event.get("limit_bytes"))
        if used is not None:
            self._moments.append(Moment(time_s, used, limit, _whole(event.get("reserve_bytes")), tuple(tasks)))

    def _take_measured(self, time_s: float, event: dict[str, Any]) -> None:
        began = _number(event.get("began"))
        place = self._at(_text(event.get("recipe")), _text(event.get("task")), time_s if began is None else began)
        run = self._runs[place]
        run.peak_bytes = _whole(event.get("peak_bytes"))
        run.wall_s, run.cpu_s = _number(event.get("wall_s")), _number(event.get("cpu_s"))
        run.began_s = began if run.began_s is None else run.began_s
        run.ended_s = time_s if run.ended_s is None else run.ended_s
        run.jobs = _whole(event.get("jobs")) if run.jobs is None else run.jobs
        if run.granted_bytes is None:
            run.granted_bytes = _whole(event.get("granted_bytes"))
        # The sentinel knows what was done to a task, the server whether it ended well in the end. A task that was
        # stopped is throttled, too; that is told by its stops.
        outcome = _text(event.get("outcome"))
        is_slowed = (
            outcome == "throttled" and run.outcome in ("", "ok") and not any(act.kind == "stop" for act in run.acts)
        )
        if outcome == "throttled" and not is_slowed:
            outcome = "ok"
        if not run.outcome or is_slowed or (run.outcome == "failed" and outcome == "memory-kill"):
            run.outcome = outcome

    def _take_act(self, kind: str, time_s: float, event: dict[str, Any]) -> None:
        place = self._at(_text(event.get("recipe")), _text(event.get("task")), time_s)
        run, pid, reason = self._runs[place], _whole(event.get("pid")), _text(event.get("reason"))
        act = Act(
            kind,
            time_s,
            place,
            _text(event.get("program")),
            pid,
            _whole(event.get("bytes")),
            _whole(event.get("used_bytes")),
            _whole(event.get("jobs")),
            _whole(event.get("attempt")),
            reason,
        )
        run.acts.append(act)
        self._acts.append(act)
        if kind == "stop":
            run.stop = run.stop or (time_s, reason)
            run.stopped[pid or 0] = None
        elif kind == "retry" or (kind == "wake" and pid is None):
            run.end_stop(time_s)
        elif kind in ("wake", "kill"):
            run.stopped.pop(pid or 0, None)
            if not run.stopped:
                run.end_stop(time_s)

    def _at(self, recipe: str, task: str, time_s: float) -> int:
        """The place of the run of a task that was nearest to running at a time; readings know no multiconfigs."""
        places = self._named.get((recipe, task))
        if not places:
            run = _Run(recipe, task, "", began_s=time_s)
            return self._add(run)
        return places[0] if len(places) == 1 else min(places, key=lambda place: self._distance(place, time_s))

    def _distance(self, place: int, time_s: float) -> float:
        run = self._runs[place]
        begin = run.began_s if run.began_s is not None else math.inf
        end = run.ended_s if run.ended_s is not None else math.inf
        return 0.0 if begin <= time_s <= end else min(abs(time_s - begin), abs(time_s - end))

    def _add(self, run: _Run) -> int:
        self._runs.append(run)
        place = len(self._runs) - 1
        self._named.setdefault((run.recipe, run.task), []).append(place)
        return place

    def build(self, events_path: Path, remarks: list[str]) -> BuildRecord:
        began_s = self._start.time_s if self._start else min(self._times)
        ended_s = self._end.time_s if self._end else max(began_s, *self._times)
        moments = sorted(self._moments, key=lambda moment: moment.time_s)
        return BuildRecord(
            stamp=events_path.stem,
            events_path=events_path,
            start=self._start,
            end=self._end,
            runs=tuple(run.finished(ended_s) for run in self._runs),
            moments=tuple(moments),
            marks=self._marks or _planned_marks(moments),
            acts=tuple(self._acts),
            began_s=began_s,
            ended_s=ended_s,
            remarks=tuple(remarks),
        )
