# SPDX-License-Identifier: MIT
"""The memory of each task's process tree: real processes with psutil and a memory cgroup as witnesses, literal trees
for what no test can make a kernel do."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.sense import process_reader, process_table
from memguard.sense.compilers import unit_of
from memguard.sense.proc_files import ProcessId, find_process
from memguard.sense.process_table import ProcessTable
from memguard.sense.process_tree import Usage
from memguard.sense.tally import Tally
from memguard.units import MIB
from testbed import memory
from testbed.container import Container, NoContainer, container
from testbed.memory import MemoryTask, running

NOWHERE = ProcessId(2**22 + 1, 1)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program that takes memory as it is told."""
    try:
        return memory.build(tmp_path_factory.mktemp("memory"))
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture
def table() -> Iterator[ProcessTable]:
    """A table over the real /proc, whose files are closed afterwards."""
    made = ProcessTable()
    yield made
    made.close()


@contextlib.contextmanager
def cgroup() -> Iterator[Container]:
    """A container with room for every program here."""
    try:
        with container(4 << 30) as box:
            yield box
    except NoContainer as missing:
        pytest.skip(str(missing))


def watch(table: ProcessTable, task: MemoryTask, enough: Callable[[Usage], bool], most_s: float = 10.0) -> Usage:
    """Scan as the sentinel does until `enough`; what was seen last, even if it never was."""
    deadline = time.monotonic() + most_s
    while True:
        (usage,) = table.scan({"task": task.leader}).values()
        if enough(usage) or time.monotonic() > deadline:
            return usage
        time.sleep(0.05)


def within(share: float, truth: int) -> Callable[[Usage], bool]:
    """Whether the memory of a usage is that of the truth, up to a share of it."""
    return lambda usage: abs(usage.current_bytes - truth) <= share * truth


def charged_bytes(box: Container) -> int:
    """Anonymous memory and shmem that the kernel has charged to a cgroup, in bytes."""
    keys = dict(line.split() for line in (box.directory / "memory.stat").read_text().splitlines())
    return int(keys.get("anon", keys.get("total_rss"))) + int(keys.get("shmem", keys.get("total_shmem")))


def proportional_bytes(leader: ProcessId) -> int:
    """What psutil makes of a session: proportional sizes without page cache."""
    total = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getsid(process.pid) == leader.pid:
                maps = process.memory_maps(grouped=False)
                total += sum(m.pss if m.path[0] in "[" or "/dev/" in m.path else m.private_dirty for m in maps)
    return total


PROFILES = {
    "fixed": "anon 120 wait",
    "file pages do not count": "anon 60 file /proc/self/exe wait",
    "a tree of programs": "anon 20 spawn { anon 40 spawn { anon 30 wait } wait } spawn { anon 20 wait } wait",
    "forked, sharing all": "anon 100 fork 8 { wait } wait",
    "forked, growing": "anon 100 fork 8 { anon 10 wait } wait",
    "forked, writing to what they share": "anon 100 fork 4 { rewrite 50 wait } wait",
    "the parent of the forked has ended": "spawn { anon 80 fork 3 { sleep 200 rewrite 20 wait } } wait",
    "forked, then another program": "anon 60 fork 3 { exec { anon 30 wait } } wait",
    "shared and anonymous": "shared 100 fork 8 { read anon 2 wait } wait",
    "shared by path": "shm {shm} 90 spawn { shm {shm} 90 wait } spawn { shm {shm} 90 anon 10 wait } wait",
    "left the session": "mark spawn { anon 40 setsid fork 2 { setsid anon 30 wait } wait } wait",
    "freed": "anon 100 anon 30 free wait",
}


@pytest.mark.memcg
@pytest.mark.parametrize("profile", PROFILES)
def test_memory_is_what_the_kernel_charges(profile: str, program: Path, table: ProcessTable) -> None:
    """A tree at rest is measured to within 5 % of what its cgroup holds and psutil finds, and never was much more."""
    shm = Path(f"/dev/shm/memguard-test-{os.getpid()}")
    words = PROFILES[profile].replace("{shm}", str(shm))
    tally = Tally()
    try:
        with cgroup() as box, running(program, words, prefix=box.prefix) as task:
            # From the first moment on, so that nothing is met at rest.
            for _ in range(4):
                tally.add(table.scan({0: task.leader})[0])
                time.sleep(0.03)
            task.wait_for(waiters(words))
            truth = charged_bytes(box)
            usage = watch(table, task, within(0.05, truth))
            assert usage.current_bytes == pytest.approx(truth, rel=0.05)
            assert usage.processes == waiters(words)
            if "setsid" not in words:
                assert usage.current_bytes == pytest.approx(proportional_bytes(task.leader), rel=0.05)
            tally.add(usage)
            # What is there in passing is missed at most, except where a mapping was really there and freed.
            assert tally.peak_bytes <= truth * 1.05 + (30 * MIB if "free" in words else 0)
    finally:
        shm.unlink(missing_ok=True)


def waiters(words: str) -> int:
    """How many processes of a program come to "wait"."""

    def count(left: list[str]) -> int:
        total = 0
        while left:
            word = left.pop(0)
            if word == "}":
                break
            if word == "wait":
                total += 1
            elif word in ("fork", "spawn", "exec"):
                times = int(left.pop(0)) if word == "fork" else 1
                left.pop(0)
                total += times * count(left)
        return total

    return count(words.split())


@pytest.mark.memcg
def test_peak_of_a_profile_over_time(program: Path, table: ProcessTable) -> None:
    """A peak that passes is kept, to within 5 % of the cgroup's own."""
    words = "anon 30 sleep 400 anon 90 sleep 600 free sleep 400 anon 40 wait"
    tally = Tally()
    with cgroup() as box, running(program, words, prefix=box.prefix) as task:
        assert task.process.stdout is not None
        os.set_blocking(task.process.stdout.fileno(), False)
        while not task.process.stdout.read(1):
            tally.add(table.scan({0: task.leader})[0])
            time.sleep(0.1)
        for name in ("memory.max_usage_in_bytes", "memory.peak"):
            with contextlib.suppress(FileNotFoundError):
                assert tally.peak_bytes == pytest.approx(int((box.directory / name).read_text()), rel=0.05)
    assert tally.serial_bytes == tally.peak_bytes
    assert tally.per_job_bytes is None


@pytest.mark.memcg
def test_two_thousand_processes(program: Path, table: ProcessTable) -> None:
    """Many small processes add up to what their cgroup holds; beyond the files that stay open, too."""
    words = "anon 4 fork 2000 { anon 0.4 wait } wait"
    with cgroup() as box, running(program, words, prefix=box.prefix) as task:
        task.wait_for(2001)
        truth = charged_bytes(box)
        usage = watch(table, task, within(0.05, truth))
        assert usage.current_bytes == pytest.approx(truth, rel=0.05)
        assert usage.processes == 2001
        assert psutil.Process().num_fds() < process_reader.FILES_MOST + 100
    # Once they are reaped, their files are closed.
    assert watch(table, task, lambda usage: psutil.Process().num_fds() < 100).current_bytes == 0
    assert psutil.Process().num_fds() < 100


def test_tasks_are_told_apart(program: Path, table: ProcessTable) -> None:
    """One scan serves all tasks; whoever belongs to none is in none, and a task that is dropped takes its own along."""
    with running(program, "anon 20 wait") as one, running(program, "anon 30 fork 1 { wait } wait") as two:
        one.wait_for(1)
        two.wait_for(2)
        usages = table.scan({"one": one.leader, "two": two.leader, "none": NOWHERE})
        assert [usages[key].processes for key in ("one", "two", "none")] == [1, 2, 0]
        assert usages["none"] == Usage()
        assert table.scan({"two": two.leader}).keys() == {"two"}
        # It comes back: what was nobody's in between is its own again.
        assert table.scan({"one": one.leader})["one"].processes == 1


def test_processes_are_there_before_their_task_is_told(program: Path, table: ProcessTable) -> None:
    """Who was met before the task was known, by session or by mark, is the task's once it is known."""
    with running(program, "mark spawn { setsid anon 5 wait } fork 1 { wait } wait") as task:
        task.wait_for(3)
        table.scan({})
        # Long enough for both not to be young any more.
        old = ProcessTable(clock=lambda: time.clock_gettime(time.CLOCK_BOOTTIME) + 3600)
        old.scan({})
        for found in (table, old):
            assert found.scan({"task": task.leader})["task"].processes == 3
        old.close()


def test_the_mark_of_another_start_is_not_ours(program: Path, table: ProcessTable) -> None:
    """A mark counts whole: pid and start time, in a variable of that very name."""
    with running(program, "anon 1 wait") as task:
        other = {"MEMGUARD_TASK": f"{task.leader.pid}-{task.leader.start_ticks + 1}"}
        inside = {"TEXT": f"\nMEMGUARD_TASK={task.leader.mark}", "XMEMGUARD_TASK": task.leader.mark}
        with running(program, "wait", env=other) as first, running(program, "wait", env=inside) as second:
            for started in (task, first, second):
                started.wait_for(1)
            assert table.scan({0: task.leader})[0].processes == 1
            assert table.scan({0: ProcessId(task.leader.pid, task.leader.start_ticks + 1)})[0].processes == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_a_mark_that_another_user_has_copied_is_nobodys(program: Path, table: ProcessTable) -> None:
    """Or that somebody has who is in another container; whoever is below the task's own cgroup is the task's."""
    with cgroup() as box, cgroup() as elsewhere, running(program, "anon 1 wait", box.prefix) as task:
        below = box.directory / "below"
        below.mkdir()
        try:
            copied = {"MEMGUARD_TASK": task.leader.mark}
            nobody = [*box.prefix, "setpriv", "--reuid=65534", "--clear-groups"]
            moved = ["sh", "-c", f'echo $$ >{below}/cgroup.procs && exec "$@"', "sh"]
            with (
                running(program, "anon 300 wait", nobody, copied) as other,
                running(program, "anon 300 wait", elsewhere.prefix, copied) as outside,
                running(program, "anon 30 wait", moved, copied) as inside,
            ):
                for started in (task, other, outside, inside):
                    started.wait_for(1)
                usage = watch(table, task, lambda usage: usage.current_bytes > 30 * MIB)
                assert usage.processes == 2
                assert usage.current_bytes < 40 * MIB
        finally:
            below.rmdir()


def test_the_session_of_a_pid_that_was_reused_is_nobodys(program: Path, table: ProcessTable) -> None:
    """A leader that started at another time is another process, and so is its session another one."""
    with running(program, "fork 2 { wait } wait") as task:
        task.wait_for(3)
        gone = ProcessId(task.leader.pid, task.leader.start_ticks - 5)
        assert table.scan({0: gone})[0] == Usage()
        assert table.scan({0: task.leader})[0].processes == 3


def test_cpu_time_of_the_dead_is_kept(program: Path, table: ProcessTable) -> None:
    """CPU seconds hold living processes, those somebody waited for, and orphans as they were last seen."""
    words = "mark spin 200 fork 2 { spin 300 } reap spawn { fork 1 { setsid spin 200 sleep 1000 } } reap wait"
    with running(program, words) as task:
        seen = [watch(table, task, lambda usage: usage.cpu_s >= 0.95).cpu_s]
        task.wait_for(1)
        seen += [watch(table, task, lambda usage: usage.processes == 1).cpu_s]
        assert 0.95 <= seen[0] <= seen[1] <= 1.3


def test_compilers_are_found_and_the_youngest_is_first(program: Path, table: ProcessTable) -> None:
    """Compilers are known by name, also after exec, with pid, start and memory; who only waits for one is none."""
    words = "name make fork 1 { name as wait } fork 1 { name cc1 anon 20 wait } sleep 50 "
    words += "fork 1 { name cc1plus anon 30 wait } wait"
    with running(program, words) as task:
        task.wait_for(4)
        usage = watch(table, task, lambda usage: usage.largest_process_bytes > 29 * MIB)
        names = [compiler.name for compiler in usage.compilers]
        assert names == ["cc1plus", "cc1"]
        for compiler, mib in zip(usage.compilers, (30, 20)):
            assert compiler.bytes == pytest.approx(mib * MIB, rel=0.05)
            assert find_process(compiler.pid) == (compiler.pid, compiler.start_ticks)
        assert 0 <= usage.compilers[0].age_s <= usage.compilers[1].age_s < 60
        assert usage.largest_process == "cc1plus"
        # The youngest is killed: it is gone at the next scan, although its parent has not waited for it.
        os.kill(usage.compilers[0].pid, signal.SIGKILL)
        after = watch(table, task, lambda usage: len(usage.compilers) == 1 and usage.processes == 3)
        assert [compiler.name for compiler in after.compilers] == ["cc1"]
        assert after.processes == 3


def test_a_long_name_is_read_in_full(tmp_path: Path, program: Path, table: ProcessTable) -> None:
    """The kernel cuts names after 15 bytes; a compiler for a target is told from its driver all the same."""
    for name in ("x86_64-poky-linux-clang++", "x86_64-poky-linux-gcc"):
        (tmp_path / name).symlink_to(program)
        with running(tmp_path / name, "anon 1 wait") as task:
            task.wait_for(1)
            usage = table.scan({0: task.leader})[0]
            assert usage.largest_process == name
            assert len(usage.compilers) == (1 if "clang" in name else 0)


def test_processes_come_and_go_during_scans(program: Path, table: ProcessTable) -> None:
    """Whatever vanishes at whatever moment, a scan ends well and the rest is counted."""
    words = "anon 8 fork 4 { repeat 1000 { spawn { anon 1 } fork 3 { fork 2 { anon 1 } reap } reap } } wait"
    with running(program, words) as task:
        task.wait_for(1)
        for _ in range(150):
            usage = table.scan({0: task.leader})[0]
            assert usage.processes >= 5
            # Who has just been forked may be counted with all that it shares.
            assert 7.6 * MIB <= usage.current_bytes < 10 * MIB * usage.processes
    assert watch(table, task, lambda usage: not usage.processes) == table.scan({0: task.leader})[0]


def write_process(root: Path, pid: int, session: int, comm: bytes = b"sh", start: int = 100, pages: str = "") -> None:
    """A process of a literal tree; `pages` is its statm."""
    directory = root / str(pid)
    directory.mkdir(parents=True, exist_ok=True)
    after = [b"S", b"1", b"1", str(session).encode(), *[b"0"] * 15, str(start).encode(), *[b"0"] * 30]
    (directory / "stat").write_bytes(b"%d (%s) %s\n" % (pid, comm, b" ".join(after)))
    (directory / "statm").write_text(f"{pages or '1000 500 100 10 0 200 0'}\n")


@pytest.mark.parametrize("comm", [b"a b) S 1 1 7 (", b")", b"", b"\xff\xfe", b"two\nlines", b"cc1plus) R 9 9 9"])
def test_names_may_hold_anything(comm: bytes, tmp_path: Path) -> None:
    """A name with parentheses, newlines or bytes that are no text changes nothing but the name."""
    write_process(tmp_path, 7, 7, comm)
    usage = ProcessTable(tmp_path, clock=lambda: 10.0).scan({0: ProcessId(7, 100)})[0]
    assert usage.current_bytes == 400 * os.sysconf("SC_PAGE_SIZE")
    assert usage.largest_process == comm.decode("utf-8", "backslashreplace")
    assert usage.compilers == ()


def test_zombies_and_kernel_threads_hold_nothing(tmp_path: Path) -> None:
    """A process without memory is not counted as one; its CPU time stays."""
    write_process(tmp_path, 7, 7)
    write_process(tmp_path, 8, 7, pages="0 0 0 0 0 0 0")
    table = ProcessTable(tmp_path, clock=lambda: 10.0)
    assert table.scan({0: ProcessId(7, 100)})[0].processes == 1
    write_process(tmp_path, 7, 7, pages="0 0 0 0 0 0 0")
    assert table.scan({0: ProcessId(7, 100)})[0] == Usage(workers=2)


@given(st.dictionaries(st.sampled_from(["stat", "statm", "status", "environ", "cmdline", "smaps_rollup"]), st.binary()))
def test_no_content_raises(files: dict[str, bytes]) -> None:
    """Files of any content, and files that are missing, are passed over."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_process(root, 7, 7)
        write_process(root, 8, 7)
        (root / "9").mkdir()
        (root / "²").mkdir()
        (root / "10").write_text("no directory")
        for file, content in files.items():
            (root / "8" / file).write_bytes(content)
        table = ProcessTable(root, clock=lambda: 10.0)
        for _ in range(3):
            assert table.scan({0: ProcessId(7, 100)})[0].processes >= 1
        table.close()


def test_a_tree_that_is_not_there_is_empty(tmp_path: Path) -> None:
    """Where /proc cannot be listed, tasks use nothing."""
    assert ProcessTable(tmp_path / "none").scan({0: ProcessId(7, 100)}) == {0: Usage()}


def test_a_pid_that_is_reused_is_another_process(tmp_path: Path) -> None:
    """Without an open file, the start time tells that a pid has changed hands."""
    now_s = [10.0]
    table = ProcessTable(tmp_path, clock=lambda: now_s[0])
    write_process(tmp_path, 7, 7)
    write_process(tmp_path, 8, 7)
    assert table.scan({0: ProcessId(7, 100)})[0].processes == 2
    write_process(tmp_path, 8, 8, start=900)
    for _ in range(40):
        now_s[0] += 0.25
        usage = table.scan({0: ProcessId(7, 100)})[0]
    assert usage.processes == 1


def test_cpu_time_is_known_at_once_where_it_is_asked_for(tmp_path: Path) -> None:
    """What does not grow is looked at now and then; a thorough scan knows what CPU time it has had until now."""
    table, task = ProcessTable(tmp_path, clock=lambda: 10.0), {0: ProcessId(7, 100)}
    write_process(tmp_path, 7, 7)
    for _ in range(20):
        table.scan(task)
    stat = (tmp_path / "7" / "stat").read_bytes().split()
    (tmp_path / "7" / "stat").write_bytes(b" ".join([*stat[:13], b"500", *stat[14:]]))
    assert table.scan(task)[0].cpu_s == 0
    assert table.scan(task, is_thorough=True)[0].cpu_s == 500 / os.sysconf("SC_CLK_TCK")


def test_a_wrapper_is_not_a_second_one_of_the_same(table: ProcessTable, tmp_path: Path) -> None:
    """ccache may have the name and the words of the compiler that it waits for; only one of the two is that unit."""
    wrapper, compiler = tmp_path / "wrapper" / "cc1plus", tmp_path / "real" / "cc1plus"
    for program, source in ((wrapper, "/bin/sh"), (compiler, "/bin/sleep")):
        program.parent.mkdir()
        shutil.copy(source, program)
    (tmp_path / "600").write_text(f"{compiler} 600; true", encoding="ascii")
    leader = subprocess.Popen([str(wrapper), "600"], cwd=tmp_path, start_new_session=True)
    try:
        task = find_process(leader.pid)
        assert task
        deadline = time.monotonic() + 20
        while len(found := table.scan({0: task})[0].compilers) < 2 or not found[0].unit:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert [bool(one.unit) for one in found] == [True, False]
        assert found[0].unit == unit_of(b"cc1plus\000600\0")
    finally:
        os.killpg(leader.pid, signal.SIGKILL)
        leader.wait()


def test_forbidden_files_are_no_fault(program: Path, tmp_path: Path) -> None:
    """A sentinel that may not look into a process (hidepid, another user) counts what it may see."""
    if os.getuid():
        pytest.skip("needs root to become somebody else")
    code = (
        f"import os, sys; sys.path.insert(0, {str(Path(process_table.__file__).parents[2])!r})\n"
        "from memguard.sense.proc_files import ProcessId; from memguard.sense.process_table import ProcessTable\n"
        "os.setuid(65534)\n"
        "table = ProcessTable()\n"
        "for _ in range(3):\n"
        f"    usage = table.scan({{0: ProcessId(%d, %d)}})[0]\n"
        "print(usage.processes, usage.current_bytes)"
    )
    with running(program, "anon 20 shared 10 fork 2 { read wait } wait") as task:
        task.wait_for(3)
        found = subprocess.run([sys.executable, "-c", code % task.leader], capture_output=True, text=True, check=True)
    processes, size = map(int, found.stdout.split())
    assert processes == 3
    assert 30 * MIB <= size <= 90 * MIB


def test_few_files_are_enough(program: Path) -> None:
    """Under a small hard limit of open files everything is still seen."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))\n"
        f"sys.path.insert(0, {str(Path(process_table.__file__).parents[2])!r})\n"
        "from memguard.sense.proc_files import ProcessId\n"
        "from memguard.sense.process_table import ProcessTable\n"
        "print(ProcessTable().scan({0: ProcessId(%d, %d)})[0].processes)"
    )
    with running(program, "fork 50 { wait } wait") as task:
        task.wait_for(51)
        found = subprocess.run([sys.executable, "-c", code % task.leader], capture_output=True, text=True, check=True)
    assert found.stdout == "51\n"
