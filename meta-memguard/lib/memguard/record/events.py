# SPDX-License-Identifier: MIT
"""One dataclass for each line of the event log and of the readings, by which both are written and read.

Runs in: the BitBake server and the sentinel (as_line), the command and tests (parse); pure.
Covers: names, fields and meaning of all lines; docs/events.md says the same to people.
Does not cover: files (event_log, readings_log), and what follows from the lines.

Field names are the keys of the JSON objects. `time` is seconds since 1970. None is what a line does not say. Every
task event has `recipe`, `task`, and in a multiconfig `mc`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Union

from memguard.model import Task
from memguard.typed_json import LONGEST_TEXT, MOST, as_json, from_json, values_of


class UnknownEvent(ValueError):
    """A line that this version does not know, written by another; the text is the event's name."""


@dataclass(frozen=True)
class Line:
    """What all lines have."""

    event: ClassVar[str] = ""

    time: float


@dataclass(frozen=True)
class TaskLine(Line):
    """What all lines of one task have."""

    recipe: str
    task: str


# -- the event log: what the server decides ----------------------------------------------------------------------------


@dataclass(frozen=True)
class BuildStarted(Line):
    """The build starts. limit_bytes: None where no limit is visible. version: memguard's."""

    event: ClassVar[str] = "build_start"

    mode: str = ""
    limit_bytes: int | None = None
    limit_source: str = ""
    used_bytes: int | None = None
    reserve_bytes: int | None = None
    cpus: float | None = None
    version: str = ""


@dataclass(frozen=True)
class Held(TaskLine):
    """BitBake would start a task and memguard does not; `observed`: it would not, were it allowed to."""

    event: ClassVar[str] = "hold"

    mc: str = ""
    reason: str = ""
    used_bytes: int | None = None
    observed: bool = False


@dataclass(frozen=True)
class Released(TaskLine):
    """A held task is held no longer."""

    event: ClassVar[str] = "release"

    mc: str = ""
    held_s: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Granted(TaskLine):
    """A task is let through. bytes: its footprint with `jobs` jobs, by `origin`."""

    event: ClassVar[str] = "grant"

    mc: str = ""
    jobs: int | None = None
    wanted_jobs: int | None = None
    bytes: int | None = None
    origin: str = ""
    reason: str = ""
    used_bytes: int | None = None
    observed: bool = False

    @property
    def is_shrunk(self) -> bool:
        """Whether it starts with fewer jobs than it wants."""
        return self.jobs is not None and self.wanted_jobs is not None and self.jobs < self.wanted_jobs


@dataclass(frozen=True)
class Extended(TaskLine):
    """A running task that takes its jobs from a pool may have more of them."""

    event: ClassVar[str] = "extend"

    mc: str = ""
    jobs: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Started(TaskLine):
    """BitBake has sent a task to its worker. after: those that it needed, by the number of their start in this log."""

    event: ClassVar[str] = "start"

    mc: str = ""
    tid: str = ""
    after: tuple[int, ...] = ()


@dataclass(frozen=True)
class Ended(TaskLine):
    """A task has ended: outcome is ok or failed."""

    event: ClassVar[str] = "end"

    mc: str = ""
    tid: str = ""
    outcome: str = ""


@dataclass(frozen=True)
class BuildEnded(Line):
    """The build ends, with what it counted.

    oom_kills: None where the kernel does not say. idle_s: CPU seconds that idled although a held task would have fit.
    """

    event: ClassVar[str] = "build_end"

    peak_bytes: int | None = None
    limit_bytes: int | None = None
    granted: int | None = None
    held: int | None = None
    held_s: float | None = None
    shrunk: int | None = None
    forced: int | None = None
    oom_kills: int | None = None
    wall_s: float | None = None
    idle_s: float | None = None


# -- the readings: what the sentinel sees and does ---------------------------------------------------------------------


class TaskRow(NamedTuple):
    """One task of a reading, a list in JSON. tokens: None without a pool."""

    recipe: str
    task: str
    current_bytes: int
    compilers: int = 0
    stopped: int = 0
    tokens: int | None = None


class JobNow(NamedTuple):
    """A job at one moment, a list in JSON. source: what it builds, "" where unknown."""

    recipe: str
    task: str
    source: str
    program: str
    bytes: int
    age_s: float


@dataclass(frozen=True)
class ReadingTaken(Line):
    """Memory at one moment, the largest tasks then, and the largest of their jobs, None where all are light."""

    event: ClassVar[str] = "reading"

    used_bytes: int
    limit_bytes: int | None = None
    reserve_bytes: int | None = None
    tasks: tuple[TaskRow, ...] = ()
    heaviest_job: JobNow | None = None


@dataclass(frozen=True)
class Withdrawn(TaskLine):
    """Tokens are taken back since memory is short."""

    event: ClassVar[str] = "withdraw"

    used_bytes: int | None = None
    tokens: int | None = None
    tokens_before: int | None = None


@dataclass(frozen=True)
class _JobLine(TaskLine):
    """Something is done to one job, or without `pid` to a whole task; bytes: what it holds."""

    used_bytes: int | None = None
    program: str = ""
    pid: int | None = None
    bytes: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class Stopped(_JobLine):
    """A job, or a whole task, is stopped."""

    event: ClassVar[str] = "stop"


@dataclass(frozen=True)
class Woken(_JobLine):
    """A job, or a whole task, goes on."""

    event: ClassVar[str] = "wake"


@dataclass(frozen=True)
class Killed(_JobLine):
    """A job is killed, since the limit is near."""

    event: ClassVar[str] = "kill"


@dataclass(frozen=True)
class Retried(TaskLine):
    """A task that lost a job waits to run again with `jobs` jobs; attempt 1 is its second run."""

    event: ClassVar[str] = "retry"

    used_bytes: int | None = None
    program: str = ""
    jobs: int | None = None
    attempt: int | None = None
    reason: str = ""


class JobRow(NamedTuple):
    """One job of a task, a list in JSON. source: what it built, "" where unknown; was_killed: 1 if it was."""

    source: str
    program: str
    peak_bytes: int
    wall_s: float
    was_killed: int = 0


@dataclass(frozen=True)
class TaskMeasured(TaskLine):
    """A task has ended, and this is what it took. jobs: at its peak; outcome: as in Record; began: as `time`.

    swapped_bytes:  the most of it that lay in swap, None for none.
    heaviest_jobs:  those of its jobs that took most, the heaviest first.
    """

    event: ClassVar[str] = "task"

    began: float | None = None
    wall_s: float | None = None
    cpu_s: float | None = None
    jobs: int | None = None
    granted_bytes: int | None = None
    peak_bytes: int | None = None
    outcome: str = ""
    swapped_bytes: int | None = None
    heaviest_jobs: tuple[JobRow, ...] = ()


JobEvent = Union[Stopped, Woken, Killed]
Deed = Union[Withdrawn, Stopped, Woken, Killed, Retried]
TaskEvent = Union[Held, Released, Granted, Extended, Started, Ended]
ReadingsEvent = Union[ReadingTaken, Deed, TaskMeasured]
Event = Union[BuildStarted, BuildEnded, TaskEvent, ReadingsEvent]

_KINDS: dict[str, type[Any]] = {
    kind.event: kind
    for kind in (
        *(BuildStarted, Held, Released, Granted, Extended, Started, Ended, BuildEnded),
        *(ReadingTaken, Withdrawn, Stopped, Woken, Killed, Retried, TaskMeasured),
    )
}


def of_task(task: Task) -> dict[str, str]:
    """The fields by which the event log names a task."""
    return {"recipe": task.recipe, "task": task.name, "mc": task.mc}


def as_object(event: Event) -> dict[str, Any]:
    """An event as a JSON object."""
    told = {"event": event.event, **as_json(event)}
    if isinstance(event, ReadingTaken):
        told["tasks"] = [list(row) for row in event.tasks]
        if event.heaviest_job is not None:
            told["heaviest_job"] = list(event.heaviest_job)
    elif isinstance(event, Started) and event.after:
        told["after"] = list(event.after)
    elif isinstance(event, TaskMeasured) and event.heaviest_jobs:
        told["heaviest_jobs"] = [list(job) for job in event.heaviest_jobs]
    elif isinstance(event, _JobLine) and event.pid is None:
        del told["pid"]
    return told


def as_line(event: Event) -> str:
    """An event as a line of JSON."""
    return json.dumps(as_object(event)) + "\n"


def parse(line: bytes | str) -> Event:
    """The event in a line of JSON. Raises UnknownEvent for one of another version, ValueError where there is none.

    A value of another type than its field's counts as missing; `time`, the recipe of a task and what a reading read
    must be there.
    """
    try:
        told = json.loads(line)
    except RecursionError:
        raise ValueError("no event") from None
    return from_object(told)


def from_object(told: object) -> Event:
    """The event in a JSON object; raises as parse()."""
    if not isinstance(told, Mapping) or not isinstance(told.get("event"), str):
        raise ValueError("no event")
    kind = _KINDS.get(told["event"])
    if kind is None:
        from_json(Line, told)
        raise UnknownEvent(told["event"])
    values = values_of(kind, told, is_lenient=True)
    if not values.get("recipe", "-"):
        raise ValueError("recipe")
    if kind is ReadingTaken:
        values["tasks"] = tuple(row for each in _lists(told, "tasks") if (row := _row(each)))
        values["heaviest_job"] = _job_now(told.get("heaviest_job"))
    elif kind is Started:
        numbers = told.get("after")
        wanted = numbers if isinstance(numbers, list) else []
        values["after"] = tuple(number for number in wanted if type(number) is int and 0 <= number < MOST)
    elif kind is TaskMeasured:
        values["heaviest_jobs"] = tuple(job for each in _lists(told, "heaviest_jobs") if (job := _job(each)))
    event: Event = kind(**values)
    return event


def _lists(told: Mapping[str, Any], name: str) -> list[Any]:
    """A list of lists, empty where there is none."""
    rows = told.get(name)
    return [row for row in rows if isinstance(row, list)] if isinstance(rows, list) else []


def _job(told: list[Any]) -> JobRow | None:
    """One job of a task, None where the list is none."""
    if len(told) < 4 or not all(isinstance(text, str) for text in told[:2]):
        return None
    peak_bytes, wall_s, *rest = told[2:5]
    if type(peak_bytes) is not int or peak_bytes < 0 or type(wall_s) not in (int, float) or not 0 <= wall_s < MOST:
        return None
    return JobRow(told[0][:LONGEST_TEXT], told[1][:LONGEST_TEXT], peak_bytes, wall_s, int(rest[:1] == [1]))


def _job_now(told: object) -> JobNow | None:
    """The largest job of a reading, None where the value is none."""
    if not isinstance(told, list) or len(told) < 6 or not all(isinstance(text, str) for text in told[:2]):
        return None
    row = _job(told[2:6])
    return JobNow(told[0], told[1], *row[:4]) if row is not None and told[0] else None


def _row(told: list[Any]) -> TaskRow | None:
    """One task of a reading, None where the list is none."""
    if len(told) < 3 or not told[0]:
        return None
    texts, numbers = told[:2], told[2:6]
    if not all(isinstance(text, str) for text in texts) or type(numbers[0]) is not int or numbers[0] < 0:
        return None
    rest = [number if type(number) is int else None for number in numbers[1:]]
    rest += [None] * (3 - len(rest))
    return TaskRow(texts[0], texts[1], numbers[0], rest[0] or 0, rest[1] or 0, rest[2])
