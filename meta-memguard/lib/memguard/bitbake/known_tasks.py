# SPDX-License-Identifier: MIT
"""BitBake adapter: what is known of the tasks of one run queue.

Runs in: the BitBake server; imports bb.
Covers: footprint, jobs and duration of each task; the order, the longest chain and the time left that follow.
Does not cover: what is ready, and what starts (scheduler.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Any, Callable

from bb.runqueue import split_tid_mcfn

from memguard.act.job_variables import variables_of
from memguard.bitbake.classes import classes_in
from memguard.bitbake.job_counts import own_values
from memguard.bitbake.session import Session
from memguard.decide.chain import Chain
from memguard.decide.order import order_of_starts, remaining_paths
from memguard.decide.remaining import Remaining
from memguard.model import Duration, PastRun, Task
from memguard.predict.durations import by_kind, learn_duration
from memguard.predict.footprints import Predictor, read_table
from memguard.predict.kinds import by_kind as kind_of
from memguard.server.guard import Guard


class KnownTasks:
    """What is known of the tasks of a run queue: their footprints, their jobs, and how long they take."""

    def __init__(self, runqueue: Any, rqdata: Any, session: Session, guard: Guard) -> None:
        self._rqdata = rqdata
        self._predictor = Predictor(read_table(), guard.policy.overrides, session.samples_of)
        self._own_values = own_values(runqueue.cooker.databuilder.mcdata)
        self._cpus = int(guard.ledger.reading.cpus)
        self._classes: dict[str, frozenset[str]] = {}
        self._durations: dict[tuple[str, str], Duration] = {}
        self._remaining: Remaining[str] | None = None
        if not guard.ledger.is_observing:
            self._take_past(session.fastest_runs())

    def _take_past(self, runs: Mapping[tuple[str, str], PastRun]) -> None:
        """What earlier builds, here or elsewhere, say of how long tasks take, and of what those of a kind take."""
        self._durations = {task: learn_duration(run) for task, run in runs.items()}
        if not runs:
            return
        # Those of this run queue are judged again: the classes of a recipe may have changed.
        for (recipe, name), past in runs.items():
            if past.kind and past.peak_bytes and past.jobs:
                self._predictor.take_remembered(recipe, name, past.kind, past.jobs, past.peak_bytes)
        setscene = (f"{tid}_setscene" for tid in self._rqdata.runq_setscene_tids)
        for tid in (*self._rqdata.runtaskentries, *setscene):
            run = runs.get(self._name(tid))
            if run is not None and run.peak_bytes and run.jobs:
                self.take(tid, run.jobs, run.peak_bytes)

    def task(self, tid: str) -> Task:
        """The task behind a tid."""
        mc, _, name, taskfn = split_tid_mcfn(tid)
        cache = self._rqdata.dataCaches[mc]
        recipe = cache.pkg_fn[taskfn]
        version = cache.pkg_pepvpr[taskfn][1] or ""
        footprint = self._predictor.predict(recipe, name, self._classes_of(mc, taskfn), version)
        jobs, duration = self._wanted_jobs(mc, recipe, name), self._durations.get((recipe, name))
        return Task(tid, mc, recipe, name, footprint, jobs, duration)

    def any_setscene(self) -> Task:
        """A setscene task of which nothing is known but what others have taken."""
        return Task("", "", "", "do_setscene", self._predictor.guess("do_any_setscene"), 1)

    def _classes_of(self, mc: str, taskfn: str) -> frozenset[str]:
        """The classes that a recipe inherits."""
        classes = self._classes.get(taskfn)
        if classes is None:
            classes = self._classes[taskfn] = classes_in(self._rqdata.dataCaches[mc].inherits.get(taskfn))
        return classes

    def take(self, tid: str, jobs: int, peak_bytes: int, has_ended: bool = True) -> str:
        """What a task took with so many jobs; the kind of which something else is expected now, "" for none."""
        mc, _, name, taskfn = split_tid_mcfn(tid)
        recipe = self._rqdata.dataCaches[mc].pkg_fn[taskfn]
        return self._predictor.take(recipe, name, self._classes_of(mc, taskfn), jobs, peak_bytes, has_ended)

    def order(self, order: list[str], task: Callable[[str], Task], budget_bytes: int, threads: int) -> list[str]:
        """In which order tasks start, by what they took in earlier builds, or else by what their kind takes.

        order: BitBake's own; the others as of order_of_starts().
        """
        is_first = not self.has_past
        return order_of_starts(order, self.depends, self._seconds, task, budget_bytes, threads, is_first)

    @property
    def has_past(self) -> bool:
        """Whether earlier builds tell how long tasks take; in a first one the longest chain is a guess."""
        return bool(self._durations)

    def chain(self) -> Chain[str]:
        """What the end of the build waits for."""
        return Chain(self._paths, self._seconds)

    def left_s(self, tids: Iterable[str], guard: Guard) -> float | None:
        """How long it takes until these tasks have ended; None where earlier builds know too little of them."""
        if not self._durations:
            return None
        if self._remaining is None:
            names = {tid: self._name(tid) for tid in self._seconds}
            known = {tid: self._durations[name] for tid, name in names.items() if name in self._durations}
            self._remaining = Remaining(self._paths, self._seconds, known)
        return self._remaining.left_s(tids, guard.ledger.reading.cpus)

    def _name(self, tid: str) -> tuple[str, str]:
        """Recipe and task."""
        mc, _, name, taskfn = split_tid_mcfn(tid)
        return self._rqdata.dataCaches[mc].pkg_fn[taskfn], name

    def depends(self, tid: str) -> Collection[str]:
        """What a task needs."""
        depends: Collection[str] = self._rqdata.runtaskentries[tid].depends
        return depends

    @cached_property
    def _seconds(self) -> dict[str, float]:
        """How long each task of the run queue takes, worked out once."""
        return {tid: self._seconds_of(tid) for tid in self._rqdata.runtaskentries}

    @cached_property
    def _paths(self) -> dict[str, float]:
        """The longest chain of work from each task's start, worked out once."""
        return remaining_paths(list(self._seconds), self.depends, self._seconds)

    def _seconds_of(self, tid: str) -> float:
        """How long a task takes with the jobs it wants and has CPUs for; of an unknown one, how long its kind does."""
        mc, _, name, taskfn = split_tid_mcfn(tid)
        cache = self._rqdata.dataCaches[mc]
        if name in cache.task_deps[taskfn].get("noexec", ()):
            return 0.0
        recipe = cache.pkg_fn[taskfn]
        duration = self._durations.get((recipe, name))
        if duration is None:
            job_bytes = kind_of(name, self._classes_of(mc, taskfn)).per_job_bytes
            duration = by_kind(name, job_bytes)
        if not duration.parallel_s:
            return duration.serial_s
        return duration.seconds(max(1, min(self._wanted_jobs(mc, recipe, name), self._cpus)))

    def _wanted_jobs(self, mc: str, recipe: str, name: str) -> int:
        """The jobs the configuration gives the task; the recipe's own smaller value is not visible here."""
        values = self._own_values[mc]
        for variable in variables_of(name):
            value = values.get(f"{variable}:pn-{recipe}", values.get(variable))
            if value is not None:
                return value
        return 1
