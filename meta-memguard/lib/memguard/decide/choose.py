# SPDX-License-Identifier: MIT
"""Which of the tasks that are ready starts next: the choice that schedulers and simulations make alike.

Runs in: the BitBake server and every simulation; pure.
Covers: held tasks before others, how many are asked about at once, and what passes while the CPUs are busy.
Does not cover: the order of what is ready and BitBake's rules (the Queue's part), memory (the Gate's).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Protocol

from memguard.decide.admit import is_light
from memguard.model import Task

# New holds in one call; the next call comes within a second.
# evidence: chosen; more would make one call longer than the others
HOLDS_PER_CALL = 16
# While all CPUs are busy, one task may start out of this many next in order, if it is light and takes no longer than
# this, so that others need not wait for it, or keeps no more of a CPU busy than this: a download.
# evidence: chosen; half and double make no difference that can be told from chance
CROWD_LOOK = 64
SHORT_S = 5.0
QUIET_CPUS = 0.25


class Queue(Protocol):
    """Tasks that have all they need and do not run yet, by tid."""

    def first(self, hidden: Container[str]) -> str | None:
        """The first in order that is ready and not in `hidden`."""

    def ahead(self, count: int) -> Iterable[str]:
        """The next `count` in order, ready or not."""

    def is_ready(self, tid: str) -> bool:
        """Whether all rules but memory let a task start now."""

    def is_weightless(self, tid: str) -> bool:
        """Whether a task that starts will run nothing."""

    def taken_back(self, held: Iterable[str]) -> list[str]:
        """Those of the held tasks that are not to run any more, or need not."""

    def task(self, tid: str) -> Task:
        """The task behind a tid."""


class Gate(Protocol):
    """Says which task has its memory: a Ledger, or a Guard that keeps one."""

    @property
    def held(self) -> Mapping[str, object]:
        """Tasks that wait for memory, the oldest first."""

    @property
    def is_crowded(self) -> bool:
        """Whether running tasks keep all CPUs busy."""

    def releasable(self, is_idle: bool) -> Iterator[Task]:
        """The held tasks that may start now, oldest first; all of them when nothing runs."""

    def release(self, tid: str) -> object:
        """Hold a task no longer."""

    @property
    def is_hungry(self) -> bool:
        """Whether a CPU idles although tasks are held."""

    def bold(self) -> Iterator[Task]:
        """The held tasks that may start since a CPU idles, the best first."""

    def offer(self, task: Task, is_idle: bool, is_bold: bool = False) -> bool:
        """Whether `task` starts; if not, it is held from here on. When nothing runs, it does.

        is_bold: since a CPU idles.
        """


def choose_next(queue: Queue, gate: Gate, is_idle: bool) -> str | None:
    """The tid of the task to start now, None to wait.

    is_idle: nothing runs. The liveness law: then anything that is ready starts, since BitBake fails a build that runs
    nothing and starts nothing. Held tasks are all offered, then the first that is not held, and the gate refuses none.
    """
    is_crowded = gate.is_crowded and not is_idle
    tid = _held_one(queue, gate, is_idle, is_crowded)
    if tid is not None:
        return tid
    if is_crowded:
        return _quiet_one(queue, gate)
    tid = _new_one(queue, gate, is_idle)
    return tid if tid is not None else _bold_one(queue, gate)


def _held_one(queue: Queue, gate: Gate, is_idle: bool, is_crowded: bool) -> str | None:
    """A held task that has its memory now; while the CPUs are crowded, one that is quiet."""
    held = gate.held
    if not held:
        return None
    for gone in queue.taken_back(held):
        gate.release(gone)
    for task in gate.releasable(is_idle):
        may_start = not is_crowded or _is_quiet(task)
        if may_start and queue.is_ready(task.tid) and _starts(queue, gate, task.tid, is_idle):
            return task.tid
    return None


def _quiet_one(queue: Queue, gate: Gate) -> str | None:
    """While the CPUs are crowded: the next in order if it runs nothing, else a quiet one of those next in order."""
    tid = queue.first(gate.held)
    if tid is None or queue.is_weightless(tid):
        return tid
    tid = _first_quiet(queue, gate.held)
    return tid if tid is not None and _starts(queue, gate, tid, is_idle=False) else None


def _new_one(queue: Queue, gate: Gate, is_idle: bool) -> str | None:
    """The next in order that has its memory; those before it are held from here on."""
    for _ in range(HOLDS_PER_CALL):
        tid = queue.first(gate.held)
        if tid is None or _starts(queue, gate, tid, is_idle):
            return tid
    return None


def _bold_one(queue: Queue, gate: Gate) -> str | None:
    """Where a CPU idles all the same: a held task that is tried."""
    if gate.is_hungry:
        for task in gate.bold():
            if queue.is_ready(task.tid) and gate.offer(task, is_idle=False, is_bold=True):
                return task.tid
    return None


def _starts(queue: Queue, gate: Gate, tid: str, is_idle: bool) -> bool:
    return queue.is_weightless(tid) or gate.offer(queue.task(tid), is_idle)


def _first_quiet(queue: Queue, held: Container[str]) -> str | None:
    """The first quiet one of the ready tasks next in order."""
    for tid in queue.ahead(CROWD_LOOK):
        if tid not in held and queue.is_ready(tid) and _is_quiet(queue.task(tid)):
            return tid
    return None


def _is_quiet(task: Task) -> bool:
    """Whether a task is light and short, or leaves the CPUs alone, as a download does."""
    duration = task.duration
    if duration is None:
        return is_light(task.footprint)
    return duration.cpus(1) <= QUIET_CPUS or (is_light(task.footprint) and duration.seconds(1) <= SHORT_S)
