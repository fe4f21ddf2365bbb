# SPDX-License-Identifier: MIT
"""A recorded build of real recipes, run again in simulated time: tasks, their compilers, and the CPUs they share.

Covers: BitBake's part and the machine's: what is ready, what runs and how fast, what it holds, the kernel's kill.
Does not cover: memguard's part (replayed_guard).

What only reality has is left out: disks and page cache, what the kernel reclaims at the limit, BitBake's own CPU time
while tasks run. Compilers too short to be seen are made up: small ones.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from memguard.decide.ledger import Ledger
from memguard.decide.run_again import Runs, plan
from memguard.predict.job_lives import Life
from memguard.sense.compilers import unit_of
from memguard.sense.proc_files import ProcessId
from memguard.sense.tally import Tally
from memguard.settings import RETRIES
from memguard.units import MIB
from memguard_cli.simulation.graph import Graph

from .recording import RecordedTask, Recording
from .rehearsal import Job, StoppingSignals, TokenPool

STEP_S = 0.02
# By how much the time spreads that the same task takes from build to build (sigma of the logarithm).
# evidence: CPU seconds of the same builds of the bed differ by 3 to 5 %
SPREAD = 0.04
ASKED_EVERY_S = 0.1
# A compiler that was too short to be seen: what C compilers of the bed take.
SHORT = Life(25 * MIB, 0.3, 0.2, 0.0)
MOST_S = 1800.0


@dataclass(frozen=True)
class Replayed:
    """What came of a build, as of Built: `peak_bytes` with what is used when no task runs."""

    has_built: bool
    wall_s: float
    peak_bytes: int
    kernel_kills: int = 0
    killed: int = 0
    stopped: int = 0
    held: int = 0
    idle_s: float = 0.0


@dataclass
class Run:
    """A task that runs: what it computes by itself, then its compilers. share: the part of a CPU that it wants."""

    number: int
    task: RecordedTask
    jobs: int
    pool: TokenPool | None
    alone_s: float
    share: float
    units: deque[tuple[Life, int]]
    base_bytes: int
    began_s: float
    running: list[Job[Life]] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    # A compiler of it was killed: it begins no other until its turn, and waits for that since then.
    has_lost: bool = False
    waits_since_s: float | None = None
    largest_bytes: int = 0
    # The runs that may follow, whether the one that goes on is the last, alone, and whether it was the cause of a kill.
    attempts: Runs = field(default_factory=lambda: Runs(()))
    is_alone: bool = False
    was_cause: bool = True

    @property
    def is_next_alone(self) -> bool:
        """Whether the run that follows is the last one, alone."""
        return bool(self.attempts.left) and self.attempts.left[0].is_alone

    @property
    def wants_alone(self) -> bool:
        """Whether it runs, or waits to run, with no other beside it."""
        return self.is_alone if self.waits_since_s is None else self.is_next_alone

    @property
    def has_ended(self) -> bool:
        return self.alone_s <= 0 and not self.units and not self.running

    @property
    def bytes(self) -> int:
        return self.base_bytes + sum(job.bytes for job in self.running)


class Guard(Protocol):
    """memguard's part of a build: what the server decides and what the sentinel does."""

    ledger: Ledger

    def choose(self) -> tuple[int, int] | None:
        """The task that starts now and its jobs; None to wait."""

    def began(self, run: Run) -> None:
        """A task that was chosen has started."""

    def ended(self, run: Run) -> None:
        """It has ended."""

    def look_if_due(self) -> None:
        """Time has passed."""


class Replay:
    """One build of a recording. Where it has no `guard` it is stock: every task has all its jobs."""

    def __init__(
        self,
        recording: Recording,
        limit_bytes: int,
        threads: int,
        jobs: int,
        cpus: float = 2.0,
        seed: int = 0,
    ) -> None:
        """seed: of what differs from one build to the next."""
        self.recording, self._dice = recording, random.Random(seed)
        self.limit_bytes = limit_bytes
        self.threads, self.jobs, self.cpus = threads, jobs, cpus
        self.graph = Graph(
            tuple((task.recipe, task.task) for task in recording.tasks), tuple(task.needs for task in recording.tasks)
        )
        self._missing = [len(needed) for needed in self.graph.depends]
        self.order = self.graph.stock_order()
        self.runs: dict[int, Run] = {}
        self.waiting: set[int] = set()
        self.done = 0
        self.has_failed = False
        self.now_s = 0.0
        self._pids = 0
        self.signals = StoppingSignals(self._kill)
        self.counts = {"kernel": 0, "killed": 0, "stopped": 0}
        self._peak_bytes = 0
        self.guard: Guard | None = None

    # -- the build --------------------------------------------------------------------------------------------------

    def run(self) -> Replayed:
        """The whole build."""
        total, ask_at_s = len(self.graph), 0.0
        for number, missing in enumerate(self._missing):
            if not missing:
                self._be_ready(number)
        while self.done < total and self.now_s < MOST_S and not self.has_failed:
            ended = self._end_tasks()
            if ended or self.now_s >= ask_at_s:
                self._start_tasks()
                ask_at_s = self.now_s + ASKED_EVERY_S
            self._begin_jobs()
            self._peak_bytes = max(self._peak_bytes, self.used_bytes)
            if self.used_bytes > self.limit_bytes:
                self._kill_largest()
                if self.guard is None:
                    break
            if self.guard is not None:
                self.guard.look_if_due()
            self._advance()
        guarded = self.guard
        return Replayed(
            self.done == total,
            self.now_s + self.recording.around_s,
            self._peak_bytes,
            self.counts["kernel"],
            self.counts["killed"],
            self.counts["stopped"],
            guarded.ledger.totals.held if guarded else 0,
            guarded.ledger.totals.idle_s if guarded else 0.0,
        )

    @property
    def used_bytes(self) -> int:
        return self.recording.idle_bytes + sum(run.bytes for run in self.runs.values())

    def _be_ready(self, number: int) -> None:
        if self.recording.tasks[number].kind:
            self.waiting.add(number)
        else:
            self._finish(number)

    def _finish(self, number: int) -> None:
        self.done += 1
        for follower in self.graph.followers[number]:
            self._missing[follower] -= 1
            if not self._missing[follower]:
                self._be_ready(follower)

    def _start_tasks(self) -> None:
        while len(self.runs) < self.threads:
            if self.guard is not None:
                chosen = self.guard.choose()
            else:
                number = next((number for number in self.order if number in self.waiting), None)
                chosen = None if number is None else (number, self.jobs)
            if chosen is None:
                return
            self._start(*chosen)

    def _start(self, number: int, jobs: int) -> None:
        task = self.recording.tasks[number]
        self.waiting.discard(number)
        compiled_s, haste = sum(unit.wall_s for unit in task.units), math.exp(self._dice.gauss(0, SPREAD))
        units = [(unit, unit_of(b"%d-%d.o" % (number, place))) for place, unit in enumerate(task.units)]
        alone_s = max(0.05, task.cpu_s)
        self._dice.shuffle(units)
        if units:
            # What nobody saw of a compile are its shorter compilers, and what make does between them.
            missing_s = max(0.0, task.cpu_s - compiled_s)
            units += [(SHORT, 0)] * int(0.9 * missing_s / SHORT.wall_s)
            alone_s = max(0.05, 0.1 * missing_s)
        wants_s = max(task.wall_s, alone_s) if not units else alone_s
        largest_bytes = max((unit.peak_bytes for unit in task.units), default=0)
        pool = TokenPool() if self.guard is not None and task.has_pool else None
        self.runs[number] = Run(
            number,
            task,
            jobs,
            pool,
            wants_s * haste,
            min(1.0, alone_s / wants_s),
            deque(units),
            max(8 * MIB, task.peak_bytes - largest_bytes) if units else max(8 * MIB, task.peak_bytes),
            self.now_s,
        )
        if self.guard is not None:
            self.runs[number].attempts = Runs(plan(jobs, RETRIES, int(self.cpus)))
            self.guard.began(self.runs[number])

    def _end_tasks(self) -> list[int]:
        for run in self.runs.values():
            for job in [job for job in run.running if job.has_ended]:
                run.running.remove(job)
                run.largest_bytes = max(run.largest_bytes, job.bytes)
                if job.is_killed:
                    run.units.append((job.unit, job.name))
                    run.has_lost = self.guard is not None
                if job.has_token and run.pool is not None:
                    run.pool.give_back()
            if run.has_lost and not run.running and run.waits_since_s is None:
                run.waits_since_s = self.now_s
        ended = [number for number, run in self.runs.items() if run.has_ended]
        for number in ended:
            run = self.runs.pop(number)
            if self.guard is not None:
                self.guard.ended(run)
            self._finish(number)
        return ended

    def _begin_jobs(self) -> None:
        for run in self.runs.values():
            if run.alone_s > 0 or run.has_lost:
                continue
            while run.units:
                needs_token = run.pool is not None and any(not job.has_token for job in run.running)
                if needs_token and not (run.pool and run.pool.take()):
                    break
                if run.pool is None and len(run.running) >= run.jobs:
                    break
                self._pids += 1
                run.running.append(Job(*run.units.popleft(), self._pids, self.now_s, needs_token))

    def _advance(self) -> None:
        going = [job for run in self.runs.values() for job in run.running if job.target not in self.signals.stopped]
        alone = [run for run in self.runs.values() if run.alone_s > 0]
        wanted = len(going) + sum(run.share for run in alone)
        step_s = STEP_S * min(1.0, self.cpus / wanted) if wanted else STEP_S
        for job in going:
            job.ran_s += step_s
        for run in alone:
            run.alone_s -= step_s
        self.now_s += STEP_S

    def _kill(self, target: ProcessId) -> None:
        largest_bytes = max(job.bytes for run in self.runs.values() for job in run.running)
        for run in self.runs.values():
            for job in run.running:
                if job.target == target:
                    job.is_killed, run.was_cause = True, job.bytes >= largest_bytes

    def _kill_largest(self) -> None:
        jobs = [job for run in self.runs.values() for job in run.running if not job.is_killed]
        self.counts["kernel"] += 1
        if jobs:
            max(jobs, key=lambda job: job.bytes).is_killed = True
