# SPDX-License-Identifier: MIT
"""The rules by which builds are simulated: memguard's own, which is the code that decides in builds, and its rivals'.

Runs in: outside BitBake; pure.
Covers: stock BitBake, a gate on use, static caps, one heavy task at a time, tokens while memory is free, memguard.
Does not cover: what becomes of running tasks (reflex), what knows the future (clairvoyant).
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace

from memguard.decide.chain import Chain
from memguard.decide.choose import choose_next
from memguard.decide.ledger import Ledger
from memguard.model import BuildUse, Reading, Task
from memguard.model import Policy as Settings
from memguard.settings import RETRIES
from memguard.units import GIB
from memguard_cli.simulation.engine import Engine, Outcome
from memguard_cli.simulation.profiles import scale_footprint
from memguard_cli.simulation.reflex import SimulatedReflex

# After a memory kill a task is taken to need at least this many times what it was thought to.
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

    def gives_way(self, task: int) -> bool:
        """All tasks have the same nice value."""
        return False

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


class Memguard(InOrder):
    """memguard: the ledger and the choices of real builds, and the sentinel's reflex. It is choose_next()'s Queue.

    tasks: what memguard thinks of each task. durations of None leave BitBake's order.
    chain: what the end of the build waits for, None where durations are not known.
    """

    def __init__(
        self, engine: Engine, order: Sequence[int], tasks: Sequence[Task], settings: Settings, chain: Chain[int] | None
    ) -> None:
        super().__init__(engine, order)
        self._chain = chain
        self._tasks = list(tasks)
        self._ended: list[str] = []
        self._kills: Counter[int] = Counter()
        self._retries = RETRIES + 1  # the last of them alone
        self._reflex = SimulatedReflex(engine, settings.reserve_of(engine.container.limit_bytes))
        self._is_stale = False
        # Memory grows in steps of 256 MiB here, which nobody could stop in time.
        self._ledger = Ledger(settings, self._read(), engine.now_s, is_bold=False)

    def gives_way(self, task: int) -> bool:
        return self._chain is not None and self._chain.start(task, self.engine.now_s)

    def ended(self, task: int) -> None:
        self._ended.append(self._tasks[task].tid)
        if self._chain is not None:
            self._chain.end([task])

    def wakes_in_s(self) -> float | None:
        """The server asks again each second, which matters only where its last reading was an older one; the reflex."""
        looks_s = self._reflex.looks_in_s()
        return min(looks_s or ASKED_EVERY_S, ASKED_EVERY_S) if self._is_stale or looks_s else None

    def before_time_passes(self) -> None:
        """What the sentinel does: stop, wake and kill jobs, as regulate() says."""
        running = self._ledger.running
        for number in self._reflex.act(self._tasks, running):
            # It runs again in place, with fewer jobs, once what it needs now is there; after its last retry it fails.
            task = self._tasks[number]
            self._kills[number] += 1
            if self._kills[number] > self._retries:
                self.engine.has_failed = True
            jobs = max(1, running[task.tid].grant.jobs // 2)
            footprint = scale_footprint(task.footprint, AFTER_KILL)
            self._tasks[number] = replace(task, wanted_jobs=min(jobs, task.wanted_jobs), footprint=footprint)
            self.ended(number)
            self.ready(number)

    def choose(self) -> tuple[int, int] | None:
        engine, ledger = self.engine, self._ledger
        is_idle = not engine.runs
        if ledger.settle(self._ended, engine.now_s):
            rise_bytes = sum(
                max(0, ledger.running[tid].need_bytes - state.current_bytes)
                for tid, state in engine.states.items()
                if state.most_compilers and tid in ledger.running
            )
            # A copy: what starts after this look nobody has seen yet.
            use = BuildUse(dict(engine.states), sum(run.stopped for run in engine.runs.values()), rise_bytes=rise_bytes)
            ledger.look(self._read(), use, engine.now_s, is_idle)
        self._ended.clear()
        free_bytes = ledger.free_bytes
        tid = choose_next(self, ledger, is_idle)
        if tid is None:
            # While the CPUs are busy an end is waited for, however old the reading is.
            if not ledger.is_crowded:
                self._is_stale = bool(ledger.held) and ledger.reading.used_bytes != engine.used_bytes
            return None
        self._leave(int(tid))
        # A task of a simulation has no pool: it keeps the jobs that fit as it starts.
        entry = ledger.running[tid]
        return int(tid), max(1, min(entry.grant.jobs, entry.task.footprint.jobs_within(free_bytes, entry.grant.jobs)))

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

    def describe(self, outcome: Outcome) -> Outcome:
        ledger, totals = self._ledger, self._ledger.totals
        ledger.settle((), self.engine.now_s)
        for tid in list(ledger.held):
            ledger.release(tid)
        return replace(
            outcome,
            held_s=totals.held_s,
            held=totals.held,
            shrunk=totals.shrunk,
            forced=totals.forced,
            stopped=self._reflex.stopped,
            killed=self._reflex.killed,
        )

    def _leave(self, number: int) -> None:
        """A task that starts waits no longer."""
        place = bisect.bisect_left(self._waiting, self._places[number])
        if self._waiting[place : place + 1] == [self._places[number]]:
            del self._waiting[place]

    def _read(self) -> Reading:
        """The container's memory as the server would read it."""
        limit, used = self.engine.container.limit_bytes, self.engine.used_bytes
        return Reading(limit, "simulated", used, 0, limit - used, None, limit, self.engine.container.cpus)
