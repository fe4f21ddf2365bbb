# SPDX-License-Identifier: MIT
"""What memguard does on BitBake's events in the server.

Runs in: the BitBake server (ConfigParsed also in its workers), called by memguard.bbclass; imports bb.
Covers: validating the configuration, choosing the scheduler; which event calls what of the build's session.
Does not cover: the session itself (session.py), events inside tasks (task.py).
"""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import bb

from memguard import settings
from memguard.act.task_cgroup import enter, is_of_own_build
from memguard.bitbake import session
from memguard.channels.build_directory import BuildDirectory
from memguard.channels.plain_file import read_plain
from memguard.model import Mode
from memguard.sense.container import Sensor

if TYPE_CHECKING:
    from bb.data_smart import DataSmart

_PATH_MOST_BYTES = 4096


def handle(event: Any, d: DataSmart) -> None:
    """What memguard.bbclass does on an event in the server. Wrong configuration is fatal; nothing else ever is."""
    try:
        if isinstance(event, bb.event.ConfigParsed):
            _configure(d)
        elif not settings.is_off(d.getVar):
            _STEPS[type(event).__name__](event, d)
    except Exception as error:
        if isinstance(error, bb.BBHandledException) and isinstance(event, bb.event.ConfigParsed):
            raise
        session.step_aside(d)


def _configure(d: DataSmart) -> None:
    """Validate the variables and choose the scheduler; bb.fatal for what cannot be used.

    A worker reads the configuration once more when it starts: the server has validated it by then, and a build that
    runs is never ended. What its children need is imported here, once, and not after each fork.
    """
    if bb.event.worker_fire is not None:
        importlib.import_module("memguard.bitbake.task")
        _enter_cgroup(d)
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
        d.setVar("BB_SCHEDULER", session.SPEED)
    elif chosen == "completion" and bb.data.inherits_class("rm_work", d):
        d.setVar("BB_SCHEDULER", session.COMPLETION)


def _enter_cgroup(d: DataSmart) -> None:
    """Let this worker, and with it all tasks, be in the cgroup that the server has made for them, if it has."""
    directory = d.getVar("MEMGUARD_DIR")
    if directory and not settings.is_off(d.getVar):
        with contextlib.suppress(OSError, ValueError):  # then its tasks are with the rest
            path = str(BuildDirectory(Path(directory)).cgroup)
            made = Path(read_plain(path, _PATH_MOST_BYTES).decode("utf-8"))
            if is_of_own_build(made):
                enter(made)


def _spare_new_parse(d: DataSmart) -> None:
    """Let a change of our variables leave the parsed recipes valid: no recipe reads any of them."""
    ours = [*settings.VARIABLES, *settings.override_names(d.keys()), "BB_HASHCONFIG_IGNORE_VARS"]
    d.setVar("BB_HASHCONFIG_IGNORE_VARS", " ".join([d.getVar("BB_HASHCONFIG_IGNORE_VARS") or "", *ours]))


def _begin(event: Any, d: DataSmart) -> None:
    session.begin(d)


def _complete(event: Any, d: DataSmart) -> None:
    if not session.is_named_multiconfig(d):
        session.current().complete(d)


def _sample(event: Any, d: DataSmart) -> None:
    session.current().sample(d)


def _task_started(event: Any, d: DataSmart) -> None:
    if not event.noexec:
        session.current().task_started(event.taskid)


def _task_completed(event: Any, d: DataSmart) -> None:
    session.current().task_ended(event.taskid, "ok")


def _task_failed(event: Any, d: DataSmart) -> None:
    session.current().task_ended(event.taskid, "failed")


_STEPS: dict[str, Callable[[Any, Any], None]] = {
    "BuildStarted": _begin,
    "BuildCompleted": _complete,
    "HeartbeatEvent": _sample,
    "runQueueTaskStarted": _task_started,
    "runQueueTaskCompleted": _task_completed,
    "runQueueTaskFailed": _task_failed,
}
