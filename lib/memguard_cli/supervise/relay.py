# SPDX-License-Identifier: MIT
"""Signals between the terminal, or whoever sends them, and the command of `memguard run`.

Runs in: outside BitBake.
Covers: each signal reaches the command once, and job control: Ctrl-Z, fg and bg.
Does not cover: starting the command (supervisor), signals to single jobs (act/signals).

Where there is a terminal, the command shares the process group of this process, as with env or nice: it may read and
draw, Ctrl-C, Ctrl-Z and a new window size come to it from the terminal itself, and the shell's job control is the only
one. What is sent to this process alone is passed on. Which of both it was is seen from a witness, a process of the same
group that blocks all signals: what was sent to the group is pending there, too.

Where there is none, the command leads a session of its own, and gets all that is sent to this process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Callable

from memguard.act.signals import send
from memguard.sense.proc_files import ProcessId, find_process, read_file

# Signals by which somebody wants the command to end.
_ENDING = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT})
# Signals that stop a job; the last two come when it reads from its terminal, or writes to it, in the background.
_STOPPING = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})
_OTHERS = frozenset({signal.SIGUSR1, signal.SIGUSR2})
# The kernel signals the processes of a group one after the other.
_WITNESS_S = 0.01


class Relay:
    """Passes on to one command at a time what this process is sent.

    rest, go_on:  called before this process is stopped with the command, and after both go on.
    is_ending:    somebody wants it all to end: the command is not run again.
    is_cut_short: the same, and it was said to this process alone: nothing of the command may be left.
    """

    def __init__(self, rest: Callable[[], None], go_on: Callable[[], None]) -> None:
        self.has_terminal = _has_terminal()
        self.is_ending = self.is_cut_short = False
        self._rest, self._go_on = rest, go_on
        self._process: subprocess.Popen[bytes] | None = None
        self._leader: ProcessId | None = None
        self._members: Callable[[], Iterable[ProcessId]] = lambda: ()
        # Signals that came before there was somebody to pass them on to.
        self._early: list[int] = []
        self._witness = _Witness() if self.has_terminal else None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take signals meanwhile; those that this process ignores stay ignored, for the command, too.

        After it all are ignored: the command has ended, and its status is the answer.
        """
        numbers = [*_ENDING, *_OTHERS, *(_STOPPING if self.has_terminal else {signal.SIGTSTP})]
        for number in numbers:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._take)
        try:
            yield
        finally:
            for number in numbers:
                signal.signal(number, signal.SIG_IGN)
            if self._witness is not None:
                self._witness.close()

    def serve(self, process: subprocess.Popen[bytes]) -> None:
        """From now on this is the command. It gets what came before it was there."""
        self._process, self._leader = process, find_process(process.pid)
        self._members = lambda: ()
        while self._early:
            self._pass_on(process.pid, self._early.pop(0))

    def know(self, members: Callable[[], Iterable[ProcessId]]) -> None:
        """Where the command is in this group, these of its processes are, too; others are not signalled."""
        self._members = members

    def end_as(self, returncode: int) -> None:
        """End as a command did that Ctrl-C has ended, so that a script which called this process ends, too."""
        if self.has_terminal and self.is_ending and returncode == -signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    def _take(self, number: int, frame: FrameType | None) -> None:
        process = self._process
        self.is_ending = self.is_ending or number in _ENDING
        if process is None or process.returncode is not None:
            self.is_cut_short = self.is_cut_short or number in _ENDING
            self._early.append(number)
        elif self._witness is not None and self._witness.has_got(number):
            if number in _STOPPING:
                self._stop_as(number)
        else:
            self.is_cut_short = self.is_cut_short or number in _ENDING
            self._pass_on(process.pid, number)

    def _stop_as(self, number: int) -> None:
        """Stop as the terminal has stopped the command, and only where it does: not where no shell would go on."""
        self._rest()
        handler = signal.signal(number, signal.SIG_DFL)
        signal.pthread_kill(threading.get_ident(), number)
        signal.signal(number, handler)
        self._go_on()

    def _pass_on(self, leader: int, number: int) -> None:
        if number not in _STOPPING:
            self._send(leader, number)
            if number in _ENDING:
                self._send(leader, signal.SIGCONT)
            return
        # This process stops with the command; what was stopped before stays so when both go on.
        self._rest()
        self._send(leader, signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._send(leader, signal.SIGCONT)
        self._go_on()

    def _send(self, leader: int, number: int) -> None:
        """Send to what belongs to the command and has the group that it was started in."""
        if not self.has_terminal:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(leader, number)
            return
        group = os.getpgrp()
        for member in {*([self._leader] if self._leader else ()), *self._members()}:
            with contextlib.suppress(OSError):
                if os.getpgid(member.pid) == group:
                    send(member, signal.Signals(number))


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal (tty(4))."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


class _Witness:
    """A process of this group in which every signal stays pending, so that it says what the whole group was sent."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._start()

    def has_got(self, number: int) -> bool:
        """Whether the group was sent this signal, too, since this was last asked; False where nobody can say."""
        if self._process is None:
            return False
        time.sleep(_WITNESS_S)
        status = read_file(f"/proc/{self._process.pid}/status") or b""
        words = status.partition(b"\nShdPnd:")[2].split(maxsplit=1)
        has_got = bool(words) and bool(int(words[0], 16) >> (number - 1) & 1)
        if has_got:
            # It stays pending there: the next one would not be seen.
            self.close()
            self._start()
        return has_got

    def close(self) -> None:
        """End it."""
        process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.kill()
            process.stdin.close()
            process.wait()

    def _start(self) -> None:
        everything = signal.valid_signals()
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", "read -r _"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, everything) and None,
            )
