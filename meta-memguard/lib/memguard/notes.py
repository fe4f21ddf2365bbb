# SPDX-License-Identifier: MIT
"""What server and tasks tell the sentinel: its orders at the start, then notes as things happen.

Runs in: task children (begin, end, wait), the BitBake server (listen, grant, hold), the sentinel (Listener); standard
library only.
Covers: a FIFO below MEMGUARD_DIR, one line of JSON for each note.
Does not cover: what the sentinel tells (state, readings); grants on their way to the tasks (handover).

Notes are lines in a FIFO rather than files, since every task of a build writes two: a line costs 20 us, making a file
may cost a hundred times as much.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Union

from memguard.model import Outcome

# What a server that ends says to its sentinel; one that was killed says nothing.
FAREWELL = b"bye"


@dataclass(frozen=True)
class Orders:
    """What the server tells its sentinel at the start, as JSON in its argument.

    history:       the database of what tasks took; "" to keep none.
    limit_bytes, reserve_bytes, reserve_share: the user's own, as in Policy.
    pressure_command: what is run before something is killed; "" for nothing.
    acts:          whether running tasks may be touched; else it only measures.
    slots:         the jobs of all tasks together, 0 for as many as there are CPUs.
    log:           the file of the readings, "" to write none.
    metrics:       the file of the metrics, "" to write none.
    """

    directory: str
    build: str
    history: str
    history_max_bytes: int
    limit_bytes: int | None = None
    reserve_bytes: int | None = None
    reserve_share: float | None = None
    pressure_command: str = ""
    acts: bool = False
    slots: int = 0
    log: str = ""
    metrics: str = ""


@dataclass(frozen=True)
class TaskNote:
    """One task that runs: its process, which leads a session, by pid and start time in clock ticks since boot.

    jobs:      those it begins with.
    most_jobs: those its recipe asks for.
    pool:      the path of its pool of tokens, "" where it has none.
    may_kill:  whether one of its compilers may be killed, since the task can be repeated.
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


@dataclass(frozen=True)
class TaskWait:
    """A task of which something was killed for memory, and which waits for its turn to run again.

    It may be told several times until the turn is given; the same `attempt` of a task is the same wait.

    pid, start_ticks: those of its note.
    jobs, alone:   what it will run with, and whether nothing else shall run beside it.
    attempt:       1 when it is about to run for the second time.
    program:       what was killed, "" where that is unknown.
    reason:        why it runs again, in words.
    need_bytes:    what it is expected to take, by the largest process of the run that ended.
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
class TaskGrant:
    """What the server has granted a task, before it starts and whenever that changes.

    place:     counts up over the build; the oldest task has the smallest.
    bytes:     what the whole task is expected to take with `jobs` jobs.
    job_bytes: what one job of it is expected to take.
    wanted_jobs: those it would have in a stock build.
    """

    tid: str
    place: int
    jobs: int
    bytes: int
    job_bytes: int
    wanted_jobs: int = 0


@dataclass(frozen=True)
class TaskHold:
    """A task that is held, and why; with an empty reason, one that is held no longer."""

    tid: str
    recipe: str
    task: str
    reason: str


Note = Union[TaskNote, TaskWait, TaskEnd, TaskGrant, TaskHold]
_NOTES: dict[str, type[Note]] = {
    "begin": TaskNote,
    "wait": TaskWait,
    "end": TaskEnd,
    "grant": TaskGrant,
    "hold": TaskHold,
}
_NAMES = {kind: name for name, kind in _NOTES.items()}


class Notes:
    """The notes of one build directory."""

    def __init__(self, directory: Path) -> None:
        self._fifo = f"{directory}/tasks"
        self._open: int | None = None

    def is_heard(self) -> bool:
        """Whether somebody listens."""
        try:
            os.close(os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            return False
        return True

    def send(self, note: Note, stays_open: bool = False) -> bool:
        """Tell; False where nobody listens, or cannot keep up. Raises OSError for a broken place.

        stays_open: the FIFO is kept open for the next note, until close().
        """
        line = json.dumps({"note": _NAMES[type(note)], **vars(note)}).encode("ascii") + b"\n"
        # A longer line could be torn apart by those of others (PIPE_BUF in pipe(7)).
        if len(line) > select.PIPE_BUF:
            return False
        try:
            if self._open is not None:
                try:
                    os.write(self._open, line)
                    return True
                except BrokenPipeError:
                    self.close()  # whoever listened is gone; another one may have come, with a FIFO of its own
            self._open = os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.write(self._open, line)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENXIO):
                return False
            raise
        finally:
            if not stays_open:
                self.close()
        return True

    def close(self) -> None:
        """Close what send() has kept open."""
        file, self._open = self._open, None
        if file is not None:
            os.close(file)

    def listen(self) -> int:
        """Make the FIFO anew and open it for a Listener, so that no note is lost from here on. Raises OSError."""
        self.clear()
        os.makedirs(os.path.dirname(self._fifo), exist_ok=True)
        os.mkfifo(self._fifo, 0o644)
        # For writing, too: a FIFO that nobody writes to at the moment has not ended.
        return os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def clear(self) -> None:
        """Remove the FIFO."""
        with contextlib.suppress(OSError):
            os.unlink(self._fifo)


class Listener:
    """Takes the notes out of the FIFO that Notes.listen() has opened."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._rest = b""

    def read(self) -> list[Note]:
        """The notes that have come since the last call; lines that are no notes are passed over."""
        chunks = [self._rest]
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._file, 1 << 16):
                chunks.append(chunk)
        *lines, self._rest = b"".join(chunks).split(b"\n")
        return [note for line in lines if (note := _parse(line)) is not None]


# What a field may hold, by its annotation; true is no number here.
_KINDS = {"int": (int,), "float": (float, int), "str": (str,), "bool": (bool,), "Outcome": (Outcome,)}


def _parse(line: bytes) -> Note | None:
    """The note in a line, None where it holds none."""
    try:
        told: Any = json.loads(line)
        kind = _NOTES[told["note"]]
        values = {field.name: told[field.name] for field in fields(kind)}
        if kind is TaskEnd:
            values["outcome"] = Outcome(values["outcome"])
        if any(type(values[field.name]) not in _KINDS[str(field.type)] for field in fields(kind)):
            return None
        return kind(**values) if values.get("pid", 1) > 0 else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
