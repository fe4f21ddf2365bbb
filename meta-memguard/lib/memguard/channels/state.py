# SPDX-License-Identifier: MIT
"""The state of a running build, as one small file that the sentinel writes several times a second.

Runs in: the sentinel (publish), the BitBake server (read, left), task children (read); standard library only.
Covers: a file below MEMGUARD_DIR, which is whole or not there. What it holds is described in docs/events.md.
Does not cover: what was (readings); those who watch from outside read it as JSON.

A build that ends removes it, so one that is found at a build's start was left by a build that was killed.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION = 2
# A state older than this says nothing of now: the sentinel writes several times a second.
STATE_AGE_S = 3.0
FRESHEN_S = 1.0


@dataclass(frozen=True)
class TaskState:
    """What the sentinel sees of one task now, and the most it has seen of it. In bytes; tokens None without a pool."""

    current_bytes: int
    peak_bytes: int
    tokens: int | None = None


@dataclass(frozen=True)
class State:
    """What the server acts on.

    stopped: how many jobs are stopped since memory is short.
    alone:   in words, the task that wants to run, or runs, with no other beside it; "" for none.
    """

    tasks: dict[str, TaskState]
    stopped: int = 0
    alone: str = ""


class StateFile:
    """The state file of one build directory."""

    def __init__(self, directory: Path) -> None:
        self._path = f"{directory}/state.json"

    def publish(self, state: dict[str, Any]) -> None:
        """Write `state`, which says its age in "time_s" by the monotonic clock. Raises OSError."""
        draft = f"{self._path}.draft"
        with open(draft, "wb") as file:
            file.write(json.dumps({"version": VERSION, **state}).encode("ascii"))
        os.replace(draft, self._path)

    def read(self, now_s: float) -> State | None:
        """The state; None where nobody has told lately, or what was told is no state."""
        told = self.left()
        try:
            if told is None or not 0 <= now_s - told["time_s"] <= STATE_AGE_S:
                return None
            tasks = {
                str(tid): TaskState(int(task["current_bytes"]), int(task["peak_bytes"]), task.get("tokens"))
                for tid, task in told["tasks"].items()
            }
            return State(tasks, int(told.get("stopped", 0)), str(told.get("alone", "")))
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def has_turn(self, mark: str, attempt: int, now_s: float) -> bool | None:
        """Whether the task of this mark may make its `attempt` to run again; None where nobody has told lately."""
        told = self.left()
        try:
            if told is None or not 0 <= now_s - told["time_s"] <= STATE_AGE_S:
                return None
            return bool(told["turns"].get(mark, 0) == attempt)
        except (TypeError, KeyError, AttributeError):
            return None

    def left(self) -> dict[str, Any] | None:
        """What the file says, however old it is; None where there is none of this version."""
        try:
            with open(self._path, "rb") as file:
                told = json.loads(file.read())
            return told if isinstance(told, dict) and told.get("version") == VERSION else None
        except (OSError, ValueError, RecursionError):
            return None

    def clear(self) -> None:
        """Remove it."""
        for path in (self._path, f"{self._path}.draft"):
            with contextlib.suppress(OSError):
                os.unlink(path)


def weight_of(task: dict[str, Any]) -> tuple[int, int]:
    """What a task in a state is heavy by: what it took, or was expected to take where it was too young to be seen.

    Raises KeyError for a task of a state that is not whole.
    """
    return task["current_bytes"], task["granted_bytes"]
