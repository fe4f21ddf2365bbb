# SPDX-License-Identifier: MIT
"""Stops, wakes and kills single processes, and sees that none stays stopped whatever happens to this one.

Runs in: the sentinel and `memguard run`; standard library only.
Covers: signals to exactly the process that was meant, though its pid may have been given anew; the watchman.
Does not cover: whom to signal (regulate).

The watchman is a shell that is started with the first stop. It hears of each stop and wake through a pipe; when that
ends, even by SIGKILL of this process, it wakes whatever is stopped still and is gone. While something is stopped it
hears a beat now and then; where none comes for a while, as this process hangs or nothing goes on, it wakes all as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from memguard.sense.proc_files import ProcessId, find_process, read_stat

if TYPE_CHECKING:
    import subprocess

# oom_score_adj of tasks, in thousandths of the container's memory that are added to what a process holds.
OFFERED_LEAST, OFFERED_MOST = 300, 900

# Seconds from one beat to the next while something is stopped, and until the watchman misses it. The second is longer
# than looks come late among many compilers, and nothing stays stopped for ten seconds while nothing else goes on.
BEAT_S = 2.0
MISSED_S = 8.0

# At the end of its input, or of itself, or $1 seconds after the last beat: for each pid in the list, SIGCONT. Reused
# pids do not matter, who is not stopped goes on. Shells have no timeout for `read` (dash), so a subshell waits for it.
_WATCHMAN = """
trap '' INT TERM HUP
trap 'rest; wake_all' EXIT
stopped=' ' timer=
wake_all() { for pid in $stopped; do kill -CONT "$pid"; done; }
rest() {
    [ -n "$timer" ] || return 0
    kill -USR1 "$timer"
    wait "$timer"
    timer=
}
expect() {
    rest
    (
        trap - EXIT
        sleep=
        trap 'kill -KILL $sleep; exit' USR1
        sleep "$1" & sleep=$!
        wait "$sleep" && wake_all
    ) &
    timer=$!
}
while read -r what pid; do
    case $what in
        stop) stopped="$stopped$pid " ;;
        wake) stopped="${stopped%% $pid *} ${stopped#* $pid }" ;;
        beat) expect "$1" ;;
        rest) rest ;;
    esac
done
"""


class Signals:
    """Signals to processes of tasks; `stopped` are those that this one has stopped and not woken."""

    def __init__(self) -> None:
        self.stopped: set[ProcessId] = set()
        self._watchman: subprocess.Popen[bytes] | None = None
        # When the last beat was; None where none is expected. The watchman does not know of all that is stopped yet.
        self._beat_s: float | None = None
        self._is_due = False

    def stop(self, target: ProcessId) -> bool:
        """Stop a process until wake(); False where it is gone, or there is no watchman to be had.

        False, too, where somebody else has stopped it already: who has done so wakes it.
        """
        if _is_stopped(target) or not self._say(f"stop {target.pid}"):
            return False
        # Noted first: should this process die in between, the watchman wakes one that was never stopped.
        self.stopped.add(target)
        self._is_due = True
        if send(target, signal.SIGSTOP):
            return True
        self._forget(target)
        return False

    def wake(self, target: ProcessId) -> bool:
        """Let a stopped process go on; False where it is gone."""
        is_there = send(target, signal.SIGCONT)
        self._forget(target)
        return is_there

    def stop_again(self) -> None:
        """Stop once more what somebody else may have let go on."""
        for target in self.stopped:
            send(target, signal.SIGSTOP)

    def beat(self) -> None:
        """Let the watchman know that this process looks after what it has stopped, and that something goes on."""
        now_s = time.monotonic()
        if not self.stopped:
            self.rest()
            return
        is_late = self._beat_s is not None and now_s - self._beat_s >= MISSED_S
        if self._beat_s is None or self._is_due or now_s - self._beat_s >= BEAT_S:
            self._beat_s, self._is_due = now_s, False
            self._say("beat")
        if is_late:
            self.stop_again()  # the watchman has woken them meanwhile

    def rest(self) -> None:
        """No beat comes until the next stop or look: this process, too, is to be stopped for a while."""
        if self._beat_s is not None:
            self._beat_s, self._is_due = None, False
            self._say("rest")

    def kill(self, target: ProcessId) -> bool:
        """Kill a process, stopped or not; False where it is gone."""
        is_there = send(target, signal.SIGKILL)
        self._forget(target)
        return is_there

    def keep_only(self, living: Iterable[ProcessId]) -> None:
        """Forget the stopped processes that have ended."""
        for target in self.stopped - set(living):
            self._forget(target)

    def close(self) -> None:
        """Wake everything, and end the watchman."""
        for target in list(self.stopped):
            self.wake(target)
        watchman, self._watchman = self._watchman, None
        if watchman is not None and watchman.stdin is not None:
            with contextlib.suppress(OSError):
                watchman.stdin.close()
            watchman.wait()
        self._beat_s, self._is_due = None, False

    def _forget(self, target: ProcessId) -> None:
        if target in self.stopped:
            self.stopped.discard(target)
            self._say(f"wake {target.pid}")

    def _say(self, line: str) -> bool:
        """Say something to the watchman; False where there is none and none can be started."""
        if self._watchman is None or self._watchman.poll() is not None:
            import subprocess  # only now: most builds stop nothing

            with contextlib.suppress(OSError):
                self._watchman = subprocess.Popen(
                    ["/bin/sh", "-c", _WATCHMAN, "sh", f"{MISSED_S:g}"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    start_new_session=True,
                )
                for known in self.stopped:
                    self._write(f"stop {known.pid}")
                self._is_due = True
        return self._write(line)

    def _write(self, line: str) -> bool:
        if self._watchman is None or self._watchman.stdin is None:
            return False
        try:
            os.write(self._watchman.stdin.fileno(), f"{line}\n".encode())
        except OSError:
            return False
        return True


def offer_to_kernel(pid: int, share: float) -> None:
    """Let the kernel, should it have to kill for memory, choose this process and what it starts before any other.

    share: how heavy it is, from 0 to 1; the heaviest are chosen first, all of them before who was never offered. A
           value that is higher already stands. Documentation/filesystems/proc.rst, "oom_score_adj".
    """
    wanted = OFFERED_LEAST + int((OFFERED_MOST - OFFERED_LEAST) * max(0.0, min(1.0, share)))
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/oom_score_adj", "r+") as file:
        if int(file.read()) < wanted:
            file.seek(0)
            file.write(str(wanted))


def wake_all(targets: Iterable[ProcessId]) -> None:
    """Let go on what somebody has stopped who is gone; who is not stopped gets no signal."""
    for target in targets:
        if _is_stopped(target):
            send(target, signal.SIGCONT)


def _is_stopped(target: ProcessId) -> bool:
    stat = read_stat(target.pid)
    return stat is not None and stat.state == b"T"


def send(target: ProcessId, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; False where it is gone or must not be signalled."""
    try:
        descriptor = os.pidfd_open(target.pid)
    except AttributeError:  # Python or kernel without it: a pid may be given anew between the look and the signal
        descriptor = -1
    except OSError as error:
        if isinstance(error, ProcessLookupError):
            return False
        descriptor = -1
    try:
        if find_process(target.pid) != tuple(target):
            return False
        if descriptor >= 0:
            signal.pidfd_send_signal(descriptor, number)
        else:
            os.kill(target.pid, number)
        return True
    except OSError:
        return False
    finally:
        if descriptor >= 0:
            os.close(descriptor)
