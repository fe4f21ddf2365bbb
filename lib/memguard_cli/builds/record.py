# SPDX-License-Identifier: MIT
"""What one build did: a BuildRecord, which all reports and advice are made of.

Runs in: outside BitBake; pure.
Covers: runs of tasks with what was done to them, memory over time, figures of the whole build.
Does not cover: reading the logs (assemble), what to think of a build (advice/build), how it looks (report).
See also: memguard.record.events, whose dataclasses stand in it as they were logged.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from memguard.channels.state import Marks
from memguard.model import Outcome
from memguard.record.events import BuildEnded, BuildStarted, Deed, JobRow, Killed, Stopped, Woken

# What a task was when the log ends without having said how it ended.
RUNNING, NOT_RUN = "running", "not run"
# The sentinel looks three times a second or more often: of a shorter task it may have missed the peak.
LEAST_SEEN_S = 1.0


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
class TaskRun:
    """One run of one task. Times are seconds since 1970; None is what no log says.

    began_s:       None for a task that was held and never started.
    outcome:       ok, failed, memory-kill, throttled; running or "not run" where the log has no end.
    holds, stops:  when it was held, and when processes of it were stopped.
    deeds:         what the sentinel did to it.
    would_hold:    in observe mode, why it would have been held; else "".
    granted_bytes: its predicted footprint with `jobs` jobs, by `origin`.
    peak_bytes:    the most it was seen to take; a lower bound where it `is_bound`.
    swapped_bytes: the most of it that lay in swap, where jobs of it were parked.
    jobs:          the most it was granted; with `is_shrunk` it began with fewer than it wanted.
    heaviest_jobs: those of its jobs that took most, the heaviest first.
    number, after: the number of its start in the log, and the numbers of those that it needed; None, () if unknown.
    """

    recipe: str
    task: str
    mc: str
    began_s: float | None
    ended_s: float | None
    outcome: str
    holds: tuple[Span, ...] = ()
    stops: tuple[Span, ...] = ()
    deeds: tuple[Deed, ...] = ()
    would_hold: str = ""
    is_shrunk: bool = False
    jobs: int | None = None
    wanted_jobs: int | None = None
    granted_bytes: int | None = None
    origin: str = ""
    peak_bytes: int | None = None
    swapped_bytes: int | None = None
    wall_s: float | None = None
    cpu_s: float | None = None
    heaviest_jobs: tuple[JobRow, ...] = ()
    number: int | None = None
    after: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        prefix = f"mc:{self.mc}:" if self.mc else ""
        return f"{prefix}{self.recipe} {self.task}"

    @property
    def is_bound(self) -> bool:
        """Whether it would have taken more than was seen of it: it has not ended, or not well."""
        return self.outcome not in (Outcome.OK, Outcome.THROTTLED)

    @property
    def is_judged(self) -> bool:
        """Whether its peak says what such a task takes: it ended well, and was looked at more than a few times."""
        return not self.is_bound and (self.wall_s is None or self.wall_s >= LEAST_SEEN_S)

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
        jobs = (deed for deed in self.deeds if isinstance(deed, (Stopped, Woken, Killed)))
        return max((job.bytes or 0 for job in jobs if job.pid is not None), default=0)

    def length_s(self, last_s: float) -> float:
        """How long it ran, until the end of the log at `last_s` where it has none of its own."""
        return max(0.0, (self.ended_s if self.ended_s is not None else last_s) - (self.began_s or 0.0))

    def count(self, kind: type[Any]) -> int:
        """How many deeds of this kind were done to it."""
        return sum(isinstance(deed, kind) for deed in self.deeds)


def most_at_once(runs: Iterable[TaskRun], last_s: float) -> int:
    """How many of these, which have begun, ran at one time at most; the log ends at `last_s`."""
    began = [(run.began_s or 0.0, run.length_s(last_s)) for run in runs]
    steps = [(begin_s, 1) for begin_s, _ in began] + [(begin_s + length_s, -1) for begin_s, length_s in began]
    return max(accumulate(step for _, step in sorted(steps)), default=1)


@dataclass(frozen=True)
class Sight:
    """Memory at one time (seconds since 1970); `tasks` are (place in BuildRecord.runs, bytes), as the log has them."""

    time_s: float
    used_bytes: int
    limit_bytes: int | None
    reserve_bytes: int | None
    tasks: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class BuildRecord:
    """One build.

    start, end: what it said of itself then; None where its log does not begin, or end, with that.
    sights:     memory over time, the earliest first.
    marks:      the levels that were acted by at the end, None where limit or reserve is not known.
    remarks:    sentences about what the logs do not say.
    """

    stamp: str
    events_path: Path
    start: BuildStarted | None
    end: BuildEnded | None
    runs: tuple[TaskRun, ...]
    sights: tuple[Sight, ...]
    marks: Marks | None
    began_s: float
    ended_s: float
    remarks: tuple[str, ...]

    @property
    def mode(self) -> str:
        return self.start.mode if self.start else ""

    @property
    def limit_bytes(self) -> int | None:
        """The limit the build ended with, None where none was visible."""
        if self.sights:
            return self.sights[-1].limit_bytes
        ends = [said.limit_bytes for said in (self.end, self.start) if said is not None]
        return ends[0] if ends else None

    @property
    def reserve_bytes(self) -> int | None:
        if self.sights and self.sights[-1].reserve_bytes is not None:
            return self.sights[-1].reserve_bytes
        return self.start.reserve_bytes if self.start else None

    @cached_property
    def peak_bytes(self) -> int | None:
        """The most that was used, as far as it was seen."""
        seen = [sight.used_bytes for sight in self.sights]
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

    def count(self, kind: type[Any]) -> int:
        """How many deeds of this kind were done in the build."""
        return sum(run.count(kind) for run in self.runs)

    def heaviest(self, most: int) -> list[TaskRun]:
        """The runs that took the most, as far as it was measured."""
        measured = [run for run in self.runs if run.peak_bytes]
        return sorted(measured, key=lambda run: (-(run.peak_bytes or 0), run.name))[:most]
