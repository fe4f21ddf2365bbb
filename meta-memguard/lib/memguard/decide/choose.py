# SPDX-License-Identifier: MIT
"""Which of the tasks that are ready starts next: the choice that schedulers and simulations make alike.

Runs in: the BitBake server and every simulation; pure.
Covers: held tasks before others, how many are asked about at once, and what passes while the CPUs are busy.
Does not cover: the order of what is ready and BitBake's rules (the Queue's part), memory (the Gate's).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import Protocol

from memguard.model import Task

# New holds in one call; the next call comes within a second.
HOLDS_PER_CALL = 16
# While all CPUs are busy, one task may start out of this many next in order, if it keeps no more of a CPU busy than
# this: a download.
CROWD_LOOK = 64
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

    def offer(self, task: Task, is_idle: bool) -> bool:
        """Whether `task` starts; if not, it is held from here on. When nothing runs, it does."""


def choose_next(queue: Queue, gate: Gate, is_idle: bool) -> str | None:
    """The tid of the task to start now, None to wait.

    is_idle: nothing runs. The liveness law: then anything that is ready starts, since BitBake fails a build that runs
    nothing and starts nothing. Held tasks are all offered, then the first that is not held, and the gate refuses none.
    """
    held = gate.held
    if gate.is_crowded and not is_idle:
        tid = queue.first(held)
        if tid is None or queue.is_weightless(tid):
            return tid
        tid = _first_quiet(queue, held)
        return tid if tid is not None and _starts(queue, gate, tid, is_idle) else None
    if held:
        for tid in queue.taken_back(held):
            gate.release(tid)
        for task in gate.releasable(is_idle):
            if queue.is_ready(task.tid) and _starts(queue, gate, task.tid, is_idle):
                return task.tid
    for _ in range(HOLDS_PER_CALL):
        tid = queue.first(held)
        if tid is None or _starts(queue, gate, tid, is_idle):
            return tid
    return None


def _starts(queue: Queue, gate: Gate, tid: str, is_idle: bool) -> bool:
    return queue.is_weightless(tid) or gate.offer(queue.task(tid), is_idle)


def _first_quiet(queue: Queue, held: Container[str]) -> str | None:
    """The first ready task of those next in order that is known to leave the CPUs alone, as a download does."""
    for tid in queue.ahead(CROWD_LOOK):
        if tid in held or not queue.is_ready(tid):
            continue
        duration = queue.task(tid).duration
        if duration is not None and duration.cpus(1) <= QUIET_CPUS:
            return tid
    return None
