# SPDX-License-Identifier: MIT
"""The memory of each task's process tree, out of one pass over /proc.

Runs in: the sentinel, several times a second; standard library only. Of the root only numbers are entered.
Covers: whose a process is, its anonymous and shared memory, compilers, CPU time, and what a task took over its run.
Does not cover: page cache, hugetlbfs, swapped-out memory, kernel memory (page tables, stacks), tmpfs files that no
process maps (the Reading of the container has these), and what lives and dies between two scans.

Whose a process is. BitBake's task is the leader of a session. A process belongs to a task while its session is the
task's, or when it was started with MEMGUARD_TASK=<mark of the task> in its environment; once a task's, it stays so
until it ends, whatever session it moves to. All others are nobody's.

Memory that is shared is counted once:

- Each scan reads statm: resident less shared is anonymous memory, which is a process's own unless it forked.
- A process that was forked and has not called exec (it has its parent's stack and heap addresses, which exec chooses
  anew) holds what its parent holds: only what it grows by counts. What it writes to of that becomes its own, too, which
  statm does not tell; but no more than it had page faults.
- Shared memory that is mapped (tmpfs, MAP_SHARED) counts in a task as the largest part that one process has touched.
- Where either leaves more than 2 % of a tree in doubt, smaps_rollup tells proportional sizes (Pss: a page of
  n processes counts 1/n in each), for all that may share in the tree at one moment; they hold until the next time. What
  is shared is then the oldest process's, so that copies may come and go. The kernel walks through page tables for that
  (7 ms per GiB), so such walks together get WALK_SHARE of a core.

So memory that a task shares with processes outside of it, such as what its leader inherited from the worker, counts in
part once the tree was walked. Where smaps_rollup is forbidden or tells no Pss_Anon (Linux < 5.3), growth is all.
"""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from memguard.sense.compilers import COMM_MOST_BYTES, is_compiler, unit_of
from memguard.sense.proc_files import (
    FLAGS,
    MARK_IS,
    PAGE_BYTES,
    TICKS_PER_S,
    ProcessId,
    age_of,
    read_file,
    read_size,
    split_stat,
)
from memguard.sense.process_tree import Process, Tree, Usage, empty, give_to_oldest, stand_for

# Walks take this much of one core on average, and may use what they saved up; the rest of a scan takes half a
# percent to one with 500 processes.
WALK_SHARE = 0.003
_WALK_SAVED_MOST_S = 0.05
# One tree takes no more than this much of a core by walks, even of what was saved up.
_WALK_TREE_SHARE = 0.04
# What one walk may go through, some 60 ms: of larger trees a part is walked, which stands for the rest.
WALK_MOST_BYTES = 8 << 30
_WALK_EACH_BYTES = 4 << 20  # what reading smaps_rollup costs beside its pages, as pages
# A process whose file and shared pages grew by this is asked which of the two they are.
_SHARED_STEP_BYTES = 1 << 20
# An open statm costs the kernel some 5 KiB; it is the quickest to read, and never another process's.
FILES_MOST = 1024
_FILES_SPARE = 256
# Every process is looked at again (name, CPU time) at one scan in so many, one that is nobody's at one in so many.
_LOOK_EVERY = 16
# What has not changed for so many scans, and is no compiler, is measured and looked at a quarter as often: of a build's
# processes most are shells and makes that wait. When they wake, that is seen within a second.
_IDLE_SCANS = 8
_IDLE_EVERY = 4
# So many that share memory by fork are looked at in each scan, for their page faults.
_SHARERS_MOST = 32
_STRANGER_EVERY = 64
# A process this young may be about to call setsid or exec: that it is nobody's is not believed yet.
_YOUNG_S = 2.0

_ENVIRON_MOST_BYTES = 1 << 20
_COMMAND_LINE_MOST_BYTES = 1 << 17

Key = TypeVar("Key", bound=Hashable)


class ProcessTable:
    """Knows the processes below /proc from scan to scan, so that each scan reads little.

    An open file per process of a task, up to FILES_MOST, makes reading cheap and reuse of its pid harmless; the soft
    limit of open files is raised for it. Processes beyond that are opened each time, and a pid that was reused is
    noticed there at the next look (_LOOK_EVERY).

    `clock` tells seconds since boot, suspension included, as start times do.
    """

    def __init__(self, root: Path = Path("/proc"), clock: Callable[[], float] | None = None) -> None:
        self._root = str(root)
        self._clock = clock or (lambda: time.clock_gettime(time.CLOCK_BOOTTIME))
        self._known: dict[str, Process] = {}
        self._not_pids: set[str] = set()
        self._gone: set[str] = set()
        self._young: list[str] = []
        self._is_own = (root / "self").is_symlink() and str((root / "self").readlink()) == str(os.getpid())
        self._last_pid = b""
        self._trees: dict[ProcessId, Tree] = {}
        self._by_session: dict[int, Tree] = {}
        self._by_mark: dict[bytes, Tree] = {}
        self._files_left = _raise_files_limit()
        self._scans = 0
        self._walk_s = _WALK_SAVED_MOST_S
        self._scanned_s = 0.0
        self._sharers = 0
        self._to_look: set[Process] = set()

    def scan(self, tasks: Mapping[Key, ProcessId]) -> dict[Key, Usage]:
        """What each task uses now; a task without processes uses nothing. Never raises for what /proc holds."""
        now_s = self._clock()
        self._scans += 1
        self._take_tasks(tasks.values(), now_s)
        self._list(now_s)
        self._measure_all()
        for process in self._to_look:
            self._look(process)
        self._to_look.clear()
        usages = {leader: tree.usage(now_s) for leader, tree in self._trees.items()}
        walked = self._walk(now_s)
        if walked:
            usages[walked.leader] = walked.usage(now_s)
        return {key: usages[ProcessId(*leader)] for key, leader in tasks.items()}

    def _measure_all(self) -> None:
        """Measure the members of all trees, but of the idle ones only some; the loop in which a scan's time goes."""
        scans, sharers = self._scans, 0
        looks_at_sharers = self._sharers <= _SHARERS_MOST
        for tree in self._trees.values():
            for process in tree.members.values():
                turn = process.pid + scans
                if process.idle_scans >= _IDLE_SCANS and not process.is_compiler:
                    if turn % _IDLE_EVERY:
                        continue
                    turn //= _IDLE_EVERY
                self._measure(process)
                if process.inherited_bytes or process.has_copies:
                    sharers += 1
                    if looks_at_sharers:
                        self._to_look.add(process)
                        continue
                if turn % _LOOK_EVERY == 0:
                    self._to_look.add(process)
        self._sharers = sharers

    def members(self, leader: ProcessId) -> list[ProcessId]:
        """The processes of a task by pid and start time, as of the last scan, the task's own included."""
        tree = self._trees.get(leader)
        return [ProcessId(process.pid, process.start_ticks) for process in tree.members.values()] if tree else []

    def close(self) -> None:
        """Close all files; the table is as new afterwards."""
        for process in list(self._known.values()):
            self._drop(process)
        self._trees.clear()

    def _take_tasks(self, leaders: Iterable[ProcessId], now_s: float) -> None:
        """Make the trees those of `leaders`: what belonged to others is nobody's, what was nobody's may be theirs."""
        wanted = {ProcessId(*leader) for leader in leaders}
        if wanted == self._trees.keys():
            return
        for leader in self._trees.keys() - wanted:
            for process in self._trees.pop(leader).members.values():
                process.tree = None
                self._close(process)
        for leader in wanted - self._trees.keys():
            self._trees[leader] = Tree(leader, now_s)
        self._by_session = {leader.pid: tree for leader, tree in self._trees.items()}
        self._by_mark = {MARK_IS + leader.mark.encode(): tree for leader, tree in self._trees.items()}
        for process in self._known.values():
            if process.tree is None:
                self._join(process)

    def _list(self, now_s: float) -> None:
        """Forget who is gone, and meet who is new."""
        known = self._known
        names = self._names()
        gone_names = self._gone if names is None else self._gone | (known.keys() - names)
        gone = [known[name] for name in gone_names if name in known]
        self._gone = set()
        for process in gone:
            process.is_gone = True
        for process in gone:
            self._keep_cpu(process)
        for process in gone:
            self._drop(process)
        # Who is nobody's is met again: while young, since it may be about to call setsid or exec, and now and then.
        again = set(known if self._scans % _STRANGER_EVERY == 0 else self._young)
        again = {name for name in again if name in known and known[name].tree is None}
        for name in again:
            del known[name]
        self._young = []
        new = again if names is None else names - known.keys() - self._not_pids
        # By number, since parents mostly have the lower pid.
        for name in sorted(new, key=lambda name: (len(name), name)):
            if name.isascii() and name.isdigit():
                self._meet(Process(int(name)), now_s)
            else:
                self._not_pids.add(name)

    def _names(self) -> set[str] | None:
        """What stands in /proc; None where nobody was forked since the last scan, or it cannot be listed."""
        if self._is_own:
            # The last field is the last pid given in this process's pid namespace, which is that of its own /proc.
            last_pid = read_file(f"{self._root}/loadavg") or b""
            last_pid = last_pid.rpartition(b" ")[2]
            if last_pid and last_pid == self._last_pid:
                return None
            self._last_pid = last_pid
        try:
            return set(os.listdir(self._root))  # noqa: PTH208  (names alone, in a third of the time)
        except OSError:
            self._last_pid = b""
            return None

    def _meet(self, process: Process, now_s: float) -> None:
        """Get to know a new process; one that is gone already is passed over."""
        self._open(process)
        # statm first: should exec come between, the name is the newer of the two, and the next statm tells.
        self._measure(process)
        self._look(process)
        self._to_look.discard(process)
        if process.is_gone:
            self._close(process)
            return
        self._known[str(process.pid)] = process
        if process.start_ticks >= 0:
            self._join(process)
        if process.tree is None:
            self._close(process)
            if age_of(process.start_ticks, now_s) < _YOUNG_S:
                self._young.append(str(process.pid))

    def _join(self, process: Process) -> None:
        """Make a process that is nobody's a member of its task, if it has one."""
        led = self._by_session.get(process.pid)
        if led is not None and led.leader.start_ticks != process.start_ticks:
            # The leader is gone, and whoever got its pid may make a session of the same number.
            led.is_pid_reused = True
            led = None
        tree = led or self._by_session.get(process.session)
        if tree is None or tree.is_pid_reused or process.start_ticks < tree.leader.start_ticks:
            if process.mark is None:
                process.mark = self._read_mark(process)
            tree = self._by_mark.get(process.mark)
        if tree is None:
            return
        process.tree, tree.is_changed = tree, True
        tree.members[process.pid] = process
        if process.file < 0:
            self._open(process)
        if process.image:
            self._inherit(process, tree, self._known.get(str(process.parent)))
            tree.kin[process.image] = process

    def _inherit(self, process: Process, tree: Tree, parent: Process | None) -> None:
        """Leave out what a forked process has of its parent; of a brother where the parent has ended."""
        kin = parent if parent is not None and parent.image == process.image else tree.kin.get(process.image)
        if kin is None:
            return
        # As it is now, not as it was at the last scan: what it had when it forked is what counts.
        self._measure(kin)
        if not kin.shares_by_fork:
            self._look(kin)
            kin.settle()
        kin.has_copies = True
        process.is_foreign = kin.is_foreign or kin.tree is not tree
        process.inherited_bytes = process.walked_anon_bytes = min(process.anon_bytes, kin.anon_bytes)
        if process.start_ticks / TICKS_PER_S <= tree.walked_s:
            # It had its part in what the last walk divided, unseen.
            tree.left_bytes += process.inherited_bytes

    def _measure(self, process: Process) -> None:
        """Read how large a process is."""
        try:
            # What _read_statm does, without a call for each process and scan.
            raw: bytes | None = os.pread(process.file, 256, 0)
        except OSError:
            raw = self._read_statm(process)
        if raw == process.statm:
            process.idle_scans += 1
            if process.idle_scans == _IDLE_SCANS:
                # What it did before it fell idle, since that will not be asked for a while.
                self._to_look.add(process)
            return
        process.idle_scans = 0
        if process.tree is not None:
            process.tree.is_changed = True
        if raw is None or raw.startswith(b"0 "):
            # Gone, a zombie, or a thread of the kernel.
            empty(process)
            return
        process.statm = raw
        try:
            size, resident, shared, text = map(int, raw.split()[:4])
        except ValueError:
            return
        process.size = size
        process.anon_bytes = max(0, resident - shared) * PAGE_BYTES
        if text != process.text or process.anon_bytes < process.inherited_bytes:
            # Another program, or a fresh start of the same.
            process.text = text
            self._to_look.add(process)
        shared_bytes = shared * PAGE_BYTES
        if abs(shared_bytes - process.seen_shared_bytes) >= _SHARED_STEP_BYTES:
            process.seen_shared_bytes = shared_bytes
            process.shmem_bytes = read_size(self._read(process, "status") or b"", b"RssShmem:") or 0

    def _look(self, process: Process) -> None:
        """Read who a process is now, and the CPU time it has had."""
        raw = self._read(process, "stat")
        if raw is None:
            self._note_gone(process)
            return
        comm, fields = split_stat(raw)
        try:
            parent, session, start_ticks = int(fields[1]), int(fields[3]), int(fields[19])
            faults, cpu_ticks = int(fields[7]), sum(map(int, fields[11:15]))
            image = (fields[23], fields[25], fields[44]) if fields[25] != b"0" else ()
        except (ValueError, IndexError):
            return
        if process.start_ticks not in (-1, start_ticks):
            self._note_gone(process)
            return
        # Sums are worked out again only where something has changed: most processes wait for others.
        before = (process.parent, process.faults, process.cpu_ticks, process.image, process.comm)
        if process.tree is not None and before != (parent, faults, cpu_ticks, image, comm):
            process.tree.is_changed = True
        process.parent, process.session, process.start_ticks = parent, session, start_ticks
        process.faults, process.cpu_ticks = faults, cpu_ticks
        if image != process.image:
            if process.image:
                process.forget_image()
            process.image = image
            process.unit = 0
        if comm != process.comm:
            process.comm = comm
            process.name = self._name(process)
            process.is_compiler = is_compiler(process.name)
            process.unit = 0
        if process.is_compiler and not process.unit:
            process.unit = unit_of(self._read(process, "cmdline", _COMMAND_LINE_MOST_BYTES) or b"")

    def _note_gone(self, process: Process) -> None:
        """The next scan forgets it, and meets whoever has its pid then."""
        self._close(process)
        process.is_gone = True
        self._gone.add(str(process.pid))
        self._last_pid = b""

    def _name(self, process: Process) -> str:
        """The name of the program: its comm, or how it was called where the kernel cut that."""
        comm = process.comm
        if len(comm) >= COMM_MOST_BYTES:
            called = (self._read(process, "cmdline") or b"").partition(b"\0")[0].rpartition(b"/")[2]
            if called.startswith(comm):
                comm = called
        return comm.decode("utf-8", "backslashreplace")

    def _keep_cpu(self, gone: Process) -> None:
        """Keep the CPU time of a process that ended where none of its tree has waited for it."""
        tree = gone.tree
        if tree is None:
            return
        parent = self._known.get(str(gone.parent))
        for _ in range(len(self._known)):
            if parent is None or parent.tree is not tree or not parent.is_gone:
                break
            parent = self._known.get(str(parent.parent))
        if parent is None:
            return
        if parent.tree is tree:
            # It is in the parent's time now.
            self._to_look.add(parent)
        else:
            tree.lost_ticks += gone.cpu_ticks

    def _drop(self, process: Process) -> None:
        """Forget a process that is gone."""
        del self._known[str(process.pid)]
        self._close(process)
        self._to_look.discard(process)
        if process.tree is not None:
            empty(process)
            process.tree.is_changed = True
            del process.tree.members[process.pid]
            if process.tree.kin.get(process.image) is process:
                del process.tree.kin[process.image]

    def _walk(self, now_s: float) -> Tree | None:
        """Divide what the processes of one tree share, if that is due; returns the tree."""
        saved_s = max(0.0, now_s - self._scanned_s) * WALK_SHARE
        self._walk_s, self._scanned_s = min(_WALK_SAVED_MOST_S, self._walk_s + saved_s), now_s
        if self._walk_s <= 0 or not self._trees:
            return None
        tree = max(self._trees.values(), key=lambda tree: tree.urgency(now_s))
        if not tree.urgency(now_s):
            return None
        started_s = time.thread_time()
        sharers = tree.sharers()
        size_bytes = sum(process.anon_bytes + process.shmem_bytes + _WALK_EACH_BYTES for process in sharers)
        stride = 1 + size_bytes // WALK_MOST_BYTES
        walked = [process for process in sharers[::stride] if self._divide(process)]
        if walked:
            give_to_oldest(walked)
            stand_for(walked, sharers)
        tree.walked_s, tree.left_bytes, tree.is_changed = now_s, 0, True
        cost_s = time.thread_time() - started_s
        self._walk_s -= cost_s
        tree.walk_from_s = now_s + cost_s / _WALK_TREE_SHARE
        return tree

    def _divide(self, process: Process) -> bool:
        """Read the proportional sizes of one process; False where that is not allowed."""
        rollup = self._read(process, "smaps_rollup") or b""
        anon, anon_pss = read_size(rollup, b"Anonymous:"), read_size(rollup, b"Pss_Anon:")
        shmem_pss, private = read_size(rollup, b"Pss_Shmem:"), read_size(rollup, b"Private_Dirty:")
        if anon is None or anon_pss is None or shmem_pss is None or private is None:
            return False
        process.inherited_bytes = anon - min(anon_pss, private)
        process.common_bytes = max(0, anon_pss - private)
        process.shmem_pss_bytes = shmem_pss
        process.settle()
        return True

    def _read_mark(self, process: Process) -> bytes:
        """The variable of the environment that a program was started with, b"" where there is none or it is hidden."""
        environ = b"\0" + (self._read(process, "environ", _ENVIRON_MOST_BYTES) or b"")
        _, found, rest = environ.partition(b"\0" + MARK_IS)
        return MARK_IS + rest.partition(b"\0")[0] if found else b""

    def _open(self, process: Process) -> None:
        if self._files_left > 0:
            with contextlib.suppress(OSError):
                process.file = os.open(f"{self._root}/{process.pid}/statm", FLAGS)
                self._files_left -= 1

    def _close(self, process: Process) -> None:
        if process.file >= 0:
            os.close(process.file)
            process.file = -1
            self._files_left += 1

    def _read_statm(self, process: Process) -> bytes | None:
        """The line of statm; None of a process that is gone; the last one where it is unreadable."""
        if process.file >= 0:
            try:
                return os.pread(process.file, 256, 0)
            except ProcessLookupError:
                self._note_gone(process)
                return None
            except OSError:
                return process.statm
        raw = self._read(process, "statm")
        if raw is None:
            self._note_gone(process)
            return None
        return raw or process.statm

    def _read(self, process: Process, name: str, most_bytes: int = 4096) -> bytes | None:
        """The beginning of a file of a process: None where the process is gone, b"" where it is unreadable."""
        return read_file(f"{self._root}/{process.pid}/{name}", most_bytes)


def _raise_files_limit() -> int:
    """Let this process open more files, if it may; returns how many of them can stay open for processes."""
    wanted = FILES_MOST + _FILES_SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < wanted:
        more = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
    return max(0, (wanted if soft == resource.RLIM_INFINITY else min(wanted, soft)) - _FILES_SPARE)
