# SPDX-License-Identifier: MIT
"""Runs a task's function again after something in it was killed for memory, with fewer jobs each time.

Runs in: task children; knows no bb and no process: what it needs of the task comes as a Scene.
Covers: with how many jobs a task runs again, and whether a failure was a memory kill.
Does not cover: carrying it out (rerun), the words of logs (failures), waiting (turns), what was left (leftovers).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Protocol

from memguard.failures import Finding
from memguard.units import format_bytes


@dataclass(frozen=True)
class Attempt:
    """One more run of a task: `jobs` that it may run at once, and whether nothing else runs beside it."""

    jobs: int
    is_alone: bool = False


@dataclass(frozen=True)
class Kill:
    """One process that the sentinel has killed, as its file tells.

    time_s:  the monotonic clock.
    bytes:   what it had; used_bytes of limit_bytes (None where there is no limit) were in use then.
    outputs: the files it was writing.
    """

    time_s: float
    program: str
    bytes: int
    used_bytes: int
    limit_bytes: int | None
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """What is known of one run of a task that has ended.

    kills:        what the sentinel has killed of it.
    kernel_kills: how many processes the kernel has killed for memory meanwhile, anywhere in the container.
    statuses:     the exit statuses that the failure speaks of, negative for a signal (subprocess).
    finding:      what its log says.
    """

    kills: tuple[Kill, ...] = ()
    kernel_kills: int = 0
    statuses: tuple[int, ...] = ()
    finding: Finding | None = None


@dataclass(frozen=True)
class Cause:
    """A memory kill: the program, "" where it is unknown, what happened to it in words, and the outputs it spoiled."""

    program: str
    words: str
    bytes: int = 0
    outputs: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.program or 'a process'} {self.words}"


def plan(jobs: int, retries: int) -> tuple[Attempt, ...]:
    """The runs that may follow a first one with `jobs` jobs: each with half as many, and at last one job and alone.

    A task with one job has as many: what was short of memory may be something else, and is waited for before each run.
    `retries` = 0: none at all.
    """
    if retries <= 0:
        return ()
    attempts = []
    for _ in range(retries):
        jobs = max(1, jobs // 2)
        attempts.append(Attempt(jobs))
    return (*attempts, Attempt(1, is_alone=True))


def read_kills(lines: Iterable[bytes], since_s: float) -> tuple[Kill, ...]:
    """What the sentinel has killed since then; lines that tell no kill are passed over."""
    kills = []
    for line in lines:
        try:
            told = json.loads(line)
            limit_bytes = told["limit_bytes"]
            kill = Kill(
                float(told["time"]),
                str(told["program"]),
                int(told["bytes"]),
                int(told["used_bytes"]),
                None if limit_bytes is None else int(limit_bytes),
                tuple(map(str, told.get("outputs", ()))),
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            continue
        if kill.time_s >= since_s:
            kills.append(kill)
    return tuple(kills)


# 128 + SIGKILL, as a shell tells it, and as Python does.
_KILLED = (137, -9)


def find_cause(evidence: Evidence) -> Cause | None:
    """The memory kill that ended a run; None where it ended for any other reason, or where that is not certain enough.

    A kill of the sentinel's is certain. The kernel counts its kills for the whole container, so the log or the exit
    status must agree that one was of this task. Words alone count where they name memory, or a compiler that was
    killed, since a program may print "Killed" for any reason.
    """
    finding = evidence.finding
    program = _printable(finding.program or "") if finding else ""
    if evidence.kills:
        largest = max(evidence.kills, key=lambda kill: kill.bytes)
        of = "" if largest.limit_bytes is None else f" of {format_bytes(largest.limit_bytes)}"
        words = f"was killed for memory at {format_bytes(largest.used_bytes)}{of}"
        outputs = tuple(path for kill in evidence.kills for path in kill.outputs)
        return Cause(_printable(largest.program), words, largest.bytes, outputs)
    if evidence.kernel_kills > 0:
        is_killed = any(status in _KILLED for status in evidence.statuses)
        if is_killed or (finding is not None and finding.verdict in ("memory", "unclear")):
            return Cause(program, "was killed by the kernel for memory")
    if finding is not None and finding.verdict == "memory" and finding.is_certain:
        line = _printable((finding.evidence or finding.reason).strip()[:160])
        return Cause(program, f"was killed or ran out of memory ({line})")
    return None


def _printable(text: str) -> str:
    """A name or line out of a log, for a message."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def statuses_of(error: BaseException) -> tuple[int, ...]:
    """The exit statuses that an exception speaks of, or one that it was made from."""
    found: list[int] = []
    seen: list[BaseException] = []
    left: list[object] = [error]
    while left:
        exception = left.pop(0)
        if not isinstance(exception, BaseException) or any(exception is known for known in seen):
            continue
        seen.append(exception)
        statuses = (getattr(exception, name, None) for name in ("exitcode", "returncode"))
        found.extend(status for status in statuses if type(status) is int)
        left.extend((exception.__cause__, exception.__context__, *exception.args))
    return tuple(found)


class Scene(Protocol):
    """The surroundings of one task's function."""

    def begin(self) -> None:
        """A run begins: from here on errors are held back, and what happens belongs to it."""
        ...

    def look(self, error: Exception | None) -> Cause | None:
        """The memory kill of the run that has just ended, with `error` if it failed; None where there was none."""
        ...

    def clear(self, cause: Cause, attempt: Attempt, number: int, of: int) -> bool:
        """Make ready for another run and wait until memory allows it; whether it can be. Errors are dropped then."""
        ...

    def let_through(self) -> None:
        """Show the errors that were held back, in order."""
        ...

    def explain(self, cause: Cause, runs: int) -> None:
        """Say why a task failed, or may be spoiled, after all its `runs`."""
        ...

    def excuse(self, fault: Exception) -> None:
        """Say that something here failed, which costs a task no more than its next run. Never raises."""
        ...


def run(function: Callable[[], object], attempts: Sequence[Attempt], scene: Scene) -> None:
    """Run `function`, and once more for each of `attempts` as long as a memory kill is what ended it.

    A run that ends well although something in it was killed by the sentinel is repeated, too: whoever ignored the death
    of a compiler may have gone on without its output.

    Raises what the last run raised, with everything it had logged shown before.
    """
    runs = 0
    while True:
        runs += 1
        _attempt(scene, scene.begin)
        error: Exception | None = None
        try:
            function()
        except Exception as raised:
            error = raised
        except BaseException:
            # An end from outside, or an interrupt: nobody waits for another run.
            scene.let_through()
            raise
        cause = _attempt(scene, scene.look, error)
        has_more = cause is not None and runs <= len(attempts)
        if has_more and _attempt(scene, scene.clear, cause, attempts[runs - 1], runs, len(attempts)):
            continue
        scene.let_through()
        if cause is not None:
            _attempt(scene, scene.explain, cause, runs)
        if error is not None:
            raise error
        return


def _attempt(scene: Scene, step: Callable[..., Any], *arguments: object) -> Any:
    """What a step says; None where it fails, since no fault of ours may cost more than another run."""
    try:
        return step(*arguments)
    except Exception as fault:
        scene.excuse(fault)
        return None
