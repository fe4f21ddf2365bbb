# SPDX-License-Identifier: MIT
"""memguard's part of a replayed build: the ledger, the choice, the order, predictions and reflex of real builds.

Covers: what the scheduler, the server and the sentinel do with them, on the replay's clock.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field

from memguard.act.token_pool import Pool
from memguard.decide.choose import choose_next
from memguard.decide.ledger import Ledger
from memguard.decide.moment import Act, slots_of
from memguard.decide.order import order_of_starts
from memguard.decide.pool_form import TASKS
from memguard.decide.turn import Beside, Waiting, next_turn
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
from memguard.predict.footprints import Predictor, read_table
from memguard.predict.kinds import by_kind as kind_of
from memguard.predict.remembered_lives import Lives
from memguard.sense.proc_files import ProcessId
from memguard.sense.process_tree import Usage
from memguard.sentinel.look import MEASURE_S
from memguard.sentinel.reflex import Reflex
from memguard.sentinel.ward import Ward
from memguard.sentinel.watched import WORKING_BYTES

from .recording import classes_of
from .replayed import Replay, Run


@dataclass
class _Past:
    """What a history says of a task: its records and the lives of its compilers."""

    records: list[Record] = field(default_factory=list)
    lives: bytes = b""


class ReplayedGuard:
    """memguard's part of a replay: server and sentinel. It is choose_next()'s Queue."""

    def __init__(self, build: Replay, policy: Policy, before: ReplayedGuard | None) -> None:
        self._build, self._policy = build, policy
        self._past: dict[int, _Past] = dict(before._past) if before else {}
        self._number = before._number + 1 if before else 1
        self._predictor = Predictor(read_table(), {}, self._samples)
        self._numbers = {(task.recipe, task.task): number for number, task in enumerate(build.recording.tasks)}
        self._tasks: dict[int, Task] = {}
        self._lives: dict[int, Lives] = {}
        self._ended: list[str] = []
        self._look_at_s = self._turn_s = 0.0
        self._use = BuildUse({})
        recording = build.recording
        for number, past in self._past.items():
            for record in past.records[-1:]:
                if record.peak_bytes and record.jobs:
                    self._take(number, record.jobs, record.peak_bytes)
        self.ledger = Ledger(policy, self._read(), 0.0)
        seconds = {number: self._duration_of(number) for number in range(len(recording.tasks))}
        build.order = order_of_starts(
            build.order,
            build.graph.depends.__getitem__,
            seconds,
            self._task_of,
            self.ledger.budget_bytes,
            build.threads,
            is_first=before is None,
        )
        self._places = {number: place for place, number in enumerate(build.order)}
        self._reflex = Reflex(
            slots_of(build.jobs, build.cpus), lambda leader: [], signals=build.signals, open_pool=self._pool
        )

    # -- what is known of tasks -------------------------------------------------------------------------------------

    def _classes(self, number: int) -> frozenset[str]:
        return classes_of(self._build.recording.tasks[number].kind)

    def _samples(self, recipe: str, task: str) -> Sequence[Sample]:
        """What is remembered of a task."""
        past = self._past.get(self._numbers[recipe, task])
        records = past.records if past else []
        return [Sample(record, len(records) - 1 - place) for place, record in enumerate(records)]

    def _take(self, number: int, jobs: int, peak_bytes: int, has_ended: bool = True) -> str:
        task = self._build.recording.tasks[number]
        return self._predictor.take(task.recipe, task.task, self._classes(number), jobs, peak_bytes, has_ended)

    def _has_jobs(self, number: int) -> bool:
        return self._build.recording.tasks[number].task in TASKS

    def _wanted(self, number: int) -> int:
        return self._build.jobs if self._has_jobs(number) else 1

    def _past_run(self, number: int) -> PastRun | None:
        records = self._past[number].records if number in self._past else []
        return (
            PastRun(records[-1].jobs, records[-1].wall_s, records[-1].cpu_s, records[-1].peak_bytes)
            if records
            else None
        )

    def _duration_of(self, number: int) -> float:
        task = self._build.recording.tasks[number]
        if not task.kind:
            return 0.0
        run = self._past_run(number)
        job_bytes = kind_of(task.task, self._classes(number)).per_job_bytes
        duration = learn_duration(run) if run else by_kind(task.task, job_bytes)
        return duration.seconds(max(1, min(self._wanted(number), int(self._build.cpus))))

    def _task_of(self, number: int) -> Task:
        task = self._tasks.get(number)
        if task is None:
            recorded, run = self._build.recording.tasks[number], self._past_run(number)
            footprint = self._predictor.predict(recorded.recipe, recorded.task, self._classes(number))
            duration: Duration | None = learn_duration(run) if run else None
            task = self._tasks[number] = Task(
                str(number), "", recorded.recipe, recorded.task, footprint, self._wanted(number), duration
            )
        return task

    def _learn(self, run: Run, has_ended: bool) -> None:
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
        pool = self._build.runs[int(tid)].pool
        assert pool is not None
        return pool

    def _read(self) -> Reading:
        used, limit = self._build.used_bytes, self._build.limit_bytes
        return Reading(limit, "replayed", used, 0, limit - used, None, None, self._build.cpus, charged_bytes=used)

    def choose(self) -> tuple[int, int] | None:
        build, now_s = self._build, self._build.now_s
        is_idle = not build.runs
        self.ledger.left = len(build.graph) - build.done - len(build.runs)
        if self.ledger.settle(self._ended, now_s) or self._ended:
            self.ledger.look(self._read(), self._use, now_s, is_idle)
        self._ended.clear()
        tid = choose_next(self, self.ledger, is_idle)
        return None if tid is None else (int(tid), self.ledger.running[tid].grant.jobs)

    def began(self, run: Run) -> None:
        entry = self.ledger.running[str(run.number)]
        footprint = entry.task.footprint
        self._lives[run.number] = Lives(self._past[run.number].lives if run.number in self._past else b"")
        self._reflex.begin(
            str(run.number),
            Ward(
                ProcessId(1_000_000 + run.number, 1),
                entry.place,
                entry.task.wanted_jobs if run.pool is not None else run.jobs,
                None if footprint.is_guess else footprint.likely.per_job_bytes or None,
                footprint.likely.serial_bytes if footprint.is_history else 0,
                pool=str(run.number) if run.pool is not None else "",
            ),
            self._lives[run.number] if self._has_jobs(run.number) else None,
        )

    def ended(self, run: Run) -> None:
        tid, build = str(run.number), self._build
        stopped_s = self._reflex.use_of(tid).stopped_s
        self._reflex.end(tid, build.now_s)
        self._learn(run, has_ended=True)
        self._ended.append(tid)
        past = self._past.get(run.number, _Past())
        wall_s = build.now_s - run.began_s
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
        if build.now_s < self._look_at_s:
            return
        usages = {str(number): self._usage(run) for number, run in build.runs.items()}
        for number, run in build.runs.items():
            run.tally.add(usages[str(number)])
            self._learn(run, has_ended=False)
        reading = self._read()
        reserve_bytes = self._policy.reserve_of(reading.bound_bytes)
        for acted in self._reflex.look(build.now_s, reading, reserve_bytes, usages):
            build.counts["stopped"] += acted.action.act is Act.STOP
            build.counts["killed"] += acted.action.act is Act.KILL
        self._give_turn(reading.left_bytes - reserve_bytes)
        self._look_at_s = build.now_s + min(self._reflex.next_look_s, MEASURE_S)
        uses = self._reflex.uses()
        self._use = BuildUse(
            {
                tid: TaskUse(
                    usage.current_bytes,
                    float(max(0, len(usage.compilers) - uses[tid].stopped))
                    if usage.compilers or build.runs[int(tid)].has_lost
                    else build.runs[int(tid)].share,
                    build.runs[int(tid)].tally.peak_bytes,
                    build.runs[int(tid)].tally.most_compilers,
                )
                for tid, usage in usages.items()
            },
            sum(use.stopped for use in uses.values()),
            next((str(number) for number, run in build.runs.items() if run.wants_alone), ""),
            rise_bytes=self._reflex.rise_bytes,
        )

    def _give_turn(self, free_bytes: int) -> None:
        """Let a task that lost a compiler run again, with half of its jobs, once its next one fits."""
        now_s, runs = self._build.now_s, self._build.runs
        waiting = [
            Waiting(
                str(number),
                self.ledger.running[str(number)].place,
                int(run.largest_bytes * KILL_RATIO),
                run.is_next_alone or run.largest_bytes * KILL_RATIO > self.ledger.budget_bytes,
                now_s - run.waits_since_s,
            )
            for number, run in runs.items()
            if run.waits_since_s is not None
        ]
        self._build.has_failed = any(run.waits_since_s is not None and not run.attempts.left for run in runs.values())
        if self._build.has_failed:
            return
        others = [run for run in runs.values() if run.waits_since_s is None]
        work = any(run.running or run.bytes > WORKING_BYTES for run in others)
        beside = Beside(bool(others), work, any(run.is_alone for run in others))
        tid = next_turn(waiting, free_bytes, beside, now_s - self._turn_s, is_empty=True)
        if tid is not None:
            self._turn_s, run = now_s, runs[int(tid)]
            attempt = run.attempts.take(run.was_cause)
            assert attempt is not None
            run.is_alone = next(task.alone for task in waiting if task.tid == tid)
            run.jobs, run.has_lost, run.waits_since_s = attempt.jobs, False, None
            self._reflex.renew(tid)
            self._reflex.change(tid, run.jobs)

    def _usage(self, run: Run) -> Usage:
        compilers = tuple(job.seen(self._build.now_s) for job in sorted(run.running, key=lambda job: -job.pid))
        largest_bytes = max([job.bytes for job in run.running], default=run.base_bytes)
        return Usage(
            run.bytes,
            len(compilers) + 1,
            max(1, len(compilers)),
            compilers,
            max(largest_bytes, run.base_bytes),
            # What jobs that have ended took is missing; only from look to look of the same jobs is it compared.
            cpu_s=sum(job.ran_s for job in run.running) - run.alone_s,
        )

    # -- Queue ------------------------------------------------------------------------------------------------------

    def _in_order(self) -> list[int]:
        return sorted(self._build.waiting, key=self._places.__getitem__)

    def first(self, hidden: Container[str]) -> str | None:
        return next((str(number) for number in self._in_order() if str(number) not in hidden), None)

    def ahead(self, count: int) -> list[str]:
        return [str(number) for number in self._in_order()[:count]]

    def is_ready(self, tid: str) -> bool:
        return int(tid) in self._build.waiting

    def is_weightless(self, tid: str) -> bool:
        return False

    def taken_back(self, held: Iterable[str]) -> list[str]:
        return []

    def task(self, tid: str) -> Task:
        return self._task_of(int(tid))
