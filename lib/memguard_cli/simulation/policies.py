# SPDX-License-Identifier: MIT
"""The rules by which builds are simulated: memguard's own, through the Guard that builds use, and its rivals'.

Runs in: outside BitBake.
Covers: stock BitBake, a gate on use, static caps, one heavy task at a time, tokens while memory is free, memguard.
Does not cover: what knows the future (clairvoyant).
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from memguard.events import EventLog
from memguard.guard import Guard
from memguard.model import Policy as Settings
from memguard.model import Reading, Task
from memguard.sense import Sensor
from memguard.state import State, StateFile
from memguard.units import GIB
from memguard_cli.simulation.engine import Engine, Outcome

# As the scheduler has it (scheduler.HOLDS_PER_CALL), which cannot be imported without BitBake.
HOLDS_PER_CALL = 16

# BitBake asks again after a second at the most, whatever happens.
ASKED_EVERY_S = 1.0


class InOrder:
    """Tasks that are ready, in an order."""

    def __init__(self, engine: Engine, order: Sequence[int]) -> None:
        self.engine = engine
        self._order = order
        self._places = {task: place for place, task in enumerate(order)}
        self._waiting: list[int] = []

    def ready(self, task: int) -> None:
        bisect.insort(self._waiting, self._places[task])

    def ended(self, task: int) -> None:
        """Nothing is kept of a task that has ended."""

    def before_time_passes(self) -> None:
        """These rules leave running tasks alone."""

    def wakes_in_s(self) -> float | None:
        return None

    def describe(self, outcome: Outcome) -> Outcome:
        return outcome

    def _take(self, place: int) -> int:
        del self._waiting[place]
        return self._order[place]


class Stock(InOrder):
    """BitBake's speed scheduler: the first in its order while a thread is free, with all its jobs."""

    def choose(self) -> tuple[int, int] | None:
        if not self._waiting:
            return None
        return self._order[self._waiting.pop(0)], self.engine.container.jobs


class UsageGate(Stock):
    """No new task while the container uses more than three quarters of its limit; running tasks are left alone.

    In its favour there is no page cache here, which counts in the memory.current that this gate reads.
    """

    GATE = 0.75

    def choose(self) -> tuple[int, int] | None:
        engine = self.engine
        if engine.runs and engine.used_bytes > self.GATE * engine.container.limit_bytes:
            return None
        return super().choose()


class StaticCaps(InOrder):
    """Jobs and tasks capped by memory once and for all: a job per 4 GiB, a task per 2.5 GB."""

    JOB_BYTES = 4 * GIB
    TASK_BYTES = 2_500_000_000

    def choose(self) -> tuple[int, int] | None:
        container = self.engine.container
        most = max(1, min(container.threads, container.limit_bytes // self.TASK_BYTES))
        if not self._waiting or len(self.engine.runs) >= most:
            return None
        jobs = max(1, min(container.jobs, container.limit_bytes // self.JOB_BYTES))
        return self._order[self._waiting.pop(0)], jobs


class OneHeavy(Stock):
    """One task at a time of those whose peak in a table, made by hand and right, is heavy; light ones by memory.

    As many tasks as 4 GiB each of all memory but 2 GiB make.
    """

    HEAVY_BYTES = 2 * GIB
    KEPT_BYTES, TASK_BYTES = 2 * GIB, 4 * GIB

    def __init__(self, engine: Engine, order: Sequence[int]) -> None:
        super().__init__(engine, order)
        jobs = engine.container.jobs
        self._heavy = {task for task in order if engine.profiles[task].peak_bytes(jobs) >= self.HEAVY_BYTES}

    def choose(self) -> tuple[int, int] | None:
        container = self.engine.container
        most = max(1, min(container.threads, (container.limit_bytes - self.KEPT_BYTES) // self.TASK_BYTES))
        if len(self.engine.runs) >= most:
            return None
        taken = not self._heavy.isdisjoint(self.engine.runs)
        for place, waiting in enumerate(self._waiting):
            task = self._order[waiting]
            if not (taken and task in self._heavy):
                del self._waiting[place]
                return task, self.engine.container.jobs
        return None


class TokenFloor(Stock):
    """One pool of job tokens for the whole build, as many as CPUs, none given while less memory than a floor is free.

    A task runs one job without a token; what a task has is never taken from it, but jobs end and give theirs back,
    within UNIT_S. The floor is a fifth of the limit, as of the 12 GiB of 61 in the field report of its users.
    """

    FLOOR = 0.2

    def choose(self) -> tuple[int, int] | None:
        if not self._waiting:
            return None
        return self._order[self._waiting.pop(0)], 1

    def before_time_passes(self) -> None:
        engine = self.engine
        container = engine.container
        tokens = int(container.cpus) - sum(run.jobs - 1 for run in engine.runs.values())
        for task, run in engine.runs.items():
            spare = run.jobs - min(run.jobs, run.phase.width)
            if spare:
                engine.set_jobs(task, run.jobs - spare)
                tokens += spare
        free = container.limit_bytes * (1 - self.FLOOR)
        for task, run in engine.runs.items():
            wants = min(container.jobs, run.phase.width) - run.jobs
            while wants > 0 and tokens > 0 and engine.used_bytes < free:
                engine.set_jobs(task, run.jobs + 1)
                wants, tokens = wants - 1, tokens - 1


class _Sensor:
    """The container's memory as the Guard reads it, out of the engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self) -> Reading:
        engine = self._engine
        limit, used = engine.container.limit_bytes, engine.used_bytes
        return Reading(limit, "simulated", used, 0, limit - used, None, limit, engine.container.cpus)

    def oom_kills(self) -> int | None:
        return None


class _StateFile:
    """What the sentinel would publish of each task."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self, now_s: float) -> State:
        return State(self._engine.states)


class Memguard(InOrder):
    """memguard: the Guard of real builds, with its ledger, its holds and its reservation.

    tasks: what memguard thinks of each task. durations of None leave BitBake's order.
    """

    def __init__(self, engine: Engine, order: Sequence[int], tasks: Sequence[Task], settings: Settings) -> None:
        super().__init__(engine, order)
        self._tasks = tasks
        self._ended: list[str] = []
        self._asked_s = -1.0
        self._is_stale = False
        self._guard = Guard(
            settings,
            cast(Sensor, _Sensor(engine)),
            EventLog(None),
            None,
            cast(StateFile, _StateFile(engine)),
            clock=lambda: engine.now_s,
        )

    def ended(self, task: int) -> None:
        self._ended.append(self._tasks[task].tid)

    def wakes_in_s(self) -> float | None:
        """The server asks again each second; that matters only where its last reading was an older one."""
        return ASKED_EVERY_S if self._is_stale else None

    def choose(self) -> tuple[int, int] | None:
        """As scheduler._guarded_choice() has it, without BitBake's own rules."""
        guard = self._guard
        is_idle = not self.engine.runs
        guard.settle(self._ended, is_idle)
        self._ended.clear()
        if guard.is_crowded:
            return None
        for task in guard.releasable(is_idle):
            jobs = self._try(guard, task, is_idle)
            if jobs:
                return int(task.tid), jobs
        for _ in range(min(HOLDS_PER_CALL, len(self._waiting))):
            # Held or started, it waits here no longer.
            number = self._order[self._waiting.pop(0)]
            jobs = self._try(guard, self._tasks[number], is_idle)
            if jobs:
                return number, jobs
        self._is_stale = bool(guard.held) and guard.reading.used_bytes != self.engine.used_bytes
        return None

    @staticmethod
    def _try(guard: Guard, task: Task, is_idle: bool) -> int:
        """The jobs a task starts with, 0 where it is held."""
        verdict = guard.judge(task, is_idle)
        guard.carry_out(task, verdict)
        return verdict.grant.jobs if verdict.grant is not None else 0

    def describe(self, outcome: Outcome) -> Outcome:
        totals = self._guard.totals
        self._guard.finish()
        return replace(outcome, held_s=totals.held_s, held=totals.held, shrunk=totals.shrunk, forced=totals.forced)
