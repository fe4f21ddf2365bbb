# SPDX-License-Identifier: MIT
"""BitBake adapter: schedulers that hold what does not fit, over BitBake's speed and completion orders.

Runs in: the BitBake server; named in BB_SCHEDULERS; imports bb.
Covers: what is ready by BitBake's rules (sstate, number_threads, pressure, stamps), in BitBake's order until earlier
builds tell how long tasks take. Tests compare each choice with the base class's.
Does not cover: setscene tasks, which no scheduler is asked about (setscene.py); the choice among what is ready
(decide/choose), what is known of each task (known_tasks.py), whether a task has its memory (server/guard).

Liveness law: when no task and no setscene task is active, something is returned, or BitBake fails the build.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Collection, Container, Iterable
from typing import Any, Callable

from bb.runqueue import RunQueueScheduler, RunQueueSchedulerCompletion, RunQueueSchedulerSpeed, split_tid_mcfn

from memguard.bitbake import session as sessions
from memguard.bitbake.known_tasks import KnownTasks
from memguard.bitbake.setscene import SetsceneLimit
from memguard.decide.choose import choose_next
from memguard.model import BuildUse, Task
from memguard.server.guard import Guard


class _Guarded(RunQueueScheduler):
    """What both schedulers share: BitBake's order and rules, and the Guard's word on each task."""

    orders_by_duration: bool

    def __init__(self, runqueue: Any, rqdata: Any) -> None:
        super().__init__(runqueue, rqdata)
        self._guard: Guard | None = None
        self._setscene: SetsceneLimit | None = None
        self._tasks: dict[str, Task] = {}
        self._learned_in: BuildUse | None = None
        # None after a fault: then BitBake chooses.
        self._ready: _Ready | None = None
        try:
            self._ready = _Ready(self, self._task)
            if runqueue.cooker.configuration.dry_run:
                return
            session = sessions.lend(self._tasks, runqueue.cfgData)
            if session is not None and session.guard is not None:
                self._guard = session.guard
                self._known = KnownTasks(runqueue, rqdata, session, session.guard)
                self._guard.needs.depends = self._known.depends
                ledger, threads = self._guard.ledger, self.rq.number_tasks
                if self.orders_by_duration and not ledger.is_observing:
                    order = self._known.order(self.prio_map, self._task, ledger.budget_bytes, threads)
                    self._ready.take_order(order)
                    if self._guard.policy.gives_way and self._known.has_past:
                        self._guard.chain = self._known.chain()
                # With --setscene-only nobody asks the scheduler, which would give the number of threads back.
                if not runqueue.cooker.configuration.setsceneonly:
                    self._setscene = SetsceneLimit(runqueue, self._known, ledger)
        except Exception:
            self._step_aside()

    def newbuildable(self, task: str) -> None:
        """BitBake says, often more than once, that `task` is ready."""
        try:
            if self._ready is not None:
                self._ready.add(task)
        except Exception:
            self._step_aside()
        if self._ready is None:
            super().newbuildable(task)

    def removebuildable(self, task: str) -> None:
        """BitBake takes back that `task` is ready."""
        try:
            if self._ready is not None:
                self._ready.remove(task)
        except Exception:
            self._step_aside()
        self.buildable.discard(task)

    def next(self) -> str | None:
        """The tid of the task to start now, None to wait; BitBake asks its setscene tasks' limit right before."""
        if self._setscene is not None:
            self._setscene.lift()
        tid = super().next()
        try:
            if self._guard is not None and self._setscene is not None and not self.rq.sqdone:
                if tid is None:  # else the choice has done so
                    self._settle(self._guard)
                # BitBake passes over what runs nothing, and asks again.
                self._setscene.lower(starting=tid is not None and not self._is_weightless(tid))
        except Exception:
            self._step_aside()
        return tid

    def next_buildable_task(self) -> str | None:
        """The tid of the task to start now, None to wait."""
        try:
            if self._ready is not None:
                return self._ready.first() if self._guard is None else self._guarded_choice(self._ready, self._guard)
        except Exception:
            self._step_aside()
        return super().next_buildable_task()

    def _guarded_choice(self, ready: _Ready, guard: Guard) -> str | None:
        is_idle = self._settle(guard)
        if not guard.ledger.is_observing:
            return choose_next(ready, guard, is_idle)
        tid = ready.first()
        if tid is not None and not ready.is_weightless(tid):
            task = self._task(tid)
            guard.note_only(task, guard.ledger.judge(task, is_idle))
        return tid

    def _settle(self, guard: Guard) -> bool:
        """Tell the guard which tasks have ended; whether none runs."""
        rq = self.rq
        is_idle = not rq.stats.active and not rq.sq_live
        complete, failed = rq.runq_complete, rq.failed_tids
        ended = [tid for tid in guard.ledger.running if tid in complete or tid in failed]
        done = [tid for tid in ended if tid in complete]
        if self._setscene is not None:
            gone = self._setscene.count()
            ended, done = ended + gone, done + gone
        self._learn(guard, done)
        guard.ledger.left = len(rq.rqdata.runtaskentries) - len(complete) - rq.stats.active
        guard.settle(ended, is_idle)
        tasks = len(rq.rqdata.runtaskentries)
        guard.news.tell_progress(time.monotonic(), len(complete), tasks, lambda: self._left_s(guard))
        return is_idle

    def _left_s(self, guard: Guard) -> float | None:
        """How long the build will go on, by earlier builds; what is covered by sstate is not run."""
        gone = self.rq.runq_complete | self.rq.tasks_covered
        return self._known.left_s([tid for tid in self.rq.rqdata.runtaskentries if tid not in gone], guard)

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

    def _is_weightless(self, tid: str) -> bool:
        return self._ready is not None and self._ready.is_weightless(tid)

    def _task(self, tid: str) -> Task:
        """The task behind a tid, worked out once."""
        task = self._tasks.get(tid)
        if task is None:
            task = self._tasks[tid] = self._known.task(tid)
        return task

    def _step_aside(self) -> None:
        if self._setscene is not None:
            self._setscene.lift()
        self._guard = self._ready = self._setscene = None
        sessions.step_aside(self.rq.cfgData)


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


class MemguardScheduler(_Guarded, RunQueueSchedulerSpeed):
    """The longest remaining path first, BitBake's speed order while nothing is known; what does not fit is held."""

    name = sessions.SPEED
    orders_by_duration = True


class MemguardCompletionScheduler(_Guarded, RunQueueSchedulerCompletion):
    """BitBake's completion order, which rm_work asks for; tasks that do not fit are held."""

    name = sessions.COMPLETION
    orders_by_duration = False
