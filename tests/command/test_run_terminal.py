# SPDX-License-Identifier: MIT
"""`memguard run` at a terminal: the command reads, draws and is stopped there as without it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import psutil
import pyte
import pytest

ROOT = Path(__file__).resolve().parents[2]
# Says its size, each line that is typed, and each signal.
PROGRAM = """
import os, signal, sys
terminal = open("/dev/tty")
def say(text): os.write(1, f"{text}\\r\\n".encode())
def size(*_): say("size " + " ".join(map(str, os.get_terminal_size(terminal.fileno()))))
for name in ("INT", "TERM", "HUP", "QUIT", "USR1"):
    signal.signal(getattr(signal, "SIG" + name), lambda number, _, name=name: say(f"got {name}"))
signal.signal(signal.SIGWINCH, size)
size()
for line in terminal:
    say("read " + line.strip())
    if line.startswith("end"):
        sys.exit(7)
"""
WAIT_S = 60.0


class Terminal:
    """A shell with job control in a terminal of 80 by 24."""

    def __init__(self, directory: Path) -> None:
        (directory / "program.py").write_text(PROGRAM)
        run = directory / "memguard"
        path = f"{ROOT / 'meta-memguard' / 'lib'}:{ROOT / 'lib'}"
        run.write_text(f'#!/bin/sh\nPYTHONPATH={path} exec {sys.executable} -m memguard_cli.main run -- "$@"\n')
        run.chmod(0o755)
        self.text = ""
        self._screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self._screen)
        self.pid, self._file = pty.fork()
        if self.pid == 0:
            os.chdir(directory)
            os.environ.update(PS1="> ", TERM="xterm", HISTFILE="")
            os.execvp("bash", ["bash", "--norc", "--noprofile", "-i"])
        self.resize(80, 24)
        self.wait_for_prompt()

    def type(self, text: str) -> None:
        """Type something; what came before is forgotten."""
        self.text = ""
        os.write(self._file, text.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Give it another size."""
        fcntl.ioctl(self._file, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def wait_for(self, *words: str) -> None:
        """Wait until all of this was written since something was typed."""
        self.until(lambda: all(word in self.text for word in words), str(words))

    def wait_for_prompt(self, word: str = "") -> None:
        """Wait until this was written and the shell reads again: what is typed before may be lost."""
        self.until(lambda: re.search(f"{re.escape(word)}.*> ", self.text, re.DOTALL), f"{word} and a prompt")

    def until(self, holds: Callable[[], object], what: str = "") -> None:
        """Read until something holds."""
        deadline_s = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < deadline_s, (what, self.text, self._screen.display)
            if select.select([self._file], [], [], 0.05)[0]:
                found = os.read(self._file, 4096)
                self._stream.feed(found)
                self.text += found.decode()

    def read_for(self, seconds: float) -> None:
        """Read what comes in this time."""
        deadline_s = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > deadline_s)

    def guards(self) -> list[psutil.Process]:
        """The processes of memguard run, and those of its commands after them."""
        found = []
        for process in psutil.Process(self.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # gone, or a zombie
                found.append((process, process.cmdline()))
        own = [process for process, words in found if "memguard_cli.main" in words]
        return own + [process for process, words in found if "program.py" in words[1:2]]

    def close(self) -> None:
        """Hang up, and wait for the shell."""
        os.close(self._file)
        os.waitpid(self.pid, 0)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """One with a shell in it; afterwards nothing of it is left."""
    opened = Terminal(tmp_path)
    try:
        yield opened
    finally:
        left = opened.guards()
        opened.close()
        for process in left:
            process.terminate()
        assert psutil.wait_procs(left, WAIT_S)[1] == []


def catches(process: psutil.Process, number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for a signal."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1)


COMMAND = f"./memguard {sys.executable} program.py"


def test_the_command_reads_and_is_drawn_anew(terminal: Terminal) -> None:
    """It has /dev/tty, and hears of a new size as it would without memguard; its status is the answer."""
    terminal.type(f"{COMMAND}; echo status $?\n")
    terminal.wait_for("size 80 24")
    terminal.resize(100, 30)
    terminal.wait_for("size 100 30")
    terminal.type("hello\n")
    terminal.wait_for("read hello")
    terminal.type("end\n")
    terminal.wait_for("exit status 7", "status 7")
    assert terminal.text.count("size") == 0


def test_job_control_is_the_shells(terminal: Terminal) -> None:
    """Ctrl-Z stops both and gives the prompt; fg goes on; in the background whoever reads the terminal is stopped."""
    terminal.type(f"{COMMAND}\n")
    terminal.wait_for("size 80 24")
    guards = terminal.guards()
    assert len(guards) == 2
    for stop in ("\x1a", "\x1a"):
        terminal.type(stop)
        terminal.wait_for_prompt("Stopped")
        terminal.until(lambda: {process.status() for process in guards} == {psutil.STATUS_STOPPED})
        terminal.type("fg\n")
        terminal.wait_for("program.py")
        terminal.type("hello\n")
        terminal.wait_for("read hello")
    terminal.type("\x1a")
    terminal.wait_for_prompt("Stopped")
    terminal.type("bg\n")
    terminal.wait_for_prompt("program.py")
    # Before it lets them go on both stand still, too; the shell says before a prompt what has stopped since.
    deadline_s = time.monotonic() + WAIT_S
    while "Stopped" not in terminal.text:
        assert time.monotonic() < deadline_s, terminal.text
        terminal.read_for(0.1)
        terminal.type("\n")
        terminal.wait_for_prompt()
    terminal.until(lambda: {process.status() for process in guards} == {psutil.STATUS_STOPPED})
    terminal.type("fg\n")
    terminal.wait_for("program.py")
    terminal.type("end\n")
    terminal.wait_for("exit status 7")


def test_a_signal_comes_once_however_it_is_sent(terminal: Terminal) -> None:
    """From the terminal, to the whole job or to memguard alone: the command gets each signal once."""
    terminal.type(f"{COMMAND}\n")
    terminal.wait_for("size 80 24")
    guard, _ = terminal.guards()
    for name, send in (
        ("INT", lambda: terminal.type("\x03")),
        ("INT", lambda: terminal.type("\x03")),
        ("QUIT", lambda: terminal.type("\x1c")),
        ("HUP", lambda: os.killpg(guard.pid, signal.SIGHUP)),
        ("TERM", lambda: os.killpg(guard.pid, signal.SIGTERM)),
        ("USR1", lambda: guard.send_signal(signal.SIGUSR1)),
        ("TERM", lambda: guard.send_signal(signal.SIGTERM)),
        ("INT", lambda: guard.send_signal(signal.SIGINT)),
    ):
        terminal.text = ""
        send()
        terminal.wait_for(f"got {name}")
        terminal.read_for(0.3)
        assert terminal.text.count("got") == 1, name
    terminal.type("end\n")
    terminal.wait_for("exit status 7")


def test_ctrl_c_ends_the_script_around_it(terminal: Terminal) -> None:
    """A loop in a script ends with the command, as without memguard."""
    terminal.type("sh -c 'for n in 1 2 3; do ./memguard sleep 600; echo next; done'\n")
    terminal.until(lambda: [child for child in psutil.Process(terminal.pid).children(True) if child.name() == "sleep"])
    terminal.type("\x03")
    terminal.wait_for("exit status 130")
    terminal.read_for(0.5)
    assert "next" not in terminal.text
    terminal.type("echo all $?\n")
    terminal.wait_for("all 130")


def test_what_the_command_leaves_in_the_group_is_not_harmed(terminal: Terminal) -> None:
    """Others of the same job, the reader of a pipe, are not signalled: only what belongs to the command is."""
    terminal.type(f"{COMMAND} | {sys.executable} -c 'import sys; print(*sys.stdin)'; echo all ${{PIPESTATUS[*]}}\n")
    terminal.until(lambda: len(terminal.guards()) == 2)
    guard, program = terminal.guards()
    # The last of its handlers.
    terminal.until(lambda: catches(program, signal.SIGWINCH))
    guard.send_signal(signal.SIGTERM)
    terminal.read_for(0.5)
    terminal.type("end\n")
    terminal.wait_for("got TERM", "all 7 0")


def test_files_that_were_open_are_the_commands(tmp_path: Path) -> None:
    """Whatever descriptors the caller has given are there, as those of a shell's redirection."""
    script = f"{sys.executable} -m memguard_cli.main run -- sh -c 'echo three >&3; cat <&4' 3>three 4<four"
    (tmp_path / "four").write_text("fourth\n")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'meta-memguard' / 'lib'}:{ROOT / 'lib'}"}
    done = subprocess.run(
        ["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, (tmp_path / "three").read_text()) == (0, "fourth\n", "three\n"), done.stderr


@pytest.mark.parametrize("name", ["HUP", "INT"])
def test_what_the_caller_ignores_stays_ignored(tmp_path: Path, name: str) -> None:
    """As under nohup, or in the background of a shell without job control."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'meta-memguard' / 'lib'}:{ROOT / 'lib'}"}
    script = f"trap '' {name}; exec {sys.executable} -m memguard_cli.main run -- sh -c 'kill -{name} $PPID $$; exit 7'"
    done = subprocess.run(["sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, timeout=60)
    assert done.returncode == 7, done.stderr
