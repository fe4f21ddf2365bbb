# SPDX-License-Identifier: MIT
"""BitBake adapter inside a task: lets its function run again, in place, after a memory kill.

Runs in: the task's own child process, around the task's function; imports bb.
Covers: bb.build.exec_func for the task's own function; the surroundings of each run: what the task's log says, what was
killed, what was left half written, directories that BitBake would clean, warnings.
Does not cover: prefuncs and postfuncs; the order of the steps (task/retry.py); what is a memory kill, and with how many
jobs it runs again (decide/run_again.py); waiting for memory (task/turn.py).

A failing run logs errors before it has failed (bbfatal), and a build with an error has failed for whoever asks its exit
status: so these records wait in the child until it is known whether they count (held_records.py). The task's log has
them at once.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

import bb

from memguard.act import half_written
from memguard.bitbake.held_records import HeldRecords
from memguard.channels.build_directory import BuildDirectory
from memguard.channels.fifo import Notes
from memguard.channels.kills import Kills, read_kills
from memguard.channels.notes import TaskWait
from memguard.channels.plain_file import read_plain
from memguard.channels.state import StateFile
from memguard.decide.run_again import Attempt, Cause, Evidence, find_cause, plan, statuses_of
from memguard.diagnose.scan import classify
from memguard.model import Kill, TaskPolicy
from memguard.predict.fit import KILL_RATIO
from memguard.sense.container import Sensor
from memguard.sense.proc_files import ProcessId, find_process
from memguard.task import retry
from memguard.task.turn import Turns

if TYPE_CHECKING:
    from bb.data_smart import DataSmart

# What a log says at its end decides; of one that is longer the beginning is passed over.
_LOG_MOST_BYTES = 16 << 20
_NOTES_MOST_BYTES = 1 << 20


def arm(event: Any, policy: TaskPolicy, jobs: int, turn_down: Callable[[int], object], d: DataSmart) -> None:
    """Let the function of the task that starts with `event` run again after a memory kill.

    jobs:      what its first run may run at once.
    turn_down: lowers its knobs to another number of jobs.
    """
    task, leader, build = event.task, find_process(os.getpid()), bb.build
    if leader is None or task.endswith("_setscene") or not policy.acts:
        return
    attempts = plan(jobs, policy.retries, _count_cpus() if jobs > 1 and policy.retries else 1)
    exec_func = build.exec_func

    def run_again(function: str, data: DataSmart, *arguments: Any, **named: Any) -> None:
        if function != task or os.getpid() != leader.pid:
            exec_func(function, data, *arguments, **named)
            return
        # What the task's function calls in turn is its own affair.
        build.exec_func = exec_func
        own = functools.partial(exec_func, function, data, *arguments, **named)
        scene = None
        try:
            scene = TaskScene(task, event.logfile, leader, policy, jobs, turn_down, data)
        except Exception as fault:
            bb.note(f"memguard: {task} cannot be run again: {fault!r}")
        try:
            if scene is None:
                own()
            else:
                retry.run(own, attempts, scene)
        finally:
            try:
                if scene is not None:
                    scene.end()
            except Exception as fault:
                bb.note(f"memguard: {task} has left something behind: {fault!r}")

    build.exec_func = run_again


def _count_cpus() -> int:
    with contextlib.closing(Sensor()) as sensor:
        return int(sensor.cpus().count)


class TaskScene:
    """The surroundings of one task's function, as task/retry.py asks for them (Scene)."""

    def __init__(
        self,
        task: str,
        log: str,
        leader: ProcessId,
        policy: TaskPolicy,
        jobs: int,
        turn_down: Callable[[int], object],
        d: DataSmart,
    ) -> None:
        self._task = task
        self._log = log
        self._leader = leader
        self._jobs = jobs
        self._may_repeat = policy.retries > 0
        self._directory = Path(policy.directory)
        self._turn_down = turn_down
        self._d = d
        self._name = f"{d.getVar('PN')} {task}"
        self._records = HeldRecords(log)
        self._sensor: Sensor | None = None
        self._has_begun = self._has_failed = False

    def begin(self) -> None:
        self._has_begun = False
        self._since_s, self._since_epoch_s = time.monotonic(), time.time()
        self._offset = self._log_bytes()
        if self._may_repeat:
            self._sensor = self._sensor or Sensor()
            self._kernel_kills = self._sensor.oom_kills() or 0
            self._cpu_s = _cpu_s()
            self._since_ticks = half_written.now_ticks()
            self._records.hold()
        self._has_begun = True

    def look(self, error: Exception | None) -> Cause | None:
        self._has_failed = error is not None
        if not self._has_begun:
            return None
        kills = self._kills()
        if error is None:
            return find_cause(Evidence(kills))
        kernel_kills = (self._sensor.oom_kills() or 0) - self._kernel_kills if self._sensor else 0
        lines = [*self._log_lines(), *str(error).splitlines()]
        return find_cause(Evidence(kills, kernel_kills, statuses_of(error), classify(lines, self._task)))

    def clear(self, cause: Cause, attempt: Attempt, number: int, of: int) -> bool:
        wall_s, cpu_s = time.monotonic() - self._since_s, _cpu_s() - self._cpu_s
        largest_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        self._take_away(cause)
        self._keep_directories()
        self._turn_down(attempt.jobs)
        jobs = "1 job, alone" if attempt.is_alone else f"{attempt.jobs} of {self._jobs} jobs"
        self._records.drop()
        bb.warn(f"memguard: {self._name}: {cause}; runs again with {jobs} ({number} of {of})")
        wait = TaskWait(
            pid=self._leader.pid,
            start_ticks=self._leader.start_ticks,
            jobs=attempt.jobs,
            alone=attempt.is_alone,
            attempt=number,
            program=cause.program[:200],
            reason=cause.words[:200],
            need_bytes=int(max(cause.bytes, largest_bytes) * KILL_RATIO),
            wall_s=round(wall_s, 3),
            cpu_s=round(cpu_s, 3),
            largest_bytes=largest_bytes,
        )
        try:
            if self._sensor is not None:
                notes, state = Notes(self._directory), StateFile(self._directory)
                Turns(self._leader.mark, notes, state, self._sensor).wait_for_turn(wait)
        except Exception as fault:
            self.excuse(fault)
        # Into the log alone, where it parts one run from the next.
        print(f"memguard: run {number + 1} of {of + 1} begins, with {jobs}", flush=True)
        return True

    def let_through(self) -> None:
        self._records.let_through()

    def explain(self, cause: Cause, runs: int) -> None:
        if not self._has_failed:
            bb.warn(f"memguard: {self._name}: {cause}; it succeeded all the same, but may lack what was being made")
        elif not self._may_repeat:
            bb.warn(
                f"memguard: {self._name}: {cause}. It is not run again (MEMGUARD_RETRY_TASKS, MEMGUARD_RETRIES); start "
                "the build again, with a larger limit or fewer tasks at once (BB_NUMBER_THREADS)"
            )
        else:
            bb.warn(
                f"memguard: {self._name}: {cause}, in the last of {runs} runs, which had 1 job and was alone. It needs "
                "a container with a larger limit"
            )

    def excuse(self, fault: Exception) -> None:
        with contextlib.suppress(Exception):
            bb.note(f"memguard: {self._name} cannot be run again: {fault!r}")

    def end(self) -> None:
        """The task's function has run for the last time."""
        if self._sensor is not None:
            self._sensor.close()
        Kills(self._directory).forget(self._leader.mark)

    def _take_away(self, cause: Cause) -> None:
        """End what still runs of the last run, and remove what was half written."""
        d = self._d
        build = d.getVar("B") or ""
        roots = [d.getVar("WORKDIR") or "", build, d.getVar("S") or ""]
        spared = [d.getVar("T") or ""]
        written = half_written.end_session(self._leader.pid, self._since_ticks)
        targets = half_written.failed_targets(self._log_lines(), build)
        oldest_s = half_written.oldest_mtime(self._since_s, self._since_epoch_s)
        removed = half_written.remove_partial([*cause.outputs, *written, *targets], roots, spared, oldest_s)
        for path in removed:
            print(f"memguard: removed {path}, which was not finished", flush=True)

    def _keep_directories(self) -> None:
        """Keep BitBake from cleaning what the last run has finished; what an install puts into D is put there anew."""
        directories = (self._d.getVarFlag(self._task, "cleandirs") or "").split()
        image = (self._d.getVar("D") or "").rstrip("/")
        cleaned = [
            path
            for path in directories
            if self._task.startswith("do_install") and image and f"{path.rstrip('/')}/".startswith(f"{image}/")
        ]
        self._d.setVarFlag(self._task, "cleandirs", " ".join(cleaned))

    def _log_bytes(self) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        return Path(self._log).stat().st_size

    def _log_lines(self) -> list[str]:
        """What the log has of the last run."""
        begin = max(self._offset, self._log_bytes() - _LOG_MOST_BYTES)
        with open(self._log, "rb") as file:
            file.seek(begin)
            return file.read(_LOG_MOST_BYTES).decode("utf-8", "replace").splitlines()

    def _kills(self) -> tuple[Kill, ...]:
        """What the sentinel has killed since the last run began."""
        try:
            path = BuildDirectory(self._directory).kills / f"{self._leader.mark}.jsonl"
            notes = read_plain(str(path), _NOTES_MOST_BYTES)
        except OSError:
            return ()
        return read_kills(notes.splitlines(), self._since_s)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
