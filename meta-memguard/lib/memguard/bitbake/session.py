# SPDX-License-Identifier: MIT
"""What memguard keeps of one build in the BitBake server: its Guard, its sentinel, what earlier builds remember.

Runs in: the BitBake server, called by handlers and schedulers; imports bb.
Covers: begin, completion and abandonment of a build; the words about it; stepping aside after a fault.
Does not cover: which event calls what (handlers), decisions (server/guard).

One server runs one build at a time, so there is one current session.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bb

from memguard import settings
from memguard.act.job_variables import jobs_in
from memguard.act.task_cgroup import TaskCgroup, obstacle
from memguard.channels.build_directory import BuildDirectory
from memguard.channels.claim import Claim
from memguard.channels.fifo import Notes
from memguard.channels.grants import Handover
from memguard.channels.notes import Orders
from memguard.channels.plain_file import make_private, replace_plain
from memguard.channels.state import StateFile
from memguard.decide.moment import slots_of
from memguard.model import Mode, PastRun, Policy, Sample, Task
from memguard.record.event_log import EventLog
from memguard.sense.container import Sensor
from memguard.sense.proc_files import find_process
from memguard.server.fleet import Fleet
from memguard.server.guard import Guard
from memguard.server.sentinel_process import SentinelKeeper
from memguard.units import counted, format_bytes

if TYPE_CHECKING:
    from bb.data_smart import DataSmart

    from memguard.record.history.store import History

# What users write as BB_SCHEDULER.
SPEED, COMPLETION = "memguard", "memguard-completion"

# What the sentinel's report counts, in words: the verb and the noun.
_DONE = {"stopped": ("stopped", "job"), "killed": ("killed", "job"), "retried": ("ran again", "task")}


def _note(text: str) -> None:
    bb.note(f"memguard: {text}")


def _warn(text: str) -> None:
    bb.warn(f"memguard: {text}")


class Session:
    """One build, from begin() to complete() or end()."""

    def __init__(self) -> None:
        self.guard: Guard | None = None
        self.has_stepped_aside = False
        self.is_lent = False
        self._tasks: dict[str, Task] = {}
        self._sensor: Sensor | None = None
        self._sentinel = SentinelKeeper(_warn)
        self._history: History | None = None
        self._fleet: Fleet | None = None
        # Whether this build may use MEMGUARD_DIR, and the claim that keeps others from it where there are locks.
        self._has_directory = False
        self._claimed: Claim | None = None
        self._cgroup: TaskCgroup | None = None

    def begin(self, d: DataSmart) -> None:
        """Make the Guard of this build; a line that says what it sees."""
        policy = settings.read(d.getVar, d.keys())
        directory = Path(policy.directory) if policy.directory else None
        if directory and not self._claim(directory):
            self.has_stepped_aside = True
            return
        handover = Handover(directory) if directory else None
        if directory and handover:
            handover.clear()
            _tell_of_killed_build(directory)
            _clear_rest(directory)
        events = EventLog(BuildDirectory(directory).events if directory else None)
        sensor = self._sensor = Sensor(limit_bytes=policy.limit_bytes)
        atexit.unregister(_forget_at_exit)
        atexit.register(_forget_at_exit, os.getpid())
        state = StateFile(directory) if directory else None
        self.guard = Guard(policy, sensor, events, handover, state, self._sentinel.tell, say=_note, warn=_warn)
        self._history = _open_history(policy)
        if policy.fleet:
            self._fleet = Fleet(
                policy.fleet, policy.history, policy.history_max_bytes, Path(policy.directory), warn=_warn
            )
            self._fleet.pull()
        _note(self.guard.start_line())
        grouped = sensor.oom_group_source()
        if grouped:
            _note(f"one OOM kill would take the whole container, the build included ({grouped})")
            if policy.has_cgroup and policy.mode is Mode.ENFORCE and directory:
                self._make_cgroup(sensor, directory)
        if events.failure:
            _warn(f"no events are recorded: {events.failure}")
        scheduler = d.getVar("BB_SCHEDULER")
        if scheduler not in (SPEED, COMPLETION):
            # No scheduler of ours will ask for it.
            self._start_sentinel(d)
            _warn(
                f'BB_SCHEDULER = "{scheduler}" is set, so memguard only observes: it holds no task and lowers '
                f'no job count. To let it act, remove that line or set BB_SCHEDULER = "{SPEED}"'
            )
        jobs, cpus = jobs_in(d.getVar("PARALLEL_MAKE") or ""), self.guard.ledger.reading.cpus
        if jobs is not None and jobs > 4 * cpus:
            _note(f'PARALLEL_MAKE = "{d.getVar("PARALLEL_MAKE")}" asks for far more jobs than {cpus:g} CPUs can run')

    def lend(self, tasks: dict[str, Task], d: DataSmart) -> None:
        """Work for a scheduler from here on, which lends its `tasks` by tid for the records."""
        self._tasks, self.is_lent = tasks, True
        self._start_sentinel(d)

    def samples_of(self, recipe: str, task: str) -> list[Sample]:
        """What earlier builds remember of a task, the newest first."""
        return [] if self._history is None else self._history.newest(recipe, task)

    def fastest_runs(self) -> dict[tuple[str, str], PastRun]:
        """The fastest run of each task that earlier builds remember, by recipe and task."""
        return {} if self._history is None else self._history.fastest_runs()

    def sample(self, d: DataSmart) -> None:
        """What is to be done once a second: replace a sentinel that has died or hangs, read the container."""
        fault = self._sentinel.take_fault()
        if fault:
            _warn(f"the sentinel failed; {_write_fault(d, fault)}")
            self._sentinel.start_again()
        if self.guard is not None:
            self.guard.sample()

    def task_started(self, tid: str) -> None:
        """BitBake has sent a task to its worker."""
        if self.guard is not None:
            self.guard.task_started(tid, self._tasks.get(tid))

    def task_ended(self, tid: str, outcome: str) -> None:
        """A task has ended, "ok" or "failed"."""
        if self.guard is not None:
            self.guard.task_ended(tid, self._tasks.get(tid), outcome)

    def complete(self, d: DataSmart) -> None:
        """End a build that BitBake says is complete: the summary, what the sentinel has seen, what the fleet learns."""
        guard, self.guard = self.guard, None
        if guard is not None:
            for line in guard.finish():
                _note(line)
        _tell_report(self._end_sentinel(), d)
        fleet, self._fleet = self._fleet, None
        sent = fleet.push() if fleet is not None else ""
        if sent:
            _note(sent)
        directory = d.getVar("MEMGUARD_DIR")
        if directory and self._has_directory:
            # A sentinel that was killed has left its files.
            Notes(Path(directory)).clear()
            StateFile(Path(directory)).clear()
            _clear_rest(Path(directory))
        self.release()

    def end(self) -> None:
        """End a build that nobody has completed, silently."""
        guard, self.guard, fleet, self._fleet = self.guard, None, self._fleet, None
        # Where one of them fails the others are done all the same.
        with contextlib.ExitStack() as stack:
            stack.callback(self._end_sentinel)
            if fleet is not None:
                stack.callback(fleet.end)
            if guard is not None:
                stack.callback(guard.finish)

    def step_aside(self, d: DataSmart) -> None:
        """After a fault: one warning, the traceback in a file, and stock behaviour for the rest of this build."""
        if self.has_stepped_aside:
            return
        self.has_stepped_aside = True
        _warn(f"internal error, the build goes on as stock; {_write_fault(d, traceback.format_exc())}")
        try:
            self.end()
        except Exception:
            bb.debug(1, traceback.format_exc())
        # Nobody is left who would let its limit follow.
        self._remove_cgroup()

    def _start_sentinel(self, d: DataSmart) -> None:
        """Have the tasks of this build watched, where there is a place to talk about them."""
        guard = self.guard
        if guard is None or not guard.policy.directory:
            return
        directory = Path(guard.policy.directory).absolute()
        jobs = jobs_in(d.getVar("PARALLEL_MAKE") or "") or 0
        self._sentinel.start(
            Orders(
                # Pods have the same few numbers of processes, and may start in the same second.
                build=f"{time.strftime('%Y%m%d%H%M%S')}-{os.getpid()}-{os.urandom(4).hex()}",
                policy=replace(guard.policy, directory=str(directory)),
                slots=slots_of(jobs, guard.ledger.reading.cpus),
                log=str(BuildDirectory(directory).readings / guard.log.name) if guard.log is not None else "",
                cgroup=str(self._cgroup.directory) if self._cgroup is not None else "",
            )
        )

    def _make_cgroup(self, sensor: Sensor, directory: Path) -> None:
        """Let tasks have a cgroup of their own, so that an OOM kill takes one process; says why where they cannot."""
        own, why = find_process(os.getpid()), obstacle(sensor.memory)
        if why or own is None or sensor.memory is None:
            _note(f"tasks have no cgroup of their own: {why}")
            return
        try:
            self._cgroup = TaskCgroup.make(sensor.memory, own)
            self._cgroup.follow(sensor.read)  # from then on the sentinel does that
            path = str(BuildDirectory(directory).cgroup)
            replace_plain(path, f"{path}.draft", str(self._cgroup.directory).encode("utf-8"))
            _note("tasks have a cgroup of their own, so that an OOM kill takes one process")
        except OSError as error:
            self._remove_cgroup()
            _note(f"tasks have no cgroup of their own: {error}")

    def _remove_cgroup(self) -> None:
        cgroup, self._cgroup = self._cgroup, None
        if cgroup is not None:
            cgroup.remove()

    def _claim(self, directory: Path) -> bool:
        """Make the directory that of this build; False, with a warning, where another build has it."""
        self._has_directory = True
        own = find_process(os.getpid())
        try:
            make_private(directory)
            self._claimed = Claim.take(directory, own.mark if own is not None else "")
        except OSError:
            return True  # without locks, or a place to write to, nobody can be told from others
        self._has_directory = self._claimed is not None
        if self._claimed is None:
            _warn(
                f"another build uses {directory} now, so this one goes on as stock. Each build needs its own, as "
                'MEMGUARD_DIR = "${TOPDIR}/memguard"'
            )
        return self._has_directory

    def release(self) -> None:
        """Let another build have the directory."""
        self._remove_cgroup()
        claimed, self._claimed, self._has_directory = self._claimed, None, False
        if claimed is not None:
            claimed.release()

    def _end_sentinel(self) -> dict[str, Any]:
        """End the sentinel and the reading of the container and of the history; what the sentinel says."""
        sensor, self._sensor, history, self._history = self._sensor, None, self._history, None
        if sensor is not None:
            # BitBake's run queues of earlier builds keep their schedulers, and these their Guard and its sensor.
            sensor.close()
        if history is not None:
            history.close()
        return self._sentinel.end()


_current = Session()


def current() -> Session:
    """The session of the build that runs, or ran last."""
    return _current


def begin(d: DataSmart) -> None:
    """A session for a build that starts; none of its own for a named multiconfig."""
    if not is_named_multiconfig(d):
        forget()
        _current.begin(d)


def lend(tasks: dict[str, Task], d: DataSmart) -> Session | None:
    """The session of the running build for a scheduler, which lends its `tasks`; None when memguard is off.

    Where the class is not inherited no BuildStarted handler ran, and one is made here, anew for each run queue.
    """
    if settings.is_off(d.getVar):
        return None
    if _current.is_lent or (_current.guard is None and not _current.has_stepped_aside):
        begin(d)
    _current.lend(tasks, d)
    return _current


def step_aside(d: DataSmart) -> None:
    """After a fault the build goes on as stock (Session.step_aside). Never raises, whatever else is broken."""
    try:
        _current.step_aside(d)
    except Exception as error:
        _current.guard = None
        _warn(f"internal error, the build goes on as stock: {error!r}")


def forget() -> None:
    """Forget the running build, its Guard and its faults, and end its sentinel."""
    global _current
    before, _current = _current, Session()
    try:
        before.end()
    finally:
        before.release()


def is_named_multiconfig(d: DataSmart) -> bool:
    """Whether this is one of BBMULTICONFIG; the build itself has no name, or, until BitBake 2.10, "default"."""
    return d.getVar("BB_CURRENT_MC") not in (None, "", "default")


def _forget_at_exit(pid: int) -> None:
    # An interrupt may end the server without BuildCompleted; forked children inherit what is to be done at exit.
    if os.getpid() == pid:
        forget()


def _open_history(policy: Policy) -> History | None:
    """What earlier builds remember; None where nothing is to be, or cannot be by a Python without SQLite."""
    if not policy.history:
        return None
    try:
        from memguard.record.history.store import History
    except ImportError as error:
        _warn(f"nothing from this build is remembered: {error}")
        return None
    # The sentinel, which writes to it, warns of what is wrong with the file.
    return History(Path(policy.history), policy.history_max_bytes, warn=_note, is_read_only=True)


def _tell_of_killed_build(directory: Path) -> None:
    """Say that the last build here was killed, and what it was doing; the sentinel learns from it."""
    left = StateFile(directory).left()
    if left is None:
        return
    heaviest = left.heaviest
    task = f"the heaviest of its {len(left.tasks)} tasks was {heaviest.name} with " if heaviest else "no task ran"
    _warn(
        f"the last build here was killed with {format_bytes(left.used_bytes)} of "
        f"{format_bytes(left.limit_bytes)} in use; {task}{format_bytes(heaviest.current_bytes) if heaviest else ''}"
    )


def _tell_report(report: dict[str, Any], d: DataSmart) -> None:
    """Say what the sentinel has seen, and once what went wrong with it."""
    if report.get("fault"):
        _warn(f"the sentinel failed, so not everything was learned; {_write_fault(d, str(report['fault']))}")
    for warning in report.get("warnings", ()):
        _warn(warning)
    done = [f"{verb} {counted(report[name], noun)}" for name, (verb, noun) in _DONE.items() if report.get(name)]
    if done:
        _note(f"{', '.join(done)} to stay below the limit")
    heaviest = [f"{task} {format_bytes(peak_bytes)}" for task, peak_bytes in report.get("heaviest", ())]
    if heaviest:
        _note(f"heaviest: {', '.join(heaviest)}")
    history = settings.without_secrets(d.getVar("MEMGUARD_HISTORY") or "")
    if report.get("recorded") and history:
        _note(f"{counted(report['recorded'], 'task')} remembered in {history}")


def _clear_rest(directory: Path) -> None:
    """Remove what tasks and sentinel keep while a build runs: versions of tools, pools, and notes of kills."""
    place = BuildDirectory(directory)
    for rest in (place.tools, place.pools, place.kills):
        shutil.rmtree(rest, ignore_errors=True)
    with contextlib.suppress(OSError):
        place.cgroup.unlink()


def _write_fault(d: DataSmart, text: str) -> str:
    """Keep a traceback in MEMGUARD_DIR, or in the log where that cannot be; says which."""
    try:
        directory = d.getVar("MEMGUARD_DIR")
        if directory:
            path = BuildDirectory(Path(directory)).fault(time.strftime("%Y%m%d%H%M%S"))
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_plain(str(path), f"{path}.draft", text.encode("utf-8", "backslashreplace"))
            return f"the traceback is in {path}"
    except Exception:
        _note("the traceback cannot be written to MEMGUARD_DIR")
    bb.note(text)
    return "the traceback is in the log"
