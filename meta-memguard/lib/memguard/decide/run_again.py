# SPDX-License-Identifier: MIT
"""Whether a task that failed runs again, and with how many jobs.

Runs in: task children; pure.
Covers: what ended a run, by its log, its exit status and the kills of sentinel and kernel; the runs that may follow.
Does not cover: carrying it out (task/retry.py); what logs say (diagnose); waiting for memory (task/turn.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from memguard.diagnose.rule import MEMORY, UNCLEAR
from memguard.diagnose.verdict import Finding
from memguard.model import Kill
from memguard.units import format_bytes

# Runs of one task that cost none of those it may have, since something larger than what was killed ran beside it.
# evidence: with 1 GiB a recipe of small compilers lost three to what grew beside it
SPARED_MOST = 6


@dataclass(frozen=True)
class Attempt:
    """One more run of a task: `jobs` that it may run at once, and whether nothing else runs beside it."""

    jobs: int
    is_alone: bool = False


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
    """A memory kill: the program, "" where it is unknown, what happened to it in words, and the outputs it spoiled.

    is_own: False where a job of another task, or another of this one, had more than the one that was killed.
    """

    program: str
    words: str
    bytes: int = 0
    outputs: tuple[str, ...] = ()
    is_own: bool = True

    def __str__(self) -> str:
        return f"{self.program or 'a process'} {self.words}"


def plan(jobs: int, retries: int, cpus: int = 1) -> tuple[Attempt, ...]:
    """The runs that may follow a first one with `jobs` jobs: each with half as many, and at last one job and alone.

    A task with one job has as many: what was short of memory may be something else, and is waited for before each run.
    None but the last has fewer than there are CPUs, unless the first had: what does not fit is stopped, and no run is
    slowed down for all of its time. The last one is not counted in `retries`; with 0 of them there is none at all.
    """
    if retries <= 0:
        return ()
    attempts = []
    for _ in range(retries):
        jobs = max(1, min(jobs, cpus), jobs // 2)
        attempts.append(Attempt(jobs))
    return (*attempts, Attempt(1, is_alone=True))


class Runs:
    """The runs that a task may still have, next first. A kill that another job was the cause of costs none of them."""

    def __init__(self, attempts: Iterable[Attempt]) -> None:
        self.left = list(attempts)
        self._spared = 0

    def take(self, is_own: bool = True) -> Attempt | None:
        """The run that follows a kill, None for none. is_own: as of Cause."""
        if not self.left:
            return None
        if is_own or self._spared >= SPARED_MOST:
            return self.left.pop(0)
        self._spared += 1
        return self.left[0]


# Signal 9 as a shell reports it, 128 + SIGKILL, and as Python does.
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
        is_own = largest.bytes >= largest.beside_bytes
        return Cause(_printable(largest.program), words, largest.bytes, outputs, is_own)
    if evidence.kernel_kills > 0:
        is_killed = any(status in _KILLED for status in evidence.statuses)
        if is_killed or (finding is not None and finding.verdict in (MEMORY, UNCLEAR)):
            return Cause(program, "was killed by the kernel for memory")
    if finding is not None and finding.verdict == MEMORY and finding.is_certain:
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
