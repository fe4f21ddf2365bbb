# SPDX-License-Identifier: MIT
"""What server and tasks tell the sentinel: its orders at the start, then a note for each thing that happens.

Runs in: the BitBake server, task children, the sentinel; pure.
Covers: orders and notes, and each as a line of JSON.
Does not cover: how a line reaches the sentinel (fifo.py; its standard input for the orders).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import Any, Union

from memguard.model import Mode, Outcome, Policy
from memguard.typed_json import from_json

# What a server that ends says to its sentinel; one that was killed says nothing.
FAREWELL = b"bye"


@dataclass(frozen=True)
class Orders:
    """What the server tells its sentinel at the start.

    build:  names the build in its records.
    policy: the settings of the build, with a directory that is absolute.
    slots:  the jobs of all tasks together, 0 for as many as there are CPUs.
    log:    the file of the readings, "" to write none.
    cgroup: the one of all tasks, "" where they have none.
    """

    build: str
    policy: Policy
    slots: int = 0
    log: str = ""
    cgroup: str = ""

    @property
    def directory(self) -> str:
        """Where server, sentinel and tasks meet."""
        return self.policy.directory

    @property
    def acts(self) -> bool:
        """Whether running tasks may be touched; else they are only measured."""
        return self.policy.mode is Mode.ENFORCE


# What does not travel: the sentinel has no use for a database's password; footprints matter to the server alone.
_LEFT_OUT = ("fleet", "overrides")


def order_line(orders: Orders) -> str:
    """Orders as the first line that a sentinel reads, without its end."""
    names = [field.name for field in fields(Policy) if field.init and field.name not in _LEFT_OUT]
    policy = {name: getattr(orders.policy, name) for name in names}
    return json.dumps({**vars(orders), "policy": policy})


def parse_orders(line: str | bytes) -> Orders:
    """Orders out of what order_line() has made of them. Raises ValueError, TypeError or KeyError for anything else."""
    told: dict[str, Any] = json.loads(line)
    policy: dict[str, Any] = told["policy"]
    lists = {name: tuple(value) for name, value in policy.items() if isinstance(value, list)}
    changed: dict[str, Any] = {**policy, **lists, "mode": Mode(policy["mode"])}
    return Orders(**{**told, "policy": Policy(**changed)})


@dataclass(frozen=True)
class TaskNote:
    """One task that runs: its process, which leads a session, by pid and start time in clock ticks since boot.

    jobs:      those it begins with.
    most_jobs: those its recipe asks for.
    pool:      the path of its pool of tokens, "" where it has none.
    may_kill:  whether one of its compilers may be killed, since the task can be repeated.
    kind:      the name of its kind, by which the fleet learns what recipes take that nobody has built.
    """

    pid: int
    start_ticks: int
    tid: str
    recipe: str
    version: str
    task: str
    machine: str
    jobs: int
    most_jobs: int = 1
    pool: str = ""
    may_kill: bool = False
    kind: str = ""


@dataclass(frozen=True)
class TaskEnd:
    """How a task ended, as its own process saw it.

    pid, start_ticks: those of its note.
    cpu_s:         CPU seconds of its own and of all that it has waited for.
    largest_bytes: the most that one of the processes it has waited for had resident, file pages included.
    """

    pid: int
    start_ticks: int
    outcome: Outcome
    wall_s: float
    cpu_s: float
    largest_bytes: int


@dataclass(frozen=True)
class TaskWait:
    """A task of which something was killed for memory, and which waits for its turn to run again.

    It may be told several times until the turn is given; the same `attempt` of a task is the same wait.

    pid, start_ticks: those of its note.
    jobs, alone:   what it will run with, and whether nothing else shall run beside it.
    attempt:       1 when it is about to run for the second time.
    program:       what was killed, "" where that is unknown.
    reason:        why it runs again, in words.
    need_bytes:    what its first job is expected to take, by the largest process of the run that ended; others begin
                   as memory lets them.
    wall_s, cpu_s, largest_bytes: what that run took, as in TaskEnd.
    """

    pid: int
    start_ticks: int
    jobs: int
    alone: bool
    attempt: int
    program: str
    reason: str
    need_bytes: int
    wall_s: float
    cpu_s: float
    largest_bytes: int

    @property
    def end(self) -> TaskEnd:
        """How the run ended of which something was killed."""
        return TaskEnd(self.pid, self.start_ticks, Outcome.FAILED, self.wall_s, self.cpu_s, self.largest_bytes)


@dataclass(frozen=True)
class TaskGrant:
    """What the server has granted a task, before it starts and whenever that changes.

    place:     counts up over the build; the oldest task has the smallest.
    bytes:     what the whole task is expected to take with `jobs` jobs.
    job_bytes: what one job of it is expected to take.
    wanted_jobs: those it would have in a stock build.
    largest_bytes: what its largest process took in earlier builds, 0 where that is not known.
    need_bytes: what the task needs at least.
    """

    tid: str
    place: int
    jobs: int
    bytes: int
    job_bytes: int
    wanted_jobs: int = 0
    largest_bytes: int = 0
    need_bytes: int = 0


@dataclass(frozen=True)
class TaskHold:
    """A task that is held, and why, told again when the reason changes; with an empty reason, one held no longer."""

    tid: str
    recipe: str
    task: str
    reason: str


@dataclass(frozen=True)
class BuildProgress:
    """How far the build is: tasks that are done, of all; left_s: how long it will go on, by earlier builds, or None."""

    done: int
    tasks: int
    left_s: float | None = None


NO_PROGRESS = BuildProgress(0, 0)


@dataclass(frozen=True)
class TaskWant:
    """A task that is held lacks these bytes, and the platform is to be asked for them."""

    recipe: str
    task: str
    wanted_bytes: int


Note = Union[TaskNote, TaskWait, TaskEnd, TaskGrant, TaskHold, BuildProgress, TaskWant]
_NOTES: dict[str, type[Note]] = {
    "begin": TaskNote,
    "wait": TaskWait,
    "end": TaskEnd,
    "grant": TaskGrant,
    "hold": TaskHold,
    "progress": BuildProgress,
    "want": TaskWant,
}
_NAMES = {kind: name for name, kind in _NOTES.items()}


def as_line(note: Note) -> bytes:
    """A note as a line of JSON."""
    return json.dumps({"note": _NAMES[type(note)], **vars(note)}).encode("ascii") + b"\n"


def parse_note(line: bytes) -> Note | None:
    """The note in a line, None where it holds none."""
    try:
        told: Any = json.loads(line)
        note: Note = from_json(_NOTES[told["note"]], told)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return note if getattr(note, "pid", 1) > 0 else None
