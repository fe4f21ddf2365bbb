# SPDX-License-Identifier: MIT
"""The sentinel: a small process beside the BitBake server that watches what every running task takes.

Runs in: a process of its own, which the server starts and which ends with it; standard library only.
Covers: measuring tasks, one record in the history for each that ends, the state that the server reads.
Does not cover: acting on tasks. Where it fails, the build goes on without it.

It ends when its standard input ends, which is a pipe that only the server holds: so it outlives neither a server that
ends nor one that is killed. What it has to say at the end is one line of JSON on standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memguard.history import History
from memguard.model import Outcome, Record
from memguard.notes import STATE_AGE_S, Listener, Notes, Orders, TaskEnd, TaskNote, TaskState
from memguard.procs import Leader, ProcessTable, Tally, Usage
from memguard.sense import Sensor

# Three times a second: a compiler takes two to three seconds to half of its peak, and with 500 processes so many looks
# take 1 % of a core.
INTERVAL_S = 1 / 3
# Tasks that run their jobs at once however short they are; others run one command after the other.
PARALLEL_TASKS = ("do_compile", "do_install")
# Looks until the next one at each task's own process.
THOROUGH_EVERY = 3


@dataclass
class Watched:
    """A task that runs: what it told, what it took so far, and the container's counters when it began."""

    note: TaskNote
    since_s: float
    kills_before: int
    throttles_before: int
    tally: Tally = field(default_factory=Tally)
    usage: Usage = field(default_factory=Usage)
    end: TaskEnd | None = None


@dataclass
class Report:
    """What the sentinel says when it ends: tasks recorded, the heaviest of them, and what went wrong."""

    recorded: int = 0
    heaviest: list[tuple[str, int]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Sentinel:
    """Watches the tasks of one build; `step()` is one look at all of them."""

    HEAVIEST = 5

    def __init__(self, orders: Orders, listener: Listener, sensor: Sensor | None = None) -> None:
        self.report = Report()
        self._orders = orders
        self._notes = Notes(Path(orders.directory))
        self._listener = listener
        self._sensor = sensor or Sensor(limit_bytes=orders.limit_bytes)
        self._processes = ProcessTable()
        self._history = History(Path(orders.history), orders.history_max_bytes, warn=self.report.warnings.append)
        self._watched: dict[Leader, Watched] = {}
        self._looks = 0
        self._published: dict[str, TaskState] = {}
        self._published_at_s = 0.0
        self._began_s = time.time()

    def step(self) -> None:
        """Look at every task once: measure those that run, record those that have ended, tell the server."""
        now_s = time.monotonic()
        self._take_notes(now_s)
        for leader, usage in self._processes.scan({leader: leader for leader in self._watched}).items():
            self._watched[leader].usage = usage
            self._watched[leader].tally.add(usage)
        self._looks += 1
        is_thorough = self._looks % THOROUGH_EVERY == 0
        ended = [leader for leader, run in self._watched.items() if run.end or _is_gone(leader, is_thorough)]
        if ended:
            # A task tells how it ended, and is gone: perhaps between the look at the notes and the one at the process.
            self._take_notes(now_s)
            self._history.add([self._record(self._watched.pop(leader), now_s) for leader in ended], self._began_s)
        self._publish(now_s)

    def finish(self) -> None:
        """Record what still runs as failed, unless it has said otherwise, and leave nothing behind."""
        self.step()
        now_s = time.monotonic()
        self._history.add([self._record(run, now_s) for run in self._watched.values()], self._began_s)
        self._watched.clear()
        self._history.close()
        self._notes.clear()

    def _take_notes(self, now_s: float) -> None:
        for note in self._listener.read():
            leader = Leader(note.pid, note.start_ticks)
            if isinstance(note, TaskNote):
                kills, throttles = self._counters()
                self._watched[leader] = Watched(note, now_s, kills, throttles)
            elif isinstance(note, TaskEnd) and leader in self._watched:
                self._watched[leader].end = note

    def _record(self, run: Watched, now_s: float) -> Record:
        """What is remembered of a task that has ended."""
        tally, note = run.tally, run.note
        kills, throttles = self._counters()
        outcome = run.end.outcome if run.end else Outcome.FAILED
        if outcome is Outcome.FAILED and kills > run.kills_before:
            outcome = Outcome.MEMORY_KILL
        elif outcome is Outcome.OK and throttles > run.throttles_before:
            outcome = Outcome.THROTTLED
        largest_bytes, peak_bytes = tally.largest_process_bytes, tally.peak_bytes or None
        if peak_bytes is None and run.end:
            # Too short to be seen: no more than so many processes of the largest size can have been there.
            at_once = note.jobs if note.task.startswith(PARALLEL_TASKS) else 1
            largest_bytes, peak_bytes = run.end.largest_bytes, run.end.largest_bytes * at_once or None
        self.report.recorded += 1
        if tally.peak_bytes:
            heaviest = [*self.report.heaviest, (f"{note.recipe} {note.task}", tally.peak_bytes)]
            self.report.heaviest = sorted(heaviest, key=lambda task: -task[1])[: self.HEAVIEST]
        return Record(
            build=self._orders.build,
            recipe=note.recipe,
            version=note.version,
            task=note.task,
            machine=note.machine,
            jobs=note.jobs,
            peak_bytes=peak_bytes,
            largest_process_bytes=largest_bytes,
            wall_s=round(run.end.wall_s if run.end else now_s - run.since_s, 3),
            cpu_s=round(max(run.end.cpu_s if run.end else 0.0, tally.cpu_s), 3),
            outcome=outcome,
            per_job_bytes=tally.per_job_bytes,
            serial_bytes=tally.serial_bytes if tally.most_compilers > 1 else None,
        )

    def _counters(self) -> tuple[int, int]:
        """How often the kernel has killed in this container, and slowed it down at memory.high."""
        events = self._sensor.events()
        return events.get("oom_kill", 0), events.get("high", 0)

    def _publish(self, now_s: float) -> None:
        """Tell the server when something has changed, and once in a while that nothing has."""
        states = {
            run.note.tid: TaskState(run.usage.current_bytes, run.tally.peak_bytes) for run in self._watched.values()
        }
        if states == self._published and (not states or now_s - self._published_at_s < STATE_AGE_S / 3):
            return
        with contextlib.suppress(OSError):
            self._notes.publish(states, now_s)
        self._published, self._published_at_s = states, now_s


def _is_gone(leader: Leader, is_thorough: bool) -> bool:
    """Whether the process that was the task has ended; a thorough look knows zombies, and others with its pid."""
    if not is_thorough:
        try:
            os.kill(leader.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
        return False
    try:
        with open(f"/proc/{leader.pid}/stat", "rb") as file:
            fields = file.read(4096).rpartition(b")")[2].split()
        return fields[0] in (b"Z", b"X") or int(fields[19]) != leader.start_ticks
    except (OSError, ValueError, IndexError):
        return True


def run(orders: Orders, notes: int, server: int) -> Report:
    """Watch until the pipe `server` ends, then finish; the next look comes INTERVAL_S after the last one began."""
    sentinel = Sentinel(orders, Listener(notes))
    try:
        due_s = time.monotonic()
        while True:
            due_s = max(due_s + INTERVAL_S, time.monotonic())
            sentinel.step()
            readable, _, _ = select.select([server], [], [], max(0.0, due_s - time.monotonic()))
            if readable and not os.read(server, 4096):
                break
    finally:
        sentinel.finish()
    return sentinel.report


def main(argument: str, notes: str) -> int:
    """The process itself: its orders as JSON, and the descriptor to take notes from; returns its exit status."""
    orders = Orders(**json.loads(argument))
    try:
        report: dict[str, Any] = asdict(run(orders, int(notes), sys.stdin.fileno()))
    except Exception:
        import traceback  # only now: it takes 2 MiB

        report = {"fault": traceback.format_exc()}
    with contextlib.suppress(OSError):
        print(json.dumps(report), flush=True)
    return 1 if "fault" in report else 0
