# SPDX-License-Identifier: MIT
"""A build's record out of its logs."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memguard.decide.moment import KILL_SHARE, STOP_SHARE
from memguard_cli.builds.log_lines import ACTS, LONGEST_LINE_BYTES, Lines, number_in, parse_line, text_in, whole_in
from memguard_cli.builds.record import (
    NOT_RUN,
    RUNNING,
    Act,
    BuildEnd,
    BuildRecord,
    BuildStart,
    Marks,
    Moment,
    Span,
    TaskRun,
)

_LAST_BYTES = 4096  # the last event of a log takes less


class NoRecord(Exception):
    """There is no record of a build; the text says why."""


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
        event = parse_line(file.readline(LONGEST_LINE_BYTES))
    return float(event["time"]) if event else None


def end_of(events_path: Path) -> BuildEnd | None:
    """What the build of an events log said at its end, by the last line alone. Raises OSError."""
    with open(events_path, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - _LAST_BYTES))
        event = parse_line(file.read().rstrip(b"\n").rpartition(b"\n")[2])
    return _build_end(event) if event and event["event"] == "build_end" else None


def read_build(events_path: Path) -> BuildRecord:
    """The record of the build with this events log. Raises NoRecord where nothing of a build is in its logs."""
    builder = _Builder()
    events = Lines(events_path)
    try:
        for event in events.read():
            builder.take_event(event)
    except OSError as error:
        raise NoRecord(f"{events_path} cannot be read: {error.strerror}") from None
    remarks = events.remarks()
    readings_path = events_path.parent.parent / "readings" / events_path.name
    if readings_path.is_file():
        readings = Lines(readings_path)
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


def _build_end(event: dict[str, Any]) -> BuildEnd:
    return BuildEnd(
        float(event["time"]),
        whole_in(event.get("peak_bytes")),
        whole_in(event.get("limit_bytes")),
        whole_in(event.get("forced")),
        whole_in(event.get("oom_kills")),
        number_in(event.get("wall_s")),
    )


def _planned_marks(moments: list[Moment]) -> Marks | None:
    """The marks that regulate() acts by, from the last limit and reserve; None where these are not known."""
    last = moments[-1] if moments else None
    if last is None or last.limit_bytes is None or last.reserve_bytes is None:
        return None
    limit, reserve = last.limit_bytes, last.reserve_bytes
    return Marks(limit - reserve, limit - int(reserve * STOP_SHARE), limit - int(reserve * KILL_SHARE))


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
        if name in ACTS or name in ("reading", "task"):
            return self.take_reading(event)
        self._times.append(time_s)
        if name == "build_start":
            self._start = BuildStart(
                time_s,
                text_in(event.get("mode")),
                whole_in(event.get("limit_bytes")),
                text_in(event.get("limit_source")),
                whole_in(event.get("used_bytes")),
                whole_in(event.get("reserve_bytes")),
                number_in(event.get("cpus")),
            )
        elif name == "build_end":
            self._end = _build_end(event)
        elif text_in(event.get("recipe")):
            self._take_task_event(name, time_s, event)
        return None

    def _take_task_event(self, name: str, time_s: float, event: dict[str, Any]) -> None:
        key = (text_in(event.get("mc")), text_in(event.get("recipe")), text_in(event.get("task")))
        place = self._current.get(key)
        if place is None or (self._runs[place].ended_s is not None and name != "end"):
            place = self._current[key] = self._add(_Run(key[1], key[2], key[0]))
        run, reason = self._runs[place], text_in(event.get("reason"))
        if name == "hold":
            if event.get("observed"):
                run.would_hold = run.would_hold or reason
            else:
                run.hold = run.hold or (time_s, reason)
        elif name == "release" and run.hold is not None:
            run.holds.append(Span(run.hold[0], max(time_s, run.hold[0]), run.hold[1]))
            run.hold = None
        elif name == "grant":
            run.jobs, run.wanted_jobs = whole_in(event.get("jobs")), whole_in(event.get("wanted_jobs"))
            run.granted_bytes, run.origin, run.reason = (
                whole_in(event.get("bytes")),
                text_in(event.get("origin")),
                reason,
            )
            run.is_shrunk = None not in (run.jobs, run.wanted_jobs) and (run.jobs or 0) < (run.wanted_jobs or 0)
        elif name == "extend":
            run.jobs, run.granted_bytes = whole_in(event.get("jobs")), whole_in(event.get("bytes"))
        elif name == "start":
            run.began_s = time_s
        elif name == "end":
            run.ended_s, run.outcome = time_s, text_in(event.get("outcome"))
            run.began_s = time_s if run.began_s is None else run.began_s

    def take_reading(self, event: dict[str, Any]) -> None:
        """Take one line of the readings log."""
        name, time_s = event["event"], float(event["time"])
        if name == "reading":
            self._take_moment(time_s, event)
        elif name == "task":
            self._take_measured(time_s, event)
        elif name in ACTS:
            self._take_act(name, time_s, event)
        else:
            return
        self._times.append(time_s)

    def _take_moment(self, time_s: float, event: dict[str, Any]) -> None:
        marks = event.get("marks")
        if isinstance(marks, dict):
            self._marks = Marks(*(whole_in(marks.get(f"{name}_bytes")) for name in ("withdraw", "stop", "kill")))
        tasks = []
        rows = event.get("tasks")
        for row in rows if isinstance(rows, list) else ():
            if not isinstance(row, list) or len(row) < 3 or not text_in(row[0]):
                continue
            place = self._at(text_in(row[0]), text_in(row[1]), time_s)
            current = whole_in(row[2]) or 0
            self._runs[place].seen_peak_bytes = max(self._runs[place].seen_peak_bytes, current)
            tasks.append((place, current))
        used, limit = whole_in(event.get("used_bytes")), whole_in(event.get("limit_bytes"))
        if used is not None:
            self._moments.append(Moment(time_s, used, limit, whole_in(event.get("reserve_bytes")), tuple(tasks)))

    def _take_measured(self, time_s: float, event: dict[str, Any]) -> None:
        began = number_in(event.get("began"))
        place = self._at(text_in(event.get("recipe")), text_in(event.get("task")), time_s if began is None else began)
        run = self._runs[place]
        run.peak_bytes = whole_in(event.get("peak_bytes"))
        run.wall_s, run.cpu_s = number_in(event.get("wall_s")), number_in(event.get("cpu_s"))
        run.began_s = began if run.began_s is None else run.began_s
        run.ended_s = time_s if run.ended_s is None else run.ended_s
        run.jobs = whole_in(event.get("jobs")) if run.jobs is None else run.jobs
        if run.granted_bytes is None:
            run.granted_bytes = whole_in(event.get("granted_bytes"))
        # The sentinel knows what was done to a task, the server whether it ended well in the end. A task that was
        # stopped is throttled, too; that is told by its stops.
        outcome = text_in(event.get("outcome"))
        is_slowed = (
            outcome == "throttled" and run.outcome in ("", "ok") and not any(act.kind == "stop" for act in run.acts)
        )
        if outcome == "throttled" and not is_slowed:
            outcome = "ok"
        if not run.outcome or is_slowed or (run.outcome == "failed" and outcome == "memory-kill"):
            run.outcome = outcome

    def _take_act(self, kind: str, time_s: float, event: dict[str, Any]) -> None:
        place = self._at(text_in(event.get("recipe")), text_in(event.get("task")), time_s)
        run, pid, reason = self._runs[place], whole_in(event.get("pid")), text_in(event.get("reason"))
        act = Act(
            kind,
            time_s,
            place,
            text_in(event.get("program")),
            pid,
            whole_in(event.get("bytes")),
            whole_in(event.get("used_bytes")),
            whole_in(event.get("jobs")),
            whole_in(event.get("attempt")),
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
