# SPDX-License-Identifier: MIT
"""Starts the sentinel, looks after it, and ends it.

Runs in: the BitBake server; standard library only.
Covers: a process that ends with this one, whatever happens to it; one that dies or hangs is replaced; notes to it; what
it says at its end.
Does not cover: what that process does (sentinel/).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable

from memguard.channels.build_directory import BuildDirectory
from memguard.channels.fifo import Notes
from memguard.channels.notes import FAREWELL, Note, Orders, order_line
from memguard.sense.proc_files import read_file

# Pruning a full history takes some seconds.
PATIENCE_S = 30.0

# A sentinel that shows no sign of life for this time hangs: stopped by somebody, or by a disk that does not answer. One
# that lives writes a state every five seconds at least, and waits for its next look three times a second.
HUNG_S = 15.0
# Of the time between two looks at it no more than this counts: who stops the whole build stops this process, too.
_LOOK_MOST_S = 2.0
# One that hangs may not even die until its disk answers.
_DIES_S = 2.0

# A sentinel that dies is started again this often in one build.
RESTARTS_MOST = 3

# What of its environment the user's command is to find.
_KEPT = ("HOME", "USER", "LOGNAME")
# Isolated: neither the environment nor the working directory says what is imported. Only this process holds the other
# end of its standard input.
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); "
    "from memguard.sentinel.process import main; sys.exit(main(*sys.argv[2:]))"
)


class Watch:
    """A sentinel that runs. Raises OSError where it cannot be started."""

    def __init__(self, orders: Orders) -> None:
        library = str(Path(__file__).resolve().parents[2])
        # The directory is only there to be seen. The orders are not: users put passwords into their commands.
        words = [sys.executable, "-I", "-S", "-c", _PROGRAM, library, orders.directory]
        # Opened here and now: notes of the first tasks wait in it until the sentinel is up.
        notes = Notes(Path(orders.directory)).listen()
        self._pid = os.getpid()
        self._state = BuildDirectory(Path(orders.directory)).state
        try:
            self._process = subprocess.Popen(
                [*words, str(notes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env={"LC_ALL": "C.UTF-8", **{name: os.environ[name] for name in _KEPT if name in os.environ}},
                pass_fds=[notes],
                start_new_session=True,
            )
        finally:
            os.close(notes)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # that it has died is seen at the next look
            self._process.stdin.write(f"{order_line(orders)}\n".encode("ascii"))
            self._process.stdin.flush()

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    @property
    def has_died(self) -> bool:
        """Whether it has ended by itself."""
        return os.getpid() == self._pid and self._process.poll() is not None

    def signs(self) -> tuple[object, ...]:
        """What changes while it lives: when it wrote its state, and how often it has waited (None: not known)."""
        try:
            written_ns = self._state.stat().st_mtime_ns
        except OSError:
            written_ns = None
        status = read_file(f"/proc/{self.pid}/status") or b""
        waits = status.partition(b"\nvoluntary_ctxt_switches:")[2].split(maxsplit=1)
        return written_ns, waits[0] if waits else None

    def kill(self) -> None:
        """End it without a word; where it does not even die, it is left behind to do so later."""
        self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_DIES_S)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()

    def end(self) -> dict[str, Any]:
        """End it and return what it says (see sentinel/watched.Report); "fault" is why it says nothing else."""
        if os.getpid() != self._pid:
            return {}  # a forked child: the sentinel is its parent's
        try:
            said, _ = self._process.communicate(FAREWELL, timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            return {"fault": f"it did not end within {PATIENCE_S:g} s"}
        except (OSError, ValueError) as error:
            with contextlib.suppress(OSError):
                self._process.kill()
                self._process.wait()
            return {"fault": repr(error)}
        with contextlib.suppress(ValueError):
            report = json.loads(said)
            if isinstance(report, dict):
                return report
        status = self._process.returncode
        died = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return {"fault": f"it ended with {died} and said nothing"}


class SentinelKeeper:
    """Keeps a sentinel running over one build. Without one the build goes on all the same."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._watch: Watch | None = None
        self._orders: Orders | None = None
        self._notes: Notes | None = None
        self._restarts = 0
        self._signs: tuple[object, ...] = ()
        self._looked_s = self._silent_s = 0.0

    def start(self, orders: Orders) -> None:
        """Start the sentinel, unless one runs."""
        if self._watch is not None:
            return
        self._orders, self._restarts = orders, 0
        self._start("running tasks are not watched in this build: the sentinel cannot be started")

    def _start(self, complaint: str) -> None:
        assert self._orders is not None
        try:
            self._watch = Watch(self._orders)
        except OSError as error:
            self._warn(f"{complaint}: {error}")

    def take_fault(self) -> str:
        """Why the sentinel has died, or was killed since it hangs, once; "" where it runs, or never did."""
        watch = self._watch
        if watch is None:
            return ""
        if watch.has_died:
            self._watch = None
            return str(watch.end().get("fault", "it ended"))
        if not self._hangs(watch, time.monotonic()):
            return ""
        self._watch = None
        watch.kill()
        return f"it showed no sign of life for {HUNG_S:g} s, so it was killed"

    def _hangs(self, watch: Watch, now_s: float) -> bool:
        passed_s, self._looked_s = min(_LOOK_MOST_S, now_s - self._looked_s), now_s
        signs = watch.signs()
        self._silent_s = self._silent_s + passed_s if signs == self._signs else 0.0
        self._signs = signs
        return self._silent_s >= HUNG_S

    def start_again(self) -> None:
        """Start a sentinel in place of one that died: it goes on where that one was; what was stopped is woken."""
        self._silent_s = 0.0
        if self._restarts < RESTARTS_MOST:
            self._restarts += 1
            self._start("the sentinel cannot be started again")

    def tell(self, note: Note) -> None:
        """Tell the sentinel; where it is too busy it does not hear."""
        if self._watch is None or self._orders is None:
            return
        if self._notes is None:
            self._notes = Notes(Path(self._orders.directory))
        with contextlib.suppress(OSError):
            self._notes.send(note, stays_open=True)

    def end(self) -> dict[str, Any]:
        """End the sentinel; what it says (see Watch.end), {} where there is none."""
        watch, self._watch, notes, self._notes = self._watch, None, self._notes, None
        if notes is not None:
            notes.close()
        return watch.end() if watch is not None else {}
