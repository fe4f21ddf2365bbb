# SPDX-License-Identifier: MIT
"""The rules by which builds are simulated: memguard's own, through the Guard that builds use, and its rivals'.

Runs in: outside BitBake.
Covers: stock BitBake, a gate on use, static caps, one heavy task at a time, tokens while memory is free, memguard.
Does not cover: what knows the future (clairvoyant).
"""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, cast

from memguard.channels.state import StateFile
from memguard.decide.moment import STOP_SHARE, Act, Action, Job, Moment, Running
from memguard.decide.regulate import regulate
from memguard.model import BuildUse, Reading, Task
from memguard.model import Policy as Settings
from memguard.predict.job_lives import Expected
from memguard.record.event_log import EventLog
from memguard.sense.container import Sensor
from memguard.sentinel.pace import FILL_LEAST_BYTES_S, LOOK_LEAST_S, LOOK_MOST_S
from memguard.server.guard import Guard
from memguard.units import GIB
from memguard_cli.simulation.engine import Engine, Outcome, Run
from memguard_cli.simulation.profiles import UNIT_S, scale_footprint

# As the scheduler has it (scheduler.HOLDS_PER_CALL), which cannot be imported without BitBake.
HOLDS_PER_CALL = 16

# A job that still grows is expected to become so many times what it is, where its footprint says less.
BEYOND = 1.25

# While something is stopped the reflex looks every tenth of a second, which here changes little and costs much.
LOOK_STOPPED_S = 0.25

# After a memory kill a task is taken to need at least so many times what it was thought to.
AFTER_KILL = 1.2

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


class _Use(NamedTuple):
    """As much of a state as a guard looks at."""

    use: BuildUse


class _StateFile:
    """What the sentinel would publish of each task."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def read(self, now_s: float) -> _Use:
        return _Use(BuildUse(self._engine.states, sum(run.stopped for run in self._engine.runs.values())))


class Reflex:
    """The sentinel's part: looks at running tasks and does what regulate() says, through the engine.

    Jobs are those of tasks that run some at once; all of a task are alike, and were begun one after the other. Pools of
    tokens are left out: every task has the jobs of its grant.
    """

    def __init__(self, engine: Engine, reserve_bytes: int) -> None:
        self.stopped = self.killed = 0
        self._engine = engine
        self._reserve_bytes = reserve_bytes
        self._looked_s = self._woke_s = self._killed_s = -math.inf
        self._used_bytes = engine.used_bytes
        self._are_stopped = False

    @property
    def _left_bytes(self) -> int:
        return self._engine.container.limit_bytes - self._engine.used_bytes

    def looks_in_s(self) -> float | None:
        """Seconds to the next look; None while so much is left that nothing would be done."""
        if self._are_stopped:
            return LOOK_STOPPED_S
        left_bytes = self._left_bytes
        if left_bytes >= self._reserve_bytes:
            return None
        headroom_bytes = left_bytes - STOP_SHARE * self._reserve_bytes
        return min(LOOK_MOST_S, max(LOOK_LEAST_S, headroom_bytes / FILL_LEAST_BYTES_S))

    def act(self, tasks: Sequence[Task], guard: Guard) -> list[int]:
        """Look if it is time to; the tasks of which a job was killed."""
        engine, now_s = self._engine, self._engine.now_s
        if self.looks_in_s() is None or now_s - self._looked_s < LOOK_LEAST_S * 0.999:
            return []
        seconds = min(LOOK_MOST_S, max(LOOK_LEAST_S, now_s - self._looked_s))
        moment = Moment(
            left_bytes=self._left_bytes,
            reserve_bytes=self._reserve_bytes,
            fill_bytes_s=(engine.used_bytes - self._used_bytes) / seconds,
            slots=int(engine.container.cpus),
            tasks=tuple(self._running(number, tasks[number], guard) for number in engine.runs),
            since_wake_s=now_s - self._woke_s,
            since_kill_s=now_s - self._killed_s,
        )
        self._looked_s, self._used_bytes = now_s, engine.used_bytes
        killed = [int(action.tid) for action in regulate(moment) if self._carry_out(action)]
        self._are_stopped = any(run.stopped for run in engine.runs.values())
        return killed

    def _carry_out(self, action: Action) -> bool:
        """Whether a task has to run again."""
        engine, number = self._engine, int(action.tid)
        if number not in engine.runs:
            return False
        if action.act is Act.STOP:
            engine.stop(number, 1 if action.job else engine.runs[number].speed)
            self.stopped += 1
        elif action.act is Act.WAKE:
            engine.wake(number, 1 if action.job else engine.runs[number].stopped)
            self._woke_s = engine.now_s
        elif action.act is Act.KILL:
            phase = engine.runs[number].phase
            engine.kill(number, phase.work_s if phase.width == 1 else UNIT_S)
            self._killed_s = engine.now_s
            self.killed += 1
            return True
        return False

    def _running(self, number: int, task: Task, guard: Guard) -> Running:
        run = self._engine.runs[number]
        phase, granted = run.phase, guard.running[task.tid]
        has_jobs = any(other.width > 1 for other in run.phases)
        peak_bytes = task.footprint.per_job_bytes if phase.width > 1 else task.footprint.serial_bytes
        size_bytes = phase.job_bytes if phase.width > 1 else phase.base_bytes
        growth_bytes_s = self._growth_bytes_s(run)
        if growth_bytes_s and peak_bytes < size_bytes * BEYOND:
            peak_bytes = int(size_bytes * BEYOND)
        expected = Expected(max(peak_bytes, size_bytes), UNIT_S, UNIT_S / 2)
        count = run.speed + run.stopped if has_jobs else 0
        jobs = tuple(
            Job(
                pid=place,
                start_ticks=0,
                program="cc",
                bytes=size_bytes if place >= run.stopped or not run.stopped else run.frozen_bytes // run.stopped,
                age_s=UNIT_S * (place + 1) / (count + 1),
                growth_bytes_s=growth_bytes_s,
                expected=expected,
                is_stopped=place < run.stopped,
            )
            for place in range(count)
        )
        return Running(
            tid=task.tid,
            place=granted.place,
            most_jobs=granted.grant.jobs,
            jobs=jobs,
            next_job=expected,
            growth_bytes=max(0, granted.bytes - run.used_bytes),
            current_bytes=run.used_bytes,
            is_stopped=not has_jobs and run.stopped > 0,
        )

    def _growth_bytes_s(self, run: Run) -> float:
        """How fast one job of a task grows now."""
        if run.place + 1 == len(run.phases) or not run.speed or not run.phase.work_s:
            return 0.0
        phase, following = run.phase, run.phases[run.place + 1]
        if phase.width != following.width:
            return 0.0
        grown_bytes = following.job_bytes - phase.job_bytes or following.base_bytes - phase.base_bytes
        slowness = max(1.0, self._engine.demand / self._engine.container.cpus)
        return max(0, grown_bytes) * run.speed / (phase.work_s * slowness)


class Memguard(InOrder):
    """memguard: the Guard of real builds, with its ledger, its holds and its reservation.

    tasks: what memguard thinks of each task. durations of None leave BitBake's order.
    """

    def __init__(self, engine: Engine, order: Sequence[int], tasks: Sequence[Task], settings: Settings) -> None:
        super().__init__(engine, order)
        self._tasks = list(tasks)
        self._ended: list[str] = []
        self._kills: Counter[int] = Counter()
        self._retries = settings.retries + 1  # the last of them alone
        self._reflex = Reflex(engine, settings.reserve_of(engine.container.limit_bytes))
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
        """The server asks again each second, which matters only where its last reading was an older one; the reflex."""
        looks_s = self._reflex.looks_in_s()
        return min(looks_s or ASKED_EVERY_S, ASKED_EVERY_S) if self._is_stale or looks_s else None

    def before_time_passes(self) -> None:
        """What the sentinel does: stop, wake and kill jobs, as regulate() says."""
        for number in self._reflex.act(self._tasks, self._guard):
            # It runs again in place, with fewer jobs, once what it needs now is there; after its last retry it fails.
            task = self._tasks[number]
            self._kills[number] += 1
            if self._kills[number] > self._retries:
                self.engine.has_failed = True
            jobs = max(1, self._guard.running[task.tid].grant.jobs // 2)
            footprint = scale_footprint(task.footprint, AFTER_KILL)
            self._tasks[number] = replace(task, wanted_jobs=min(jobs, task.wanted_jobs), footprint=footprint)
            self.ended(number)
            self.ready(number)

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
        return replace(
            outcome,
            held_s=totals.held_s,
            held=totals.held,
            shrunk=totals.shrunk,
            forced=totals.forced,
            stopped=self._reflex.stopped,
            killed=self._reflex.killed,
        )
