# SPDX-License-Identifier: MIT
"""The rules by which builds are simulated: memguard's own, which is the code that decides in builds, and its rivals'.

Runs in: outside BitBake; pure.
Covers: stock BitBake, a gate on use, static caps, one heavy task at a time, tokens while memory is free; which task
memguard starts.
Does not cover: what memguard does to running tasks (by_phase, by_compiler), what knows the future (clairvoyant).
"""

from __future__ import annotations

import bisect
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace

from memguard.decide.chain import Chain
from memguard.decide.choose import choose_next
from memguard.decide.ledger import Ledger
from memguard.model import Policy as Settings
from memguard.model import Reading, Task
from memguard.units import GIB
from memguard_cli.simulation.beliefs import Beliefs
from memguard_cli.simulation.engine import Engine, Outcome


class InOrder:
    """Tasks that are ready, in an order."""

    def __init__(self, engine: Engine, order: Sequence[int]) -> None:
        self.engine = engine
        self._order = order
        self._places = {task: place for place, task in enumerate(order)}
        self._waiting: list[int] = []

    def ready(self, task: int) -> None:
        bisect.insort(self._waiting, self._places[task])

    def gives_way(self, task: int) -> bool:
        """All tasks have the same nice value."""
        return False

    def ended(self, task: int) -> None:
        """Nothing is kept of a task that has ended."""

    def before_time_passes(self) -> None:
        """These rules leave running tasks alone."""

    def wakes_in_s(self) -> float | None:
        return None

    def is_lost(self) -> bool:
        """Everything in the container is killed, as with memory.oom.group."""
        return True

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


class Memguard(InOrder):
    """memguard: the ledger and the choices of real builds, without a sentinel. It is choose_next()'s Queue.

    tasks: what memguard thinks of each task. durations of None leave BitBake's order.
    chain: what the end of the build waits for, None where durations are not known.
    is_bold: whether the jobs of what starts because a CPU idles can be stopped in time.
    """

    def __init__(
        self,
        engine: Engine,
        order: Sequence[int],
        tasks: Sequence[Task] | Beliefs,
        settings: Settings,
        chain: Chain[int] | None,
        is_bold: bool,
    ) -> None:
        super().__init__(engine, order)
        self._chain = chain
        self._tasks = tasks
        self._ended: list[str] = []
        self.ledger = Ledger(settings, self._read(), engine.now_s, is_bold)

    def gives_way(self, task: int) -> bool:
        return self._chain is not None and self._chain.start(task, self.engine.now_s)

    def ended(self, task: int) -> None:
        self._ended.append(self._tasks[task].tid)
        if self._chain is not None:
            self._chain.end([task])

    def choose(self) -> tuple[int, int] | None:
        engine, ledger = self.engine, self.ledger
        is_idle = not engine.runs
        self._look(is_idle)
        self._ended.clear()
        free_bytes = ledger.free_bytes
        tid = choose_next(self, ledger, is_idle)
        if tid is None:
            self._wait()
            return None
        self._leave(int(tid))
        return int(tid), self._begin(int(tid), free_bytes)

    def _look(self, is_idle: bool) -> None:
        """Tell the ledger which tasks have ended, and what is seen of the others."""
        raise NotImplementedError

    def _begin(self, number: int, free_bytes: int) -> int:
        """A task starts, before which that much was free: with how many jobs."""
        raise NotImplementedError

    def _wait(self) -> None:
        """Nothing starts now."""

    def first(self, hidden: Container[str]) -> str | None:
        """The first that is ready; the ledger keeps those it holds, which wait here no longer."""
        while self._waiting:
            tid = self._tasks[self._order[self._waiting[0]]].tid
            if tid not in hidden:
                return tid
            del self._waiting[0]
        return None

    def ahead(self, count: int) -> list[str]:
        """The next `count` in order."""
        return [self._tasks[self._order[place]].tid for place in self._waiting[:count]]

    def is_ready(self, tid: str) -> bool:
        """There are no rules but the order and what a task needs."""
        return True

    def is_weightless(self, tid: str) -> bool:
        """Every task of a simulation runs."""
        return False

    def taken_back(self, held: Iterable[str]) -> list[str]:
        """Nobody takes a task back."""
        return []

    def task(self, tid: str) -> Task:
        """What memguard thinks of a task."""
        return self._tasks[int(tid)]

    def _with_totals(self, outcome: Outcome, stopped: int, killed: int) -> Outcome:
        ledger, totals = self.ledger, self.ledger.totals
        ledger.settle((), self.engine.now_s)
        for tid in list(ledger.held):
            ledger.release(tid)
        return replace(
            outcome,
            held_s=totals.held_s,
            held=totals.held,
            shrunk=totals.shrunk,
            forced=totals.forced,
            stopped=stopped,
            killed=killed,
        )

    def _leave(self, number: int) -> None:
        """A task that starts waits no longer."""
        place = bisect.bisect_left(self._waiting, self._places[number])
        if self._waiting[place : place + 1] == [self._places[number]]:
            del self._waiting[place]

    def _read(self) -> Reading:
        """The container's memory as the server would read it."""
        container, used = self.engine.container, self.engine.used_bytes
        limit = container.limit_bytes
        return Reading(limit, "simulated", used, 0, limit - used, None, limit, container.cpus, charged_bytes=used)
