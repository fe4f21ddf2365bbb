# SPDX-License-Identifier: MIT
"""memguard in a simulated build of single compilers: the ledger, the choice, and the sentinel's own reflex.

Runs in: outside BitBake; pure.
Covers: what the sentinel sees of tasks and their compilers, when it looks, tokens, stops, wakes and kills, and the turn
of a task that lost a compiler.
Does not cover: builds whose jobs are all alike (by_phase), what is thought of tasks beforehand (beliefs).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from memguard.act.token_pool import Pool
from memguard.decide.chain import Chain
from memguard.decide.ledger import Entry
from memguard.decide.moment import Act, slots_of
from memguard.decide.order import order_of_starts
from memguard.decide.run_again import Runs, plan
from memguard.decide.turn import Beside, Waiting, next_turn
from memguard.model import BuildUse, Task, TaskUse
from memguard.model import Policy as Settings
from memguard.predict.fit import KILL_RATIO
from memguard.predict.remembered_lives import Lives
from memguard.sense.proc_files import ProcessId
from memguard.sense.process_tree import Usage
from memguard.sense.tally import Tally
from memguard.sentinel.look import MEASURE_S
from memguard.sentinel.reflex import Reflex
from memguard.sentinel.ward import Ward
from memguard.sentinel.watched import WORKING_BYTES
from memguard.settings import RETRIES
from memguard_cli.simulation.beliefs import Beliefs
from memguard_cli.simulation.engine import Engine, Outcome
from memguard_cli.simulation.lanes import AT_ONCE_S
from memguard_cli.simulation.policies import Memguard
from memguard_cli.simulation.running import SimulatedTask
from memguard_cli.simulation.stand_ins import SimulatedPool, SimulatedSignals

# The pids of tasks begin here, beyond those of compilers.
LEADERS = 1 << 30


@dataclass
class Watched:
    """What is seen of a task that runs, and what becomes of it once it has lost a compiler.

    lives:         those of its compilers, to which those of this build are added; None for a task that runs none.
    waits_since_s: since when it waits to run again, None while it need not.
    attempts:      the runs that may follow; is_alone: whether the one that goes on is the last, alone.
    was_cause:     whether it was itself the cause of a kill.
    stopped_s:     for how long any of its compilers was stopped, once it has ended.
    """

    entry: Entry
    began_s: float
    jobs: int
    attempts: Runs
    lives: Lives | None = None
    tally: Tally = field(default_factory=Tally)
    waits_since_s: float | None = None
    is_alone: bool = False
    was_cause: bool = True
    stopped_s: float = 0.0

    @property
    def is_next_alone(self) -> bool:
        """Whether the run that follows is the last one, alone."""
        return bool(self.attempts.left) and self.attempts.left[0].is_alone

    @property
    def wants_alone(self) -> bool:
        """Whether it runs, or waits to run, with no other beside it."""
        return self.is_alone if self.waits_since_s is None else self.is_next_alone


class MemguardByCompiler(Memguard):
    """memguard with the sentinel's reflex.

    known: the tasks whose compilers were seen in builds before.
    """

    reflex_type = Reflex

    def __init__(
        self,
        engine: Engine,
        order: Sequence[int],
        tasks: Sequence[Task] | Beliefs,
        settings: Settings,
        chain: Chain[int] | None,
        known: Collection[int] = (),
    ) -> None:
        super().__init__(engine, order, tasks, settings, chain, is_bold=True)
        self._settings, self._known = settings, known
        self._watched: dict[int, Watched] = {}
        self._look_at_s = self._turn_s = 0.0
        self._use = BuildUse({})
        self._signals = SimulatedSignals(self._signal)
        self.slots = slots_of(engine.container.jobs, engine.container.cpus)
        self.reflex = self.reflex_type(self.slots, lambda leader: [leader], signals=self._signals, open_pool=self._pool)
        self.stopped = self.killed = 0

    # -- tasks come and go --------------------------------------------------------------------------------------------

    def choose(self) -> tuple[int, int] | None:
        self.ledger.left = len(self.engine.graph) - self.engine.done - len(self.engine.runs)
        return super().choose()

    def _look(self, is_idle: bool) -> None:
        """The server looks at what the sentinel last saw."""
        if self.ledger.settle(self._ended, self.engine.now_s) or self._ended:
            self.ledger.look(self._read(), self._use, self.engine.now_s, is_idle)

    def _begin(self, number: int, free_bytes: int) -> int:
        entry = self.ledger.running[str(number)]
        jobs = entry.grant.jobs
        attempts = Runs(plan(jobs, RETRIES, int(self.engine.container.cpus)))
        self._watched[number] = Watched(entry, self.engine.now_s, jobs, attempts)
        self._take_charge(number)
        return 1 if self.has_pool(number) else jobs

    def _take_charge(self, number: int) -> None:
        """The sentinel hears of a task."""
        watched, has_pool, packed = self._watched[number], self.has_pool(number), self.lives_of(number)
        task, watched.lives = watched.entry.task, None if packed is None else Lives(packed)
        ward = Ward(
            ProcessId(LEADERS + number, 1),
            watched.entry.place,
            task.wanted_jobs if has_pool else watched.jobs,
            None if task.footprint.is_guess else task.footprint.likely.per_job_bytes or None,
            task.footprint.likely.serial_bytes if task.footprint.is_history else 0,
            pool=task.tid if has_pool else "",
        )
        self.reflex.begin(task.tid, ward, watched.lives)

    def has_pool(self, number: int) -> bool:
        """Whether the jobs of a task take tokens."""
        return bool(self.engine.profiles[number].units)

    def lives_of(self, number: int) -> bytes | None:
        """The lives of its compilers in the build before, packed; None for a task that runs none."""
        lives, units = Lives(), self.engine.profiles[number].units
        for unit in units if number in self._known else ():
            lives.add(*unit)
        return lives.packed() if units else None

    def _pool(self, tid: str) -> Pool:
        engine, number = self.engine, int(tid)
        return SimulatedPool(lambda: len(engine.runs[number].compilers), lambda jobs: engine.set_jobs(number, jobs))

    def ended(self, task: int) -> None:
        super().ended(task)
        watched = self._watched.pop(task)
        watched.stopped_s = self.reflex.use_of(str(task)).stopped_s
        self.reflex.end(str(task), self.engine.now_s)
        self._learn(task, watched.tally, has_ended=True)
        self.forget(task, watched)

    def forget(self, number: int, watched: Watched) -> None:
        """Nobody asks for a task any more that has ended."""

    # -- the sentinel -------------------------------------------------------------------------------------------------

    def wakes_in_s(self) -> float | None:
        return max(0.0, self._look_at_s - self.engine.now_s)

    def before_time_passes(self) -> None:
        """Look if it is time to."""
        if self.engine.now_s >= self._look_at_s - AT_ONCE_S:
            self.look()

    def look(self) -> None:
        """See what tasks take, and do what regulate() says."""
        engine, now_s = self.engine, self.engine.now_s
        usages = {str(number): self._usage(run) for number, run in engine.runs.items()}
        for number, watched in self._watched.items():
            watched.tally.add(usages[str(number)])
            self._learn(number, watched.tally, has_ended=False)
        reading = self._read()
        reserve_bytes = self._settings.reserve_of(reading.bound_bytes)
        for acted in self.reflex.look(now_s, reading, reserve_bytes, usages):
            self.stopped += acted.action.act is Act.STOP
            self.killed += acted.action.act is Act.KILL
        self._give_turn(reading.left_bytes - reserve_bytes)
        self._look_at_s = now_s + min(self.reflex.next_look_s, MEASURE_S)
        self._use = BuildUse(
            {str(number): self._use_of(number, run) for number, run in engine.runs.items()},
            sum(run.stopped for run in engine.runs.values()),
            next((str(number) for number, watched in self._watched.items() if watched.wants_alone), ""),
            rise_bytes=self.reflex.rise_bytes,
        )

    def _learn(self, number: int, tally: Tally, has_ended: bool) -> None:
        """Judge anew those of which a task has taught something."""
        if isinstance(self._tasks, Beliefs):
            running = self.ledger.running
            for task in self._tasks.learn(number, tally.most_compilers, tally.peak_bytes, has_ended, running):
                self.ledger.revise(task)

    def _usage(self, run: SimulatedTask) -> Usage:
        """What a look sees of a task."""
        now_s, clock = self.engine.now_s, run.lane.clock
        compilers = tuple(compiler.seen(now_s, clock) for compiler in reversed(run.compilers))
        base_bytes = run.phase.base_bytes
        return Usage(
            run.used_bytes,
            len(compilers) + 1,
            max(1, len(compilers)),
            compilers,
            max([compiler.bytes for compiler in compilers], default=base_bytes),
            # What compilers that have ended took is missing; only from look to look of the same ones is it compared.
            cpu_s=-sum(compiler.left_s(clock) for compiler in run.compilers) if compilers else clock - run.ends,
        )

    def _use_of(self, number: int, run: SimulatedTask) -> TaskUse:
        tally, compilers = self._watched[number].tally, len(run.compilers)
        cpus = run.speed * run.phase.share
        peak_bytes, most = max(tally.peak_bytes, run.used_bytes), max(tally.most_compilers, compilers)
        return TaskUse(run.used_bytes, cpus, peak_bytes, most)

    def _signal(self, act: Act, target: ProcessId) -> None:
        """What the reflex does to a compiler, or to a task as a whole."""
        engine = self.engine
        if target.pid >= LEADERS:
            number = target.pid - LEADERS
            run = engine.runs.get(number)
            if run is not None and not run.is_compiling:
                engine.stop(number, run.speed) if act is Act.STOP else engine.wake(number, run.stopped)
            return
        if act is Act.KILL:
            number, compiler = engine.compilers.find(target)
            sizes = [one.bytes(run.lane.clock) for run in engine.runs.values() for one in run.compilers]
            self._watched[number].was_cause = compiler.bytes(engine.runs[number].lane.clock) >= max(sizes)
        engine.compilers.signal(act, target)
        engine.grow()

    def _give_turn(self, free_bytes: int) -> None:
        """Let a task that lost a compiler run again, with half of its jobs, once its next one fits."""
        engine, now_s = self.engine, self.engine.now_s
        for number, run in engine.runs.items():
            if run.is_halted and not run.compilers and self._watched[number].waits_since_s is None:
                self._watched[number].waits_since_s = now_s
        lost = {number: one for number, one in self._watched.items() if one.waits_since_s is not None}
        engine.has_failed = any(not one.attempts.left for one in lost.values())
        if not lost or engine.has_failed:
            return
        waiting = [
            Waiting(
                str(number),
                one.entry.place,
                int(one.tally.largest_process_bytes * KILL_RATIO),
                one.is_next_alone or one.tally.largest_process_bytes * KILL_RATIO > self.ledger.budget_bytes,
                now_s - (one.waits_since_s or 0.0),
            )
            for number, one in lost.items()
        ]
        others = [(engine.runs[number], one) for number, one in self._watched.items() if number not in lost]
        work = any(run.compilers or run.used_bytes > WORKING_BYTES for run, _ in others)
        beside = Beside(bool(others), work, any(one.is_alone for _, one in others))
        tid = next_turn(waiting, free_bytes, beside, now_s - self._turn_s, is_empty=True)
        if tid is not None:
            self._turn_s, watched = now_s, lost[int(tid)]
            attempt = watched.attempts.take(watched.was_cause)
            assert attempt is not None
            watched.is_alone = next(task.alone for task in waiting if task.tid == tid)
            watched.jobs, watched.waits_since_s = attempt.jobs, None
            self._signals.wake(ProcessId(LEADERS + int(tid), 1))
            self.reflex.renew(tid)
            self.reflex.change(tid, attempt.jobs)
            engine.compilers.resume(int(tid), 1 if self.has_pool(int(tid)) else attempt.jobs, now_s)

    def describe(self, outcome: Outcome) -> Outcome:
        return self._with_totals(outcome, self.stopped, self.killed)


def in_order(
    engine: Engine, seconds: Mapping[int, float], task: Callable[[int], Task], settings: Settings, is_first: bool
) -> list[int]:
    """In which order tasks start. seconds, task: what is thought of each; is_first: none was built before."""
    graph, container = engine.graph, engine.container
    budget_bytes = container.limit_bytes - settings.reserve_of(container.limit_bytes) - engine.used_bytes
    order, depends = graph.stock_order(), graph.depends.__getitem__
    return order_of_starts(order, depends, seconds, task, budget_bytes, container.threads, is_first)
