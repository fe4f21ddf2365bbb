# SPDX-License-Identifier: MIT
"""What one build did: its events and readings logs -> a BuildRecord.

Runs in: outside BitBake.
Covers: both logs of one build put together by task; lines that are half-written, of a newer version or no events at
all, which are counted and passed over; builds that have no end.
Does not cover: what to think of it (build_advice), how it looks (report_text, report_page).
See also: docs/events.md, which has the fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# What a task was when the log ends without having said how it ended.
RUNNING, NOT_RUN = "running", "not run"


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
