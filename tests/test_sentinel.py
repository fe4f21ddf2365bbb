# SPDX-License-Identifier: MIT
"""The sentinel as a process beside real processes: what it records, what it tells, and that it always ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from memguard.history import History
from memguard.model import Outcome, Record
from memguard.notes import Listener, Notes, Orders, TaskEnd, TaskNote
from memguard.procs import find_leader
from memguard.sense import Sensor
from memguard.sentinel import Sentinel
from memguard.state import State, StateFile
from memguard.units import MIB
from memguard.watch import Watch

REPOSITORY = Path(__file__).resolve().parents[1]
HOLD = "import sys, time; held = b'x' * (int(sys.argv[1]) << 20); print(flush=True); time.sleep(600)"


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    """Orders for a sentinel of its own."""
    return Orders(str(tmp_path / "memguard"), "b1", str(tmp_path / "history.db"), 64 * MIB)


@pytest.fixture
def listener(orders: Orders) -> Iterator[Listener]:
    """What a sentinel within the test takes notes from."""
    file = Notes(Path(orders.directory)).listen()
    yield Listener(file)
    os.close(file)


@pytest.fixture
def task() -> Iterator[Callable[[int], subprocess.Popen[bytes]]]:
    """Starts processes that lead a session, as tasks do, and hold so many MiB."""
    started: list[subprocess.Popen[bytes]] = []

    def start(mib: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-I", "-S", "-c", HOLD, str(mib)]
        started.append(subprocess.Popen(words, start_new_session=True, stdout=subprocess.PIPE))
        assert started[-1].stdout
        started[-1].stdout.readline()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def note_of(process: subprocess.Popen[bytes], recipe: str = "heavy", jobs: int = 2) -> TaskNote:
    """The note that a task's own process would write."""
    leader = find_leader(process.pid)
    assert leader
    return TaskNote(leader.pid, leader.start_ticks, f"/{recipe}.bb:do_compile", recipe, "1.0", "do_compile", "m", jobs)


def state_of(orders: Orders) -> State:
    """What the sentinel tells now."""
    return StateFile(Path(orders.directory)).read(time.monotonic()) or State({})


def recorded(orders: Orders) -> list[Record]:
    """All that the history holds."""
    history = History(Path(orders.history), warn=pytest.fail, is_read_only=True)
    samples = [sample for recipe in ("heavy", "light") for sample in history.records(recipe)]
    history.close()
    return [sample.record for sample in samples]


def eventually(holds: Callable[[], object]) -> None:
    """Wait until something holds, for as long as a busy machine may take."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_task_is_measured_told_and_remembered(orders: Orders, task: Callable[[int], subprocess.Popen[bytes]]) -> None:
    """From its note to its record: the server reads what it takes, the history what it took, and no file stays."""
    notes, process = Notes(Path(orders.directory)), task(64)
    note = note_of(process)
    watch = Watch(orders)
    try:
        assert notes.send(note)
        eventually(lambda: note.tid in state_of(orders).tasks)
        state = state_of(orders).tasks[note.tid]
        assert 64 * MIB <= state.current_bytes <= state.peak_bytes < 80 * MIB
        notes.send(TaskEnd(note.pid, note.start_ticks, Outcome.OK, 12.5, 3.5, 100 * MIB))
        eventually(lambda: note.tid not in state_of(orders).tasks)
    finally:
        report = watch.end()
    (record,) = recorded(orders)
    assert report["recorded"] == 1
    assert report["heaviest"] == [["heavy do_compile", record.peak_bytes]]
    assert report["warnings"] == []
    assert (record.build, record.version, record.machine, record.jobs) == ("b1", "1.0", "m", 2)
    assert (record.outcome, record.wall_s, record.cpu_s) == (Outcome.OK, 12.5, 3.5)
    assert record.peak_bytes is not None
    assert 64 * MIB <= record.peak_bytes < 80 * MIB
    assert list(Path(orders.directory).iterdir()) == []
    assert not psutil.pid_exists(watch.pid)


def test_a_task_that_was_killed_has_failed(
    orders: Orders, listener: Listener, task: Callable[[int], subprocess.Popen[bytes]]
) -> None:
    """Who is gone without a word has failed; what was seen of it is remembered."""
    notes, process = Notes(Path(orders.directory)), task(32)
    sentinel = Sentinel(orders, listener)
    notes.send(note_of(process))
    sentinel.step()
    process.kill()
    process.wait()
    sentinel.step()
    (record,) = recorded(orders)
    assert record.outcome is Outcome.FAILED
    assert record.peak_bytes is not None
    assert record.peak_bytes > 32 * MIB
    sentinel.finish()


@pytest.mark.parametrize(
    ("counts", "outcome", "expected"),
    [
        ({"oom_kill": 4}, Outcome.FAILED, Outcome.MEMORY_KILL),
        ({"oom_kill": 4}, Outcome.OK, Outcome.OK),
        ({"oom_kill": 3, "high": 9}, Outcome.OK, Outcome.THROTTLED),
        ({"oom_kill": 3, "high": 9}, Outcome.FAILED, Outcome.FAILED),
        ({}, Outcome.OK, Outcome.OK),
    ],
)
def test_kernel_counters_tell_kills_and_throttling(
    orders: Orders,
    listener: Listener,
    task: Callable[[int], subprocess.Popen[bytes]],
    counts: dict[str, int],
    outcome: Outcome,
    expected: Outcome,
) -> None:
    """A failure beside a kernel OOM kill is a memory kill, success at memory.high is throttled."""

    class Counting(Sensor):
        """A sensor whose container counts."""

        told: dict[str, int] = {"oom_kill": 3, "high": 2}  # noqa: RUF012  (replaced as a whole)

        def events(self) -> dict[str, int]:
            return self.told

    sensor = Counting()
    notes, note = Notes(Path(orders.directory)), note_of(task(1))
    sentinel = Sentinel(orders, listener, sensor=sensor)
    notes.send(note)
    sentinel.step()
    sensor.told = counts
    notes.send(TaskEnd(note.pid, note.start_ticks, outcome, 1.0, 1.0, 0))
    sentinel.finish()
    assert [record.outcome for record in recorded(orders)] == [expected]


def test_a_task_too_short_to_be_seen_has_an_upper_bound(orders: Orders, listener: Listener) -> None:
    """A compile that began and ended between two looks is remembered by its largest process, once per job."""
    brief = subprocess.Popen(["sleep", "60"], start_new_session=True)
    note = note_of(brief, "light", jobs=3)
    brief.kill()
    brief.wait()
    notes = Notes(Path(orders.directory))
    notes.send(note)
    notes.send(TaskEnd(note.pid, note.start_ticks, Outcome.OK, 0.1, 0.1, 10 * MIB))
    sentinel = Sentinel(orders, listener)
    sentinel.step()
    (record,) = recorded(orders)
    assert (record.peak_bytes, record.largest_process_bytes, record.outcome) == (30 * MIB, 10 * MIB, Outcome.OK)
    sentinel.finish()


def test_it_ends_with_a_server_that_is_killed(orders: Orders, task: Callable[[int], subprocess.Popen[bytes]]) -> None:
    """kill -9 of the server ends its sentinel, which records what it has seen; what it told last stays to be found."""
    notes, note = Notes(Path(orders.directory)), note_of(task(16))
    code = """
import json, sys, time
from memguard.notes import Orders
from memguard.watch import Watch
print(Watch(Orders(**json.loads(sys.argv[1]))).pid, flush=True)
time.sleep(600)
"""
    server = subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(vars(orders))],
        env={"PYTHONPATH": str(REPOSITORY / "meta-memguard" / "lib")},
        stdout=subprocess.PIPE,
    )
    try:
        assert server.stdout
        pid = int(server.stdout.readline())
        assert notes.send(note)
        eventually(lambda: state_of(orders).tasks)
    finally:
        server.kill()
        server.communicate()
    eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert [record.outcome for record in recorded(orders)] == [Outcome.FAILED]
    assert [path.name for path in Path(orders.directory).iterdir()] == ["state.json"]
    left = StateFile(Path(orders.directory)).left()
    assert left is not None
    assert [task["recipe"] for task in left["tasks"].values()] == ["heavy"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_sentinel_that_dies_is_told_and_no_zombie(orders: Orders, number: signal.Signals) -> None:
    """Who ends a sentinel that is dead already learns how it died, and waits for nobody."""
    watch = Watch(orders)
    os.kill(watch.pid, number)
    report = watch.end()
    assert report == {"fault": f"it ended with signal {number.name} and said nothing"}
    assert not psutil.pid_exists(watch.pid)


def test_a_stopped_sentinel_is_given_up(orders: Orders, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build does not wait for ever for a sentinel that does not end."""
    monkeypatch.setattr("memguard.watch.PATIENCE_S", 0.5)
    watch = Watch(orders)
    os.kill(watch.pid, signal.SIGSTOP)
    assert watch.end() == {"fault": "it did not end within 0.5 s"}
    assert not psutil.pid_exists(watch.pid)


def test_a_history_that_cannot_be_is_one_warning(
    orders: Orders, task: Callable[[int], subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    """A place that takes no database costs one sentence; tasks are watched all the same."""
    (tmp_path / "history.db").mkdir()
    notes, note = Notes(Path(orders.directory)), note_of(task(8))
    watch = Watch(orders)
    try:
        assert notes.send(note)
        eventually(lambda: note.tid in state_of(orders).tasks)
    finally:
        report = watch.end()
    assert len(report["warnings"]) == 1
    assert "history.db" in report["warnings"][0]
