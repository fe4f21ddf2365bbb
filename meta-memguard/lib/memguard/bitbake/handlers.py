# SPDX-License-Identifier: MIT
"""BitBake adapter in the server: configuration, and the start and end of a build and of its tasks.

Runs in: the BitBake server (ConfigParsed also in its workers), called by memguard.bbclass; imports bb.
Covers: one Guard per build, created at BuildStarted, ended at BuildCompleted; stepping aside after a fault.
See also: scheduler.py, which asks the Guard; worker.py, which runs inside the tasks.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import math
import os
import shutil
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import bb

from memguard import settings
from memguard.act.job_variables import jobs_in
from memguard.channels.build_directory import BuildDirectory
from memguard.channels.fifo import Notes
from memguard.channels.grants import Handover
from memguard.channels.notes import Note, Orders
from memguard.channels.state import StateFile
from memguard.model import Duration, Mode, Policy, Sample, Task
from memguard.predict.durations import learn_duration
from memguard.record.event_log import EventLog
from memguard.sense.container import Sensor
from memguard.server.fleet import Fleet
from memguard.server.guard import Guard
from memguard.server.sentinel_process import Watch
from memguard.units import format_bytes

if TYPE_CHECKING:
    from bb.data_smart import DataSmart

    from memguard.record.history.store import History

SPEED, COMPLETION = "memguard", "memguard-completion"

_guard: Guard | None = None
_sensor: Sensor | None = None
_watch: Watch | None = None
_history: History | None = None
_fleet: Fleet | None = None
_tasks: dict[str, Task] = {}
_has_stepped_aside = False
_is_lent = False
_orders: Orders | None = None
_notes: Notes | None = None
_restarts = 0

# A sentinel that dies is started again so often in one build.
RESTARTS_MOST = 3


def handle(event: Any, d: DataSmart) -> None:
    """What memguard.bbclass does on an event in the server. Wrong configuration is fatal; nothing else ever is."""
    try:
        if isinstance(event, bb.event.ConfigParsed):
            _configure(d)
        elif not settings.is_off(d.getVar):
            _STEPS[type(event).__name__](event, d)
    except bb.BBHandledException:
        raise
    except Exception:
        step_aside(d)


def guard_for(d: DataSmart, tasks: dict[str, Task]) -> Guard | None:
    """The Guard of the running build for a scheduler, which lends its `tasks` by tid for the records.

    Where the class is not inherited no BuildStarted handler ran, and one is made here, anew for each run queue. None
    when memguard is off or has stepped aside.
    """
    global _tasks, _is_lent
    if settings.is_off(d.getVar):
        return None
    if _is_lent or (_guard is None and not _has_stepped_aside):
        _begin(None, d)
    _tasks, _is_lent = tasks, True
    if _guard is not None:
        _start_watch(d)
    return _guard


def samples_of(recipe: str, task: str) -> list[Sample]:
    """What earlier builds remember of a task, the newest first."""
    return [] if _history is None else _history.newest(recipe, task)


def durations() -> dict[tuple[str, str], Duration]:
    """How long tasks take as far as earlier builds remember, by recipe and task."""
    if _history is None:
        return {}
    return {task: learn_duration(run) for task, run in _history.last_runs().items()}


def _open_history(policy: Policy) -> History | None:
    """What earlier builds remember; None where nothing is to be, or cannot be by a Python without SQLite."""
    if not policy.history:
        return None
    try:
        from memguard.record.history.store import History
    except ImportError as error:
        bb.warn(f"memguard: nothing is remembered of this build: {error}")
        return None
    # The sentinel, which writes to it, warns of what is wrong with the file.
    return History(Path(policy.history), policy.history_max_bytes, warn=_said(bb.note), is_read_only=True)


def forget() -> None:
    """Forget the running build, its Guard and its faults, and end its sentinel."""
    global _guard, _tasks, _has_stepped_aside, _is_lent
    guard, _guard, _tasks, _has_stepped_aside, _is_lent = _guard, None, {}, False, False
    if guard is not None:
        guard.finish()
    _end_watch()
    _end_fleet()


def _start_watch(d: DataSmart) -> None:
    """The sentinel of this build, where something is to be remembered; without it the build goes on all the same."""
    global _watch, _orders, _restarts
    guard = _guard
    if _watch is not None or guard is None or not guard.policy.directory:
        return
    policy = guard.policy
    directory = Path(policy.directory).absolute()
    wanted = jobs_in(d.getVar("PARALLEL_MAKE") or "") or 0
    _restarts = 0
    _orders = Orders(
        directory=str(directory),
        # Pods have the same few numbers of processes, and may start in the same second.
        build=f"{time.strftime('%Y%m%d%H%M%S')}-{os.getpid()}-{os.urandom(4).hex()}",
        history=policy.history,
        history_max_bytes=policy.history_max_bytes,
        limit_bytes=policy.limit_bytes,
        reserve_bytes=policy.reserve_bytes,
        reserve_share=policy.reserve_share,
        pressure_command=policy.pressure_command,
        acts=policy.mode is Mode.ENFORCE,
        slots=max(wanted, math.ceil(guard.reading.cpus)),
        log=str(directory / "readings" / guard.log.name) if guard.log is not None else "",
        metrics=policy.metrics,
    )
    try:
        _watch = Watch(_orders)
    except OSError as error:
        bb.warn(f"memguard: running tasks are not watched in this build, the sentinel cannot be started: {error}")


def _look_after_watch(d: DataSmart) -> None:
    """Start a sentinel that has died again: it goes on where that one was; its watchman has woken what was stopped."""
    global _watch, _restarts
    if _watch is None or _orders is None or not _watch.has_died:
        return
    fault = _watch.end().get("fault", "it ended")
    _watch = None
    bb.warn(f"memguard: the sentinel failed; {_write_fault(d, str(fault))}")
    if _restarts >= RESTARTS_MOST:
        return
    _restarts += 1
    try:
        _watch = Watch(_orders)
    except OSError as error:
        bb.warn(f"memguard: the sentinel cannot be started again: {error}")


def _tell_of_killed_build(directory: Path) -> None:
    """Say that the last build here was killed, and what it was doing; the sentinel learns from it."""
    left = StateFile(directory).left()
    if left is None:
        return
    heaviest = left.heaviest
    task = f"the heaviest of its {len(left.tasks)} tasks was {heaviest.name} with " if heaviest else "no task ran"
    bb.warn(
        f"memguard: the last build here was killed when {format_bytes(left.used_bytes)} of "
        f"{format_bytes(left.limit_bytes)} were used; {task}{format_bytes(heaviest.current_bytes) if heaviest else ''}"
    )


def _tell(note: Note) -> None:
    """Tell the sentinel; without one, or where it is too busy, the build goes on."""
    global _notes
    if _watch is not None and _orders is not None:
        if _notes is None:
            _notes = Notes(Path(_orders.directory))
        with contextlib.suppress(OSError):
            _notes.send(note, stays_open=True)


def _end_watch() -> dict[str, Any]:
    """End the sentinel and the reading of the container and of the history; what the sentinel says."""
    global _sensor, _watch, _history, _notes
    sensor, _sensor, watch, _watch, history, _history = _sensor, None, _watch, None, _history, None
    notes, _notes = _notes, None
    if notes is not None:
        notes.close()
    if sensor is not None:
        # BitBake's run queues of earlier builds keep their schedulers, and these their Guard and its sensor.
        sensor.close()
    if history is not None:
        history.close()
    return watch.end() if watch is not None else {}


def _join_fleet(policy: Policy) -> None:
    """Begin to take over what the fleet has learned, where MEMGUARD_HISTORY names its database."""
    global _fleet
    if policy.fleet:
        directory = Path(policy.directory)
        _fleet = Fleet(policy.fleet, policy.history, policy.history_max_bytes, directory, warn=_said(bb.warn))
        _fleet.pull()


def _end_fleet(is_complete: bool = False) -> None:
    """End the exchange with the fleet; a build that is complete first sends what it has learned."""
    global _fleet
    fleet, _fleet = _fleet, None
    if fleet is None:
        return
    if not is_complete:
        fleet.end()
        return
    note = fleet.push()
    if note:
        bb.note(f"memguard: {note}")


def _tell_watch(report: dict[str, Any], d: DataSmart) -> None:
    """Say what the sentinel has seen, and once what went wrong with it."""
    if report.get("fault"):
        bb.warn(f"memguard: the sentinel failed, so not all was learned; {_write_fault(d, str(report['fault']))}")
    for warning in report.get("warnings", ()):
        bb.warn(f"memguard: {warning}")
    done = [f"{report[name]} {words}" for name, words in _DONE.items() if report.get(name)]
    if done:
        bb.note(f"memguard: {', '.join(done)} to keep below the limit")
    heaviest = [f"{task} {format_bytes(peak_bytes)}" for task, peak_bytes in report.get("heaviest", ())]
    if heaviest:
        bb.note(f"memguard: heaviest: {', '.join(heaviest)}")
    history = settings.without_secrets(d.getVar("MEMGUARD_HISTORY") or "")
    if report.get("recorded") and history:
        bb.note(f"memguard: {report['recorded']} tasks remembered in {history}")


def _forget_at_exit(pid: int) -> None:
    # An interrupt may end the server without BuildCompleted; forked children inherit what is to be done at exit.
    if os.getpid() == pid:
        forget()


def step_aside(d: DataSmart) -> None:
    """After a fault: one warning, the traceback in a file, and stock behaviour for the rest of this build."""
    global _guard, _has_stepped_aside
    if _has_stepped_aside:
        return
    _has_stepped_aside = True
    guard, _guard = _guard, None
    bb.warn(f"memguard: internal error, the build goes on as stock; {_write_fault(d, traceback.format_exc())}")
    try:
        if guard is not None:
            guard.finish()
        _end_watch()
        _end_fleet()
    except Exception:
        bb.debug(1, traceback.format_exc())


def _write_fault(d: DataSmart, text: str) -> str:
    """Keep a traceback in MEMGUARD_DIR, or in the log where that cannot be; says which."""
    try:
        directory = d.getVar("MEMGUARD_DIR")
        if directory:
            path = Path(directory) / f"fault-{time.strftime('%Y%m%d%H%M%S')}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
            return f"the traceback is in {path}"
    except Exception:
        bb.note("memguard: the traceback cannot be written to MEMGUARD_DIR")
    bb.note(text)
    return "the traceback is in the log"


def _configure(d: DataSmart) -> None:
    """Validate the variables and choose the scheduler; bb.fatal for what cannot be used.

    A worker reads the configuration once more when it starts: the server has validated it by then, and a build that
    runs is never ended. What its children need is imported here, once, and not after each fork.
    """
    if bb.event.worker_fire is not None:
        importlib.import_module("memguard.bitbake.task")
        return
    try:
        policy = settings.read(d.getVar, d.keys())
        if policy.mode is Mode.OFF:
            return
        settings.check_against(Sensor(limit_bytes=policy.limit_bytes).read(), policy, d.getVar)
    except settings.SettingsError as error:
        bb.fatal(f"memguard: {error}")
    except OSError as error:
        bb.warn(f"memguard: memory cannot be read, the build goes on as stock: {error}")
        return
    _spare_new_parse(d)
    chosen = d.getVar("BB_SCHEDULER")
    if not chosen:
        d.setVar("BB_SCHEDULER", SPEED)
    elif chosen == "completion" and bb.data.inherits_class("rm_work", d):
        d.setVar("BB_SCHEDULER", COMPLETION)


def _spare_new_parse(d: DataSmart) -> None:
    """Let a change of our variables leave the parsed recipes valid: no recipe reads any of them."""
    ours = [*settings.VARIABLES, *settings.override_names(d.keys()), "BB_HASHCONFIG_IGNORE_VARS"]
    d.setVar("BB_HASHCONFIG_IGNORE_VARS", " ".join([d.getVar("BB_HASHCONFIG_IGNORE_VARS") or "", *ours]))


def _is_named_multiconfig(d: DataSmart) -> bool:
    """Whether this is one of BBMULTICONFIG; the build itself has no name, or, until BitBake 2.10, "default"."""
    return d.getVar("BB_CURRENT_MC") not in (None, "", "default")


def _begin(event: Any, d: DataSmart) -> None:
    """A Guard for this build; a line that says what it sees."""
    global _guard, _sensor, _history
    if _is_named_multiconfig(d):
        return
    forget()
    policy = settings.read(d.getVar, d.keys())
    directory = Path(policy.directory) if policy.directory else None
    handover = Handover(directory) if directory else None
    if directory and handover:
        handover.clear()
        _tell_of_killed_build(directory)
        _clear_rest(directory)
    events = EventLog(directory / "events" if directory else None)
    sensor = _sensor = Sensor(limit_bytes=policy.limit_bytes)
    atexit.unregister(_forget_at_exit)
    atexit.register(_forget_at_exit, os.getpid())
    state = StateFile(directory) if directory else None
    _guard = Guard(policy, sensor, events, handover, state, _tell, say=_said(bb.note), warn=_said(bb.warn))
    _history = _open_history(policy)
    _join_fleet(policy)
    bb.note(f"memguard: {_guard.start_line()}")
    grouped = sensor.oom_group_source()
    if grouped:
        bb.note(f"memguard: one OOM kill would take the whole container, the build included ({grouped})")
    if events.failure:
        bb.warn(f"memguard: no events are recorded: {events.failure}")
    scheduler = d.getVar("BB_SCHEDULER")
    if scheduler not in (SPEED, COMPLETION):
        # No scheduler of ours will ask for it.
        _start_watch(d)
        bb.warn(
            f'memguard: BB_SCHEDULER = "{scheduler}" stands, so memguard only observes: it holds no task and lowers '
            f'no job count. To let it, remove that line or set BB_SCHEDULER = "{SPEED}"'
        )
    jobs = jobs_in(d.getVar("PARALLEL_MAKE") or "")
    cpus = _guard.reading.cpus
    if jobs is not None and jobs > 4 * cpus:
        bb.note(
            f'memguard: PARALLEL_MAKE = "{d.getVar("PARALLEL_MAKE")}" asks for far more jobs than {cpus:g} CPUs run'
        )


def _complete(event: Any, d: DataSmart) -> None:
    global _guard
    if _is_named_multiconfig(d):
        return
    guard, _guard = _guard, None
    if guard is not None:
        for line in guard.finish():
            bb.note(f"memguard: {line}")
    _tell_watch(_end_watch(), d)
    _end_fleet(is_complete=True)
    directory = d.getVar("MEMGUARD_DIR")
    if directory:
        # A sentinel that was killed has left its files.
        Notes(Path(directory)).clear()
        StateFile(Path(directory)).clear()
        _clear_rest(Path(directory))


def _clear_rest(directory: Path) -> None:
    """Remove what tasks and sentinel keep while a build runs: versions of tools, pools, and tellings of kills."""
    build = BuildDirectory(directory)
    for rest in (build.tools, build.pools, build.kills):
        shutil.rmtree(rest, ignore_errors=True)


def _sample(event: Any, d: DataSmart) -> None:
    _look_after_watch(d)
    if _guard is not None:
        _guard.sample()


def _task_started(event: Any, d: DataSmart) -> None:
    if _guard is not None and not event.noexec:
        _guard.task_started(event.taskid, _tasks.get(event.taskid))


def _task_completed(event: Any, d: DataSmart) -> None:
    if _guard is not None:
        _guard.task_ended(event.taskid, _tasks.get(event.taskid), "ok")


def _task_failed(event: Any, d: DataSmart) -> None:
    if _guard is not None:
        _guard.task_ended(event.taskid, _tasks.get(event.taskid), "failed")


def _said(say: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: say(f"memguard: {text}")


# What the sentinel's report counts, in words.
_DONE = {"stopped": "jobs stopped", "killed": "killed", "retried": "tasks run again"}

_STEPS: dict[str, Callable[[Any, Any], None]] = {
    "BuildStarted": _begin,
    "BuildCompleted": _complete,
    "HeartbeatEvent": _sample,
    "runQueueTaskStarted": _task_started,
    "runQueueTaskCompleted": _task_completed,
    "runQueueTaskFailed": _task_failed,
}
