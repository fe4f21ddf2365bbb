# SPDX-License-Identifier: MIT
"""What server, tasks and sentinel tell each other: the sentinel's orders, and small files, whole or not there.

Runs in: task children (begin, end), the sentinel (read, forget, publish), the BitBake server (read_state, clear);
standard library only.
Covers: one file per running task below MEMGUARD_DIR/running, and one state file.
Does not cover: grants on their way to the tasks (handover).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
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

    cpu_s:         CPU seconds of its own and of all that it has waited for.
    largest_bytes: the most that one of the processes it has waited for had resident, file pages included.
    """

    outcome: Outcome
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
        self._running = directory / "running"
        self._state = directory / "state.json"

    def begin(self, note: TaskNote) -> None:
        """Tell that a task begins. Raises OSError where that cannot be written."""
        _write(self._running / _name(note.pid, note.start_ticks), asdict(note))

    def end(self, pid: int, start_ticks: int, end: TaskEnd) -> None:
        """Tell how it ended, for a task that has begun. Raises OSError where that cannot be written."""
        if (self._running / _name(pid, start_ticks)).exists():
            _write(self._running / f"{_name(pid, start_ticks)}.end", {**asdict(end), "outcome": end.outcome.value})

    def read(self, known: Mapping[str, object]) -> dict[str, TaskNote | TaskEnd]:
        """By file name, the notes that are not among `known`; what is no note is removed."""
        try:
            names = os.listdir(self._running)
        except OSError:
            return {}
        found: dict[str, TaskNote | TaskEnd] = {}
        for name in names:
            if name in known or name.endswith(".draft"):
                continue
            note = _parse(self._running / name)
            if note is None:
                self.forget(name)
            else:
                found[name] = note
        return found

    def forget(self, name: str) -> None:
        """Remove the note of a task, or of its end."""
        with contextlib.suppress(OSError):
            (self._running / name).unlink()

    def publish(self, tasks: Mapping[str, TaskState], now_s: float) -> None:
        """Tell the server what the tasks take, by tid; `now_s` is the monotonic clock. Raises OSError."""
        state = {tid: [state.current_bytes, state.peak_bytes] for tid, state in tasks.items()}
        _write(self._state, {"time_s": round(now_s, 3), "tasks": state})

    def read_state(self, now_s: float) -> dict[str, TaskState]:
        """What the tasks take, by tid; empty where nobody has told lately, or what was told is no state."""
        try:
            told = json.loads(self._state.read_bytes())
            if not 0 <= now_s - told["time_s"] <= STATE_AGE_S:
                return {}
            return {str(tid): TaskState(int(current), int(peak)) for tid, (current, peak) in told["tasks"].items()}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return {}

    def clear(self) -> None:
        """Remove all notes and the state."""
        shutil.rmtree(self._running, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._state.unlink()


def end_name(name: str) -> str:
    """The name of the note that tells the end of the task whose note is `name`."""
    return f"{name}.end"


def _name(pid: int, start_ticks: int) -> str:
    return f"{pid}-{start_ticks}"


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write beside, then rename: a reader sees all of it or nothing."""
    draft = path.with_name(f"{path.name}.draft")
    text = json.dumps(content)
    try:
        draft.write_text(text, encoding="ascii")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(text, encoding="ascii")
    os.replace(draft, path)


def _parse(path: Path) -> TaskNote | TaskEnd | None:
    """The note in a file, None where it holds none."""
    try:
        told = json.loads(path.read_bytes())
        if path.name.endswith(".end"):
            return TaskEnd(
                Outcome(told["outcome"]), float(told["wall_s"]), float(told["cpu_s"]), int(told["largest_bytes"])
            )
        note = TaskNote(**{field.name: told[field.name] for field in fields(TaskNote)})
        is_sound = all(type(getattr(note, name)) is int for name in ("pid", "start_ticks", "jobs"))
        return note if is_sound and note.pid > 0 else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
