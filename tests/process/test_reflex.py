# SPDX-License-Identifier: MIT
"""What the reflex does to real processes: exactly whom it should, and nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from memguard.act.signals import BEAT_S
from memguard.act.token_pool import make_pool
from memguard.decide.moment import Act, Job
from memguard.decide.regulate import KILL_PAUSE_S, TASK_PAUSE_S
from memguard.model import Reading
from memguard.predict.remembered_lives import Lives
from memguard.sense.proc_files import ProcessId, find_process
from memguard.sense.process_table import ProcessTable
from memguard.sense.process_tree import Compiler, Usage
from memguard.sentinel.job_memory import ESCAPED_BYTES, ESCAPES_MOST
from memguard.sentinel.pace import LOOK_LEAST_S, LOOK_MOST_S, LOOK_NEAR_S
from memguard.sentinel.reflex import Reflex
from memguard.sentinel.ward import Acted, Ward
from memguard.units import GIB, MIB
from testbed import compilers

RESERVE = 64 * MIB
LIMIT = 4 * GIB
WAIT_S = 30.0
REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the simulated compilers are."""
    return compilers.build(tmp_path_factory.mktemp("compilers"))


def state_of(pid: int) -> str:
    """The letter by which the kernel tells a process's state, "" where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return ""


def wait_until(is_so: Callable[[], bool]) -> None:
    """Return once it is so; fails where it never will be."""
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.01)


class Task:
    """A task of real jobs, looked at with readings that the test makes up."""

    def __init__(self, programs: Path, directory: Path, profiles: tuple[str, ...], **ward: object) -> None:
        jobs = [
            f"{programs}/cc1plus -o {directory}/{number} -p {profile} & sleep 0.05;"
            for number, profile in enumerate(profiles)
        ]
        self.process = subprocess.Popen(["sh", "-c", f"{' '.join(jobs)} wait; exec sleep 600"], start_new_session=True)
        leader = find_process(self.process.pid)
        assert leader
        self.leader: ProcessId = leader
        self.killed: list[Job] = []
        self.table = ProcessTable()
        self.reflex = Reflex(16, self.table.members, before_kill=lambda tid, job: self.killed.append(job))
        self.has_pool = self.reflex.begin("task", Ward(leader, 1, 8, **ward))  # type: ignore[arg-type]
        self.count = len(profiles)
        self.pids: list[int] = []

    def settle(self) -> None:
        """Wait until all jobs run and hold what their profiles begin with; `pids` are theirs, the oldest first."""
        wait_until(lambda: len(self.jobs()) == self.count and all(job.bytes > 6 * MIB for job in self.jobs()))
        self.pids = [job.pid for job in reversed(self.jobs())]

    def jobs(self) -> list[Compiler]:
        """The jobs that the table sees now."""
        return list(self.table.scan({"task": self.leader})["task"].compilers)

    def look(self, left_mib: float, now_s: float | None = None, used_bytes: int | None = None) -> list[Acted]:
        """One look while so much is left; what was done."""
        usage = self.table.scan({"task": self.leader})["task"]
        used = usage.current_bytes if used_bytes is None else used_bytes
        room = int(left_mib * MIB)
        reading = Reading(used + room, "test", used, 0, room, None, 64 * GIB, 2.0)
        self.moment_s = time.monotonic() if now_s is None else now_s
        return self.reflex.look(self.moment_s, reading, RESERVE, {"task": usage})

    def states(self) -> str:
        """The states of its jobs, the oldest first."""
        return "".join(state_of(pid) for pid in self.pids)

    def close(self) -> None:
        """End it, and everything it started."""
        self.reflex.close()
        self.table.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


Start = Callable[..., Task]


@pytest.fixture
def start(programs: Path, tmp_path: Path) -> Iterator[Start]:
    """Start tasks; all of them have ended afterwards."""
    tasks: list[Task] = []

    def begin(*profiles: str, **ward: object) -> Task:
        tasks.append(Task(programs, tmp_path, profiles, **ward))
        return tasks[-1]

    yield begin
    for task in tasks:
        task.close()


# Take 8 MiB at once, and keep growing for ten minutes.
GROWING = "0.1:8,600:2000"


def done(acted: list[Acted], act: Act) -> list[int]:
    """The pids that it was done to."""
    return [found.action.job.pid for found in acted if found.action.act is act and found.action.job]


def test_the_youngest_are_stopped_and_the_oldest_goes_on(start: Start) -> None:
    """With less left than anybody needs, all real processes stop but the oldest."""
    task = start(GROWING, GROWING, GROWING)
    task.settle()
    acted = task.look(RESERVE / MIB / 2)
    assert done(acted, Act.STOP) == task.pids[:0:-1]
    wait_until(lambda: task.states()[1:] == "TT")
    assert task.states()[0] != "T"
    assert task.reflex.use_of("task").stopped == 2
    task.look(RESERVE / MIB / 2)
    use = task.reflex.use_of("task")
    assert use.stopped_s > 0
    # One of the three went on.
    assert use.lost_s == pytest.approx(use.stopped_s * 2 / 3)
    assert use.kills == 0


def test_what_was_stopped_is_woken_the_oldest_first(start: Start) -> None:
    """With memory for all, they go on, and what they do is counted again."""
    task = start(GROWING, GROWING, GROWING)
    task.settle()
    task.look(RESERVE / MIB / 2)
    acted = task.look(100_000)
    assert done(acted, Act.WAKE) == task.pids[1:]
    wait_until(lambda: "T" not in task.states())
    assert task.reflex.use_of("task").stopped == 0


def test_time_that_a_job_was_stopped_is_no_age(start: Start) -> None:
    """A job that stood still for an hour is as old as it was, and will go on growing as it did."""
    task = start(GROWING, GROWING)
    task.settle()
    task.look(RESERVE / MIB / 2)
    task.look(RESERVE / MIB / 2, now_s=task.moment_s + 3600)
    assert task.reflex.moment
    young, old = task.reflex.moment.tasks[0].jobs
    assert young.is_stopped
    assert young.age_s < 3600 / 2
    assert young.growth_bytes_s > 0
    assert not old.is_stopped


def test_a_newborn_has_no_pace_yet(start: Start) -> None:
    """What a compiler has mapped after ten milliseconds it will not take each ten milliseconds from now on."""
    task = start("0.001:50,600:50")
    task.settle()
    newborn = replace(task.jobs()[0], age_s=0.01)
    reading = Reading(GIB, "test", newborn.bytes, 0, GIB - newborn.bytes, None, 64 * GIB, 2.0)
    task.reflex.look(1.0, reading, RESERVE, {"task": Usage(newborn.bytes, 1, 1, (newborn,))})
    assert task.reflex.moment
    assert task.reflex.moment.tasks[0].jobs[0].growth_bytes_s == pytest.approx(newborn.bytes / LOOK_LEAST_S)


def test_the_kill_is_for_one_and_not_for_the_oldest(start: Start) -> None:
    """Nothing left and nothing to stop: one real process is killed, it is told before, and the oldest goes on."""
    task = start("0.1:300,600:900", "0.1:40,600:900", "0.1:8,600:900")
    task.settle()
    task.look(4)
    acted = task.look(4)
    assert done(acted, Act.KILL) == [task.pids[1]]
    assert [job.pid for job in task.killed] == [task.pids[1]]
    wait_until(lambda: task.states() in ("ST", "RT", "DT", "SZT", "RZT"))
    assert done(task.look(4, now_s=task.moment_s + KILL_PAUSE_S / 2), Act.KILL) == []
    assert task.reflex.use_of("task").kills == 1
    # What was killed says nothing of what a job takes.
    assert task.reflex.moment
    assert task.reflex.moment.tasks[0].next_job.ended == 0


def test_jobs_that_have_ended_teach_what_a_job_takes(start: Start) -> None:
    """Peak and length of real jobs are known once they have ended."""
    task = start("0.2:40,0.6:40", "0.2:40,0.6:40")
    deadline = time.monotonic() + WAIT_S
    while task.reflex.moment is None or task.reflex.moment.tasks[0].next_job.ended < 2:
        task.look(100_000)
        assert time.monotonic() < deadline
        time.sleep(0.02)
    expected = task.reflex.moment.tasks[0].next_job
    assert any(abs(life.peak_bytes - 40 * MIB) < 4 * MIB for life in expected.lives)
    assert all(life.wall_s < WAIT_S for life in expected.lives)


def test_what_a_unit_took_is_known_when_it_is_built_again(start: Start) -> None:
    """Of a real job that has just begun the next build knows what it will take."""
    profile = "2:40,2.5:40"
    task, lives = start(profile), Lives()
    task.reflex.begin("task", Ward(task.leader, 1, 8), lives)
    deadline = time.monotonic() + WAIT_S
    while not lives.has_news:
        task.look(100_000)
        assert time.monotonic() < deadline
        time.sleep(0.02)
    again = start(profile)
    again.reflex.begin("task", Ward(again.leader, 1, 8), Lives(lives.packed()))
    wait_until(lambda: bool(again.jobs()))
    again.look(100_000)
    assert again.reflex.moment is not None
    (job,) = again.reflex.moment.tasks[0].jobs
    assert job.expected.ended == 1
    assert job.bytes < 30 * MIB
    assert abs(job.expected.peak_bytes - 40 * MIB) < 4 * MIB


def test_jobs_that_ended_with_their_task_teach_as_well(start: Start) -> None:
    """The last job may end together with its task, after the last look."""
    task, lives = start("0.2:40,600:40"), Lives()
    task.reflex.begin("task", Ward(task.leader, 1, 8), lives)
    task.settle()
    wait_until(lambda: task.jobs()[0].bytes > 39 * MIB)
    task.look(100_000)
    assert not lives.has_news
    task.reflex.end("task", task.moment_s + 1)
    assert lives.has_news


def test_a_task_that_ends_leaves_nothing_stopped(start: Start) -> None:
    """When the reflex lets go of a task, its jobs go on."""
    task = start(GROWING, GROWING)
    task.settle()
    task.look(RESERVE / MIB / 2)
    wait_until(lambda: "T" in task.states())
    task.reflex.end("task", task.moment_s + 1)
    wait_until(lambda: "T" not in task.states())


def test_close_leaves_nothing_stopped(start: Start) -> None:
    """Neither single jobs nor whole tasks stay stopped."""
    task = start(GROWING, GROWING)
    task.settle()
    task.look(RESERVE / MIB / 2)
    wait_until(lambda: "T" in task.states())
    task.reflex.close()
    wait_until(lambda: "T" not in task.states())


def test_observing_does_nothing(start: Start) -> None:
    """Where it must not act it says what it would do; every process goes on, and pools are full."""
    task = start(GROWING, GROWING)
    task.settle()
    task.reflex = Reflex(16, task.table.members, acts=False)
    task.reflex.begin("task", Ward(task.leader, 1, 8))
    assert done(task.look(RESERVE / MIB / 2), Act.STOP) == [task.pids[1]]
    assert "T" not in task.states()


def test_tokens_follow_memory(start: Start, tmp_path: Path) -> None:
    """A real FIFO fills as its tokens are taken, and is empty when memory is short."""
    path = tmp_path / "pool"
    make_pool(str(path))
    task = start(GROWING, pool=str(path))
    task.settle()
    client = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        task.look(100_000)
        assert task.reflex.use_of("task").tokens == 1
        task.look(100_000)
        assert task.reflex.use_of("task").tokens == 1  # nobody took it
        taken = b""
        for _ in range(3):  # in a fourth look, tokens that no process works with would be thought lost
            with contextlib.suppress(BlockingIOError):
                taken += os.read(client, 64)
            task.look(100_000)
        assert len(taken) == task.reflex.use_of("task").tokens == 7
        os.write(client, taken)
        task.look(1)
        assert task.reflex.use_of("task").tokens == 0
        with pytest.raises(BlockingIOError):
            os.read(client, 1)
    finally:
        os.close(client)
    task.reflex.end("task")
    assert not path.exists()


def test_a_pool_that_is_not_there_is_none(start: Start, tmp_path: Path) -> None:
    """A FIFO that cannot be opened, or vanishes, costs the pool and nothing else."""
    task = start(GROWING, pool=str(tmp_path / "nowhere"))
    assert not task.has_pool
    assert task.reflex.use_of("task").tokens is None
    task.look(100)
    path = tmp_path / "pool"
    make_pool(str(path))
    gone = start(GROWING, pool=str(path))
    assert gone.has_pool
    path.unlink()
    gone.look(100_000)
    gone.reflex.end("task")


def test_processes_that_the_cgroup_does_not_count_yet_count(start: Start) -> None:
    """Where the kernel's sum is two seconds old, what the processes have taken since is used all the same."""
    task = start("0.1:8,1:8,1.2:200,600:200")
    task.settle()
    before = task.look(1000, used_bytes=20 * MIB)
    assert not done(before, Act.STOP)
    wait_until(lambda: any(job.bytes > 190 * MIB for job in task.jobs()))  # type: ignore[attr-defined]
    task.look(1000, used_bytes=20 * MIB)
    assert task.reflex.moment is not None
    assert task.reflex.moment.left_bytes < 850 * MIB


def test_late_looks_are_remembered_for_a_while(start: Start) -> None:
    """A look that comes later than it was due says how late others may come; one that comes early says nothing."""
    task = start("0.1:8,600:9")
    task.settle()
    task.look(100_000, now_s=100.0)
    late = []
    for now_s in (100.5, 101.8, 102.8, 110.0, 200.0):
        task.look(100_000, now_s=now_s)
        assert task.reflex.moment is not None
        late.append(task.reflex.moment.late_s)
    # One a second is due; a machine that was asleep was not late.
    assert late == pytest.approx([0.0, 0.3, 0.3, 0.5, 0.5], abs=0.01)


def test_looks_come_sooner_as_memory_gets_short(start: Start) -> None:
    """Far from the limit once a second, near it ten times, and forty where the next thing is a kill."""
    task = start("0.1:8,600:9")
    task.settle()
    assert task.reflex.next_look_s == LOOK_LEAST_S
    for _ in range(3):
        task.look(100_000)
    assert task.reflex.next_look_s == LOOK_MOST_S
    task.look(100)
    assert task.reflex.next_look_s == LOOK_LEAST_S
    task.look(RESERVE / MIB / 4)
    assert task.reflex.next_look_s == LOOK_NEAR_S


# An older task holds memory and then wants a lock that the newer one has, which takes more and more before it ends.
WAITS = """
import fcntl, sys
held = b"x" * (int(sys.argv[2]) << 20)
fcntl.flock(open(sys.argv[1], "w"), fcntl.LOCK_EX)
"""
GROWS = """
import fcntl, sys, time
lock, held = open(sys.argv[1], "w"), []
fcntl.flock(lock, fcntl.LOCK_EX)
print(flush=True)
for _ in range(int(sys.argv[2]) // 16):
    held.append(b"x" * (16 << 20))
    time.sleep(0.3)
"""


def test_a_job_that_somebody_wakes_is_stopped_again_and_then_let_be(start: Start) -> None:
    """Its memory grows although it was stopped; what lets no stop last is counted as what goes on."""
    task = start("0.1:8,600:9", "0.1:8,1:8,61:1208,600:1209", may_kill=False)
    task.settle()
    _, young = task.pids
    for _ in range(ESCAPES_MOST):
        wait_until(lambda: done(task.look(28), Act.STOP) == [young])
        task.look(28)
        os.kill(young, signal.SIGCONT)
        held = max(job.bytes for job in task.jobs())
        wait_until(lambda held=held: max(job.bytes for job in task.jobs()) > held + 2 * ESCAPED_BYTES)  # type: ignore[misc]
    for _ in range(3):
        assert done(task.look(28), Act.STOP) == []
    assert task.states()[1] in "RS"
    assert not task.reflex.uses()["task"].stopped


def test_what_a_stopped_task_starts_is_stopped_with_it() -> None:
    """A process that was forked while the others were stopped stands still a look later, and is woken with them."""
    sleepers = [subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(3)]
    found = [find_process(process.pid) for process in sleepers]
    old, new, late = (target for target in found if target is not None)
    members = {old: [old], new: [new]}
    reflex = Reflex(4, lambda leader: members[leader])
    usages = {"old": Usage(100 * MIB), "new": Usage(100 * MIB)}

    def look(left_mib: int) -> None:
        room = left_mib * MIB
        reading = Reading(200 * MIB + room, "test", 200 * MIB, 0, room, None, 64 * GIB, 2.0)
        reflex.look(time.monotonic(), reading, RESERVE, usages)

    try:
        reflex.begin("old", Ward(old, 1, 1))
        reflex.begin("new", Ward(new, 2, 1))
        look(10)
        wait_until(lambda: state_of(new.pid) == "T")
        members[new].append(late)
        look(10)
        wait_until(lambda: state_of(late.pid) == "T")
        assert state_of(old.pid) == "S"
        time.sleep(TASK_PAUSE_S)
        look(1000)
        wait_until(lambda: [state_of(target.pid) for target in (old, new, late)] == ["S"] * 3)
    finally:
        reflex.close()
        for process in sleepers:
            process.kill()
            process.wait()


def test_a_task_that_waits_for_a_stopped_one_does_not_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole task is stopped while it has a lock that the oldest wants: it is woken, goes on, and both end."""
    monkeypatch.setattr("memguard.decide.regulate.STALLED_S", 5.0)
    limit, lock = 290 * MIB, str(tmp_path / "lock")

    def start(code: str, mib: int) -> subprocess.Popen[bytes]:
        words = [sys.executable, "-I", "-S", "-c", code, lock, str(mib)]
        return subprocess.Popen(words, start_new_session=True, stdout=subprocess.PIPE)

    grows = start(GROWS, 176)
    assert grows.stdout
    assert grows.stdout.readline()
    waits = start(WAITS, 100)
    table, acted, stalls, beats = ProcessTable(), [], [], []
    reflex = Reflex(4, table.members)
    monkeypatch.setattr(reflex._signals, "beat", lambda: beats.append(reflex.moment.stalled_s if reflex.moment else 0))
    try:
        leaders = {}
        for place, (tid, process) in enumerate((("waits", waits), ("grows", grows)), 1):
            leader = find_process(process.pid)
            assert leader
            leaders[tid] = leader
            reflex.begin(tid, Ward(leader, place, 1))
        deadline = time.monotonic() + 2 * WAIT_S
        while waits.poll() is None:
            assert time.monotonic() < deadline, f"neither goes on; {acted}, still for {stalls[-1]} s"
            usages = table.scan(leaders, is_thorough=True)
            used = sum(usage.current_bytes for usage in usages.values())
            reading = Reading(limit, "test", used, 0, limit - used, None, None, 4.0)
            acted += [found.action for found in reflex.look(time.monotonic(), reading, limit // 10, usages)]
            assert reflex.moment
            stalls.append(reflex.moment.stalled_s)
            if grows.poll() is not None and "grows" in leaders:
                del leaders["grows"]
                reflex.end("grows", time.monotonic())
            time.sleep(reflex.next_look_s)
        assert (waits.returncode, grows.wait(WAIT_S)) == (0, 0)
        assert [(action.act, action.tid, action.is_final) for action in acted] == [
            (Act.STOP, "grows", False),
            (Act.WAKE, "grows", True),
        ]
        # The watchman would have woken all, had this process hung at any time.
        assert [stalled_s for stalled_s in beats if BEAT_S <= stalled_s < 5.0] == []
    finally:
        reflex.close()
        table.close()
        for process in (grows, waits):
            process.kill()
            process.communicate()
