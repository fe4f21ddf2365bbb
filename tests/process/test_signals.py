# SPDX-License-Identifier: MIT
"""Signals to exactly the process that was meant, and that none stays stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from memguard.act.signals import Signals, offer_to_kernel, send
from memguard.sense.proc_files import ProcessId, find_process

LIBRARY = Path(__file__).resolve().parents[2] / "meta-memguard" / "lib"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def target_of(process: subprocess.Popen[bytes]) -> ProcessId:
    """What identifies a process."""
    leader = find_process(process.pid)
    assert leader
    return ProcessId(*leader)


def eventually(holds: Callable[[], object]) -> None:
    """Wait until something holds, for as long as a busy machine may take."""
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_stopped(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process is stopped."""
    return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED


def test_stopped_and_woken(sleeper: subprocess.Popen[bytes]) -> None:
    """What was stopped goes on with wake(), with close(), and dies stopped or not."""
    signals, target = Signals(), target_of(sleeper)
    assert signals.stop(target)
    eventually(lambda: is_stopped(sleeper))
    assert signals.wake(target)
    eventually(lambda: not is_stopped(sleeper))
    assert signals.stop(target)
    signals.close()
    eventually(lambda: not is_stopped(sleeper))
    assert signals.stopped == set()
    assert signals.stop(target)
    assert signals.kill(target)
    assert sleeper.wait() == -signal.SIGKILL
    signals.close()


def test_what_somebody_else_has_stopped_is_left_to_them(sleeper: subprocess.Popen[bytes]) -> None:
    """A debugger, or a shell's job control: it is neither stopped a second time nor woken."""
    signals, target = Signals(), target_of(sleeper)
    sleeper.send_signal(signal.SIGSTOP)
    eventually(lambda: is_stopped(sleeper))
    assert not signals.stop(target)
    assert signals.stopped == set()
    signals.close()
    assert is_stopped(sleeper)
    sleeper.send_signal(signal.SIGCONT)
    eventually(lambda: not is_stopped(sleeper))
    assert signals.stop(target)
    signals.close()


def test_another_process_with_the_same_number_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    """A pid that was given anew has another start time."""
    wrong = target_of(sleeper)._replace(start_ticks=1)
    signals = Signals()
    assert not signals.stop(wrong)
    assert not send(wrong, signal.SIGKILL)
    assert sleeper.poll() is None
    assert not is_stopped(sleeper)
    signals.close()


@pytest.mark.parametrize("woken_before", [False, True])
def test_a_killed_sentinel_leaves_nothing_stopped(sleeper: subprocess.Popen[bytes], woken_before: bool) -> None:
    """kill -9 of whoever stopped a process wakes it within moments, and the watchman ends."""
    code = """
import sys, time
sys.path.insert(0, sys.argv[1])
from memguard.act.signals import Signals
from memguard.sense.proc_files import ProcessId
signals, target = Signals(), ProcessId(int(sys.argv[2]), int(sys.argv[3]))
signals.stop(target)
if sys.argv[4] == "True":
    signals.wake(target)
    signals.stop(target)
signals.beat()
print(signals._watchman.pid, flush=True)
time.sleep(600)
"""
    target = target_of(sleeper)
    words = [sys.executable, "-c", code, str(LIBRARY), *map(str, target), str(woken_before)]
    holder = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert holder.stdout
    watchman = int(holder.stdout.readline())
    eventually(lambda: is_stopped(sleeper))
    holder.kill()
    holder.communicate()
    eventually(lambda: not is_stopped(sleeper))
    eventually(lambda: not psutil.pid_exists(watchman) or psutil.Process(watchman).status() == psutil.STATUS_ZOMBIE)


def test_the_heavier_the_sooner_the_kernel_takes_it(sleeper: subprocess.Popen[bytes]) -> None:
    """oom_score_adj rises with the share and never falls."""
    path = Path(f"/proc/{sleeper.pid}/oom_score_adj")
    found = []
    for share in (0.0, 0.5, 7.0, 0.1):
        offer_to_kernel(sleeper.pid, share)
        found.append(int(path.read_text()))
    assert found == [300, 600, 900, 900]
    offer_to_kernel(1 << 30, 1.0)


def test_who_is_gone_is_no_fault() -> None:
    """Signals to a process that has ended say so."""
    process = subprocess.Popen(["true"])
    target = target_of(process)
    process.wait()
    signals = Signals()
    assert not signals.stop(target)
    assert not signals.wake(target)
    assert not signals.kill(target)
    assert signals.stopped == set()
    signals.close()


def test_a_watchman_that_was_killed_is_replaced(sleeper: subprocess.Popen[bytes]) -> None:
    """The next stop starts another, which knows of all that is stopped."""
    signals = Signals()
    assert signals.stop(target_of(sleeper))
    assert signals._watchman
    signals._watchman.kill()
    signals._watchman.wait()
    other = subprocess.Popen(["sleep", "600"])
    try:
        assert signals.stop(target_of(other))
        watchman = signals._watchman
        assert watchman.stdin
        watchman.stdin.close()
        watchman.wait()
        eventually(lambda: not is_stopped(sleeper) and not is_stopped(other))
    finally:
        other.kill()
        other.wait()
        signals.close()


HOLDER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from memguard.act import signals as module
from memguard.sense.proc_files import ProcessId
module.BEAT_S, module.MISSED_S = 0.2, 2.5
signals, target = module.Signals(), ProcessId(int(sys.argv[2]), int(sys.argv[3]))
signals.stop(target)
signals.beat()
print(signals._watchman.pid, flush=True)
deadline = time.monotonic() + float(sys.argv[4])
while time.monotonic() < deadline:
    signals.beat()
    time.sleep(0.1)
sys.stdin.readline()
signals.beat()
print(flush=True)
sys.stdin.readline()
signals.close()
"""


def holder(target: ProcessId, beats_s: float) -> subprocess.Popen[bytes]:
    """Stops a process, beats for so long, and then only when it gets a line."""
    words = [sys.executable, "-c", HOLDER, str(LIBRARY), *map(str, target), str(beats_s)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize("hangs", ["stopped", "waiting"])
def test_a_sentinel_that_hangs_leaves_nothing_stopped(sleeper: subprocess.Popen[bytes], hangs: str) -> None:
    """Whoever has stopped a process and looks no more has it woken; one that looks again stops it again."""
    target = target_of(sleeper)
    with holder(target, beats_s=4.0) as process:
        assert process.stdin
        assert process.stdout
        watchman = int(process.stdout.readline())
        eventually(lambda: is_stopped(sleeper))
        deadline = time.monotonic() + 3.2  # longer than a beat may be late
        while time.monotonic() < deadline:
            assert is_stopped(sleeper)
            time.sleep(0.05)
        if hangs == "stopped":
            process.send_signal(signal.SIGSTOP)
        eventually(lambda: not is_stopped(sleeper))
        if hangs == "stopped":
            process.send_signal(signal.SIGCONT)
        time.sleep(1.2)
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        eventually(lambda: is_stopped(sleeper))
        below = psutil.Process(watchman).children(recursive=True)
        process.communicate(b"\n")
    assert not is_stopped(sleeper)
    assert not psutil.pid_exists(watchman)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in below)


def test_who_rests_misses_no_beat(sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stopped stays so while this process is meant to be stopped, too, as by Ctrl-Z."""
    monkeypatch.setattr("memguard.act.signals.MISSED_S", 1.0)
    signals = Signals()
    assert signals.stop(target_of(sleeper))
    signals.beat()
    signals.rest()
    time.sleep(2.0)
    assert is_stopped(sleeper)
    assert signals._watchman
    assert psutil.Process(signals._watchman.pid).children() == []
    signals.close()
    assert not is_stopped(sleeper)
