# SPDX-License-Identifier: MIT
"""BitBake adapter: schedulers that hold what does not fit, over BitBake's speed and completion orders.

Runs in: the BitBake server; named in BB_SCHEDULERS; imports bb.
Covers: what is ready by BitBake's rules (sstate, number_threads, pressure, stamps), in BitBake's order until earlier
builds tell how long tasks take; what is known of each task. Tests compare each choice with the base class's.
Does not cover: the choice among what is ready (decide/choose), whether a task has its memory (server/guard).

Liveness law: when no task and no setscene task is active, something is returned, or BitBake fails the build.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Collection, Container, Iterable, Mapping
from typing import Any, Callable

from bb.runqueue import RunQueueScheduler, RunQueueSchedulerCompletion, RunQueueSchedulerSpeed, split_tid_mcfn

from memguard.act.job_variables import jobs_in, variables_of
from memguard.bitbake import session as sessions
from memguard.bitbake.session import Session
from memguard.decide.choose import choose_next
from memguard.decide.order import order_of_starts
from memguard.model import BuildUse, Duration, PastRun, Task
from memguard.predict.durations import by_kind, learn_duration
from memguard.predict.footprints import Predictor, read_table
from memguard.predict.footprints import by_kind as kind_of
from memguard.server.guard import Guard


class _Guarded(RunQueueScheduler):
    """What both schedulers share: BitBake's order and rules, and the Guard's word on each task."""

    orders_by_duration: bool

    def __init__(self, runqueue: Any, rqdata: Any) -> None:
        super().__init__(runqueue, rqdata)
        self._guard: Guard | None = None
        self._number_tasks: int | None = None
        self._tasks: dict[str, Task] = {}
        self._learned_in: BuildUse | None = None
        self._ready = _Ready(self, self._task)
        if runqueue.cooker.configuration.dry_run:
            return
        try:
            session = sessions.lend(self._tasks, runqueue.cfgData)
            if session is not None and session.guard is not None:
                self._guard = session.guard
                self._known = _Known(runqueue, rqdata, session, session.guard)
                ledger = self._guard.ledger
                if self.orders_by_duration and not ledger.is_observing:
                    order = self._known.order(self.prio_map, self._task, ledger.budget_bytes, self.rq.number_tasks)
                    self._ready.take_order(order)
        except Exception:
            self._step_aside()

    def newbuildable(self, task: str) -> None:
        """BitBake says, often more than once, that `task` is ready."""
        self._ready.add(task)

    def removebuildable(self, task: str) -> None:
        """BitBake takes back that `task` is ready."""
        self._ready.remove(task)

    def next(self) -> str | None:
        """The tid of the task to start now, None to wait; BitBake asks its setscene tasks' limit right before."""
        self._restore_number_tasks()
        tid: str | None = super().next()
        if self._guard is not None:
            try:
                self._hold_back_setscene(self._guard, tid)
            except Exception:
                self._step_aside()
        return tid

    def next_buildable_task(self) -> str | None:
        """The tid of the task to start now, None to wait."""
        if self._guard is None:
            return self._ready.first()
        try:
            return self._guarded_choice(self._guard)
        except Exception:
            self._step_aside()
            return self._ready.first()

    def _guarded_choice(self, guard: Guard) -> str | None:
        is_idle = self._settle(guard)
        if not guard.ledger.is_observing:
            return choose_next(self._ready, guard, is_idle)
        tid = self._ready.first()
        if tid is not None and not self._ready.is_weightless(tid):
            task = self._task(tid)
            guard.note_only(task, guard.ledger.judge(task, is_idle))
        return tid

    def _settle(self, guard: Guard) -> bool:
        """Tell the guard which tasks have ended; whether none runs."""
        rq = self.rq
        is_idle = not rq.stats.active and not rq.sq_live
        complete, failed = rq.runq_complete, rq.failed_tids
        ended = [tid for tid in guard.ledger.running if tid in complete or tid in failed]
        self._learn(guard, [tid for tid in ended if tid in complete])
        guard.ledger.left = len(rq.rqdata.runtaskentries) - len(complete) - rq.stats.active
        guard.settle(ended, is_idle)
        return is_idle

    def _learn(self, guard: Guard, ended: Collection[str]) -> None:
        """What tasks took says something of others of their kind, those included that are held.

        So does what running ones have taken so far, where that is more than was expected.
        """
        if not ended and self._learned_in is guard.ledger.use:
            return
        self._learned_in = guard.ledger.use
        seen = {
            tid: use for tid, use in self._learned_in.tasks.items() if tid in guard.ledger.running and use.peak_bytes
        }
        kinds = {
            self._known.take(tid, max(1, use.most_compilers), use.peak_bytes, tid in ended) for tid, use in seen.items()
        }
        kinds.discard("")
        if not kinds:
            return
        begun = self.rq.runq_running
        guessed = [(tid, task.footprint) for tid, task in self._tasks.items() if tid not in begun]
        for tid in [tid for tid, footprint in guessed if footprint.is_guess and footprint.origin in kinds]:
            del self._tasks[tid]
            if tid in guard.held:
                guard.ledger.revise(self._task(tid))

    def _hold_back_setscene(self, guard: Guard, tid: str | None) -> None:
        """Let no setscene task start before the next choice while memory is short, as long as something runs.

        tid: the task that starts now, None for none.
        """
        if guard.ledger.must_wait:
            self._settle(guard)
        if guard.ledger.must_wait:
            rq = self.rq
            self._number_tasks = rq.number_tasks
            active = rq.stats.active + len(rq.sq_live) + (tid is not None)
            rq.number_tasks = max(1, min(self._number_tasks, active))

    def _restore_number_tasks(self) -> None:
        if self._number_tasks is not None:
            self.rq.number_tasks, self._number_tasks = self._number_tasks, None

    def _task(self, tid: str) -> Task:
        """The task behind a tid, worked out once."""
        task = self._tasks.get(tid)
        if task is None:
            task = self._tasks[tid] = self._known.task(tid)
        return task

    def _step_aside(self) -> None:
        self._guard = None
        self._restore_number_tasks()
        sessions.current().step_aside(self.rq.cfgData)


class _Ready:
    """What is ready, by BitBake's rules and in its order or another; a Queue of choose_next()."""

    def __init__(self, scheduler: RunQueueScheduler, task: Callable[[str], Task]) -> None:
        self.task = task
        self._scheduler = scheduler
        self._rq = scheduler.rq
        self._buildable = scheduler.buildable
        self._stamps = scheduler.stamps
        self._caches = scheduler.rqdata.dataCaches
        self._thread_limits: dict[str, int | None] = {}
        self.take_order(scheduler.prio_map)

    def take_order(self, order: list[str]) -> None:
        """Let tasks start in this order; nothing is lost of what is buildable."""
        self._order = self._scheduler.prio_map = order
        # BitBake makes this map at its first choice, by searching the list once for every task.
        self._places = self._scheduler.rev_prio_map = {tid: place for place, tid in enumerate(order)}
        self._waiting = sorted(self._places[tid] for tid in self._buildable)

    def add(self, tid: str) -> None:
        """A task has all it needs, as may have been said before."""
        if tid not in self._buildable and tid not in self._rq.runq_running:
            self._buildable.add(tid)
            bisect.insort(self._waiting, self._places[tid])

    def remove(self, tid: str) -> None:
        """A task has not all it needs after all."""
        self._buildable.remove(tid)
        self._waiting.remove(self._places[tid])

    def first(self, hidden: Container[str] = ()) -> str | None:
        """BitBake's choice among the tasks that are not hidden: the first in its order that its rules let start.

        The same choice as the base class makes; it goes through sets of all tasks each time, this through the few
        that are ready, in their order.
        """
        running, order = self._rq.runq_running, self._order
        chosen, gone = None, []
        for place in self._waiting:
            tid = order[place]
            if tid in running:
                gone.append(place)
            elif tid not in hidden and self.is_ready(tid):
                chosen = tid
                break
        for place in gone:
            self._buildable.discard(order[place])
            del self._waiting[bisect.bisect_left(self._waiting, place)]
        if chosen is not None and self._rq.stats.active and self._scheduler.exceeds_max_pressure():
            return None
        return chosen

    def ahead(self, count: int) -> list[str]:
        """The next `count` in order, ready or not."""
        return [self._order[place] for place in self._waiting[:count]]

    def is_ready(self, tid: str) -> bool:
        """Whether BitBake's rules let a buildable task start: sstate has decided, a thread is free, no twin runs."""
        rq = self._rq
        if tid in rq.holdoff_tasks or not (tid in rq.tasks_notcovered or tid in rq.tasks_covered):
            return False
        if tid in rq.runq_running or not self._has_thread(tid.rpartition(":")[2]):
            return False
        return self._stamps[tid] not in rq.build_stamps.values()

    def _has_thread(self, name: str) -> bool:
        """Whether the task's number_threads flag lets one more of its kind run, always the first.

        build_stamps are the active tasks.
        """
        if name not in self._thread_limits:
            flag = self._rq.cfgData.getVarFlag(name, "number_threads")
            self._thread_limits[name] = int(flag) if flag else None
        limit = self._thread_limits[name]
        if limit is None:
            return True
        rq = self._rq
        active = [tid for tid in rq.build_stamps if tid in rq.runq_running and tid.rpartition(":")[2] == name]
        return len(active) < max(1, limit)

    def is_weightless(self, tid: str) -> bool:
        """Whether BitBake will pass over the task without running anything: covered, noexec, or up to date."""
        rq = self._rq
        if tid in rq.tasks_covered:
            return True
        mc, _, name, taskfn = split_tid_mcfn(tid)
        if name in self._caches[mc].task_deps[taskfn].get("noexec", ()):
            return True
        return bool(rq.rq.check_stamp_task(tid, name, cache=rq.stampcache))

    def taken_back(self, held: Iterable[str]) -> list[str]:
        """The held tasks that BitBake took back, or has found covered from sstate."""
        buildable, covered = self._buildable, self._rq.tasks_covered
        return [tid for tid in held if tid not in buildable or tid in covered]


class _Known:
    """What is known of the tasks of a run queue: their footprints, their jobs, and how long they take."""

    def __init__(self, runqueue: Any, rqdata: Any, session: Session, guard: Guard) -> None:
        self._rqdata = rqdata
        self._predictor = Predictor(read_table(), guard.policy.overrides, session.samples_of)
        self._own_values = _own_values(runqueue.cooker.databuilder.mcdata)
        self._cpus = int(guard.ledger.reading.cpus)
        self._classes: dict[str, frozenset[str]] = {}
        self._durations: dict[tuple[str, str], Duration] = {}
        if not guard.ledger.is_observing:
            self._take_past(session.last_runs())

    def _take_past(self, runs: Mapping[tuple[str, str], PastRun]) -> None:
        """What earlier builds say of how long tasks take, and of what those of a kind take."""
        self._durations = {task: learn_duration(run) for task, run in runs.items()}
        if not runs:
            return
        for tid in self._rqdata.runtaskentries:
            mc, _, name, taskfn = split_tid_mcfn(tid)
            run = runs.get((self._rqdata.dataCaches[mc].pkg_fn[taskfn], name))
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

    def _classes_of(self, mc: str, taskfn: str) -> frozenset[str]:
        """The classes that a recipe inherits."""
        classes = self._classes.get(taskfn)
        if classes is None:
            inherited = self._rqdata.dataCaches[mc].inherits.get(taskfn) or ()
            classes = frozenset(path.rpartition("/")[2].partition(".")[0] for path in inherited)
            self._classes[taskfn] = classes
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
        entries = self._rqdata.runtaskentries
        seconds = {tid: self._seconds(tid) for tid in entries}
        is_first = not self._durations
        return order_of_starts(order, lambda tid: entries[tid].depends, seconds, task, budget_bytes, threads, is_first)

    def _seconds(self, tid: str) -> float:
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


def _own_values(mcdata: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Job counts by multiconfig and variable, as the configuration sets them for all recipes and for single ones."""
    variables = ("PARALLEL_MAKE", "PARALLEL_MAKEINST", "BB_NUMBER_THREADS")
    cpus = len(os.sched_getaffinity(0))
    found: dict[str, dict[str, int]] = {}
    for mc, d in mcdata.items():
        names = [name for name in d if name.partition(":pn-")[0] in variables]
        values = {name: d.getVar(name) for name in names}
        found[mc] = {
            name: jobs_in(value) or (cpus if value.strip() else 1)
            for name, value in values.items()
            if value is not None
        }
    return found


class MemguardScheduler(_Guarded, RunQueueSchedulerSpeed):
    """The longest remaining path first, BitBake's speed order while nothing is known; what does not fit is held."""

    name = sessions.SPEED
    orders_by_duration = True


class MemguardCompletionScheduler(_Guarded, RunQueueSchedulerCompletion):
    """BitBake's completion order, which rm_work asks for; tasks that do not fit are held."""

    name = sessions.COMPLETION
    orders_by_duration = False
