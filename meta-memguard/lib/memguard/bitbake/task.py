# SPDX-License-Identifier: MIT
"""BitBake adapter inside a task: obeys the grant that the server left for it, and announces it to the sentinel.

Runs in: the task's own child process, before its prefuncs and function, and after them; called by memguard.bbclass;
imports bb.
Covers: the grant, as lower numbers of jobs in this one task's variables and environment, and its nice value; the notes
of its start and end. No task signature sees any of it.
Does not cover: its pool of tokens (task_pool.py); running again after a kill (task_again.py); what the sentinel does.
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bb

from memguard import settings
from memguard.act.give_way import give_way
from memguard.act.job_variables import KNOBS, Knob, jobs_in, lower, variables_of
from memguard.act.signals import offer_to_kernel
from memguard.bitbake import task_again
from memguard.bitbake.classes import classes_in
from memguard.bitbake.task_pool import join_pool, leave_pool
from memguard.channels.claim import owner_of
from memguard.channels.fifo import Notes
from memguard.channels.grants import Handover
from memguard.channels.notes import TaskEnd, TaskNote
from memguard.model import Outcome, TaskPolicy
from memguard.predict.kinds import by_kind
from memguard.sense.proc_files import MARK, descends_from, find_process, parse_mark
from memguard.units import counted

if TYPE_CHECKING:
    from bb.data_smart import DataSmart

# The task of this process: what it may do, read at its start; its note, with the time, once the sentinel has it.
_policy: TaskPolicy | None = None
_began: tuple[TaskNote, float] | None = None


def handle(event: Any, d: DataSmart) -> None:
    """What memguard.bbclass does at the start and end of a task. What fails here costs a warning, never the task."""
    global _policy
    try:
        if isinstance(event, bb.build.TaskStarted):
            _policy = settings.read_task(d.getVar, event.task, is_scheduled=_is_scheduled(d))
            if _policy is not None and _is_guest(_policy):
                _policy = None
            if _policy is not None:
                _start(event, _policy, d)
        elif _policy is not None:
            try:
                _end(_policy, Outcome.OK if isinstance(event, bb.build.TaskSucceeded) else Outcome.FAILED)
            finally:
                leave_pool(d)  # also where no sentinel is left that would remove it
    except OSError as error:
        bb.note(f"memguard: {event.task} is not measured: {error}")
    except Exception as error:
        bb.warn(f"memguard: the grant for {event.task} cannot be used, it runs with all its jobs: {error!r}")


def _is_scheduled(d: DataSmart) -> bool:
    """Whether a scheduler of memguard's starts the tasks: a worker sees BB_SCHEDULER as the user has set it, if at all.

    "completion" where rm_work is inherited is what rm_work sets; the server puts its own in that one's place.
    """
    chosen = d.getVar("BB_SCHEDULER") or ""
    return chosen in ("", "memguard", "memguard-completion") or (
        chosen == "completion" and bool(bb.data.inherits_class("rm_work", d))
    )


def _is_guest(policy: TaskPolicy) -> bool:
    """Whether another build's server uses the directory, so that this build goes on as stock."""
    owner = parse_mark(owner_of(Path(policy.directory)))
    return owner is not None and find_process(owner.pid) == owner and not descends_from(owner, os.getpid())


def _start(event: Any, policy: TaskPolicy, d: DataSmart) -> None:
    """Let the task obey its grant, take its jobs from a pool where it can, be measured, and run again after a kill."""
    if policy.fault:
        bb.warn(f"memguard: {d.getVar('PN')} {event.task} is only watched: {policy.fault}")
    jobs = asked = _own_jobs(event.task, d) or 1
    try:
        jobs = min(asked, _apply_grant(event, policy, d) or asked)
        _begin(event, policy, jobs, asked, d)
    finally:
        # Whatever fails before: the task may be killed all the same.
        task_again.arm(event, policy, jobs, lambda fewer: _lower(fewer, d), d)


def _apply_grant(event: Any, policy: TaskPolicy, d: DataSmart) -> int | None:
    """Take what the server has left for the task; the jobs granted, None where it was all that is wanted."""
    handed = Handover(Path(policy.directory)).take(f"{event._fn}:{event.task}")
    if handed is None:
        return None
    if handed.nice:
        give_way(handed.nice)
        bb.note(f"memguard: nice value raised by {handed.nice}, since the end of the build waits for other tasks")
    changed = _lower(handed.jobs, d)
    if changed:
        bb.note(f"memguard: starts with {counted(handed.jobs, 'job')}: {', '.join(changed)}")
    return handed.jobs


def _begin(event: Any, policy: TaskPolicy, jobs: int, asked: int, d: DataSmart) -> None:
    """Announce the task to the sentinel; where that fails it has no pool, since nobody would give it tokens."""
    is_announced = False
    try:
        is_announced = _announce(event, policy, jobs, asked, d)
    finally:
        if not is_announced:
            leave_pool(d)


def _announce(event: Any, policy: TaskPolicy, jobs: int, asked: int, d: DataSmart) -> bool:
    """Let the sentinel know of the task, and mark what it starts, for processes that leave its session; whether so."""
    global _began
    leader = find_process(os.getpid())
    notes = Notes(Path(policy.directory))
    if leader is None or not notes.is_heard():
        return False
    if policy.acts:
        offer_to_kernel(leader.pid, 0.0)  # the sentinel knows how heavy the task is
    pool = _join_pool(event, d, policy, asked)
    is_fakeroot = bb.utils.to_boolean(d.getVarFlag(event.task, "fakeroot", False))
    note = TaskNote(
        pid=leader.pid,
        start_ticks=leader.start_ticks,
        tid=f"{event._fn}:{event.task}",
        recipe=d.getVar("PN") or "",
        version=d.getVar("PV") or "",
        task=event.task,
        machine=d.getVar("PACKAGE_ARCH") or d.getVar("MACHINE") or "",
        jobs=jobs,
        most_jobs=asked,
        pool=pool or "",
        may_kill=policy.may_kill and not is_fakeroot,
        kind=by_kind(event.task, classes_in(d.getVar("__inherit_cache", False))).origin,
    )
    if notes.send(note):
        os.environ[MARK] = leader.mark
        _began = note, time.monotonic()
    return _began is not None


def _join_pool(event: Any, d: DataSmart, policy: TaskPolicy, asked: int) -> str | None:
    """The pool of the task; None where it keeps its number of jobs, as where a descriptor is lacking."""
    try:
        return join_pool(event, d, policy, asked) if policy.acts else None
    except OSError as error:
        bb.note(f"memguard: {event.task} has no pool of jobs: {error}")
        return None


def _end(policy: TaskPolicy, outcome: Outcome) -> None:
    """Let the sentinel know how this task ended."""
    if _began is None:
        return
    note, since_s = _began
    own, waited = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu_s = own.ru_utime + own.ru_stime + waited.ru_utime + waited.ru_stime
    wall_s = round(time.monotonic() - since_s, 3)
    end = TaskEnd(note.pid, note.start_ticks, outcome, wall_s, round(cpu_s, 3), waited.ru_maxrss * 1024)
    Notes(Path(policy.directory)).send(end)


def _own_jobs(task: str, d: DataSmart) -> int | None:
    """The jobs that the recipe's own variables say, as they are now."""
    return next((jobs_in(value) for name in variables_of(task) if (value := d.getVar(name))), None)


def _lower(jobs: int, d: DataSmart) -> list[str]:
    """Lower every knob to `jobs`; what was changed, in words."""
    return [change for knob in KNOBS for change in _turn_down(knob, jobs, d)]


def _turn_down(knob: Knob, jobs: int, d: DataSmart) -> list[str]:
    """Lower one knob where the recipe uses it; what was changed, in words."""
    value = d.getVar(knob.variable)
    if value:
        lowered = lower(value, jobs, knob.least)
        if lowered == value:
            return []
        d.setVar(knob.variable, lowered)
    else:
        if value is not None or not any(bb.data.inherits_class(name, d) for name in knob.used_by):
            return []
        lowered = str(max(knob.least, min(jobs, len(os.sched_getaffinity(0)))))
        d.setVar(knob.variable, lowered)
        d.setVarFlag(knob.variable, "export", "1")
        os.environ[knob.variable] = lowered
    if knob.variable in os.environ:
        os.environ[knob.variable] = lowered
    return [f"{knob.variable} = {lowered}"]
