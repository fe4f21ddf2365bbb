# SPDX-License-Identifier: MIT
"""The state of a running build, as one small file that the sentinel writes several times a second.

Runs in: the sentinel (publish), the BitBake server (read, left), task children (has_turn), the command (parse);
standard library only.
Covers: what the file says, and a file below MEMGUARD_DIR that is whole or not there.
Does not cover: what was (record/readings_log).

A build that ends removes it, so one that is found at a build's start was left by a build that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memguard.channels.build_directory import BuildDirectory
from memguard.channels.notes import TaskNote
from memguard.channels.plain_file import read_plain, replace_plain
from memguard.model import BuildUse, TaskUse
from memguard.typed_json import as_json, from_json, values_of

VERSION = 2
# The sentinel writes the state whenever something changes, three times a second as a rule, and although nothing changes
# whenever it gets this old, while tasks run and while none does.
FRESHEN_S = 1.0
IDLE_FRESHEN_S = 5.0
# An older state says nothing of now. Three times what it gets by itself: among several compilers on each CPU a sentinel
# without a nice value of its own comes that late. Who sees the file only, as from another container, does not know
# whether tasks run.
STATE_AGE_S = 3 * FRESHEN_S
FILE_AGE_S = 3 * IDLE_FRESHEN_S
# A build that ended without a word while it used this share of its limit was killed for memory.
# evidence: chosen, not measured. The last state or reading is up to FRESHEN_S old when a build dies, and a few
# compilers take a tenth of a usual limit in that time.
KILLED_SHARE = 0.85
_MOST_BYTES = 64 << 20


class OtherVersion(ValueError):
    """A state that another version of memguard wrote; `version` is its number."""

    def __init__(self, version: int) -> None:
        super().__init__(f"version {version}")
        self.version = version


@dataclass(frozen=True)
class TaskState(TaskNote):
    """One running task: its note, and all that a sentinel needs to go on with it. Sizes are in bytes.

    state:     running, stopped or retrying.
    place:     counts up over the build; the oldest task has the smallest.
    since:     seconds since 1970.
    peak_bytes: the most it was seen to take.
    granted_bytes: what it is expected to take; job_bytes: what one more job of it is.
    tokens:    those of its pool, None where it has none.
    compilers: its compiler processes now; most_compilers: the most at one moment; stopped: its stopped processes.
    cpus:      CPUs that it keeps busy now.
    swapped_bytes: what of it lies in swap, beside current_bytes.
    """

    state: str = "running"
    place: int = 0
    since: float = 0.0
    current_bytes: int = 0
    peak_bytes: int = 0
    granted_bytes: int = 0
    job_bytes: int = 0
    tokens: int | None = None
    compilers: int = 0
    most_compilers: int = 0
    stopped: int = 0
    cpus: float = 1.0
    swapped_bytes: int = 0

    @property
    def note(self) -> TaskNote:
        """What the task said as it began."""
        return from_json(TaskNote, vars(self))

    @property
    def use(self) -> TaskUse:
        """What the server acts on."""
        return TaskUse(self.current_bytes, self.cpus, self.peak_bytes, self.most_compilers)

    @property
    def name(self) -> str:
        """Recipe and task, for people."""
        return f"{self.recipe} {self.task}"

    @property
    def weight(self) -> tuple[int, int]:
        """What it is heavy by: what it took, or was expected to take where it was too young to be seen."""
        return self.current_bytes, self.granted_bytes


@dataclass(frozen=True)
class HeldTask:
    """A task that waits for memory, why it does now, and since when (seconds since 1970)."""

    recipe: str
    task: str
    reason: str
    since: float

    @property
    def name(self) -> str:
        """Recipe and task, for people."""
        return f"{self.recipe} {self.task}"


@dataclass(frozen=True)
class Marks:
    """Levels of used at which tokens are withdrawn, jobs stopped, and one killed."""

    withdraw_bytes: int
    stop_bytes: int
    kill_bytes: int


@dataclass(frozen=True)
class Counts:
    """What was done in a build so far; None where nobody knows.

    lost: tasks that failed for memory after all retries.
    """

    granted: int | None = 0
    held: int | None = 0
    shrunk: int | None = 0
    lost: int | None = 0
    stopped: int | None = 0
    killed: int | None = 0
    retried: int | None = 0
    oom_kills: int | None = 0


@dataclass(frozen=True)
class State:
    """One build at one moment.

    time_s, time: the monotonic clock, by which its age is judged, and seconds since 1970.
    build, pid:   the build, and the process of its sentinel.
    limit_bytes:  MemTotal where no limit is visible.
    tasks:        by BitBake's id.
    stopped:      how many jobs are stopped since memory is short.
    parked_bytes: what of them in memory is as good as free, since it may go to swap.
    rise_bytes:   what all tasks are expected to take together beyond what they take now, when that is most.
    neighbours:   other builds under the same limit that are counted: how many, what their tasks hold now, what these
                  will take that is not in rise_bytes, and the CPUs that they keep busy.
    alone:        in words, the task that wants to run, or runs, with no other beside it; "" for none.
    turns:        by mark, the attempt that a task that lost a job may make now.
    events:       the last ones, as JSON objects (record/events.from_object).
    done:         tasks of BitBake's that are done, of all_tasks; 0 of 0 as long as nobody says.
    left_s:       how long the build will go on, by earlier builds; None where they know too little.
    """

    time_s: float
    time: float
    build: str
    pid: int
    limit_bytes: int
    limit_source: str
    used_bytes: int
    reserve_bytes: int
    cpus: float
    mode: str
    marks: Marks
    tasks: dict[str, TaskState] = field(default_factory=dict)
    held: tuple[HeldTask, ...] = ()
    stopped: int = 0
    rise_bytes: int = 0
    parked_bytes: int = 0
    neighbours: int = 0
    neighbours_bytes: int = 0
    neighbours_pending_bytes: int = 0
    neighbours_cpus: float = 0.0
    alone: str = ""
    turns: dict[str, int] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    events: tuple[dict[str, Any], ...] = ()
    done: int = 0
    all_tasks: int = 0
    left_s: float | None = None

    @property
    def use(self) -> BuildUse:
        """What the server acts on."""
        tasks = {tid: task.use for tid, task in self.tasks.items()}
        return BuildUse(
            tasks,
            self.stopped,
            self.alone,
            self.rise_bytes,
            parked_bytes=self.parked_bytes,
            others_bytes=self.neighbours_bytes,
            others_pending_bytes=self.neighbours_pending_bytes,
            others_cpus=self.neighbours_cpus,
        )

    @property
    def heaviest(self) -> TaskState | None:
        """The task that takes, or is expected to take, the most; None where none runs."""
        return max(self.tasks.values(), key=lambda task: task.weight, default=None)


def as_object(state: State) -> dict[str, Any]:
    """A state as the JSON object that the file holds."""
    return {
        "version": VERSION,
        **as_json(state),
        "alone": state.alone,
        "marks": asdict(state.marks),
        "tasks": {tid: asdict(task) for tid, task in state.tasks.items()},
        "held": [asdict(task) for task in state.held],
        "turns": state.turns,
        "counts": asdict(state.counts),
        "events": list(state.events),
    }


def parse(content: bytes) -> State:
    """The state in a file. Raises OtherVersion, or ValueError that names what is wrong."""
    try:
        told = json.loads(content)
    except RecursionError:
        raise ValueError("depth") from None
    if not isinstance(told, dict):
        raise ValueError("form")
    version = told.get("version", 1)
    if type(version) is not int or version < 1:
        raise ValueError("version")
    if version != VERSION:
        raise OtherVersion(version)
    try:
        return State(
            **values_of(State, told),
            marks=from_json(Marks, told["marks"]),
            tasks={str(tid): from_json(TaskState, task) for tid, task in told["tasks"].items()},
            held=tuple(from_json(HeldTask, task) for task in told["held"]),
            turns={str(mark): int(attempt) for mark, attempt in told["turns"].items()},
            counts=from_json(Counts, told["counts"]),
            events=tuple(event for event in told["events"] if isinstance(event, dict)),
        )
    except KeyError as error:
        raise ValueError(error.args[0]) from None
    except (TypeError, AttributeError, OverflowError):
        raise ValueError("form") from None


class StateFile:
    """The state file of one build directory."""

    def __init__(self, directory: Path) -> None:
        self._path = str(BuildDirectory(directory).state)

    def publish(self, state: State) -> None:
        """Write `state`. Raises OSError."""
        replace_plain(self._path, f"{self._path}.draft", json.dumps(as_object(state)).encode("ascii"))

    def read(self, now_s: float) -> State | None:
        """The state; None where nobody has written it lately, or what was written is no state."""
        state = self.left()
        return state if state is not None and 0 <= now_s - state.time_s <= STATE_AGE_S else None

    def has_turn(self, mark: str, attempt: int, now_s: float) -> bool | None:
        """Whether the task of this mark may make its `attempt` to run again; None where no state is fresh."""
        state = self.read(now_s)
        return None if state is None else state.turns.get(mark, 0) == attempt

    def left(self) -> State | None:
        """What the file says, however old it is; None where there is none of this version."""
        try:
            return parse(read_plain(self._path, _MOST_BYTES))
        except (OSError, ValueError):
            return None

    def clear(self) -> None:
        """Remove it."""
        for path in (self._path, f"{self._path}.draft"):
            with contextlib.suppress(OSError):
                os.unlink(path)
