# SPDX-License-Identifier: MIT
"""A recorded build of real recipes, built again in simulated time, beside what the real builds took.

The ledger, the choice of the next task, the order, the predictions and the reflex are those of real builds; the tasks
and their compilers are those that were recorded (bench/recording.py), on CPUs that they share. A build takes seconds,
and the same each time, so rules are tried out here first; that it is like real builds is what this bench shows.

What only reality has is left out: disks and page cache, what the kernel reclaims at the limit, BitBake's own CPU time
while tasks run. Compilers too short to be seen are made up: small ones.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
from collections import deque
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memguard.act.token_pool import Pool
from memguard.decide.choose import choose_next
from memguard.decide.ledger import Ledger
from memguard.decide.moment import Act, slots_of
from memguard.decide.order import order_of_starts
from memguard.decide.run_again import Attempt, plan
from memguard.decide.turn import Waiting, next_turn
from memguard.model import (
    BuildUse,
    Duration,
    Outcome,
    PastRun,
    Policy,
    Reading,
    Record,
    Sample,
    Task,
    TaskUse,
)
from memguard.predict.durations import by_kind, learn_duration
from memguard.predict.fit import KILL_RATIO
from memguard.predict.footprints import KINDS, Predictor, read_table
from memguard.predict.footprints import by_kind as kind_of
from memguard.predict.job_lives import Life
from memguard.predict.remembered_lives import Lives
from memguard.sense.compilers import unit_of
from memguard.sense.proc_files import ProcessId
from memguard.sense.process_tree import Compiler, Usage
from memguard.sense.tally import Tally
from memguard.sentinel.look import MEASURE_S
from memguard.sentinel.reflex import Reflex
from memguard.sentinel.ward import Ward
from memguard.sentinel.watched import LIGHT_BYTES
from memguard.settings import RETRIES
from memguard.units import MIB, format_bytes, parse_bytes
from memguard_cli.simulation.graph import Graph

from .recording import RecordedTask, Recording, Unit, read_recording
from .rehearsal import StoppingSignals, TokenPool

STEP_S = 0.02
# By how much the time spreads that the same task takes from build to build (sigma of the logarithm).
# evidence: CPU seconds of the same builds of the bed differ by 3 to 5 %
SPREAD = 0.04
ASKED_EVERY_S = 0.1
TICKS_PER_S = 100
# A compiler that was too short to be seen: what C compilers of the bed take.
SHORT = Unit(25 * MIB, 0.3, 0.2, 0.0)
PROCESS_BYTES = MIB // 2
MOST_S = 1800.0
RECORDED = Path(__file__).resolve().parents[1] / "fixtures" / "bed" / "recording.json"


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
class _Job:
    unit: Unit
    life: Life
    name: int
    pid: int
    began_s: float
    has_token: bool
    ran_s: float = 0.0
    is_killed: bool = False

    @property
    def target(self) -> ProcessId:
        return ProcessId(self.pid, round(self.began_s * TICKS_PER_S))

    @property
    def bytes(self) -> int:
        return PROCESS_BYTES + int(self.life.bytes_at(self.ran_s))


@dataclass
class _Run:
    """A task that runs: what it computes by itself, then its compilers. share: the part of a CPU that it wants."""

    number: int
    task: RecordedTask
    jobs: int
    pool: TokenPool | None
    alone_s: float
    share: float
    units: deque[tuple[Unit, int]]
    base_bytes: int
    began_s: float
    running: list[_Job] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)
    # A compiler of it was killed: it begins no other until its turn, and waits for that since then.
    has_lost: bool = False
    waits_since_s: float | None = None
    largest_bytes: int = 0
    # The runs that may follow, and whether the one that goes on is the last, alone.
    attempts: list[Attempt] = field(default_factory=list)
    is_alone: bool = False

    @property
    def has_ended(self) -> bool:
        return self.alone_s <= 0 and not self.units and not self.running

    @property
    def bytes(self) -> int:
        return self.base_bytes + sum(job.bytes for job in self.running)


def _is_alone(run: _Run) -> bool:
    """Whether a task runs, or waits to run, with no other beside it."""
    return run.is_alone or (run.waits_since_s is not None and bool(run.attempts) and run.attempts[0].is_alone)


class Replay:
    """One build of a recording. Without a policy it is stock: every task has all its jobs."""

    def __init__(
        self,
        recording: Recording,
        limit_bytes: int | None,
        threads: int,
        jobs: int,
        cpus: float = 2.0,
        policy: Policy | None = None,
        before: Replay | None = None,
        seed: int = 0,
    ) -> None:
        """before: the build of which this one has the history; seed: of what differs from one build to the next."""
        self._recording, self._dice = recording, random.Random(seed)
        self._limit_bytes = limit_bytes or 1 << 50
        self._threads, self._jobs, self._cpus = threads, jobs, cpus
        self._graph = Graph(
            tuple((task.recipe, task.task) for task in recording.tasks), tuple(task.needs for task in recording.tasks)
        )
        self._missing = [len(needed) for needed in self._graph.depends]
        self._order = self._graph.stock_order()
        self._runs: dict[int, _Run] = {}
        self._waiting: set[int] = set()
        self._done = 0
        self.has_failed = False
        self._now_s = 0.0
        self._pids = 0
        self._signals = StoppingSignals(self._kill)
        self._counts = {"kernel": 0, "killed": 0, "stopped": 0}
        self._peak_bytes = 0
        self._guarded: _Guarded | None = None
        if policy is not None:
            self._guarded = _Guarded(self, policy, before._guarded if before else None)

    # -- the build --------------------------------------------------------------------------------------------------

    def run(self) -> Replayed:
        """The whole build."""
        total, ask_at_s = len(self._graph), 0.0
        for number, missing in enumerate(self._missing):
            if not missing:
                self._be_ready(number)
        while self._done < total and self._now_s < MOST_S and not self.has_failed:
            ended = self._end_tasks()
            if ended or self._now_s >= ask_at_s:
                self._start_tasks()
                ask_at_s = self._now_s + ASKED_EVERY_S
            self._begin_jobs()
            self._peak_bytes = max(self._peak_bytes, self.used_bytes)
            if self.used_bytes > self._limit_bytes:
                self._kill_largest()
                if self._guarded is None:
                    break
            if self._guarded is not None:
                self._guarded.look_if_due()
            self._advance()
        guarded = self._guarded
        return Replayed(
            self._done == total,
            self._now_s + self._recording.around_s,
            self._peak_bytes,
            self._counts["kernel"],
            self._counts["killed"],
            self._counts["stopped"],
            guarded.ledger.totals.held if guarded else 0,
            guarded.ledger.totals.idle_s if guarded else 0.0,
        )

    @property
    def used_bytes(self) -> int:
        return self._recording.idle_bytes + sum(run.bytes for run in self._runs.values())

    def _be_ready(self, number: int) -> None:
        if self._recording.tasks[number].kind:
            self._waiting.add(number)
        else:
            self._finish(number)

    def _finish(self, number: int) -> None:
        self._done += 1
        for follower in self._graph.followers[number]:
            self._missing[follower] -= 1
            if not self._missing[follower]:
                self._be_ready(follower)

    def _start_tasks(self) -> None:
        while len(self._runs) < self._threads:
            if self._guarded is not None:
                chosen = self._guarded.choose()
            else:
                number = next((number for number in self._order if number in self._waiting), None)
                chosen = None if number is None else (number, self._jobs)
            if chosen is None:
                return
            self._start(*chosen)

    def _start(self, number: int, jobs: int) -> None:
        task = self._recording.tasks[number]
        self._waiting.discard(number)
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
        pool = TokenPool() if self._guarded is not None and task.has_pool else None
        self._runs[number] = _Run(
            number,
            task,
            jobs,
            pool,
            wants_s * haste,
            min(1.0, alone_s / wants_s),
            deque(units),
            max(8 * MIB, task.peak_bytes - largest_bytes) if units else max(8 * MIB, task.peak_bytes),
            self._now_s,
        )
        if self._guarded is not None:
            self._runs[number].attempts = list(plan(jobs, RETRIES, int(self._cpus)))
            self._guarded.began(self._runs[number])

    def _end_tasks(self) -> list[int]:
        for run in self._runs.values():
            for job in [job for job in run.running if job.is_killed or job.ran_s >= job.unit.wall_s]:
                run.running.remove(job)
                run.largest_bytes = max(run.largest_bytes, job.bytes)
                if job.is_killed:
                    run.units.append((job.unit, job.name))
                    run.has_lost = self._guarded is not None
                if job.has_token and run.pool is not None:
                    run.pool.give_back()
            if run.has_lost and not run.running and run.waits_since_s is None:
                run.waits_since_s = self._now_s
        ended = [number for number, run in self._runs.items() if run.has_ended]
        for number in ended:
            run = self._runs.pop(number)
            if self._guarded is not None:
                self._guarded.ended(run)
            self._finish(number)
        return ended

    def _begin_jobs(self) -> None:
        for run in self._runs.values():
            if run.alone_s > 0 or run.has_lost:
                continue
            while run.units:
                needs_token = run.pool is not None and any(not job.has_token for job in run.running)
                if needs_token and not (run.pool and run.pool.take()):
                    break
                if run.pool is None and len(run.running) >= run.jobs:
                    break
                unit, name = run.units.popleft()
                self._pids += 1
                life = Life(unit.peak_bytes, unit.wall_s, unit.rise_s, unit.begun_s)
                run.running.append(_Job(unit, life, name, self._pids, self._now_s, needs_token))

    def _advance(self) -> None:
        going = [job for run in self._runs.values() for job in run.running if job.target not in self._signals.stopped]
        alone = [run for run in self._runs.values() if run.alone_s > 0]
        wanted = len(going) + sum(run.share for run in alone)
        step_s = STEP_S * min(1.0, self._cpus / wanted) if wanted else STEP_S
        for job in going:
            job.ran_s += step_s
        for run in alone:
            run.alone_s -= step_s
        self._now_s += STEP_S

    def _kill(self, target: ProcessId) -> None:
        for run in self._runs.values():
            for job in run.running:
                job.is_killed = job.is_killed or job.target == target

    def _kill_largest(self) -> None:
        jobs = [job for run in self._runs.values() for job in run.running if not job.is_killed]
        self._counts["kernel"] += 1
        if jobs:
            max(jobs, key=lambda job: job.bytes).is_killed = True


@dataclass
class _Past:
    """What a history says of a task: its records and the lives of its compilers."""

    records: list[Record] = field(default_factory=list)
    lives: bytes = b""


class _Guarded:
    """memguard's part of a replay: server and sentinel. It is choose_next()'s Queue."""

    def __init__(self, build: Replay, policy: Policy, before: _Guarded | None) -> None:
        self._build, self._policy = build, policy
        self._past: dict[int, _Past] = dict(before._past) if before else {}
        self._number = before._number + 1 if before else 1
        self._predictor = Predictor(read_table(), {}, self._samples)
        self._numbers = {(task.recipe, task.task): number for number, task in enumerate(build._recording.tasks)}
        self._tasks: dict[int, Task] = {}
        self._lives: dict[int, Lives] = {}
        self._ended: list[str] = []
        self._look_at_s = self._turn_s = 0.0
        self.retried = 0
        self._usages: dict[str, Usage] = {}
        self._use = BuildUse({})
        recording = build._recording
        for number, past in self._past.items():
            for record in past.records[-1:]:
                if record.peak_bytes and record.jobs:
                    self._take(number, record.jobs, record.peak_bytes)
        self.ledger = Ledger(policy, self._read(), 0.0)
        self._seconds = {number: self._duration_of(number) for number in range(len(recording.tasks))}
        build._order = order_of_starts(
            build._order,
            build._graph.depends.__getitem__,
            self._seconds,
            self._task_of,
            self.ledger.budget_bytes,
            build._threads,
            is_first=before is None,
        )
        self._places = {number: place for place, number in enumerate(build._order)}
        self._reflex = Reflex(
            slots_of(build._jobs, build._cpus), lambda leader: [], signals=build._signals, open_pool=self._pool
        )

    # -- what is known of tasks -------------------------------------------------------------------------------------

    def _classes(self, number: int) -> frozenset[str]:
        """A class that makes a recipe one of its kind."""
        return next(
            (kind.classes for kind in KINDS if kind.name == self._build._recording.tasks[number].kind), frozenset()
        )

    def _samples(self, recipe: str, task: str) -> Sequence[Sample]:
        """What is remembered of a task."""
        past = self._past.get(self._numbers[recipe, task])
        records = past.records if past else []
        return [Sample(record, len(records) - 1 - place) for place, record in enumerate(records)]

    def _take(self, number: int, jobs: int, peak_bytes: int, has_ended: bool = True) -> str:
        task = self._build._recording.tasks[number]
        return self._predictor.take(task.recipe, task.task, self._classes(number), jobs, peak_bytes, has_ended)

    def _wanted(self, number: int) -> int:
        """As variables_of() has it: jobs have only tasks that compile and install."""
        return self._build._jobs if self._build._recording.tasks[number].task in ("do_compile", "do_install") else 1

    def _past_run(self, number: int) -> PastRun | None:
        records = self._past[number].records if number in self._past else []
        return (
            PastRun(records[-1].jobs, records[-1].wall_s, records[-1].cpu_s, records[-1].peak_bytes)
            if records
            else None
        )

    def _duration_of(self, number: int) -> float:
        task = self._build._recording.tasks[number]
        if not task.kind:
            return 0.0
        run = self._past_run(number)
        job_bytes = kind_of(task.task, self._classes(number)).per_job_bytes
        duration = learn_duration(run) if run else by_kind(task.task, job_bytes)
        if not duration.parallel_s:
            return duration.serial_s
        return duration.seconds(max(1, min(self._wanted(number), int(self._build._cpus))))

    def _task_of(self, number: int) -> Task:
        task = self._tasks.get(number)
        if task is None:
            recorded, run = self._build._recording.tasks[number], self._past_run(number)
            footprint = self._predictor.predict(recorded.recipe, recorded.task, self._classes(number))
            duration: Duration | None = learn_duration(run) if run else None
            task = self._tasks[number] = Task(
                str(number), "", recorded.recipe, recorded.task, footprint, self._wanted(number), duration
            )
        return task

    def _learn(self, run: _Run, has_ended: bool) -> None:
        if not run.tally.peak_bytes:
            return
        kind = self._take(run.number, max(1, run.tally.most_compilers), run.tally.peak_bytes, has_ended)
        if not kind:
            return
        for number, task in list(self._tasks.items()):
            if task.footprint.is_guess and task.footprint.origin == kind and str(number) not in self.ledger.running:
                del self._tasks[number]
                if str(number) in self.ledger.held:
                    self.ledger.revise(self._task_of(number))

    # -- server -----------------------------------------------------------------------------------------------------

    def _pool(self, tid: str) -> Pool:
        pool = self._build._runs[int(tid)].pool
        assert pool is not None
        return pool

    def _read(self) -> Reading:
        used, limit = self._build.used_bytes, self._build._limit_bytes
        return Reading(limit, "replayed", used, 0, limit - used, None, None, self._build._cpus, charged_bytes=used)

    def choose(self) -> tuple[int, int] | None:
        build, now_s = self._build, self._build._now_s
        is_idle = not build._runs
        self.ledger.left = len(build._graph) - build._done - len(build._runs)
        if self.ledger.settle(self._ended, now_s) or self._ended:
            self.ledger.look(self._read(), self._use, now_s, is_idle)
        self._ended.clear()
        tid = choose_next(self, self.ledger, is_idle)
        return None if tid is None else (int(tid), self.ledger.running[tid].grant.jobs)

    def began(self, run: _Run) -> None:
        entry = self.ledger.running[str(run.number)]
        footprint = entry.task.footprint
        self._lives[run.number] = Lives(self._past[run.number].lives if run.number in self._past else b"")
        has_jobs = run.task.task in ("do_compile", "do_install")
        self._reflex.begin(
            str(run.number),
            Ward(
                ProcessId(1_000_000 + run.number, 1),
                entry.place,
                entry.task.wanted_jobs if run.pool is not None else run.jobs,
                None if footprint.is_guess else footprint.likely.per_job_bytes or None,
                footprint.likely.serial_bytes if footprint.origin == "history" else 0,
                pool=str(run.number) if run.pool is not None else "",
            ),
            self._lives[run.number] if has_jobs else None,
        )

    def ended(self, run: _Run) -> None:
        tid, build = str(run.number), self._build
        stopped_s = self._reflex.use_of(tid).stopped_s
        self._reflex.end(tid, build._now_s)
        self._usages.pop(tid, None)
        self._learn(run, has_ended=True)
        self._ended.append(tid)
        past = self._past.setdefault(run.number, _Past())
        wall_s = build._now_s - run.began_s
        record = Record(
            build=f"{self._number:04}",
            recipe=run.task.recipe,
            version="",
            task=run.task.task,
            machine="",
            jobs=max(1, min(run.jobs, run.tally.most_compilers)),
            peak_bytes=run.tally.peak_bytes or None,
            largest_process_bytes=run.tally.largest_process_bytes,
            wall_s=max(wall_s - stopped_s, min(wall_s, run.task.cpu_s / run.jobs)),
            cpu_s=run.task.cpu_s,
            outcome=Outcome.OK,
            per_job_bytes=run.tally.per_job_bytes,
            serial_bytes=run.tally.serial_bytes if run.tally.most_compilers > 1 else None,
        )
        self._past[run.number] = _Past([*past.records, record], self._lives[run.number].packed())

    # -- sentinel ---------------------------------------------------------------------------------------------------

    def look_if_due(self) -> None:
        build = self._build
        if build._now_s < self._look_at_s:
            return
        self._usages = {str(number): self._usage(run) for number, run in build._runs.items()}
        for number, run in build._runs.items():
            run.tally.add(self._usages[str(number)])
            self._learn(run, has_ended=False)
        reading = self._read()
        reserve_bytes = self._policy.reserve_of(reading.bound_bytes)
        for acted in self._reflex.look(build._now_s, reading, reserve_bytes, self._usages):
            build._counts["stopped"] += acted.action.act is Act.STOP
            build._counts["killed"] += acted.action.act is Act.KILL
        self._give_turn(reading.left_bytes - reserve_bytes)
        self._look_at_s = build._now_s + min(self._reflex.next_look_s, MEASURE_S)
        uses = self._reflex.uses()
        self._use = BuildUse(
            {
                tid: TaskUse(
                    usage.current_bytes,
                    float(max(0, len(usage.compilers) - uses[tid].stopped))
                    if usage.compilers or build._runs[int(tid)].has_lost
                    else build._runs[int(tid)].share,
                    build._runs[int(tid)].tally.peak_bytes,
                    build._runs[int(tid)].tally.most_compilers,
                )
                for tid, usage in self._usages.items()
            },
            sum(use.stopped for use in uses.values()),
            next((str(number) for number, run in build._runs.items() if _is_alone(run)), ""),
            rise_bytes=self._reflex.rise_bytes,
        )

    def _give_turn(self, free_bytes: int) -> None:
        """Let a task that lost a compiler run again, with half of its jobs, once its next one fits."""
        now_s, runs = self._build._now_s, self._build._runs
        waiting = [
            Waiting(
                str(number),
                self.ledger.running[str(number)].place,
                int(run.largest_bytes * KILL_RATIO),
                bool(run.attempts) and run.attempts[0].is_alone,
                now_s - run.waits_since_s,
            )
            for number, run in runs.items()
            if run.waits_since_s is not None
        ]
        self._build.has_failed = any(run.waits_since_s is not None and not run.attempts for run in runs.values())
        others_work = any(run.running or run.bytes > LIGHT_BYTES for run in runs.values() if run.waits_since_s is None)
        is_any_alone = any(run.is_alone for run in runs.values())
        tid = next_turn(waiting, free_bytes, others_work, is_any_alone, now_s - self._turn_s, is_empty=True)
        if tid is not None:
            self._turn_s, run = now_s, runs[int(tid)]
            attempt = run.attempts.pop(0)
            run.jobs, run.is_alone, run.has_lost, run.waits_since_s = attempt.jobs, attempt.is_alone, False, None
            self._reflex.renew(tid)
            self._reflex.change(tid, run.jobs)
            self.retried += 1

    def _usage(self, run: _Run) -> Usage:
        compilers = tuple(
            Compiler(*job.target, "cc1plus", job.bytes, self._build._now_s - job.began_s, job.name)
            for job in sorted(run.running, key=lambda job: -job.pid)
        )
        largest_bytes = max([job.bytes for job in run.running], default=run.base_bytes)
        return Usage(
            run.bytes, len(compilers) + 1, max(1, len(compilers)), compilers, max(largest_bytes, run.base_bytes)
        )

    # -- Queue ------------------------------------------------------------------------------------------------------

    def _in_order(self) -> list[int]:
        return sorted(self._build._waiting, key=self._places.__getitem__)

    def first(self, hidden: Container[str]) -> str | None:
        return next((str(number) for number in self._in_order() if str(number) not in hidden), None)

    def ahead(self, count: int) -> list[str]:
        return [str(number) for number in self._in_order()[:count]]

    def is_ready(self, tid: str) -> bool:
        return int(tid) in self._build._waiting

    def is_weightless(self, tid: str) -> bool:
        return False

    def taken_back(self, held: Iterable[str]) -> list[str]:
        return []

    def task(self, tid: str) -> Task:
        return self._task_of(int(tid))


# -- the bench ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """A build to replay. before: the one whose history it has; is_guarded: else stock."""

    is_guarded: bool
    has_limit: bool
    threads: int
    jobs: int
    before: str = ""


# As in `scripts/bench oe`.
BUILDS = {
    "free": Setting(False, False, 2, 2),
    "crowded": Setting(False, False, 4, 8),
    "roomy": Setting(True, False, 4, 8),
    "stock": Setting(False, True, 4, 8),
    "first": Setting(True, True, 4, 8),
    "second": Setting(True, True, 4, 8, before="first"),
    "third": Setting(True, True, 4, 8, before="second"),
}


def replay_all(
    recording: Recording, limit_bytes: int, names: Sequence[str] = tuple(BUILDS), seed: int = 0
) -> dict[str, Replayed]:
    """Replay these builds, each with the history of the one before; that must come before it."""
    made: dict[str, Replay] = {}
    found: dict[str, Replayed] = {}
    for name in names:
        setting = BUILDS[name]
        policy = None
        if setting.is_guarded:
            policy = Policy(limit_bytes=limit_bytes if setting.has_limit else None)
        made[name] = Replay(
            recording,
            limit_bytes if setting.has_limit else 24 << 30,
            setting.threads,
            setting.jobs,
            policy=policy,
            before=made.get(setting.before),
            seed=1000 * seed + len(made),
        )
        found[name] = made[name].run()
    return found


def main(arguments: list[str]) -> int:
    """Print a table of replayed and real builds, or what one constant makes of them; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench replay", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recording", metavar="FILE", type=Path, default=RECORDED, help="what to build again")
    parser.add_argument("--real", metavar="FILE", type=Path, nargs="+", help="real builds: what bench oe --json wrote")
    parser.add_argument("--limit", default="1536M", help="of memory (default: 1536M)")
    parser.add_argument("--vary", metavar="NAME", nargs="+", help="constants to try at half and double of their values")
    options = parser.parse_args(arguments)
    try:
        recording, limit_bytes = read_recording(options.recording), parse_bytes(options.limit)
        real = [row for file in options.real or () for row in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError) as wrong:
        print(f"scripts/bench replay: {wrong}", file=sys.stderr)
        return 2
    if options.vary:
        return _vary(recording, limit_bytes, options.vary)
    compiled = sum(len(task.units) for task in recording.tasks)
    recorded_s = sum(task.cpu_s for task in recording.tasks)
    if real:
        # The same build takes more CPU seconds at one time than at another; that is not what is compared.
        recording = recording.slowed(statistics.median(row["cpu_s"] for row in real if row["is_built"]) / recorded_s)
    print(f"{recording.origin}; {len(recording.tasks)} tasks, {compiled} compilers; limit {format_bytes(limit_bytes)}")
    print(
        f"{'':9}{'wall, s':>9}{'x free':>8}{'peak, MiB':>11}{'kernel':>8}{'killed':>8}{'stops':>7}{'held':>6}"
        f"{'idle, s':>9}{'real wall, s':>14}{'off':>7}{'real peak':>11}{'off':>7}"
    )
    found = replay_all(recording, limit_bytes)
    for name, replayed in found.items():
        print(_line(name, replayed, found["free"].wall_s, [row for row in real if row["build"] == name]))
    return 0


def _line(name: str, replayed: Replayed, free_s: float, real: Sequence[dict[str, Any]]) -> str:
    wall = f"{replayed.wall_s:9.1f}{replayed.wall_s / free_s:8.2f}" if replayed.has_built else f"{'-':>9}{'-':>8}"
    line = (
        f"{name:9}{wall}{replayed.peak_bytes / MIB:11.0f}{replayed.kernel_kills:8}{replayed.killed:8}"
        f"{replayed.stopped:7}{replayed.held:6}{replayed.idle_s:9.1f}"
    )
    built = [row for row in real if row["is_built"]]
    if built and replayed.has_built:
        wall_s = statistics.median(row["wall_s"] for row in built)
        peak_bytes = statistics.median(row["peak_bytes"] for row in built)
        line += f"{wall_s:14.1f}{replayed.wall_s / wall_s - 1:+7.0%}"
        line += f"{peak_bytes / MIB:11.0f}{replayed.peak_bytes / peak_bytes - 1:+7.0%}"
    return line


def _vary(recording: Recording, limit_bytes: int, names: Sequence[str]) -> int:
    """One line for each value of each constant."""
    rounds = ("first", "second", "third")
    print(f"{'':24}{'value':>12}  " + "  ".join(f"{name + ', s (killed)':>20}" for name in rounds))
    for name in names:
        holders = [
            module for key, module in list(sys.modules.items()) if key.startswith("memguard.") and hasattr(module, name)
        ]
        values = {getattr(module, name) for module in holders}
        if len(values) != 1 or not isinstance(value := next(iter(values)), (int, float)):
            print(f"scripts/bench replay: {name}: no constant of memguard; a good name is OVERCOMMIT", file=sys.stderr)
            return 2
        for factor in (0.5, 1, 2):
            for module in holders:
                setattr(module, name, type(value)(value * factor))
            found = replay_all(recording, limit_bytes, rounds)
            cells = [f"{one.wall_s:.1f} ({one.killed})" if one.has_built else "not built" for one in found.values()]
            print(
                f"{name:24}{type(value)(value * factor):>12}  " + "  ".join(f"{cell:>20}" for cell in cells), flush=True
            )
        for module in holders:
            setattr(module, name, value)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
