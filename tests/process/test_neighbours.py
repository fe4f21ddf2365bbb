# SPDX-License-Identifier: MIT
"""Builds under one limit: what they say on its board, whom they count, and what others may put there in vain."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from memguard.channels import neighbours as channel
from memguard.channels.fifo import Listener, Notes
from memguard.channels.neighbours import BUILDS_MOST, Board, Entry, JobEntry, LifeEntry, TaskEntry, as_bytes, parse
from memguard.channels.notes import Orders, TaskGrant, TaskNote
from memguard.channels.state import State, StateFile
from memguard.decide.moment import Caution, Moment
from memguard.decide.regulate import regulate
from memguard.model import Policy, Reading
from memguard.sense.container import Sensor
from memguard.sense.limit_id import limit_id
from memguard.sense.proc_files import ProcessId, find_process
from memguard.sentinel.neighbours import ALONE_BEAT_S, BEAT_AGE_S, Neighbours
from memguard.sentinel.process import Shell
from memguard.units import GIB, MIB
from testbed import memory

JOB = JobEntry(4000001, 500, 300 * MIB, 2.0, 1e8, 600 * MIB, 5.0, 3.0)
TASK = TaskEntry(4000000, 400, 4, 310 * MIB, 500 * MIB, 4.0, 2.0, pending_bytes=7, held_tokens=1, jobs=(JOB,))
ENTRY = Entry(cpus=1.5, cpu_s=20.0, kills=1, tasks=(TASK,))
READING = Reading(GIB, "MEMGUARD_LIMIT", 100, 0, GIB, None, 8 * GIB, 2.0)


@pytest.fixture
def key() -> str:
    """The limit that this process runs under."""
    found = limit_id(Sensor(), READING)
    assert found is not None
    return found


@pytest.fixture
def warnings() -> list[str]:
    """What was said."""
    return []


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the board lies."""
    return tmp_path / "board"


@pytest.fixture
def ours(place: Path, warnings: list[str]) -> Iterator[Neighbours]:
    """The build that looks."""
    made = Neighbours(str(place), Sensor(), warnings.append)
    yield made
    made.close()


@pytest.fixture
def sleeper() -> Iterator[Callable[[], ProcessId]]:
    """Starts processes that stand for sentinels of other builds."""
    started: list[subprocess.Popen[bytes]] = []

    def start() -> ProcessId:
        started.append(subprocess.Popen(["sleep", "600"]))
        found = find_process(started[-1].pid)
        assert found is not None
        return found

    yield start
    for process in started:
        process.kill()
        process.wait()


def say(place: Path, key: str, sentinel: ProcessId, entry: Entry = ENTRY) -> None:
    """Another build says something."""
    board = Board(str(place))
    board.write(key, *sentinel, as_bytes(entry))
    board.close()


def test_an_entry_is_read_as_it_was_written() -> None:
    """All of it; what another version has added is passed over, what it lacks has its default."""
    assert parse(as_bytes(ENTRY)) == ENTRY
    told = json.loads(as_bytes(ENTRY))
    told["tasks"][0]["colour"] = told["colour"] = {"blue": [1]}
    assert parse(json.dumps(told).encode()) == ENTRY
    del told["tasks"][0]["pending_bytes"], told["kills"]
    assert parse(json.dumps(told).encode()) == replace(ENTRY, kills=0, tasks=(replace(TASK, pending_bytes=0),))


def test_another_build_is_counted_until_it_ends(
    ours: Neighbours, place: Path, key: str, sleeper: Callable[[], ProcessId], warnings: list[str]
) -> None:
    """Its tasks are seen at the next look, and what it has left when it was killed is taken away."""
    assert ours.look(0.0, READING).builds == 0
    other = sleeper()
    say(place, key, other)
    seen = ours.look(0.1, READING)
    assert (seen.builds, seen.current_bytes, seen.pending_bytes, seen.cpus, seen.kills) == (1, 310 * MIB, 7, 1.5, 1)
    assert [job.pid for task in seen.tasks for job in task.jobs] == [4000001]
    os.kill(other.pid, 9)
    os.waitpid(other.pid, 0)
    assert ours.look(0.2, READING).builds == 0
    assert list(place.iterdir()) == []
    assert warnings == []


def test_of_a_build_that_says_nothing_any_more_the_memory_counts(
    ours: Neighbours, place: Path, key: str, sleeper: Callable[[], ProcessId]
) -> None:
    """What lives of it takes memory that nobody regulates. By our own clock, whatever its own says; once it goes on it
    is counted on again."""
    other, leader, job, ended = (sleeper() for _ in range(4))
    jobs = tuple(replace(JOB, pid=one.pid, start_ticks=one.start_ticks) for one in (job, ended))
    task = replace(TASK, pid=leader.pid, start_ticks=leader.start_ticks, jobs=jobs, is_alone=True)
    entry = replace(ENTRY, alone="it", late_s=0.4, tasks=(task, replace(TASK, waits_s=2.0)))
    say(place, key, other, entry)
    (name,) = place.iterdir()
    for at_s in (1e9, 0.0):
        os.utime(name, (at_s, at_s))
        assert ours.look(10.0, READING).tasks[1].may_stop
    heard = ours.look(10.0 + BEAT_AGE_S, READING)
    assert (len(heard.tasks), len(heard.tasks[1].jobs), heard.alone) == (2, 2, "it of another build")
    os.kill(ended.pid, 9)
    os.waitpid(ended.pid, 0)
    silent = ours.look(10.1 + BEAT_AGE_S, READING)
    (seen,) = silent.tasks
    assert [one.pid for one in seen.jobs] == [job.pid]
    assert (seen.may_stop, seen.may_kill, seen.held_tokens) == (False, False, None)
    assert (silent.builds, silent.alone, silent.caution) == (1, "", Caution())
    assert (silent.elsewhere.waiting, silent.elsewhere.beside.is_alone) == ((), False)
    say(place, key, other, entry)
    assert ours.look(10.2 + BEAT_AGE_S, READING) == heard


def test_builds_under_other_limits_are_nobodys_neighbours(
    ours: Neighbours, place: Path, sleeper: Callable[[], ProcessId]
) -> None:
    """What lies there of another key is not even opened."""
    say(place, "0123456789abcdef", sleeper())
    assert ours.look(0.0, READING).builds == 0


def test_what_it_says_is_there_while_it_runs(
    ours: Neighbours, place: Path, key: str, sleeper: Callable[[], ProcessId]
) -> None:
    """Once a second while it is alone, at each look beside another; for its user only."""
    ours.look(0.0, READING)
    ours.say(0.0, Entry())
    ours.say(ALONE_BEAT_S / 2, ENTRY)
    (name,) = place.iterdir()
    assert name.name == f"{key}.{os.getpid()}.{find_process(os.getpid())[1]}"  # type: ignore[index]
    assert parse(name.read_bytes()) == Entry()
    assert name.stat().st_mode & 0o777 == 0o600
    assert place.stat().st_mode & 0o777 == 0o700
    say(place, key, sleeper())
    ours.look(0.6, READING)
    ours.say(0.6, ENTRY)
    assert parse(name.read_bytes()) == ENTRY
    ours.close()
    assert not name.exists()


def test_fifty_builds_are_counted(ours: Neighbours, place: Path, key: str, sleeper: Callable[[], ProcessId]) -> None:
    """And no more than the most, however many names there are."""
    for _ in range(50):
        say(place, key, sleeper())
    assert ours.look(0.0, READING).builds == 50
    for number in range(200):
        (place / f"{key}.1.{number}").write_bytes(as_bytes(ENTRY))
    assert ours.look(0.1, READING).builds <= BUILDS_MOST


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b'{"tasks": 7}',
        b'{"tasks": [7]}',
        b'{"tasks": [{"jobs": 3}]}',
        b"\xff" * 100,
        b"[" * 100000,
        b'{"cpus": NaN, "tasks": []}',
        as_bytes(ENTRY)[:-9],
        as_bytes(ENTRY) + b" " * (1 << 20),
        as_bytes(replace(ENTRY, tasks=(replace(TASK, most_jobs=1 << 62),))),
    ],
)
def test_what_is_no_entry_counts_for_nobody(
    ours: Neighbours, place: Path, key: str, sleeper: Callable[[], ProcessId], warnings: list[str], content: bytes
) -> None:
    """Whatever is in a file, the build goes on, and says nothing of it."""
    other = sleeper()
    say(place, key, other)
    (name,) = place.iterdir()
    name.write_bytes(content)
    assert ours.look(0.0, READING).builds == 0
    say(place, key, other)
    assert ours.look(0.1, READING).builds == 1
    assert warnings == []


def test_numbers_that_nobody_has_measured_do_no_harm(
    ours: Neighbours, place: Path, key: str, sleeper: Callable[[], ProcessId]
) -> None:
    """Sizes below zero and lives of no length are what nothing divides by."""
    job = replace(JOB, bytes=-5, wall_s=0.0, rise_s=-1.0, peak_bytes=-1, age_s=-3.0)
    task = replace(TASK, next_wall_s=0.0, next_rise_s=0.0, most_jobs=1 << 59, current_bytes=-1, jobs=(job,))
    task = replace(task, held_tokens=1 << 59, idle_tokens=1 << 59, next_ended=1 << 59, next_peak_bytes=0)
    say(place, key, sleeper(), replace(ENTRY, tasks=(task,), alone="a\x1b[2J" + 5000 * "b"))
    others = ours.look(0.0, READING)
    (seen,) = others.tasks
    assert seen.jobs[0].bytes == seen.current_bytes == 0
    assert min(seen.jobs[0].expected.mean_bytes, seen.next_job.mean_bytes, seen.jobs[0].left_s) >= 0
    assert others.alone.startswith("a[2Jb")
    assert len(others.alone) < 300
    for left_bytes in (-GIB, 0, GIB):
        regulate(Moment(left_bytes, 256 * MIB, 0.0, 3, others.tasks))


def test_the_largest_build_fits_into_its_file(
    ours: Neighbours, place: Path, key: str, sleeper: Callable[[], ProcessId]
) -> None:
    """Of tasks beyond the most the last are left out, of jobs the youngest; of too much on a board, too."""
    many = 1e12 / 3
    lives = (LifeEntry(1 << 40, many, many, many),) * 20
    job = JobEntry(1 << 22, 1 << 40, 1 << 40, many, many, 1 << 40, many, many, many, 1 << 20, 1 << 40, lives=lives)
    jobs = tuple(replace(job, pid=job.pid + number) for number in range(600, 0, -1))
    for _ in range(8):
        say(place, key, sleeper(), Entry(tasks=(replace(TASK, jobs=jobs, next_lives=lives),) * 100))
    assert all(name.stat().st_size < 1 << 20 for name in place.iterdir())
    others = ours.look(0.0, READING)
    assert 4 <= others.builds < 8
    assert len(others.tasks) == 256
    assert [one.pid - job.pid for one in others.tasks[0].jobs] == list(range(512, 0, -1))
    assert others.tasks[1].jobs == ()


def test_no_planted_file_is_opened_or_followed(
    ours: Neighbours, place: Path, key: str, sleeper: Callable[[], ProcessId], tmp_path: Path, warnings: list[str]
) -> None:
    """A FIFO is not waited for, a link not followed, a directory not read; what lies in our own place is replaced."""
    ours.look(0.0, READING)
    foreign = tmp_path / "foreign"
    foreign.write_bytes(as_bytes(ENTRY))
    fifo, link, directory = (f"{key}.{one.pid}.{one.start_ticks}" for one in (sleeper(), sleeper(), sleeper()))
    os.mkfifo(place / fifo)
    (place / link).symlink_to(foreign)
    (place / directory).mkdir()
    (place / f"{key}.999999999999.1").write_bytes(b"x")
    (place / f"{key}.1.\n").write_bytes(b"x")
    (place / f"{key}.-1.5").write_bytes(b"x")
    (place / f".{key}.{os.getpid()}.{find_process(os.getpid())[1]}").symlink_to(foreign)  # type: ignore[index]
    assert ours.look(0.1, READING).builds == 0
    ours.say(5.0, Entry())
    assert foreign.read_bytes() == as_bytes(ENTRY)
    assert parse((place / f"{key}.{os.getpid()}.{find_process(os.getpid())[1]}").read_bytes()) == Entry()  # type: ignore[index]
    assert warnings == []


def test_a_place_that_others_may_write_to_is_none(tmp_path: Path, warnings: list[str]) -> None:
    """The build goes on by itself, and says so once where somebody has asked for that place."""
    open_to_all, link = tmp_path / "open", tmp_path / "link"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    link.symlink_to(tmp_path)
    for place in (open_to_all, link, tmp_path / "no" / "such"):
        lonely = Neighbours(str(place), Sensor(), warnings.append)
        assert lonely.look(0.0, READING).builds == 0
        lonely.say(0.0, ENTRY)
        lonely.close()
        assert f"{place}: " in warnings.pop()
    assert list(open_to_all.iterdir()) == []


def test_a_full_disk_is_no_fault(
    ours: Neighbours, place: Path, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    """What cannot be said is said later, and no draft is left."""
    ours.look(0.0, READING)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        ours.say(0.0, ENTRY)
    assert list(place.iterdir()) == []
    ours.say(9.0, ENTRY)
    assert len(list(place.iterdir())) == 1
    assert warnings == []


def test_a_fault_ends_it_with_one_warning(
    ours: Neighbours, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    """A build does not suffer from its neighbours."""
    ours.look(0.0, READING)

    def break_down(*_: Any) -> None:
        raise RuntimeError("by hand")

    monkeypatch.setattr(Board, "read", break_down)
    for at_s in range(3):
        assert ours.look(at_s, READING).builds == 0
        ours.say(at_s, ENTRY)
    assert len(warnings) == 1
    assert "by hand" in warnings[0]


def test_what_killed_sentinels_left_is_swept(place: Path, warnings: list[str]) -> None:
    """When a build begins, of all limits, drafts included."""
    board = Board(str(place))
    board.write("0123456789abcdef", 4194300, 5, b"{}")
    (place / ".0123456789abcdef.4194300.6").write_bytes(b"{")
    (place / "something else").write_bytes(b"")
    board.close()
    Neighbours(str(place), Sensor(), warnings.append).close()
    assert [path.name for path in place.iterdir()] == ["something else"]


def test_off_is_nowhere(monkeypatch: pytest.MonkeyPatch, warnings: list[str], tmp_path: Path) -> None:
    """Then nothing is made, read or said."""
    monkeypatch.setattr(channel, "OWN_PLACE", str(tmp_path / "own"))
    lonely = Neighbours("off", Sensor(), warnings.append)
    lonely.look(0.0, READING)
    lonely.say(0.0, ENTRY)
    lonely.close()
    assert not (tmp_path / "own").exists()


def test_without_being_asked_builds_meet_in_memory(
    monkeypatch: pytest.MonkeyPatch, warnings: list[str], tmp_path: Path
) -> None:
    """Root's place for all users if there is one that is safe, else one's own; without either nothing is said."""
    shared, own = tmp_path / "shared", tmp_path / "own-{uid}"
    monkeypatch.setattr(channel, "SHARED_PLACE", str(shared))
    monkeypatch.setattr(channel, "OWN_PLACE", str(own))
    mine = tmp_path / f"own-{os.geteuid()}"
    Board("auto").close()
    assert mine.is_dir()
    shared.mkdir()
    shared.chmod(0o1777)
    board = Board("auto")
    board.write("0123456789abcdef", 1, 1, b"{}")
    board.close()
    found = next(iter((shared if os.geteuid() == 0 else mine).iterdir()))
    assert found.stat().st_mode & 0o777 == (0o644 if os.geteuid() == 0 else 0o600)
    monkeypatch.setattr(channel, "SHARED_PLACE", "/proc/none")
    monkeypatch.setattr(channel, "OWN_PLACE", "/proc/none")
    Neighbours("auto", Sensor(), warnings.append).close()
    assert warnings == []


def test_a_limit_has_one_name_for_all_below_it(key: str) -> None:
    """Whatever process asks; without a limit it is the machine, and another one."""
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from memguard.sense.container import Sensor;"
        "from memguard.sense.limit_id import limit_id; from memguard.model import Reading;"
        "print(limit_id(Sensor(), Reading(1 << 30, 'MEMGUARD_LIMIT', 0, 0, 0, None, None, 1.0)))"
    )
    library = str(Path(channel.__file__).resolve().parents[2])
    told = subprocess.run([sys.executable, "-c", program, library], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == key
    machine = limit_id(Sensor(), replace(READING, limit_source="MemTotal"))
    assert machine not in (None, key)
    assert limit_id(Sensor(), replace(READING, limit_source="/no/such/memory.max")) is None


class Box(Sensor):
    """A container of 8 GiB with as much left as the test says."""

    left_bytes = 4 * GIB

    def read(self) -> Reading:
        return Reading(8 * GIB, "MEMGUARD_LIMIT", 8 * GIB - self.left_bytes, 0, self.left_bytes, None, None, 4)


def test_of_two_builds_the_younger_ones_compiler_stands_still_and_the_older_ones_goes_on(
    tmp_path: Path,
    place: Path,
    sleeper: Callable[[], ProcessId],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each has one compiler, the oldest of its own; the older one's goes on, and when it is killed the other's does."""
    box, program = Box(), memory.build(tmp_path)
    with contextlib.ExitStack() as closing:
        shells, compilers = [], []
        for name in ("old", "new"):
            task = closing.enter_context(memory.running(program, "spawn { name cc1plus anon 32 wait } wait"))
            task.wait_for(2)
            directory = tmp_path / name
            policy = Policy(directory=str(directory), neighbours=str(place))
            file = Notes(directory).listen()
            closing.callback(os.close, file)
            with monkeypatch.context() as patch:
                if shells:  # both run in this process, and one stands for another
                    other = sleeper()
                    patch.setattr("memguard.sentinel.neighbours.find_process", lambda pid, other=other: other)
                shells.append(Shell(Orders(name, policy), Listener(file), sensor=box))
            closing.callback(shells[-1].close)
            tid = f"/{name}.bb:do_compile"
            Notes(directory).send(TaskGrant(tid, 1, 4, GIB, 512 * MIB))
            Notes(directory).send(TaskNote(*task.leader, tid, name, "1.0", "do_compile", "m", 4, 4))
            compilers += psutil.Process(task.leader.pid).children()
        old, new = compilers

        def look_until(holds: Callable[[], bool]) -> None:
            deadline = time.monotonic() + 60
            while not holds():
                assert time.monotonic() < deadline
                for shell in shells:
                    shell.step()
                time.sleep(0.02)

        def state(name: str) -> State:
            found = StateFile(tmp_path / name).left()
            assert found is not None
            return found

        for shell in shells * 2:
            shell.step()
        look_until(lambda: [state(name).neighbours for name in ("old", "new")] == [1, 1])
        assert state("old").neighbours_bytes >= 32 * MIB
        box.left_bytes = 150 * MIB
        look_until(lambda: new.status() == psutil.STATUS_STOPPED)
        for _ in range(20):
            for shell in shells:
                shell.step()
        assert (old.status(), new.status()) == (psutil.STATUS_SLEEPING, psutil.STATUS_STOPPED)
        old.kill()
        shells.pop(0).close()  # and its sentinel is gone with it
        look_until(lambda: new.status() == psutil.STATUS_SLEEPING)
        assert state("new").neighbours == 0
