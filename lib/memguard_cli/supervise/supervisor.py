# SPDX-License-Identifier: MIT
"""Runs one command under the reflex: a pool of tokens, and stops and kills of single jobs as memory gets short.

Runs in: outside BitBake.
Covers: the loop, a second run of a build tool that lost a job; what it all took. After a fault of its own, whatever it
is, the command goes on, unguarded.
Does not cover: arguments and what is printed (run), cgroups (enclosure), signals and the terminal (relay), one look
(look), deciding (regulate).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Callable

from memguard.act.cpu_first import precedence
from memguard.act.signals import send
from memguard.act.token_pool import make_pool
from memguard.decide.moment import Act
from memguard.decide.pool_form import MAKE_FIFO, MAKE_PIPE, PROGRAMS, Choice, Form, flags
from memguard.model import Policy, Reading, Version
from memguard.predict.remembered_lives import Lives
from memguard.sense.container import Sensor
from memguard.sense.proc_files import MARK, ProcessId, find_process
from memguard.sense.process_table import ProcessTable
from memguard.sense.process_tree import Usage
from memguard.sense.tool_versions import Tools
from memguard.sentinel.look import Lookout
from memguard.sentinel.reflex import Reflex
from memguard.sentinel.ward import Sight, Ward
from memguard_cli.supervise.enclosure import Enclosure, Janitor
from memguard_cli.supervise.relay import Relay

_COMMAND = "command"


class NotStarted(Exception):
    """The command cannot be started; the text says why."""


@dataclass(frozen=True)
class Wish:
    """What the user asked for.

    limit_bytes: the limit to keep, None for the container's own.
    jobs:        the most jobs at once, None for as many as there are CPUs.
    job_bytes:   what one job is thought to take, None to find out.
    retries:     how often the command is run again after it has lost a job for memory.
    """

    command: tuple[str, ...]
    limit_bytes: int | None = None
    jobs: int | None = None
    job_bytes: int | None = None
    policy: Policy = field(default_factory=Policy)
    retries: int = 0


@dataclass
class Account:
    """What the run took. Tokens do not count the one job that the command has without any."""

    peak_bytes: int = 0
    limit_bytes: int = 0
    limit_source: str = ""
    oom_kills: int = 0
    stopped: int = 0
    woken: int = 0
    killed: int = 0
    retried: int = 0
    tokens_min: int | None = None
    tokens_max: int = 0
    jobs: int = 0
    wall_s: float = 0.0
    exit_status: int = 0


class Supervisor:
    """One command under supervision. `lives` are those of its jobs in earlier runs; those of this one are added.

    say: says what went wrong, in one sentence.
    """

    def __init__(
        self,
        wish: Wish,
        enclosure: Enclosure | None,
        environment: Mapping[str, str],
        lives: Lives | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.account = Account()
        self._say = say
        self._lives = lives
        self._wish = wish
        self._enclosure = enclosure
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._reflex: Reflex | None = None
        self._step_back: Callable[[], None] = lambda: None
        self._relay = Relay(self._rest, self._go_on)
        self._make: Version | None = None
        self._jobs = wish.jobs or 1
        # A fault was met: the command is left alone from here on.
        self._is_unguarded = False

    def run(self) -> Account:
        """Run the command to its end. Raises NotStarted."""
        began_s = time.monotonic()
        with self._relay.listening():
            try:
                self._guard()
            except NotStarted:
                raise
            except Exception as fault:
                self._note_fault(fault)
            if self._process is None:
                self._start({}, ())
            if self._process is not None:
                self.account.exit_status = _status(self._process.wait())
            if self._enclosure is not None and self._is_unguarded:
                self._enclosure.remove()
        self.account.wall_s = round(time.monotonic() - began_s, 3)
        return self.account

    def end_as_command(self) -> None:
        """After run(): end this process, too, where the command was ended by Ctrl-C."""
        if self._process is not None and self._process.returncode is not None:
            self._relay.end_as(self._process.returncode)

    def _guard(self) -> None:
        """Run the command under guard."""
        self._jobs = self.account.jobs = self._wish.jobs or max(1, ceil(Sensor().read().cpus))
        with _scratch() as scratch:
            janitor = Janitor(scratch, self._enclosure)
            search = self._environment.get("PATH", os.defpath)
            self._make = Tools(scratch / "versions").oldest(("make", "gmake"), search)
            try:
                with precedence() as self._step_back:
                    self._attempts(scratch)
            finally:
                janitor.close()

    def _note_fault(self, fault: Exception) -> None:
        """Say once that the command goes on by itself, and why."""
        if not self._is_unguarded:
            self._is_unguarded = True
            self._say(f"a fault of memguard's own, so the command goes on unguarded: {fault!r}")

    def _attempts(self, scratch: Path) -> None:
        """Run the command, and again with fewer jobs while it fails for memory."""
        for attempt in range(self._wish.retries + 1):
            lost = self.account.killed + self.account.oom_kills
            jobs = 1 if attempt and attempt == self._wish.retries else max(1, self._jobs >> attempt)
            status = self._attempt(scratch / f"pool-{attempt}", jobs)
            if status == 0 or self._relay.is_ending or self.account.killed + self.account.oom_kills == lost:
                break
            if self._is_unguarded:
                break
            if attempt < self._wish.retries:
                self.account.retried += 1

    def _attempt(self, pool: Path, jobs: int) -> int:
        make_pool(str(pool))
        sides = (os.open(pool, os.O_RDONLY | os.O_NONBLOCK), os.open(pool, os.O_WRONLY))
        os.set_blocking(sides[0], True)
        try:
            process = self._start(client_words(str(pool), sides, jobs, self._wish.command, self._make), sides)
        finally:
            for side in sides:
                os.close(side)
        leader = find_process(process.pid)
        if leader is not None:
            self._watch(process, leader, str(pool), jobs)
        return _status(process.wait())

    def _start(self, words: Mapping[str, str], files: Sequence[int]) -> subprocess.Popen[bytes]:
        """Start the command, with these variables and files besides. Raises NotStarted."""
        environment = {**self._environment, **words}
        for file in files:
            os.set_inheritable(file, True)
        try:
            # Whatever files this process was given are the command's.
            self._process = subprocess.Popen(
                self._wish.command,
                env=environment,
                close_fds=False,
                start_new_session=not self._relay.has_terminal,
                preexec_fn=lambda: self._become(environment),
            )
        except (OSError, subprocess.SubprocessError) as error:
            why = error.strerror if isinstance(error, OSError) else "its cgroup cannot be entered"
            raise NotStarted(f"{self._wish.command[0]}: {why}") from None
        self._relay.serve(self._process)
        return self._process

    def _become(self, environment: Mapping[str, str]) -> None:
        """What the command's process does before it is the command: with its mark, if it has none of a task's."""
        self._step_back()
        if self._enclosure is not None:
            self._enclosure.enter()
        # Where this fails, Popen does the same without the mark, and says why.
        with contextlib.suppress(Exception):
            own = find_process(os.getpid())
            if own is not None and MARK not in environment:
                os.execvpe(self._wish.command[0], self._wish.command, {MARK: own.mark, **environment})

    def _watch(self, process: subprocess.Popen[bytes], leader: ProcessId, pool: str, jobs: int) -> None:
        """Look and act until the command has ended; after a fault only wait for that, with all of it awake."""
        with contextlib.ExitStack() as closing:
            try:
                self._look_on(process, leader, pool, jobs, closing)
            except Exception as fault:
                self._note_fault(fault)
                if self._reflex is not None:
                    with contextlib.suppress(Exception):
                        self._reflex.let_go()
                process.wait()

    def _look_on(
        self, process: subprocess.Popen[bytes], leader: ProcessId, pool: str, jobs: int, closing: contextlib.ExitStack
    ) -> None:
        """Look and act until the command has ended; `closing` gets what is to be closed then."""
        table = ProcessTable()
        reflex = self._reflex = Reflex(jobs, table.members)
        closing.callback(self._close, reflex.close)
        sensor = Sensor(process=str(process.pid))
        closing.callback(self._close, sensor.close)
        ended = _PidFile(process.pid)
        closing.callback(self._close, ended.close)
        lookout = Lookout(sensor, table, reflex, self._wish.policy, ended.file, bound=self._bound(leader))
        closing.callback(self._close, lookout.close)
        kills_before = sensor.oom_kills() or 0
        try:
            self._relay.know(lambda: table.members(leader))
            reflex.begin(_COMMAND, Ward(leader, 1, jobs, self._wish.job_bytes, pool=pool), self._lives)
            self._note_limit(self._bound(leader)(sensor.read(), {}))
            while process.poll() is None:
                lookout.sense()
                self._note(lookout.look({leader: _COMMAND}), reflex.use_of(_COMMAND).tokens)
                lookout.wait()
            reflex.end(_COMMAND, time.monotonic())
            if self._relay.is_cut_short:
                for member in table.members(leader):
                    send(ProcessId(*member), signal.SIGKILL)
        finally:
            if self._enclosure is not None:
                self.account.oom_kills = self._enclosure.oom_kills()  # all there were since it was made
            else:
                self.account.oom_kills += max(0, (sensor.oom_kills() or 0) - kills_before)

    def _close(self, close: Callable[[], object]) -> None:
        """Close something; where that fails, too, the command's end counts all the same."""
        try:
            close()
        except Exception as fault:
            self._note_fault(fault)

    def _bound(self, leader: ProcessId) -> Callable[[Reading, Mapping[ProcessId, Usage]], Reading]:
        """What makes a reading one of what the command takes, under a limit that nobody enforces."""
        limit = self._wish.limit_bytes
        if limit is None or self._enclosure is not None:
            return lambda reading, usages: reading

        def bound(reading: Reading, usages: Mapping[ProcessId, Usage]) -> Reading:
            used_bytes = usages[leader].current_bytes if leader in usages else 0
            return replace(
                reading,
                limit_bytes=min(limit, reading.bound_bytes),
                limit_source="--limit, which is watched but not enforced",
                used_bytes=used_bytes,
                shmem_bytes=0,
                room_bytes=min(limit - used_bytes, reading.left_bytes),
                charged_bytes=None,
                swap_left_bytes=0,
            )

        return bound

    def _note_limit(self, reading: Reading) -> None:
        self.account.limit_bytes, self.account.limit_source = reading.bound_bytes, reading.limit_source
        enclosure = self._enclosure
        if enclosure is not None and enclosure.limit_bytes < reading.bound_bytes:
            # The command was gone before it was looked at, and its process says no more where it lay.
            self.account.limit_bytes, self.account.limit_source = enclosure.limit_bytes, str(enclosure.limit_file)

    def _note(self, sight: Sight, tokens: int | None) -> None:
        account = self.account
        if sight.reading is not None:
            self._note_limit(sight.reading)
        account.peak_bytes = max(account.peak_bytes, sight.used_bytes)
        for done in sight.acted:
            account.stopped += done.action.act is Act.STOP
            account.woken += done.action.act is Act.WAKE
            account.killed += done.action.act is Act.KILL
        if tokens is not None:
            account.tokens_max = max(account.tokens_max, tokens)
            account.tokens_min = tokens if account.tokens_min is None else min(account.tokens_min, tokens)

    def _rest(self) -> None:
        if self._reflex is not None:
            self._reflex.rest()

    def _go_on(self) -> None:
        if self._reflex is not None:
            self._reflex.stop_again()


def client_words(
    pool: str, sides: tuple[int, int], jobs: int, command: Sequence[str], make: Version | None
) -> dict[str, str]:
    """The environment by which make, ninja and cargo find the pool.

    GNU make before 4.4 knows inherited descriptors only and aborts where it is given a FIFO, ninja knows FIFOs only;
    so where the make that would be met is old, the FIFO is for cargo, and for a ninja that is the command itself.
    """
    is_ninja = PROGRAMS.get(Path(command[0]).name) == "ninja"
    form = Form.FIFO
    if make is not None and make < MAKE_FIFO and not is_ninja:
        form = Form.PIPE if make >= MAKE_PIPE else Form.NONE
    words = {
        "MAKEFLAGS": flags(Choice(form, ""), jobs, pool, sides),
        "CARGO_MAKEFLAGS": flags(Choice(Form.FIFO, ""), jobs, pool),
    }
    return {name: text for name, text in words.items() if text is not None}


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A directory for the time of a run; the janitor may remove it first."""
    directory = tempfile.mkdtemp(prefix="memguard-run-")
    try:
        yield Path(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _PidFile:
    """A descriptor that can be read once the process has ended; a pipe that says nothing where there are none."""

    def __init__(self, pid: int) -> None:
        self._other = -1
        try:
            self.file = os.pidfd_open(pid)
        except (AttributeError, OSError):
            self.file, self._other = os.pipe()

    def close(self) -> None:
        os.close(self.file)
        if self._other >= 0:
            os.close(self._other)


def _status(returncode: int) -> int:
    """A shell's exit status: 128 and the signal's number for a command that was killed."""
    return 128 - returncode if returncode < 0 else returncode
