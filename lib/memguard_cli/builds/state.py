# SPDX-License-Identifier: MIT
"""The state of a running build: memguard/state.json -> a State.

Runs in: outside BitBake.
Covers: telling apart a state that is not there, one that is damaged, one of another version, and one whose sentinel
is dead.
See also: docs/events.md, which has the fields; the sentinel writes it whole several times a second.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memguard.channels.state import VERSION
from memguard_cli.builds import plain_file

STATE_NAME = "state.json"

# The sentinel writes several times a second; a state this old was left behind, or its writer is stopped.
STALE_S = 5.0

_MOST_BYTES = 64 * 1024**2
_LONGEST_NAME = 500


class NoState(Exception):
    """No build runs."""


class BadState(Exception):
    """What is there is no state, or one that this version cannot read; the text says which."""


@dataclass(frozen=True)
class TaskNow:
    """A running task. state: running, stopped or retrying; None is what is not known."""

    recipe: str
    task: str
    state: str
    current_bytes: int
    peak_bytes: int
    granted_bytes: int | None
    jobs: int | None
    tokens: int | None
    compilers: int
    stopped: int
    since_s: float

    @property
    def name(self) -> str:
        return f"{self.recipe} {self.task}"


@dataclass(frozen=True)
class HeldNow:
    """A held task, why, and since when (seconds since 1970)."""

    recipe: str
    task: str
    reason: str
    since_s: float

    @property
    def name(self) -> str:
        return f"{self.recipe} {self.task}"


@dataclass(frozen=True)
class State:
    """One build at one time (seconds since 1970). The marks are levels of used; None where there are none."""

    time_s: float
    build: str
    pid: int
    limit_bytes: int | None
    limit_source: str
    used_bytes: int
    reserve_bytes: int | None
    cpus: float | None
    mode: str
    withdraw_bytes: int | None
    stop_bytes: int | None
    kill_bytes: int | None
    tasks: tuple[TaskNow, ...]
    held: tuple[HeldNow, ...]
    counts: dict[str, int]
    events: tuple[dict[str, Any], ...]

    @property
    def heaviest(self) -> TaskNow | None:
        return max(self.tasks, key=lambda task: task.current_bytes, default=None)

    def has_writer(self, now_s: float) -> bool:
        """Whether its sentinel lives: it wrote a moment ago, or its process is there."""
        return abs(now_s - self.time_s) <= STALE_S or _is_sentinel(self.pid)


def read_state(directory: Path) -> State:
    """The state in a MEMGUARD_DIR. Raises NoState where there is none, BadState where it cannot be used."""
    told = load_state(directory)
    try:
        return _state(told)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadState(
            f"{directory / STATE_NAME} is half-written or damaged (in {error}), which no build leaves; remove it when "
            "no build runs here"
        ) from None


def load_state(directory: Path) -> dict[str, Any]:
    """The state as it was written, of this version but not looked at any further. Raises as read()."""
    path = directory / STATE_NAME
    try:
        with plain_file.opened(path) as descriptor, open(descriptor, "rb", closefd=False) as file:
            content = file.read(_MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise NoState(str(path)) from None
    except OSError as error:
        raise BadState(f"{path} cannot be read: {error.strerror}") from None
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        what = "is empty" if not content.strip() else "is half-written or damaged"
        raise BadState(f"{path} {what}, which no build leaves; remove it when no build runs here")
    version = told.get("version", 1)
    if type(version) is not int or version < 1:
        raise BadState(f"{path} is half-written or damaged, which no build leaves; remove it when no build runs here")
    if version > VERSION:
        raise BadState(
            f"{path} is of version {version}, and this memguard reads version {VERSION}: update meta-memguard where "
            "you run this command to what the build uses"
        )
    if version < VERSION:
        raise BadState(
            f"{path} is of version {version}, and this memguard reads version {VERSION}: the build uses an older "
            "layer; update the layer, or run the memguard command that came with it"
        )
    return told


def _state(told: dict[str, Any]) -> State:
    marks = told.get("marks") or {}
    return State(
        time_s=_seconds(told["time"], "time"),
        build=_text(told.get("build")),
        pid=_whole(told["pid"], "pid") or 0,
        limit_bytes=_whole(told.get("limit_bytes"), "limit_bytes"),
        limit_source=_text(told.get("limit_source")),
        used_bytes=_required(told["used_bytes"], "used_bytes"),
        reserve_bytes=_whole(told.get("reserve_bytes"), "reserve_bytes"),
        cpus=_seconds(told["cpus"], "cpus") if told.get("cpus") is not None else None,
        mode=_text(told.get("mode")),
        withdraw_bytes=_whole(marks.get("withdraw_bytes"), "marks"),
        stop_bytes=_whole(marks.get("stop_bytes"), "marks"),
        kill_bytes=_whole(marks.get("kill_bytes"), "marks"),
        tasks=tuple(_task(task) for task in told["tasks"].values()),
        held=tuple(
            HeldNow(
                _text(hold["recipe"]), _text(hold["task"]), _text(hold.get("reason")), _seconds(hold["since"], "held")
            )
            for hold in told.get("held") or ()
        ),
        counts={
            str(name): count for name, count in (told.get("counts") or {}).items() if type(count) is int and count >= 0
        },
        events=tuple(event for event in told.get("events") or () if isinstance(event, dict)),
    )


def _task(task: dict[str, Any]) -> TaskNow:
    return TaskNow(
        _text(task["recipe"]),
        _text(task["task"]),
        _text(task.get("state")) or "running",
        _required(task["current_bytes"], "current_bytes"),
        _required(task["peak_bytes"], "peak_bytes"),
        _whole(task.get("granted_bytes"), "granted_bytes"),
        _whole(task.get("jobs"), "jobs"),
        _whole(task.get("tokens"), "tokens"),
        _whole(task.get("compilers"), "compilers") or 0,
        _whole(task.get("stopped"), "stopped") or 0,
        _seconds(task["since"], "since"),
    )


def _text(value: object) -> str:
    return value[:_LONGEST_NAME] if isinstance(value, str) else ""


def _whole(value: object, name: str) -> int | None:
    if value is None:
        return None
    return int(_seconds(value, name))


def _required(value: object, name: str) -> int:
    return int(_seconds(value, name))


def _seconds(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(name)
    if not 0 <= value < 1 << 60:
        raise ValueError(name)
    return value


def _is_sentinel(pid: int) -> bool:
    """Whether the process with this number is a sentinel, and not one that got its number later."""
    try:
        return b"memguard.sentinel.process" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def now_s() -> float:
    """The clock that a state's times are of: seconds since 1970."""
    return time.time()
