# SPDX-License-Identifier: MIT
"""BitBake adapter: schedulers that hold what does not fit, over BitBake's speed and completion orders.

Runs in: the BitBake server; named in BB_SCHEDULERS; imports bb.
Covers: which task starts next. Rules are BitBake's (sstate, number_threads, pressure, stamps); so is the order, until
earlier builds tell how long tasks take. Tests compare each choice with the base class's. What is held is passed over.
Liveness law: when no task and no setscene task is active, something is returned, or BitBake fails the build.
"""

from __future__ import annotations

import bisect
import os
from collections.abc import Container, Mapping
from typing import Any

from bb.runqueue import RunQueueSchedulerCompletion, RunQueueSchedulerSpeed, split_tid_mcfn

from memguard.act.job_variables import jobs_in, variables_of
from memguard.bitbake import handlers
from memguard.decide.order import by_remaining_path, remaining_paths
from memguard.model import Duration, Task
from memguard.predict.durations import by_kind
from memguard.predict.footprints import Predictor, read_table
from memguard.server.guard import Guard

# So many new holds in one call are enough, the next call comes within a second.
HOLDS_PER_CALL = 16
# While all CPUs are busy, one of the first so many may start that keeps no more of a CPU busy than this: a download.
CROWD_LOOK = 64
QUIET_CPUS = 0.25


class _Guarded:
    """What both schedulers share: BitBake's order and rules, and the Guard's word on each task."""

    rq: Any
    rqdata: Any
    prio_map: list[str]
    buildable: set[str]
    stamps: dict[str, str]
    orders_by_duration: bool

    def __init__(self, runqueue: Any, rqdata: Any) -> None:
        super().__init__(runqueue, rqdata)  # type: ignore[call-arg]
        self._guard: Guard | None = None
        self._number_tasks: int | None = None
        self._tasks: dict[str, Task] = {}
        self._classes: dict[str, frozenset[str]] = {}
        self._thread_limits: dict[str, int | None] = {}
        self._durations: dict[tuple[str, str], Duration] = {}
        self._take_order(self.prio_map)
        if runqueue.cooker.configuration.dry_run:
            return
        try:
            self._guard = handlers.guard_for(runqueue.cfgData, self._tasks)
            if self._guard is not None:
                self._predictor = Predictor(read_table(), self._guard.policy.overrides, handlers.samples_of)
                self._own_values = _own_values(runqueue.cooker.databuilder.mcdata)
                if not self._guard.is_observing:
                    self._durations = handlers.durations()
                if self._durations and self.orders_by_duration:
                    self._take_order(self._by_remaining_path())
        except Exception:
            self._step_aside()

    def _take_order(self, order: list[str]) -> None:
        """Let tasks start in this order; nothing is lost of what is buildable."""
        self.prio_map = order
        # BitBake makes this map at its first choice, by searching the list once for every task.
        self.rev_prio_map = {tid: place for place, tid in enumerate(order)}
        self._waiting = sorted(self.rev_prio_map[tid] for tid in self.buildable)

    def _by_remaining_path(self) -> list[str]:
        """BitBake's order, but first that for which the longest chain waits, by what tasks took in earlier builds."""
        entries = self.rqdata.runtaskentries
        seconds = {tid: self._seconds(tid) for tid in entries}
        paths = remaining_paths(list(entries), lambda tid: entries[tid].depends, seconds)
        return by_remaining_path(self.prio_map, paths)

    def _seconds(self, tid: str) -> float:
        """How long a task takes with the jobs it wants and has CPUs for; of an unknown one, how long its kind does."""
        mc, _, name, taskfn = split_tid_mcfn(tid)
        cache = self.rqdata.dataCaches[mc]
        if name in cache.task_deps[taskfn].get("noexec", ()):
            return 0.0
        recipe = cache.pkg_fn[taskfn]
        duration = self._durations.get((recipe, name)) or by_kind(name)
        if not duration.parallel_s:
            return duration.serial_s
        cpus = self._guard.reading.cpus if self._guard is not None else 1.0
        return duration.seconds(max(1, min(self._wanted_jobs(mc, recipe, name), int(cpus))))

    def newbuildable(self, task: str) -> None:
        """BitBake says, often more than once, that `task` is ready."""
        if task not in self.buildable and task not in self.rq.runq_running:
            self.buildable.add(task)
            bisect.insort(self._waiting, self.rev_prio_map[task])

    def removebuildable(self, task: str) -> None:
        """BitBake takes back that `task` is ready."""
        self.buildable.remove(task)
        self._waiting.remove(self.rev_prio_map[task])

    def next(self) -> str | None:
        """The tid of the task to start now, None to wait; BitBake asks its setscene tasks' limit right before."""
        if self._guard is not None:
            try:
                self._heed_emergency(self._guard)
            except Exception:
                self._step_aside()
        return super().next()  # type: ignore[misc,no-any-return]

    def _heed_emergency(self, guard: Guard) -> None:
        """Let nothing start while memory is short, setscene tasks included, as long as something runs."""
        rq = self.rq
        if guard.emergency:
            self._settle(guard)
        if guard.emergency:
            if self._number_tasks is None:
                self._number_tasks = rq.number_tasks
            rq.number_tasks = max(1, min(self._number_tasks, rq.stats.active + len(rq.sq_live)))
        else:
            self._restore_number_tasks()

    def _restore_number_tasks(self) -> None:
        if self._number_tasks is not None:
            self.rq.number_tasks, self._number_tasks = self._number_tasks, None

    def _settle(self, guard: Guard) -> bool:
        """Tell the guard which tasks have ended; whether none runs."""
        rq = self.rq
        is_idle = not rq.stats.active and not rq.sq_live
        complete, failed = rq.runq_complete, rq.failed_tids
        guard.settle([tid for tid in guard.running if tid in complete or tid in failed], is_idle)
        return is_idle

    def next_buildable_task(self) -> str | None:
        """The tid of the task to start now, None to wait."""
        if self._guard is None:
            return self._first_ready()
        try:
            return self._guarded_choice(self._guard)
        except Exception:
            self._step_aside()
            return self._first_ready()

    def _guarded_choice(self, guard: Guard) -> str | None:
        rq = self.rq
        is_idle = self._settle(guard)
        if guard.is_observing:
            tid = self._first_ready()
            if tid is not None and not self._is_weightless(tid):
                task = self._task(tid)
                guard.note_only(task, guard.judge(task, is_idle))
            return tid
        if guard.is_crowded and not is_idle:
            tid = self._first_ready(guard.held)
            if tid is None or self._is_weightless(tid):
                return tid
            tid = self._first_quiet(guard.held)
            return tid if tid is not None and self._starts(guard, tid, is_idle) else None
        held = guard.held
        if held:
            for tid in [tid for tid in held if tid not in self.buildable or tid in rq.tasks_covered]:
                guard.forget_hold(tid)
            for task in guard.releasable(is_idle):
                if self._is_ready(task.tid) and self._starts(guard, task.tid, is_idle):
                    return task.tid
        for _ in range(HOLDS_PER_CALL):
            tid = self._first_ready(held)
            if tid is None:
                break
            if self._starts(guard, tid, is_idle):
                return tid
        return None

    def _first_ready(self, hidden: Container[str] = ()) -> str | None:
        """BitBake's choice among the tasks that are not hidden: the first in its order that its rules let start.

        The same choice as the base class makes; it goes through sets of all tasks each time, this through the few
        that are ready, in their order.
        """
        running, prio_map = self.rq.runq_running, self.prio_map
        chosen, gone = None, []
        for place in self._waiting:
            tid = prio_map[place]
            if tid in running:
                gone.append(place)
            elif tid not in hidden and self._is_ready(tid):
                chosen = tid
                break
        for place in gone:
            self.buildable.discard(prio_map[place])
            del self._waiting[bisect.bisect_left(self._waiting, place)]
        if chosen is not None and self.rq.stats.active and self.exceeds_max_pressure():  # type: ignore[attr-defined]
            return None
        return chosen

    def _first_quiet(self, held: Container[str]) -> str | None:
        """The first ready task of those next in order that is known to leave the CPUs alone, as a download does."""
        running = self.rq.runq_running
        for place in self._waiting[:CROWD_LOOK]:
            tid = self.prio_map[place]
            if tid in running or tid in held or not self._is_ready(tid):
                continue
            duration = self._task(tid).duration
            if duration is not None and duration.cpus(1) <= QUIET_CPUS:
                return tid
        return None

    def _is_ready(self, tid: str) -> bool:
        """Whether BitBake's rules let a buildable task start: sstate has decided, a thread is free, no twin runs."""
        rq = self.rq
        if tid in rq.holdoff_tasks or not (tid in rq.tasks_notcovered or tid in rq.tasks_covered):
            return False
        return self._has_thread(tid.rpartition(":")[2]) and self.stamps[tid] not in rq.build_stamps.values()

    def _has_thread(self, name: str) -> bool:
        """Whether the task's number_threads flag lets one more of its kind run, always the first.

        build_stamps are the active tasks.
        """
        if name not in self._thread_limits:
            flag = self.rq.cfgData.getVarFlag(name, "number_threads")
            self._thread_limits[name] = int(flag) if flag else None
        limit = self._thread_limits[name]
        if limit is None:
            return True
        rq = self.rq
        active = [tid for tid in rq.build_stamps if tid in rq.runq_running and tid.rpartition(":")[2] == name]
        return len(active) < max(1, limit)

    def _starts(self, guard: Guard, tid: str, is_idle: bool) -> bool:
        """Whether BitBake's choice may start now; if it may not, it is held from here on."""
        if self._is_weightless(tid):
            return True
        task = self._task(tid)
        verdict = guard.judge(task, is_idle)
        guard.carry_out(task, verdict)
        return verdict.starts

    def _is_weightless(self, tid: str) -> bool:
        """Whether BitBake will pass over the task without running anything: covered, noexec, or up to date."""
        if tid in self.rq.tasks_covered:
            return True
        mc, _, name, taskfn = split_tid_mcfn(tid)
        if name in self.rqdata.dataCaches[mc].task_deps[taskfn].get("noexec", ()):
            return True
        return bool(self.rq.rq.check_stamp_task(tid, name, cache=self.rq.stampcache))

    def _task(self, tid: str) -> Task:
        """The task behind a tid, worked out once."""
        task = self._tasks.get(tid)
        if task is None:
            mc, _, name, taskfn = split_tid_mcfn(tid)
            cache = self.rqdata.dataCaches[mc]
            recipe = cache.pkg_fn[taskfn]
            classes = self._classes.get(taskfn)
            if classes is None:
                inherited = cache.inherits.get(taskfn) or ()
                classes = frozenset(path.rpartition("/")[2].partition(".")[0] for path in inherited)
                self._classes[taskfn] = classes
            footprint = self._predictor.predict(recipe, name, classes, cache.pkg_pepvpr[taskfn][1] or "")
            jobs, duration = self._wanted_jobs(mc, recipe, name), self._durations.get((recipe, name))
            task = Task(tid, mc, recipe, name, footprint, jobs, duration)
            self._tasks[tid] = task
        return task

    def _wanted_jobs(self, mc: str, recipe: str, name: str) -> int:
        """The jobs the configuration gives the task; the recipe's own smaller value is not visible here."""
        values = self._own_values[mc]
        for variable in variables_of(name):
            value = values.get(f"{variable}:pn-{recipe}", values.get(variable))
            if value is not None:
                return value
        return 1

    def _step_aside(self) -> None:
        self._guard = None
        self._restore_number_tasks()
        handlers.step_aside(self.rq.cfgData)


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

    name = handlers.SPEED
    orders_by_duration = True


class MemguardCompletionScheduler(_Guarded, RunQueueSchedulerCompletion):
    """BitBake's completion order, which rm_work asks for; tasks that do not fit are held."""

    name = handlers.COMPLETION
    orders_by_duration = False
