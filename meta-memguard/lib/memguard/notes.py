# SPDX-License-Identifier: MIT
"""What server, tasks and sentinel tell each other: the sentinel's orders, tasks' notes, and the state of all tasks.

Runs in: task children (begin, wait, read_turns, end), the sentinel (Listener, publish), the BitBake server (listen,
read_state, clear); standard library only.
Covers: a FIFO below MEMGUARD_DIR, one line of JSON for each note, and one state file, which is whole or not there.
Does not cover: grants on their way to the tasks (handover).

Notes are lines in a FIFO rather than files, since every task of a build writes two: a line costs 20 us, making a file
may cost a hundred times as much.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from memguard.model import Outcome

# A state older than this says nothing of now: the sentinel writes several times a second.
STATE_AGE_S = 3.0


@dataclass(frozen=True)
class Orders:
    """What the server tells its sentinel at the start, as JSON in its argument."""

    directory: str
    build: str
    history: str
    history_max_bytes: int
    limit_bytes: int | None = None


@dataclass(frozen=True)
class TaskNote:
    """One task that runs: its process, which leads a session, by pid and start time in clock ticks since boot."""

    pid: int
    start_ticks: int
    tid: str
    recipe: str
    version: str
    task: str
    machine: str
    jobs: int


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
class TaskState:
    """What the sentinel sees of one task now, and the most it has seen of it. In bytes."""

    current_bytes: int
    peak_bytes: int


class Notes:
    """The notes of one build directory."""

    def __init__(self, directory: Path) -> None:
        self._fifo = f"{directory}/tasks"
        self._state = f"{directory}/state.json"

    def begin(self, note: TaskNote) -> bool:
        """Tell that a task begins; False where nobody listens, or cannot keep up. Raises OSError for a broken place."""
        return self._send(vars(note))

    def end(self, end: TaskEnd) -> bool:
        """Tell how a task ended; as begin() otherwise."""
        return self._send({**vars(end), "outcome": end.outcome.value})

    def wait(self, wait: TaskWait) -> bool:
        """Tell that a task waits for its turn; as begin() otherwise."""
        return self._send(vars(wait))

    def listen(self) -> int:
        """Make the FIFO anew and open it for a Listener, so that no note is lost from here on. Raises OSError."""
        self.clear()
        os.makedirs(os.path.dirname(self._fifo), exist_ok=True)
        os.mkfifo(self._fifo, 0o644)
        # For writing, too: a FIFO that nobody writes to at the moment has not ended.
        return os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def publish(self, tasks: Mapping[str, TaskState], now_s: float) -> None:
        """Tell the server what the tasks take, by tid; `now_s` is the monotonic clock. Raises OSError."""
        state = {tid: [state.current_bytes, state.peak_bytes] for tid, state in tasks.items()}
        draft = f"{self._state}.draft"
        with open(draft, "wb") as file:
            file.write(json.dumps({"time_s": round(now_s, 3), "tasks": state}).encode("ascii"))
        os.replace(draft, self._state)

    def read_state(self, now_s: float) -> dict[str, TaskState]:
        """What the tasks take, by tid; empty where nobody has told lately, or what was told is no state."""
        try:
            with open(self._state, "rb") as file:
                told = json.loads(file.read())
            if not 0 <= now_s - told["time_s"] <= STATE_AGE_S:
                return {}
            return {str(tid): TaskState(int(current), int(peak)) for tid, (current, peak) in told["tasks"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}

    def read_turns(self, now_s: float, since_s: float) -> frozenset[str] | None:
        """The marks of the waiting tasks that may go on, as told after `since_s`; None where nobody has told lately."""
        try:
            with open(self._state, "rb") as file:
                told = json.loads(file.read())
            if not since_s < told["time_s"] <= now_s or now_s - told["time_s"] > STATE_AGE_S:
                return None
            return frozenset(map(str, told["turns"]))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None

    def clear(self) -> None:
        """Remove the FIFO and the state."""
        for path in (self._fifo, self._state, f"{self._state}.draft"):
            with contextlib.suppress(OSError):
                os.unlink(path)

    def _send(self, content: dict[str, Any]) -> bool:
        line = json.dumps(content).encode("ascii") + b"\n"
        # A longer line could be torn apart by those of others (PIPE_BUF in pipe(7)).
        if len(line) > select.PIPE_BUF:
            return False
        try:
            file = os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENXIO):
                return False
            raise
        try:
            os.write(file, line)
        except BlockingIOError:
            return False
        finally:
            os.close(file)
        return True


class Listener:
    """Takes the notes out of the FIFO that Notes.listen() has opened."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._rest = b""

    def read(self) -> list[TaskNote | TaskWait | TaskEnd]:
        """The notes that have come since the last call; lines that are no notes are passed over."""
        chunks = [self._rest]
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._file, 1 << 16):
                chunks.append(chunk)
        *lines, self._rest = b"".join(chunks).split(b"\n")
        return [note for line in lines if (note := _parse(line)) is not None]


# What a field may hold, by its annotation; true is no number here.
_KINDS = {"int": (int,), "float": (float, int), "str": (str,), "bool": (bool,), "Outcome": (Outcome,)}


def _parse(line: bytes) -> TaskNote | TaskWait | TaskEnd | None:
    """The note in a line, None where it holds none."""
    try:
        told = json.loads(line)
        kind: type[TaskNote | TaskWait | TaskEnd]
        kind = TaskEnd if "outcome" in told else TaskWait if "alone" in told else TaskNote
        values = {field.name: told[field.name] for field in fields(kind)}
        if kind is TaskEnd:
            values["outcome"] = Outcome(values["outcome"])
        if any(type(values[field.name]) not in _KINDS[str(field.type)] for field in fields(kind)):
            return None
        return kind(**values) if values["pid"] > 0 else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
