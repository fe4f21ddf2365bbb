# SPDX-License-Identifier: MIT
"""The monitor that benches judge by: what it calls a build that stands still."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil

from testbed.liveness import LONGEST_S, Liveness, look


def test_time_counts_while_something_is_stopped_and_nothing_goes_on() -> None:
    """Neither a build in which nothing is stopped nor one in which something goes on stands still."""
    liveness = Liveness()
    for second in range(100):
        liveness.see(second, False, 0)
    for second in range(100, 200):
        liveness.see(second, True, second)
    assert liveness.longest_s == 0
    for second in range(200, 209):
        liveness.see(second, True, 199)
    assert (liveness.longest_s, liveness.holds) == (9, True)
    liveness.see(199 + LONGEST_S + 1, True, 199)
    assert not liveness.holds


def test_stopped_processes_and_cpu_time_are_seen() -> None:
    """A stopped process is; another one goes on as long as it takes CPU time, and not while it sleeps."""
    sleeping = subprocess.Popen(["sleep", "100"])
    busy = subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"])
    try:
        deadline = time.monotonic() + 20
        while (sleeper := psutil.Process(sleeping.pid)).name() != "sleep" or sleeper.status() != psutil.STATUS_SLEEPING:
            assert time.monotonic() < deadline
        assert look([sleeping.pid])[0] is False
        assert look([sleeping.pid])[1] == look([sleeping.pid])[1]
        before, deadline = look([sleeping.pid, busy.pid])[1], time.monotonic() + 20
        while look([sleeping.pid, busy.pid])[1] == before:
            assert time.monotonic() < deadline
        os.kill(busy.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, busy.pid, os.WSTOPPED)
        assert look([sleeping.pid, busy.pid]) == (True, look([sleeping.pid])[1])
    finally:
        for process in (sleeping, busy):
            process.kill()
            process.wait()
