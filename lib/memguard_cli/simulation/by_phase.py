# SPDX-License-Identifier: MIT
"""memguard in a simulated build whose tasks have jobs that are all alike, as far as nobody has seen single ones.

Runs in: outside BitBake; pure.
Covers: what the sentinel sees of each task, when it looks, and regulate()'s actions carried out in the engine.
Does not cover: pools of tokens: every task has the jobs of its grant; single compilers (by_compiler).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from memguard.decide.chain import Chain
from memguard.decide.ledger import Entry
from memguard.decide.moment import STOP_SHARE, Act, Action, Job, Moment, Running
from memguard.decide.regulate import regulate
from memguard.model import BuildUse, Task
from memguard.model import Policy as Settings
from memguard.predict.job_lives import Expected
from memguard.sentinel.pace import FILL_LEAST_BYTES_S, LOOK_LEAST_S, LOOK_MOST_S
from memguard.settings import RETRIES
from memguard_cli.simulation.engine import Engine, Outcome
from memguard_cli.simulation.policies import Memguard
from memguard_cli.simulation.profiles import UNIT_S, scale_footprint
from memguard_cli.simulation.running import SimulatedTask

# A job that still grows is expected to become this many times what it is, where its footprint says less.
BEYOND = 1.25

# While something is stopped the real reflex looks every tenth of a second, which here changes little and costs much.
LOOK_STOPPED_S = 0.25

# After a memory kill a task is taken to need at least this many times what it was thought to.
AFTER_KILL = 1.2

# BitBake asks again after a second at the most, whatever happens.
ASKED_EVERY_S = 1.0


class MemguardByPhase(Memguard):
    """memguard with a sentinel that sees phases."""

    def __init__(
        self, engine: Engine, order: Sequence[int], tasks: Sequence[Task], settings: Settings, chain: Chain[int] | None
    ) -> None:
        # Memory grows in steps of 256 MiB here, which nobody could stop in time.
        self._judged = list(tasks)
        super().__init__(engine, order, self._judged, settings, chain, is_bold=False)
        self._kills: Counter[int] = Counter()
        self._retries = RETRIES + 1  # the last of them alone
        self._reflex = SimulatedReflex(engine, settings.reserve_of(engine.container.limit_bytes))
        self._is_stale = False

    def wakes_in_s(self) -> float | None:
        """The server asks again each second, which matters only where its last reading was an older one; the reflex."""
        looks_s = self._reflex.looks_in_s()
        return min(looks_s or ASKED_EVERY_S, ASKED_EVERY_S) if self._is_stale or looks_s else None

    def before_time_passes(self) -> None:
        """What the sentinel does: stop, wake and kill jobs, as regulate() says."""
        running = self.ledger.running
        for number in self._reflex.act(self._judged, running):
            # It runs again in place, with fewer jobs, once what it needs now is there; after its last retry it fails.
            task = self._judged[number]
            self._kills[number] += 1
            if self._kills[number] > self._retries:
                self.engine.has_failed = True
            jobs = max(1, running[task.tid].grant.jobs // 2)
            footprint = scale_footprint(task.footprint, AFTER_KILL)
            self._judged[number] = replace(task, wanted_jobs=min(jobs, task.wanted_jobs), footprint=footprint)
            self.ended(number)
            self.ready(number)

    def describe(self, outcome: Outcome) -> Outcome:
        return self._with_totals(outcome, self._reflex.stopped, self._reflex.killed)

    def _look(self, is_idle: bool) -> None:
        engine, ledger = self.engine, self.ledger
        if ledger.settle(self._ended, engine.now_s):
            rise_bytes = sum(
                max(0, ledger.running[tid].need_bytes - state.current_bytes)
                for tid, state in engine.states.items()
                if state.most_compilers and tid in ledger.running
            )
            # A copy: what starts after this look nobody has seen yet.
            use = BuildUse(dict(engine.states), sum(run.stopped for run in engine.runs.values()), rise_bytes=rise_bytes)
            ledger.look(self._read(), use, engine.now_s, is_idle)

    def _begin(self, number: int, free_bytes: int) -> int:
        """A task of a simulation has no pool: it keeps the jobs that fit as it starts."""
        entry = self.ledger.running[self._tasks[number].tid]
        return max(1, min(entry.grant.jobs, entry.task.footprint.jobs_within(free_bytes, entry.grant.jobs)))

    def _wait(self) -> None:
        # While the CPUs are busy an end is waited for, however old the reading is.
        if not self.ledger.is_crowded:
            self._is_stale = bool(self.ledger.held) and self.ledger.reading.used_bytes != self.engine.used_bytes


class SimulatedReflex:
    """The sentinel's part: looks at running tasks and does what regulate() says, through the engine.

    Jobs are those of tasks that run some at once; all of a task are alike, and were begun one after the other.
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

    def act(self, tasks: Sequence[Task], running: Mapping[str, Entry]) -> list[int]:
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
            tasks=tuple(self._running(number, tasks[number], running[tasks[number].tid]) for number in engine.runs),
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

    def _running(self, number: int, task: Task, entry: Entry) -> Running:
        run = self._engine.runs[number]
        phase = run.phase
        peak_bytes = task.footprint.per_job_bytes if phase.width > 1 else task.footprint.serial_bytes
        size_bytes = phase.job_bytes if phase.width > 1 else phase.base_bytes
        growth_bytes_s = self._growth_bytes_s(run)
        if growth_bytes_s and peak_bytes < size_bytes * BEYOND:
            peak_bytes = int(size_bytes * BEYOND)
        expected = Expected(max(peak_bytes, size_bytes), UNIT_S, UNIT_S / 2)
        count = run.speed + run.stopped if run.has_jobs else 0
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
            place=entry.place,
            most_jobs=entry.grant.jobs,
            jobs=jobs,
            next_job=expected,
            current_bytes=run.used_bytes,
            is_stopped=not run.has_jobs and run.stopped > 0,
        )

    def _growth_bytes_s(self, run: SimulatedTask) -> float:
        """How fast one job of a task grows now."""
        if run.place + 1 == len(run.phases) or not run.speed or not run.phase.work_s:
            return 0.0
        phase, following = run.phase, run.phases[run.place + 1]
        if phase.width != following.width:
            return 0.0
        grown_bytes = following.job_bytes - phase.job_bytes or following.base_bytes - phase.base_bytes
        slowness = max(1.0, self._engine.demand / self._engine.container.cpus)
        return max(0, grown_bytes) * run.speed / (phase.work_s * slowness)
