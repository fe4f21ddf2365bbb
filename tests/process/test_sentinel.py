# SPDX-License-Identifier: MIT
"""The sentinel as a process beside real processes: what it records, what it tells, and that it always ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, cast, get_args

import psutil
import pytest

from memguard.act.token_pool import make_pool
from memguard.channels.fifo import Listener, Notes
from memguard.channels.notes import Note, Orders, TaskEnd, TaskGrant, TaskHold, TaskNote, TaskWait, order_line
from memguard.channels.state import State, StateFile
from memguard.decide.moment import Job
from memguard.model import Mode, Outcome, Policy, Reading, Record
from memguard.predict.remembered_lives import Lives
from memguard.record.history.store import History
from memguard.sense.container import Sensor
from memguard.sense.proc_files import find_process
from memguard.sentinel.instructions import Instruction
from memguard.sentinel.process import Shell
from memguard.server.sentinel_process import SentinelKeeper, Watch
from memguard.units import GIB, MIB
from testbed import compilers, memory
from testbed.sentinels import sentinels

REPOSITORY = Path(__file__).resolve().parents[2]
HOLD = "import sys, time; held = b'x' * (int(sys.argv[1]) << 20); print(flush=True); time.sleep(600)"


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    """Orders for a sentinel of its own."""
    directory, history = str(tmp_path / "memguard"), str(tmp_path / "history.db")
    return Orders("b1", Policy(mode=Mode.OBSERVE, directory=directory, history=history, neighbours="off"))


def acting(orders: Orders, pressure_command: str = "") -> Orders:
    """The same orders, by which running tasks may be touched."""
    return replace(orders, policy=replace(orders.policy, mode=Mode.ENFORCE, pressure_command=pressure_command))


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
    leader = find_process(process.pid)
    assert leader
    return TaskNote(leader.pid, leader.start_ticks, f"/{recipe}.bb:do_compile", recipe, "1.0", "do_compile", "m", jobs)


def state_of(orders: Orders) -> State:
    """What the sentinel tells now."""
    state = StateFile(Path(orders.directory)).read(time.monotonic())
    assert state is not None, "it has said nothing"
    return state


def watches(orders: Orders, note: TaskNote) -> bool:
    """Whether the sentinel says that it watches a task."""
    state = StateFile(Path(orders.directory)).read(time.monotonic())
    return state is not None and note.tid in state.tasks


def recorded(orders: Orders) -> list[Record]:
    """All that the history holds; what one build recorded of one task is in no order."""
    history = History(Path(orders.policy.history), warn=pytest.fail, is_read_only=True)
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
        eventually(lambda: watches(orders, note))
        state = state_of(orders).tasks[note.tid]
        assert 64 * MIB <= state.current_bytes <= state.peak_bytes < 80 * MIB
        notes.send(TaskEnd(note.pid, note.start_ticks, Outcome.OK, 12.5, 3.5, 100 * MIB))
        eventually(lambda: not watches(orders, note))
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
    sentinel = Shell(orders, listener)
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
    sentinel = Shell(orders, listener, sensor=sensor)
    notes.send(note)
    sentinel.step()
    sensor.told = counts
    notes.send(TaskEnd(note.pid, note.start_ticks, outcome, 1.0, 1.0, 0))
    sentinel.finish()
    assert [record.outcome for record in recorded(orders)] == [expected]


def test_a_task_too_short_to_be_seen_is_remembered_by_its_largest_process(orders: Orders, listener: Listener) -> None:
    """What a compile took as a whole that began and ended between two looks nobody knows."""
    brief = subprocess.Popen(["sleep", "60"], start_new_session=True)
    note = note_of(brief, "light", jobs=3)
    brief.kill()
    brief.wait()
    notes = Notes(Path(orders.directory))
    notes.send(note)
    notes.send(TaskEnd(note.pid, note.start_ticks, Outcome.OK, 0.1, 0.1, 10 * MIB))
    sentinel = Shell(orders, listener)
    sentinel.step()
    (record,) = recorded(orders)
    assert (record.peak_bytes, record.largest_process_bytes, record.outcome) == (None, 10 * MIB, Outcome.OK)
    sentinel.finish()


def test_it_ends_with_a_server_that_is_killed(orders: Orders, task: Callable[[int], subprocess.Popen[bytes]]) -> None:
    """kill -9 of the server ends its sentinel, which records what it has seen; what it told last stays to be found."""
    notes, note = Notes(Path(orders.directory)), note_of(task(16))
    code = """
import json, sys, time
from memguard.channels.notes import parse_orders
from memguard.server.sentinel_process import SentinelKeeper, Watch
print(Watch(parse_orders(sys.argv[1])).pid, flush=True)
time.sleep(600)
"""
    server = subprocess.Popen(
        [sys.executable, "-c", code, order_line(orders)],
        env={"PYTHONPATH": str(REPOSITORY / "meta-memguard" / "lib")},
        stdout=subprocess.PIPE,
    )
    try:
        assert server.stdout
        pid = int(server.stdout.readline())
        assert notes.send(note)
        eventually(lambda: watches(orders, note))
    finally:
        server.kill()
        server.communicate()
    eventually(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    assert [record.outcome for record in recorded(orders)] == [Outcome.FAILED]
    assert [path.name for path in Path(orders.directory).iterdir()] == ["state.json"]
    left = StateFile(Path(orders.directory)).left()
    assert left is not None
    assert [task.recipe for task in left.tasks.values()] == ["heavy"]


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
    monkeypatch.setattr("memguard.server.sentinel_process.PATIENCE_S", 0.5)
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
        eventually(lambda: watches(orders, note))
    finally:
        report = watch.end()
    assert len(report["warnings"]) == 1
    assert "history.db" in report["warnings"][0]


def test_the_shell_can_do_all_that_the_sentinel_says(orders: Orders, listener: Listener) -> None:
    """Each kind of instruction has somebody who performs it."""
    shell = Shell(orders, listener)
    assert set(shell._perform_one) == set(get_args(Instruction))
    shell.finish()
    shell.close()


def test_a_task_that_begins_and_loses_a_job_within_one_look_took_no_negative_time(
    orders: Orders, task: Callable[[int], subprocess.Popen[bytes]]
) -> None:
    """Its note comes before the look at the tasks, its loss after it; the record is kept, and nothing complains."""
    note = note_of(task(8))
    loss = TaskWait(note.pid, note.start_ticks, 1, False, 1, "cc1plus", "was killed", 64 * MIB, 0.5, 0.25, 32 * MIB)

    class TwoReads:
        """What is read before and after the look."""

        said: ClassVar = [[note], [loss]]

        def read(self) -> list[Note]:
            time.sleep(0.01)
            return self.said.pop(0) if self.said else []

    shell = Shell(orders, cast(Listener, TwoReads()))
    shell.step()
    shell.finish()
    shell.close()
    assert shell.report.warnings == ()
    walls = {record.outcome: record.wall_s for record in recorded(orders)}
    assert walls.keys() == {Outcome.FAILED, Outcome.MEMORY_KILL}
    assert walls[Outcome.MEMORY_KILL] == 0.5
    assert walls[Outcome.FAILED] >= 0


class Box(Sensor):
    """A container of 8 GiB with as much left as the test says."""

    left_bytes = 4 * GIB

    def read(self) -> Reading:
        return Reading(8 * GIB, "memory.max", 8 * GIB - self.left_bytes, 0, self.left_bytes, None, None, 4)


@pytest.fixture
def box() -> Box:
    """A sensor whose numbers the test sets."""
    return Box()


@pytest.fixture
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[int], memory.MemoryTask]]:
    """Starts tasks that have one compiler process of so many MiB each."""
    program = memory.build(tmp_path_factory.getbasetemp())
    with contextlib.ExitStack() as stack:

        def start(mib: int) -> memory.MemoryTask:
            words = f"spawn {{ name cc1plus anon {mib} wait }} wait"
            started = stack.enter_context(memory.running(program, words))
            started.wait_for(2)
            return started

        yield start


def noted(task: memory.MemoryTask, recipe: str, may_kill: bool = True) -> TaskNote:
    """The note that a task would write."""
    tid = f"/{recipe}.bb:do_compile"
    return TaskNote(*task.leader, tid, recipe, "1.0", "do_compile", "m", 4, 4, may_kill=may_kill)


def compiler_of(task: memory.MemoryTask) -> psutil.Process:
    """The one process that a task has started."""
    (child,) = psutil.Process(task.leader.pid).children()
    return child


def test_the_newest_compiler_is_stopped_and_woken(
    orders: Orders, listener: Listener, box: Box, compiler: Callable[[int], memory.MemoryTask]
) -> None:
    """Where memory is short the newest task's compiler stops, the oldest's never; both go on once there is room."""
    old, new = compiler(32), compiler(32)
    sentinel, notes = Shell(acting(orders), listener, sensor=box), Notes(Path(orders.directory))
    for place, (task, recipe) in enumerate(((old, "heavy"), (new, "light")), 1):
        notes.send(TaskGrant(f"/{recipe}.bb:do_compile", place, 4, 1 * GIB, 512 * MIB))
        notes.send(noted(task, recipe, may_kill=False))
    sentinel.step()
    assert psutil.Process(old.leader.pid).status() == psutil.STATUS_SLEEPING
    assert int(Path(f"/proc/{new.leader.pid}/oom_score_adj").read_text()) > 300
    box.left_bytes = 100 * MIB
    sentinel.step()
    eventually(lambda: compiler_of(new).status() == psutil.STATUS_STOPPED)
    assert compiler_of(old).status() == psutil.STATUS_SLEEPING
    assert state_of(orders).stopped == 1
    box.left_bytes = 6 * GIB
    eventually(lambda: sentinel.step() or compiler_of(new).status() == psutil.STATUS_SLEEPING)
    assert state_of(orders).stopped == 0
    box.left_bytes = 100 * MIB
    sentinel.step()
    eventually(lambda: compiler_of(new).status() == psutil.STATUS_STOPPED)
    sentinel.finish()
    assert compiler_of(new).status() == psutil.STATUS_SLEEPING
    assert sentinel.report.stopped == 2
    assert sentinel.report.killed == 0


def test_a_compiler_is_killed_noted_and_its_task_gets_a_turn(
    orders: Orders, listener: Listener, box: Box, compiler: Callable[[int], memory.MemoryTask]
) -> None:
    """Near the limit, with nothing to stop, the compiler of a task that can run again dies, and the task is told.

    It asks for a turn twice, as it may, and gets one when what it needs fits; the run that was killed is remembered.
    """
    task = compiler(48)
    note = noted(task, "heavy")
    mark = task.leader.mark
    command = f"echo $MEMGUARD_RECIPE > {orders.directory}/asked"
    log = f"{orders.directory}/readings/1.jsonl"
    sentinel = Shell(replace(acting(orders, command), log=log), listener, sensor=box)
    notes, victim = Notes(Path(orders.directory)), compiler_of(task)
    notes.send(note)
    sentinel.step()
    box.left_bytes = 20 * MIB
    sentinel.step()
    eventually(lambda: victim.status() == psutil.STATUS_ZOMBIE)
    (line,) = (Path(orders.directory) / "kills" / f"{mark}.jsonl").read_text().splitlines()
    kill = json.loads(line)
    assert (kill["program"], kill["limit_bytes"]) == ("cc1plus", 8 * GIB)
    assert kill["used_bytes"] >= 8 * GIB - 20 * MIB
    wait = TaskWait(*task.leader, 2, True, 1, "cc1plus", "was killed", 1 * GIB, 1.0, 1.0, 48 * MIB)
    for _ in range(2):
        notes.send(wait)
        sentinel.step()
        assert StateFile(Path(orders.directory)).has_turn(mark, 1, time.monotonic()) is False
        assert state_of(orders).alone == "heavy do_compile"
    box.left_bytes = 6 * GIB
    eventually(lambda: sentinel.step() or StateFile(Path(orders.directory)).has_turn(mark, 1, time.monotonic()))
    notes.send(TaskEnd(*task.leader, Outcome.OK, 5.0, 5.0, 48 * MIB))
    sentinel.step()
    eventually(lambda: (Path(orders.directory) / "asked").exists())
    sentinel.finish()
    sentinel.close()
    assert sorted(record.outcome.value for record in recorded(orders)) == ["memory-kill", "ok"]
    events = [json.loads(line)["event"] for line in Path(log).read_text().splitlines()]
    assert [event for event in events if event != "reading"] == ["kill", "retry", "task"]
    assert sorted(path.name for path in Path(orders.directory).iterdir()) == ["asked", "readings", "tasks"]


def test_the_lives_of_a_tasks_jobs_are_kept_and_known_again(
    orders: Orders, listener: Listener, box: Box, tmp_path: Path
) -> None:
    """A task with a pool that ended well leaves what its jobs took, and the next build's sentinel knows it."""
    programs = compilers.build(tmp_path)
    notes = Notes(Path(orders.directory))
    for build in ("first", "second"):
        make_pool(str(tmp_path / "pool"))
        # It begins once it is looked at, so that it is met while it is small.
        words = ["sh", "-c", f"read go; {programs}/cc1plus -o one.o -p 2:40,2.5:40; exec sleep 600"]
        process = subprocess.Popen(words, start_new_session=True, cwd=tmp_path, stdin=subprocess.PIPE)
        assert process.stdin
        sentinel = Shell(replace(orders, build=build), listener, sensor=box)
        note = replace(note_of(process), pool=str(tmp_path / "pool"), most_jobs=2)
        try:
            assert notes.send(note)
            sentinel.step()
            process.stdin.write(b"go\n")
            process.stdin.close()
            seen: list[Job] = []
            while not seen or psutil.Process(process.pid).children():
                sentinel.step()
                moment = sentinel._reflex.moment
                seen += [job for task in moment.tasks for job in task.jobs] if moment else []
                time.sleep(0.05)
            notes.send(TaskEnd(note.pid, note.start_ticks, Outcome.OK, 3.0, 0.1, 40 * MIB))
            sentinel.step()
        finally:
            process.kill()
            process.wait()
            sentinel.finish()
        assert seen[0].bytes < 30 * MIB
        assert (seen[0].expected.ended > 0) is (build == "second")
    assert abs(seen[0].expected.peak_bytes - 40 * MIB) < 4 * MIB
    with contextlib.closing(History(Path(orders.policy.history), warn=pytest.fail, is_read_only=True)) as history:
        assert len(Lives(history.lives("heavy", "do_compile"))) == 1


def test_who_must_not_be_killed_is_not(
    orders: Orders, listener: Listener, box: Box, compiler: Callable[[int], memory.MemoryTask]
) -> None:
    """A task that cannot run again keeps its compiler, whatever is left."""
    task = compiler(16)
    sentinel = Shell(acting(orders), listener, sensor=box)
    Notes(Path(orders.directory)).send(noted(task, "heavy", may_kill=False))
    box.left_bytes = 1 * MIB
    for _ in range(3):
        sentinel.step()
    assert compiler_of(task).status() == psutil.STATUS_SLEEPING
    sentinel.finish()


def test_another_sentinel_goes_on_where_one_was_killed(
    orders: Orders, box: Box, compiler: Callable[[int], memory.MemoryTask]
) -> None:
    """What kill -9 of a sentinel leaves is enough for the next: the task is watched on, and its peak is kept."""
    task = compiler(32)
    notes = Notes(Path(orders.directory))
    file = notes.listen()
    first = Shell(orders, Listener(file), sensor=box)
    notes.send(noted(task, "heavy"))
    first.step()
    before = state_of(orders).tasks
    os.close(file)
    file = notes.listen()
    second = Shell(orders, Listener(file), sensor=box)
    second.step()
    after = state_of(orders).tasks
    assert after.keys() == before.keys()
    assert all(after[tid].peak_bytes >= before[tid].peak_bytes for tid in before)
    notes.send(TaskEnd(*task.leader, Outcome.OK, 5.0, 5.0, 32 * MIB))
    second.step()
    assert [record.outcome for record in recorded(orders)] == [Outcome.OK]
    second.finish()
    os.close(file)


@pytest.mark.parametrize("build", ["b1", "b2"])
def test_what_a_killed_sentinel_and_its_watchman_stopped_is_woken(
    orders: Orders, listener: Listener, box: Box, compiler: Callable[[int], memory.MemoryTask], build: str
) -> None:
    """Whoever takes over, in the same build or the next, lets the compilers go on that nobody else would wake."""
    old, new = compiler(32), compiler(32)
    first, notes = Shell(acting(orders), listener, sensor=box), Notes(Path(orders.directory))
    for task, recipe in ((old, "heavy"), (new, "light")):
        notes.send(noted(task, recipe, may_kill=False))
    first.step()
    box.left_bytes = 100 * MIB
    first.step()
    eventually(lambda: compiler_of(new).status() == psutil.STATUS_STOPPED)
    watchman = first._reflex._signals._watchman
    assert watchman is not None
    watchman.kill()
    watchman.wait()
    box.left_bytes = 6 * GIB
    second = Shell(replace(acting(orders), build=build), listener, sensor=box)
    eventually(lambda: compiler_of(new).status() == psutil.STATUS_SLEEPING)
    second.finish()


@pytest.mark.parametrize(("left_mib", "expected"), [(64, [Outcome.MEMORY_KILL]), (4096, [])])
def test_a_build_that_was_killed_is_learned_from(
    orders: Orders,
    listener: Listener,
    box: Box,
    compiler: Callable[[int], memory.MemoryTask],
    left_mib: int,
    expected: list[Outcome],
) -> None:
    """What was left near the limit by a build that died remembers its heaviest task as killed; far from it, none."""
    notes = Notes(Path(orders.directory))
    first = Shell(replace(orders, policy=replace(orders.policy, history="")), listener, sensor=box)
    for task, recipe in ((compiler(64), "heavy"), (compiler(8), "light")):
        notes.send(noted(task, recipe))
    box.left_bytes = left_mib * MIB
    first.step()
    second = Shell(replace(orders, build="b2"), listener, sensor=box)
    assert [(record.recipe, record.outcome) for record in recorded(orders)] == [("heavy", kill) for kill in expected]
    second.step()
    assert state_of(orders).tasks == {}
    second.finish()


def test_who_is_held_is_told(orders: Orders, listener: Listener, box: Box) -> None:
    """The state names tasks that wait for memory, and why, until they wait no longer."""
    notes, sentinel = Notes(Path(orders.directory)), Shell(orders, listener, sensor=box)
    hold = TaskHold("/heavy.bb:do_compile", "heavy", "do_compile", "needs 4.0 GiB, 1.0 GiB fit")
    notes.send(hold)
    sentinel.step()
    left = StateFile(Path(orders.directory)).left()
    assert left is not None
    assert [(held.recipe, held.reason) for held in left.held] == [("heavy", hold.reason)]
    assert (left.limit_bytes, left.counts.held) == (8 * GIB, 1)
    notes.send(replace(hold, reason=""))
    sentinel.step()
    left = StateFile(Path(orders.directory)).left()
    assert left is not None
    assert left.held == ()
    sentinel.finish()


@pytest.fixture
def keeper(orders: Orders, monkeypatch: pytest.MonkeyPatch) -> Iterator[SentinelKeeper]:
    """A server's keeper whose sentinel runs, and may be silent for no more than four seconds."""
    monkeypatch.setattr("memguard.server.sentinel_process.HUNG_S", 4.0)
    keeper = SentinelKeeper(pytest.fail)
    keeper.start(orders)
    yield keeper
    keeper.end()


def looked_at(keeper: SentinelKeeper, seconds: float) -> str:
    """Look as the server does, for as long as that or until a fault is found, which is returned."""
    deadline = time.monotonic() + seconds
    fault = ""
    while not fault and time.monotonic() < deadline:
        time.sleep(0.1)
        fault = keeper.take_fault()
    return fault


def test_a_sentinel_that_hangs_is_replaced(
    orders: Orders, keeper: SentinelKeeper, task: Callable[[int], subprocess.Popen[bytes]]
) -> None:
    """One that was stopped is killed, said once, and another one watches on; one that works is left alone."""
    notes, note = Notes(Path(orders.directory)), note_of(task(8))
    assert notes.send(note)
    assert looked_at(keeper, 6.0) == ""
    eventually(lambda: watches(orders, note))
    assert keeper._watch
    pid = keeper._watch.pid
    os.kill(pid, signal.SIGSTOP)
    assert looked_at(keeper, 20.0) == "it showed no sign of life for 4 s, so it was killed"
    assert not psutil.pid_exists(pid)
    keeper.start_again()
    assert looked_at(keeper, 1.0) == ""
    assert keeper._watch.pid != pid
    eventually(lambda: watches(orders, note))


def test_a_build_that_was_stopped_as_a_whole_keeps_its_sentinel(keeper: SentinelKeeper) -> None:
    """However long nobody looked, the sentinel has its time to show that it lives once the server looks again."""
    assert looked_at(keeper, 1.0) == ""
    assert keeper._watch
    os.kill(keeper._watch.pid, signal.SIGSTOP)
    assert looked_at(keeper, 0.3) == ""
    time.sleep(5.0)
    assert keeper.take_fault() == ""
    os.kill(keeper._watch.pid, signal.SIGCONT)
    assert looked_at(keeper, 5.0) == ""


def test_a_sentinel_that_cannot_write_does_not_hang(orders: Orders, keeper: SentinelKeeper) -> None:
    """Where its state cannot be written, as on a full disk, it is seen to live all the same."""
    state = Path(orders.directory) / "state.json.draft"
    state.mkdir()
    assert looked_at(keeper, 7.0) == ""
    state.rmdir()


def test_nobody_else_can_read_the_orders(orders: Orders, task: Callable[[int], subprocess.Popen[bytes]]) -> None:
    """A command with a password is in no command line and no environment; the directory is, so that people find it."""
    secret = f"secret{os.urandom(8).hex()}"
    watch = Watch(acting(orders, f"curl -H 'Authorization: {secret}' https://scale.example/up"))
    notes, note = Notes(Path(orders.directory)), note_of(task(8))
    try:
        assert notes.send(note)
        eventually(lambda: watches(orders, note))
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                assert not any(secret in word for word in process.cmdline()), process
        assert secret not in Path(f"/proc/{watch.pid}/environ").read_text()
        (found,) = sentinels(Path(orders.directory))
        assert found.pid == watch.pid
    finally:
        report = watch.end()
    assert "fault" not in report


def test_a_server_that_ends_at_once_is_heard(orders: Orders) -> None:
    """Orders and farewell that come together are both understood: the state does not stay as of a killed server."""
    assert "fault" not in Watch(orders).end()
    assert list(Path(orders.directory).iterdir()) == []
