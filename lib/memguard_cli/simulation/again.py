# SPDX-License-Identifier: MIT
"""A build that has ended, run once more in a simulation: with what it had, with more memory, with more CPUs.

Runs in: outside BitBake; pure.
Covers: graph, durations and sizes out of a BuildRecord; waits that stretched its tasks, fitted to the time it took.
Does not cover: disks, downloads that others slow down, and what BitBake itself does between two tasks; builds of more
tasks than can be simulated while somebody waits.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from memguard.model import HISTORY_ORIGIN, Duration, Footprint, Mode, PastRun, Task
from memguard.predict.durations import learn_duration
from memguard.predict.job_lives import Life
from memguard.predict.kinds import KINDS
from memguard.server.needs import MOST_TASKS
from memguard.units import GIB, MIB
from memguard_cli.builds.record import BuildRecord, TaskRun, most_at_once
from memguard_cli.simulation.compare import place_of, run_known
from memguard_cli.simulation.engine import Engine, Stuck
from memguard_cli.simulation.graph import Graph, GraphError
from memguard_cli.simulation.policies import Stock
from memguard_cli.simulation.profiles import (
    ERRORS,
    Unit,
    compilers_each,
    draw_profile,
    draw_task,
    scale_footprint,
    units_of,
)

# A simulation that misses the time that the build took by more than this share says nothing of another container.
# One that misses it by no more than the other share is not fitted further.
CLOSE_SHARE, VERY_CLOSE_SHARE = 0.05, 0.01
# Where single compilers were seen, tasks and their waits are known well; what a build took beyond them is what BitBake
# itself does, and slows down everything alike, up to this.
SLOWER = 1.2
# How often the waits are fitted: to a 64th of all.
_FITS = 6
# Of its peak, what a task with several jobs holds besides them.
_BASE_SHARE = 0.1
# What make and its shells hold besides compilers.
MAKE_BYTES = 64 * MIB
# What is added to predictions that rest on runs of the task itself, as far as is known of all of them.
MARGIN = ERRORS["warm"].median - 1
# The names of kinds, by which a task is predicted that nobody has built.
GUESSES = {kind.name for kind in KINDS}
# What is tried: half as much memory again, and half as many CPUs.
MORE = 1.5


# The lives of the compilers of a task, by recipe and task; none where no single ones were seen.
LivesOf = Callable[[str, str], Sequence[Life]]


def no_lives(recipe: str, task: str) -> Sequence[Life]:
    """Nobody has seen single compilers."""
    return ()


@dataclass(frozen=True)
class Gains:
    """What a little more would have saved, in seconds of the build's time, and how much more that is."""

    limit_bytes: int
    memory_s: float
    cpus: int
    cpus_s: float


@dataclass(frozen=True)
class _Measured:
    """One task by what was measured of it. cpu_s of all its work, shared_s of what jobs share; wait_s besides."""

    run: TaskRun
    cpu_s: float
    shared_s: float
    wait_s: float
    units: tuple[Unit, ...] = ()

    def duration(self, waits: float) -> Duration:
        """How long it takes, where such a share of what it waited for was no other task."""
        return Duration(max(0.01, self.cpu_s - self.shared_s + waits * self.wait_s), self.shared_s, self.cpu_s)

    @property
    def is_known(self) -> bool:
        """Whether it was built before."""
        return self.run.origin == HISTORY_ORIGIN


def gains_of(record: BuildRecord, lives: LivesOf = no_lives) -> Gains | None:
    """What more memory, and more CPUs, would have saved; None where that cannot be said by a simulation."""
    limit, cpus = record.limit_bytes, int(record.start.cpus or 0) if record.start else 0
    runs = [run for run in record.runs if run.number is not None and run.began_s is not None]
    if record.end is None or not limit or not cpus or not 0 < len(runs) <= MOST_TASKS:
        return None
    graph = _graph(runs)
    if graph is None:
        return None
    again = _Again(record, graph, runs, cpus, lives)
    # BitBake parses before its first task; that stays as it is.
    wall_s = max(run.ended_s or record.ended_s for run in runs) - min(run.first_s for run in runs)
    fit = _fit(again, limit, cpus, wall_s)
    if fit is None:
        return None
    more_bytes, more_cpus = _more_memory(limit), max(cpus + 1, int(cpus * MORE))
    with_memory, with_cpus = again.seconds(fit.waits, more_bytes, cpus), again.seconds(fit.waits, limit, more_cpus)
    if with_memory is None or with_cpus is None:
        return None
    memory_s, cpus_s = (fit.slowness * max(0.0, fit.seconds - seconds) for seconds in (with_memory, with_cpus))
    return Gains(more_bytes, memory_s, more_cpus, cpus_s)


def _more_memory(limit_bytes: int) -> int:
    """A limit that one would give instead: half as much again, in halves of a GiB."""
    return -(-int(limit_bytes * MORE) // (GIB // 2)) * (GIB // 2)


def _graph(runs: list[TaskRun]) -> Graph | None:
    """What waited for what; None where the log does not say, or not in a way that can be."""
    places = {run.number: place for place, run in enumerate(runs)}
    if not any(run.after for run in runs):
        return None
    if any(number not in places or number >= (run.number or 0) for run in runs for number in run.after):
        return None  # lines of the log are missing
    depends = tuple(tuple(places[number] for number in run.after) for run in runs)
    graph = Graph(tuple((run.recipe, run.task) for run in runs), depends)
    try:
        graph.topological  # noqa: B018 - it is worked out once, and fails here
    except GraphError:
        return None
    return graph


class _Again:
    """The build as it can be simulated."""

    def __init__(self, record: BuildRecord, graph: Graph, runs: list[TaskRun], cpus: int, lives: LivesOf) -> None:
        self._record, self._graph, self._runs = record, graph, runs
        self._tasks = [_measure(run, record.ended_s, cpus, lives(run.recipe, run.task)) for run in runs]
        self.has_compilers = any(task.units for task in self._tasks)
        self._footprints = [_footprint(task, cpus) for task in self._tasks]
        # The log does not name BB_NUMBER_THREADS, which is the number of CPUs unless a configuration says otherwise.
        self._jobs = max((run.wanted_jobs or 1 for run in runs), default=1)
        self._threads = max(cpus, most_at_once(runs, record.ended_s))
        self._cpus = cpus

    def seconds(self, waits: float, limit_bytes: int, cpus: int) -> float | None:
        """How long it takes in another container, None where it does not end well there."""
        durations = [task.duration(waits) for task in self._tasks]
        dice = random.Random(0)
        most = compilers_each(sum(bool(task.units) for task in self._tasks))
        profiles = [
            draw_task(duration, footprint, task.units, footprint.base_bytes, dice, most)
            if self.has_compilers
            else draw_profile(duration, footprint, dice)
            for task, duration, footprint in zip(self._tasks, durations, self._footprints)
        ]
        extra = cpus - self._cpus
        reserve = self._record.reserve_bytes if limit_bytes == self._record.limit_bytes else None
        idle_bytes = (self._record.start.used_bytes or 0) if self._record.start else 0
        place = place_of(limit_bytes, cpus, self._threads + extra, self._jobs + extra, idle_bytes, reserve)
        engine = Engine(self._graph, profiles, place.container)
        order = self._graph.stock_order()
        tasks = [
            Task(str(number), "", run.recipe, run.task, self._predicted(number), place.container.jobs, duration)
            for number, (run, duration) in enumerate(zip(self._runs, durations))
        ]
        try:
            if self._record.mode != Mode.ENFORCE.value:
                outcome = engine.run(Stock(engine, order))
            else:
                known = {number for number, task in enumerate(self._tasks) if task.is_known}
                outcome = run_known(engine, order, tasks, place, known)
        except Stuck:
            return None
        return outcome.makespan_s if outcome.finished else None

    def _predicted(self, number: int) -> Footprint:
        """What it was thought to take: as far off as it was in the build."""
        run, footprint = self._runs[number], self._footprints[number]
        if not run.granted_bytes or not run.peak_bytes:
            return footprint
        predicted = scale_footprint(footprint, run.granted_bytes / run.peak_bytes)
        if not self.has_compilers:
            return predicted
        is_known, is_guess = self._tasks[number].is_known, run.origin in GUESSES
        return replace(predicted, origin=run.origin, margin=MARGIN if is_known else 0.0, is_guess=is_guess)


@dataclass(frozen=True)
class _Fit:
    """What makes a simulation take what the build took.

    waits:    the share of what tasks waited for that was no other task; seconds: what it takes with that.
    slowness: how many times as long everything took.
    """

    waits: float
    seconds: float
    slowness: float = 1.0


def _fit(again: _Again, limit_bytes: int, cpus: int, wall_s: float) -> _Fit | None:
    """What fits best, None where nothing does."""
    low, high = 0.0, 1.0
    best, best_s = None, CLOSE_SHARE * wall_s
    # First as it was measured, then without all waits, then in between.
    waits = high
    for number in range(_FITS + 2):
        seconds = again.seconds(waits, limit_bytes, cpus)
        if seconds is None:
            break
        if again.has_compilers and number == 0 and seconds < wall_s <= SLOWER * seconds:
            return _Fit(waits, seconds, wall_s / seconds)
        missed_s = abs(seconds - wall_s)
        if missed_s <= best_s:
            best, best_s = _Fit(waits, seconds), missed_s
        if missed_s <= VERY_CLOSE_SHARE * wall_s:
            break
        if number > 1:
            low, high = (waits, high) if seconds < wall_s else (low, waits)
        waits = 0.0 if number == 0 else (low + high) / 2
    return best


def _measure(run: TaskRun, last_s: float, cpus: int, lives: Sequence[Life]) -> _Measured:
    """What is known of a run. What it was stopped for is no part of what it takes, but some of its jobs went on."""
    jobs = max(1, min(run.jobs or 1, cpus))
    length_s = run.length_s(last_s)
    wall_s = max(0.01, length_s - run.stopped_s, min(length_s, (run.cpu_s or 0.0) / jobs))
    cpu_s = min(run.cpu_s or 0.0, wall_s * cpus)
    if lives:
        # They share CPUs in the simulation, too.
        return _Measured(run, cpu_s, 0.0, 0.0, units_of(lives, cpu_s))
    learned = learn_duration(PastRun(jobs, wall_s, cpu_s))
    if not learned.parallel_s:
        return _Measured(run, cpu_s, 0.0, max(0.0, wall_s - cpu_s))
    # What a crowd of tasks made it wait for looks like work that jobs cannot share.
    return _Measured(run, cpu_s, learned.parallel_s, 0.0)


def _footprint(task: _Measured, cpus: int) -> Footprint:
    """What it takes with any number of jobs, by its peak."""
    peak_bytes, jobs = task.run.peak_bytes or 0, max(1, min(task.run.jobs or 1, cpus))
    if task.units:
        largest_bytes = max(unit.life.peak_bytes for unit in task.units)
        base_bytes = min(MAKE_BYTES, peak_bytes - largest_bytes) if peak_bytes > largest_bytes else MAKE_BYTES
        job_bytes = max(peak_bytes - base_bytes, largest_bytes) // jobs
        return Footprint(base_bytes, job_bytes, base_bytes + largest_bytes, "measured")
    if not task.shared_s:
        return Footprint(peak_bytes, 0, peak_bytes, "measured")
    base_bytes = int(_BASE_SHARE * peak_bytes)
    job_bytes = (peak_bytes - base_bytes) // jobs
    return Footprint(base_bytes, job_bytes, base_bytes + job_bytes, "measured")
