# SPDX-License-Identifier: MIT
"""The sentinel: a small process beside the BitBake server that watches what every running task takes, and acts on it.

Runs in: a process of its own, which the server starts and which ends with it; standard library only.
Covers: the shell around sentinel.py: it opens files, looks, hears notes, and performs what the sentinel says.
Does not cover: which task starts (the server), what is done to running ones (regulate). Where it fails, the build goes
on without it, and nothing stays stopped.

Its orders are the first line of its standard input, which is a pipe that only the server holds. It ends when that ends:
so it outlives neither a server that ends nor one that is killed. A server that ends says so first; what the state says
is kept for the next build where it did not. What the sentinel has to say at the end is one line of JSON on standard
output.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memguard.act.cpu_first import precedence
from memguard.act.half_written import written_by
from memguard.act.signals import offer_to_kernel, send, wake_all
from memguard.act.task_cgroup import TaskCgroup
from memguard.channels.fifo import Listener, Notes
from memguard.channels.kills import Kills
from memguard.channels.notes import FAREWELL, Orders, parse_orders
from memguard.channels.state import StateFile
from memguard.decide.moment import Job
from memguard.predict.remembered_lives import Lives
from memguard.record.readings_log import Readings
from memguard.sense.container import Sensor
from memguard.sense.proc_files import ProcessId, find_process, has_ended
from memguard.sense.process_table import ProcessTable
from memguard.sentinel.instructions import (
    Announce,
    BeginWard,
    ChangeWard,
    Closed,
    EndWard,
    Found,
    GiveKillNote,
    Heard,
    Instruction,
    Killing,
    Looked,
    OfferToKernel,
    Publish,
    Remember,
    RenewWard,
    RunCommand,
    ServerLost,
    Stimulus,
    WriteLine,
)
from memguard.sentinel.look import Lookout
from memguard.sentinel.neighbours import Neighbours
from memguard.sentinel.reflex import Reflex
from memguard.sentinel.remember import Memory
from memguard.sentinel.sentinel import Sentinel
from memguard.sentinel.watched import Instant, KernelCounts, Report

if TYPE_CHECKING:
    from memguard.act.user_command import PressureCommand
    from memguard.record.metrics import MetricsFile

# Looks until the next one at each task's own process.
# evidence: scripts/bench sentinel: the thorough look costs ten times the other
THOROUGH_EVERY = 3


class Shell:
    """The sentinel of one build with its files and processes; step() is one look at all tasks."""

    def __init__(
        self,
        orders: Orders,
        listener: Listener,
        sensor: Sensor | None = None,
        end: int | None = None,
        before_exec: Callable[[], None] | None = None,
    ) -> None:
        """end: a file that ends with the server; before_exec: called in the process of what is started meanwhile."""
        policy = orders.policy
        directory = Path(orders.directory)
        self._warnings: list[str] = []
        self._listener = listener
        self._state, self._kills = StateFile(directory), Kills(directory)
        self._readings = Readings(orders.log)
        self._memory = Memory(policy.history, policy.history_max_bytes, self._warnings.append)
        self._metrics: MetricsFile | None = None
        self._command: PressureCommand | None = None
        # What a build does without costs no memory.
        if policy.metrics:
            from memguard.record.metrics import MetricsFile

            self._metrics = MetricsFile(policy.metrics, self._warnings.append)
        if policy.pressure_command:
            from memguard.act.user_command import PressureCommand

            self._command = PressureCommand(policy.pressure_command, before_exec=before_exec)
        self._sensor = sensor or Sensor(limit_bytes=policy.limit_bytes)
        self._neighbours = Neighbours(policy.neighbours, self._sensor, self._warnings.append)
        table = ProcessTable()
        slots = orders.slots or ceil(self._sensor.cpus().count)
        self._reflex = Reflex(slots, table.members, orders.acts, self._before_kill)
        self._lookout = Lookout(self._sensor, table, self._reflex, policy, end, has_trigger=orders.acts)
        self._sentinel = Sentinel(orders.build, policy, orders.acts, os.getpid(), self._kernel_counts())
        self._lives: dict[str, Lives] = {}
        self._cgroup = TaskCgroup(Path(orders.cgroup)) if orders.cgroup else None
        self._looks = 0
        self._perform_one: dict[type[Any], Callable[[Any], object]] = {
            BeginWard: self._begin_ward,
            ChangeWard: lambda given: self._reflex.change(given.tid, given.most_jobs),
            RenewWard: lambda given: self._reflex.renew(given.tid),
            EndWard: self._end_ward,
            OfferToKernel: lambda given: offer_to_kernel(given.pid, given.share),
            GiveKillNote: lambda given: self._kills.note(given.mark, given.kill),
            RunCommand: self._run_command,
            Remember: lambda given: self._memory.add(given.records),
            WriteLine: lambda given: self._readings.write(given.event),
            Publish: self._publish,
            Announce: lambda given: self._neighbours.say(self._lookout.now_s, given.entry),
        }
        self._take_over(table)

    @property
    def report(self) -> Report:
        """What was seen and done until now."""
        return self._sentinel.report(self._warnings)

    def step(self) -> None:
        """Look at every task once: measure those that run, act, record those that have ended, let the server know."""
        # One instant for the whole step: a task may begin and lose a job in it, and took no time below zero.
        at = Instant(self._lookout.sense(), _now().time)
        notes = self._listener.read()
        if notes:
            self._handle(Heard(at, self._kernel_counts(), notes, self._lookout.reading))
        others = self._neighbours.look(at.now_s, self._lookout.reading)
        sight = self._lookout.look(self._sentinel.tasks, others)
        if self._command is not None:
            self._command.poll()
        self._looks += 1
        is_thorough = self._looks % THOROUGH_EVERY == 0
        gone = [leader for leader in self._sentinel.tasks if has_ended(leader, is_thorough)]
        if self._cgroup is not None and is_thorough:
            with contextlib.suppress(OSError):  # the next look may do better
                self._cgroup.follow(self._sensor.read)
        # A task says how it ended, and is gone: perhaps between the look at the notes and the one at the process.
        notes = self._listener.read()
        self._handle(Looked(at, self._kernel_counts(), sight, gone, notes, self._reflex.uses()))

    def wait(self) -> bool:
        """Wait until the next look; True where the server has said something, or is gone."""
        return self._lookout.wait()

    def finish(self, is_farewell: bool = True) -> None:
        """Record what still runs as failed, unless it has said otherwise, wake all and leave nothing behind.

        Without a farewell of the server its state stays, for the next build to see.
        """
        if is_farewell:
            self.step()
        else:
            # As it was then: what ran has lost its server, and ends meanwhile.
            notes = self._listener.read()
            self._handle(ServerLost(_now(), self._kernel_counts(), notes))
        self._reflex.close(time.monotonic())
        self._handle(Closed(_now(), self._kernel_counts()))
        self._memory.close()
        self._readings.close()
        self._kills.clear()
        if self._cgroup is not None and not is_farewell:
            self._cgroup.remove()
        if is_farewell:
            self._state.clear()
            if self._metrics is not None:
                self._metrics.finish(time.time(), self._sentinel.counts)

    def close(self) -> None:
        """See that nothing stays stopped, after a fault, too, and that the user's command has ended."""
        self._reflex.close()
        self._lookout.close()
        self._neighbours.close()
        if self._command is not None:
            self._command.end()
            if self._command.failure is not None:
                self._warnings.append(self._command.failure)

    def _take_over(self, table: ProcessTable) -> None:
        """Learn from what a sentinel before this one has left, and wake what it has stopped, of whatever build."""
        left = self._state.left()
        if left is None:
            return
        leaders = [ProcessId(task.pid, task.start_ticks) for task in left.tasks.values()]
        # Its watchman may have been killed with it. What has outlived its leader is found, too.
        table.scan({leader: leader for leader in leaders})
        wake_all(member for leader in leaders for member in table.members(leader))
        living = [leader for leader in leaders if find_process(leader.pid) == leader]
        self._handle(Found(_now(), self._kernel_counts(), left, living))
        self._state.clear()

    def _kernel_counts(self) -> KernelCounts:
        events = self._sensor.events()
        return KernelCounts(events.get("oom_kill", 0), events.get("high", 0))

    # -- performing --------------------------------------------------------------------------------------------------

    def _handle(self, stimulus: Stimulus) -> None:
        self._perform(self._sentinel.handle(stimulus))

    def _perform(self, instructions: Iterable[Instruction]) -> None:
        for instruction in instructions:
            self._perform_one[type(instruction)](instruction)

    def _begin_ward(self, given: BeginWard) -> None:
        note = given.note
        lives = self._lives[note.tid] = self._memory.lives(note)
        # A task that is over, or about to be, has taken its pool with it.
        has_begun = self._reflex.begin(note.tid, given.ward, lives)
        if not has_begun and os.path.lexists(note.pool) and not has_ended(given.ward.leader, is_thorough=True):
            words = f"{note.recipe} {note.task}"
            self._warnings.append(f"{words} has no pool, so it runs one job at a time: {note.pool}")
        if given.tokens is not None:
            self._reflex.adopt(note.tid, given.tokens)

    def _end_ward(self, given: EndWard) -> None:
        self._reflex.end(given.note.tid, time.monotonic())
        self._kills.forget(ProcessId(given.note.pid, given.note.start_ticks).mark)
        lives = self._lives.pop(given.note.tid, None)
        if lives is not None and given.has_lives:
            self._memory.add_lives(given.note, lives)

    def _before_kill(self, tid: str, job: Job) -> None:
        """The reflex is about to kill a job."""
        reading, moment = self._lookout.reading, self._reflex.moment
        if reading is None or moment is None:
            return
        send(ProcessId(job.pid, job.start_ticks), signal.SIGSTOP)  # so that it opens no other file
        outputs = written_by(job.pid)
        self._handle(Killing(_now(), tid, job, outputs, self._reflex.used_bytes, reading, moment.beside_bytes(job)))

    def _run_command(self, given: RunCommand) -> None:
        if self._command is not None:
            self._command.start(given.limit_bytes, given.used_bytes, given.recipe, given.task, given.wanted_bytes)

    def _publish(self, given: Publish) -> None:
        with contextlib.suppress(OSError):
            self._state.publish(given.state)
        if self._metrics is not None:
            self._metrics.update(given.state, given.state.time_s)


def run(
    orders: Orders, notes: int, server: int, before_exec: Callable[[], None] | None = None, said: bytes = b""
) -> Report:
    """Watch until the pipe `server` ends, then finish.

    said: what has come out of it already; before_exec: called in the process of what is started meanwhile.
    """
    shell = Shell(orders, Listener(notes), end=server, before_exec=before_exec)
    try:
        while True:
            shell.step()
            if shell.wait():
                heard = os.read(server, 4096)
                said += heard
                if not heard:
                    break
        shell.finish(is_farewell=FAREWELL in said)
    finally:
        shell.close()
        Notes(Path(orders.directory)).clear()
    return shell.report


def main(directory: str, notes: str) -> int:
    """The process itself, with the descriptor to take notes from; returns its exit status.

    directory: that of the build, by which this process is known in a list of all.
    """
    server = sys.stdin.fileno()
    first, said = _read_line(server)
    if not first:
        return 1  # the server ended before it has said anything
    try:
        with precedence() as step_back:
            report: dict[str, Any] = asdict(run(parse_orders(first), int(notes), server, step_back, said))
    except Exception:
        import traceback  # only now: it takes 2 MiB

        report = {"fault": traceback.format_exc()}
    with contextlib.suppress(OSError):
        print(json.dumps(report), flush=True)
    return 1 if "fault" in report else 0


def _read_line(file: int) -> tuple[bytes, bytes]:
    """The first line of a pipe, b"" where that ends before, and what has come after it."""
    said = b""
    while b"\n" not in said:
        more = os.read(file, 1 << 16)
        if not more:
            return b"", b""
        said += more
    line, _, rest = said.partition(b"\n")
    return line, rest


def _now() -> Instant:
    return Instant(time.monotonic(), round(time.time(), 3))
