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
import functools
import math
import os
import re
import resource
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from memguard.lives import unit_of

MARK = "MEMGUARD_TASK"

# Processes that are one job of a build each: their number is the jobs at work, and the build loses one object file with
# each. So the programs that hold memory are here (compilers proper, code generators, linkers), and those are not that
# only wait for one (gcc, g++, collect2, lto-wrapper, cargo, ccache), that run beside one in a pipe (as), or whose death
# is the whole task's (make, ninja, java, which is as often the build tool itself: ant, gradle, bazel).
_COMPILERS = """
cc1 cc1plus cc1obj cc1objplus cc1gm2 lto1 f951 gnat1 go1 d21 crab1
clang clang++ clang-cl flang flang-new swift-frontend opt llc llvm-tblgen clang-tblgen mlir-tblgen
rustc ghc javac ocamlopt ocamlopt.opt ldc2 dmd zig cicc ptxas cudafe++
ld ld.bfd ld.gold ld.lld ld.mold ld64.lld lld rust-lld wasm-ld gold mold
compile link
"""  # The last two are Go's.
COMPILERS = frozenset(_COMPILERS.split())
# "x86_64-poky-linux-ld.bfd", "clang-17", "ghc-9.4.7". A target's name has two dashes at least: "byte-compile" is none.
_DRESSED = re.compile(r"(?:\w+-\w+-(?:\w+-)*)?(?P<name>.+?)(?:-\d[\d.]*)?")
_COMM_MOST_BYTES = 15  # the kernel cuts names there (TASK_COMM_LEN)

# Walks take this much of one core on average, and may use what they saved up; the rest of a scan takes half a
# percent to one with 500 processes.
WALK_SHARE = 0.003
_WALK_SAVED_MOST_S = 0.05
# One tree takes no more than this much of a core by walks, even of what was saved up.
_WALK_TREE_SHARE = 0.04
# What one walk may go through, some 60 ms: of larger trees a part is walked, which stands for the rest.
WALK_MOST_BYTES = 8 << 30
_WALK_EACH_BYTES = 4 << 20  # what reading smaps_rollup costs beside its pages, as pages
# Less in doubt than this, or than this share of the tree, is not worth a walk.
_DOUBT_LEAST_BYTES = 1 << 20
_DOUBT_LEAST_SHARE = 0.02
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

_MARK_IS = f"{MARK}=".encode()
_ENVIRON_MOST_BYTES = 1 << 20
_COMMAND_LINE_MOST_BYTES = 1 << 17
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK

Key = TypeVar("Key", bound=Hashable)


class Leader(NamedTuple):
    """The process that is a task: its pid, which is its session's id, and its start time in clock ticks since boot."""

    pid: int
    start_ticks: int

    @property
    def mark(self) -> str:
        """The value of MEMGUARD_TASK by which processes are known that left the session."""
        return f"{self.pid}-{self.start_ticks}"


@dataclass(frozen=True)
class Compiler:
    """A compiler process: what identifies it, its share of memory, how long ago it started, and what it builds.

    unit: the same for the same in another build (lives.unit_of), 0 where that is not known.
    """

    pid: int
    start_ticks: int
    name: str
    bytes: int
    age_s: float
    unit: int = 0


@dataclass(frozen=True)
class Usage:
    """What one task's processes use at one moment.

    current_bytes:  anonymous memory and mapped shared memory, what is shared counted once.
    processes:      processes with memory of their own, that is without zombies.
    workers:        processes, zombies included, that have no other of the task as their child: no fewer than the jobs
                    that run. Threads are not counted.
    compilers:      its compiler processes, the youngest first.
    largest_process_bytes, largest_process: the largest share one process has in current_bytes, and its name.
    cpu_s:          CPU seconds of all its processes so far, those that ended included: a parent's stat holds them once
                    it has waited for them, an orphan's own are kept as they were last seen. It is up to four seconds
                    old and never falls. Lost is what a process consumed after it was last looked at, if nobody in the
                    tree waited for it, and what ignored children (SIGCHLD) did; the task's own getrusage() at its end
                    is exact for all that was waited for.
    """

    current_bytes: int = 0
    processes: int = 0
    workers: int = 0
    compilers: tuple[Compiler, ...] = ()
    largest_process_bytes: int = 0
    largest_process: str = ""
    cpu_s: float = 0.0


class Tally:
    """What a task took over its run, kept up scan by scan; pure.

    peak_bytes, largest_process_bytes, largest_process, most_compilers: the most of each at one moment.
    serial_bytes: the peak while no more than one compiler ran, None where at every moment several did.
    """

    # Sizes are counted in steps of 4.4 %, so that a task of any length is kept in a few numbers.
    _STEPS_PER_DOUBLING = 16

    def __init__(self) -> None:
        self.peak_bytes = 0
        self.largest_process_bytes = 0
        self.largest_process = ""
        self.serial_bytes: int | None = None
        self.most_compilers = 0
        self.cpu_s = 0.0
        self._sizes: Counter[int] = Counter()

    def add(self, usage: Usage) -> None:
        """Take one more moment into account; one without processes is none."""
        self.cpu_s = max(self.cpu_s, usage.cpu_s)
        if not usage.processes:
            return
        self.peak_bytes = max(self.peak_bytes, usage.current_bytes)
        if usage.largest_process_bytes > self.largest_process_bytes:
            self.largest_process_bytes, self.largest_process = usage.largest_process_bytes, usage.largest_process
        self.most_compilers = max(self.most_compilers, len(usage.compilers))
        if len(usage.compilers) <= 1:
            self.serial_bytes = max(self.serial_bytes or 0, usage.current_bytes)
            return
        for compiler in usage.compilers:
            if compiler.bytes > 0:
                self._sizes[round(math.log2(compiler.bytes) * self._STEPS_PER_DOUBLING)] += 1

    @property
    def per_job_bytes(self) -> int | None:
        """What one more job takes, to within 3 %; None where never two compilers ran at once.

        It is the median over all compilers at all moments with at least two of them, each weighted by its bytes: half
        of the memory that compilers held, over time, was held by compilers larger than this. The plain median is too
        small, since every compiler begins small and most files are: over generated builds (sizes flat, growing,
        lognormal) it was 0.2 to 0.95 of the real slope of peak(jobs), the weighted one 0.95 to 1.6.
        """
        weights = {step: count * 2 ** (step / self._STEPS_PER_DOUBLING) for step, count in self._sizes.items()}
        left = sum(weights.values()) / 2
        for step in sorted(weights):
            left -= weights[step]
            if left <= 0:
                return round(2 ** (step / self._STEPS_PER_DOUBLING))
        return None


class _Process:
    """One process as it was last seen."""

    __slots__ = (
        "anon_bytes",
        "comm",
        "common_bytes",
        "cpu_ticks",
        "faults",
        "file",
        "has_copies",
        "idle_scans",
        "image",
        "inherited_bytes",
        "is_compiler",
        "is_foreign",
        "is_gone",
        "mark",
        "name",
        "parent",
        "pid",
        "seen_shared_bytes",
        "session",
        "shmem_bytes",
        "shmem_pss_bytes",
        "size",
        "start_ticks",
        "statm",
        "text",
        "tree",
        "unit",
        "walked_anon_bytes",
        "walked_faults",
        "walked_shmem_bytes",
    )

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.tree: _Tree | None = None
        self.mark: bytes | None = None
        self.name = ""
        self.comm = b""
        self.is_compiler = False
        self.unit = 0
        # is_foreign: it has memory that was inherited from a process outside of its tree.
        self.is_gone = self.has_copies = self.is_foreign = False
        self.file = -1
        self.start_ticks = -1
        self.parent = self.session = self.cpu_ticks = self.faults = 0
        # Addresses that exec chooses anew and fork leaves alone.
        self.image: tuple[bytes, ...] = ()
        # statm: the line as it was read, and what it says.
        self.statm = b""
        self.size = self.text = self.idle_scans = 0
        self.anon_bytes = 0
        # Its part of the anonymous memory that is shared, by the last walk.
        self.common_bytes = 0
        # Anonymous memory that is counted in other processes; less than 0 where it holds what others have, too.
        self.inherited_bytes = 0
        # Shared memory: how much it has touched, at which size that was asked last, and its share by the last walk.
        self.shmem_bytes = self.seen_shared_bytes = self.shmem_pss_bytes = 0
        # What it was at the last walk, or when it began to share.
        self.walked_anon_bytes = self.walked_shmem_bytes = self.walked_faults = 0

    @property
    def shares_by_fork(self) -> bool:
        return self.has_copies or self.inherited_bytes != 0

    @property
    def own_bytes(self) -> int:
        """Its share in the memory of its tree."""
        return max(0, self.anon_bytes - self.inherited_bytes) + self.shmem_pss_bytes

    @property
    def doubt_bytes(self) -> int:
        """What its share may be wrong by: every page fault that brought no memory may have split a page off."""
        doubt = abs(self.shmem_bytes - self.walked_shmem_bytes)
        if self.shares_by_fork:
            faults_bytes = (self.faults - self.walked_faults) * _PAGE_BYTES
            grown_bytes = max(0, self.anon_bytes - self.walked_anon_bytes)
            doubt += max(0, min(self.anon_bytes, faults_bytes - grown_bytes))
        return doubt

    def settle(self) -> None:
        """Nothing is in doubt now."""
        self.walked_anon_bytes, self.walked_shmem_bytes = self.anon_bytes, self.shmem_bytes
        self.walked_faults = self.faults

    def forget_image(self) -> None:
        """After exec nothing is inherited and nothing is mapped."""
        self.inherited_bytes = self.shmem_bytes = self.seen_shared_bytes = self.shmem_pss_bytes = 0
        self.has_copies = self.is_foreign = False
        self.settle()
        self.statm = b""


class _Tree:
    """The processes of one task."""

    def __init__(self, leader: Leader, now_s: float) -> None:
        self.leader = leader
        self.members: dict[int, _Process] = {}
        # Of each image the process that was met last.
        self.kin: dict[tuple[bytes, ...], _Process] = {}
        self.is_pid_reused = False
        self.lost_ticks = 0
        self.cpu_s = 0.0
        self.walked_s = self.walk_from_s = now_s
        # The shares of members that ended and shared: others have them now, or nobody.
        self.left_bytes = 0
        self.bytes = self.doubt_bytes = 0
        self.is_changed = True
        self._last = Usage()

    def usage(self, now_s: float) -> Usage:
        """The sums over all members."""
        if not self.is_changed and not self._last.compilers:
            return self._last
        anon = shmem_pss = shmem = doubt = processes = largest = ticks = 0
        largest_process = None
        compilers = []
        for process in self.members.values():
            ticks += process.cpu_ticks
            if not process.size:
                continue
            processes += 1
            own = process.anon_bytes - process.inherited_bytes
            if own < 0:
                own = 0
            anon += own
            if process.shmem_bytes:
                own += process.shmem_pss_bytes
                shmem_pss += process.shmem_pss_bytes
                shmem = max(shmem, process.shmem_bytes)
                doubt += process.doubt_bytes
            elif process.has_copies or process.inherited_bytes:
                doubt += process.doubt_bytes
            if own >= largest:
                largest, largest_process = own, process
            if process.is_compiler:
                compilers.append((process, own))
        self.bytes, self.doubt_bytes = anon + max(shmem_pss, shmem), doubt + self.left_bytes
        self.cpu_s = max(self.cpu_s, (ticks + self.lost_ticks) / _TICKS_PER_S)
        # A wrapper that was called like the compiler waits for it, and is not a second one of the same.
        units = {process.pid: process.unit for process, _ in compilers}
        waiting = {
            process.parent for process, _ in compilers if process.unit and units.get(process.parent) == process.unit
        }
        compilers.sort(key=lambda found: (found[0].start_ticks, found[0].pid), reverse=True)
        self.is_changed = False
        self._last = Usage(
            current_bytes=self.bytes,
            processes=processes,
            workers=len(self.members.keys() - {process.parent for process in self.members.values()}),
            compilers=tuple(
                Compiler(
                    process.pid,
                    process.start_ticks,
                    process.name,
                    own,
                    _age_s(process.start_ticks, now_s),
                    0 if process.pid in waiting else process.unit,
                )
                for process, own in compilers
            ),
            largest_process_bytes=largest,
            largest_process=largest_process.name if largest_process else "",
            cpu_s=self.cpu_s,
        )
        return self._last

    def urgency(self, now_s: float) -> float:
        """How much a walk would tell: bytes in doubt times seconds since the last one; 0 where it is not worth it."""
        if now_s < self.walk_from_s or self.doubt_bytes < max(_DOUBT_LEAST_BYTES, self.bytes * _DOUBT_LEAST_SHARE):
            return 0.0
        return self.doubt_bytes * (now_s - self.walked_s)

    def sharers(self) -> list[_Process]:
        """Members that may share memory with others, the largest first."""
        images = Counter(process.image for process in self.members.values())
        found = [
            process
            for process in self.members.values()
            if process.shares_by_fork or process.shmem_bytes or (process.image and images[process.image] > 1)
        ]
        return sorted(found, key=lambda process: process.anon_bytes + process.shmem_bytes, reverse=True)


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
        self._known: dict[str, _Process] = {}
        self._not_pids: set[str] = set()
        self._gone: set[str] = set()
        self._young: list[str] = []
        self._is_own = (root / "self").is_symlink() and str((root / "self").readlink()) == str(os.getpid())
        self._last_pid = b""
        self._trees: dict[Leader, _Tree] = {}
        self._by_session: dict[int, _Tree] = {}
        self._by_mark: dict[bytes, _Tree] = {}
        self._files_left = _raise_files_limit()
        self._scans = 0
        self._walk_s = _WALK_SAVED_MOST_S
        self._scanned_s = 0.0
        self._sharers = 0
        self._to_look: set[_Process] = set()

    def scan(self, tasks: Mapping[Key, Leader]) -> dict[Key, Usage]:
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
        return {key: usages[Leader(*leader)] for key, leader in tasks.items()}

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

    def members(self, leader: Leader) -> list[Leader]:
        """The processes of a task by pid and start time, as of the last scan, the task's own included."""
        tree = self._trees.get(leader)
        return [Leader(process.pid, process.start_ticks) for process in tree.members.values()] if tree else []

    def close(self) -> None:
        """Close all files; the table is as new afterwards."""
        for process in list(self._known.values()):
            self._drop(process)
        self._trees.clear()

    def _take_tasks(self, leaders: Iterable[Leader], now_s: float) -> None:
        """Make the trees those of `leaders`: what belonged to others is nobody's, what was nobody's may be theirs."""
        wanted = {Leader(*leader) for leader in leaders}
        if wanted == self._trees.keys():
            return
        for leader in self._trees.keys() - wanted:
            for process in self._trees.pop(leader).members.values():
                process.tree = None
                self._close(process)
        for leader in wanted - self._trees.keys():
            self._trees[leader] = _Tree(leader, now_s)
        self._by_session = {leader.pid: tree for leader, tree in self._trees.items()}
        self._by_mark = {_MARK_IS + leader.mark.encode(): tree for leader, tree in self._trees.items()}
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
                self._meet(_Process(int(name)), now_s)
            else:
                self._not_pids.add(name)

    def _names(self) -> set[str] | None:
        """What stands in /proc; None where nobody was forked since the last scan, or it cannot be listed."""
        if self._is_own:
            # The last field is the last pid given in this process's pid namespace, which is that of its own /proc.
            last_pid = _read_file(f"{self._root}/loadavg") or b""
            last_pid = last_pid.rpartition(b" ")[2]
            if last_pid and last_pid == self._last_pid:
                return None
            self._last_pid = last_pid
        try:
            return set(os.listdir(self._root))  # noqa: PTH208  (names alone, in a third of the time)
        except OSError:
            self._last_pid = b""
            return None

    def _meet(self, process: _Process, now_s: float) -> None:
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
            if _age_s(process.start_ticks, now_s) < _YOUNG_S:
                self._young.append(str(process.pid))

    def _join(self, process: _Process) -> None:
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

    def _inherit(self, process: _Process, tree: _Tree, parent: _Process | None) -> None:
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
        if process.start_ticks / _TICKS_PER_S <= tree.walked_s:
            # It had its part in what the last walk divided, unseen.
            tree.left_bytes += process.inherited_bytes

    def _measure(self, process: _Process) -> None:
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
            _empty(process)
            return
        process.statm = raw
        try:
            size, resident, shared, text = map(int, raw.split()[:4])
        except ValueError:
            return
        process.size = size
        process.anon_bytes = max(0, resident - shared) * _PAGE_BYTES
        if text != process.text or process.anon_bytes < process.inherited_bytes:
            # Another program, or a fresh start of the same.
            process.text = text
            self._to_look.add(process)
        shared_bytes = shared * _PAGE_BYTES
        if abs(shared_bytes - process.seen_shared_bytes) >= _SHARED_STEP_BYTES:
            process.seen_shared_bytes = shared_bytes
            process.shmem_bytes = _read_size(self._read(process, "status") or b"", b"RssShmem:") or 0

    def _look(self, process: _Process) -> None:
        """Read who a process is now, and the CPU time it has had."""
        raw = self._read(process, "stat")
        if raw is None:
            self._note_gone(process)
            return
        comm, fields = _split_stat(raw)
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

    def _note_gone(self, process: _Process) -> None:
        """The next scan forgets it, and meets whoever has its pid then."""
        self._close(process)
        process.is_gone = True
        self._gone.add(str(process.pid))
        self._last_pid = b""

    def _name(self, process: _Process) -> str:
        """The name of the program: its comm, or how it was called where the kernel cut that."""
        comm = process.comm
        if len(comm) >= _COMM_MOST_BYTES:
            called = (self._read(process, "cmdline") or b"").partition(b"\0")[0].rpartition(b"/")[2]
            if called.startswith(comm):
                comm = called
        return comm.decode("utf-8", "backslashreplace")

    def _keep_cpu(self, gone: _Process) -> None:
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

    def _drop(self, process: _Process) -> None:
        """Forget a process that is gone."""
        del self._known[str(process.pid)]
        self._close(process)
        self._to_look.discard(process)
        if process.tree is not None:
            _empty(process)
            process.tree.is_changed = True
            del process.tree.members[process.pid]
            if process.tree.kin.get(process.image) is process:
                del process.tree.kin[process.image]

    def _walk(self, now_s: float) -> _Tree | None:
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
            _give_to_oldest(walked)
            _stand_for(walked, sharers)
        tree.walked_s, tree.left_bytes, tree.is_changed = now_s, 0, True
        cost_s = time.thread_time() - started_s
        self._walk_s -= cost_s
        tree.walk_from_s = now_s + cost_s / _WALK_TREE_SHARE
        return tree

    def _divide(self, process: _Process) -> bool:
        """Read the proportional sizes of one process; False where that is not allowed."""
        rollup = self._read(process, "smaps_rollup") or b""
        anon, anon_pss = _read_size(rollup, b"Anonymous:"), _read_size(rollup, b"Pss_Anon:")
        shmem_pss, private = _read_size(rollup, b"Pss_Shmem:"), _read_size(rollup, b"Private_Dirty:")
        if anon is None or anon_pss is None or shmem_pss is None or private is None:
            return False
        process.inherited_bytes = anon - min(anon_pss, private)
        process.common_bytes = max(0, anon_pss - private)
        process.shmem_pss_bytes = shmem_pss
        process.settle()
        return True

    def _read_mark(self, process: _Process) -> bytes:
        """The variable of the environment that a program was started with, b"" where there is none or it is hidden."""
        environ = b"\0" + (self._read(process, "environ", _ENVIRON_MOST_BYTES) or b"")
        _, found, rest = environ.partition(b"\0" + _MARK_IS)
        return _MARK_IS + rest.partition(b"\0")[0] if found else b""

    def _open(self, process: _Process) -> None:
        if self._files_left > 0:
            with contextlib.suppress(OSError):
                process.file = os.open(f"{self._root}/{process.pid}/statm", _FLAGS)
                self._files_left -= 1

    def _close(self, process: _Process) -> None:
        if process.file >= 0:
            os.close(process.file)
            process.file = -1
            self._files_left += 1

    def _read_statm(self, process: _Process) -> bytes | None:
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

    def _read(self, process: _Process, name: str, most_bytes: int = 4096) -> bytes | None:
        """The beginning of a file of a process: None where the process is gone, b"" where it is unreadable."""
        return _read_file(f"{self._root}/{process.pid}/{name}", most_bytes)


def find_leader(pid: int, root: Path = Path("/proc")) -> Leader | None:
    """The process `pid` as leader of its session, for scan() and for the mark; None where there is no such process."""
    try:
        raw = _read_file(f"{root}/{pid}/stat")
        return Leader(pid, int(_split_stat(raw or b"")[1][19]))
    except (ValueError, IndexError):
        return None


@functools.lru_cache(maxsize=1024)
def is_compiler(name: str) -> bool:
    """Whether a program of this name is one job of a build: one of COMPILERS, maybe for a target or of a version."""
    dressed = _DRESSED.fullmatch(name)
    return name in COMPILERS or (dressed is not None and dressed["name"] in COMPILERS)


def _read_file(path: str, most_bytes: int = 4096) -> bytes | None:
    """The beginning of a file: None where it is not there or its process is gone, b"" where it is unreadable."""
    try:
        file = os.open(path, _FLAGS)
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        return None
    except OSError:
        return b""
    try:
        found = os.read(file, most_bytes)
        # The kernel may give less than was asked for, and there may be more: environ comes by the page.
        while most_bytes > _PAGE_BYTES and len(found) < most_bytes:
            more = os.read(file, most_bytes - len(found))
            if not more:
                break
            found += more
        return found
    except ProcessLookupError:
        return None
    except OSError:
        return b""
    finally:
        os.close(file)


def _split_stat(raw: bytes) -> tuple[bytes, list[bytes]]:
    """The name in a stat line, and the fields from the third on (proc(5)); a name may hold anything but NUL."""
    end = raw.rfind(b")")
    return raw[raw.find(b"(") + 1 : end], raw[end + 1 :].split()


def _read_size(text: bytes, name: bytes) -> int | None:
    """Bytes of the line "Name:  123 kB" of a kernel file; None where it is missing."""
    words = text.partition(b"\n" + name)[2].split(maxsplit=1)
    try:
        return int(words[0]) * 1024
    except (ValueError, IndexError):
        return None


def _give_to_oldest(walked: list[_Process]) -> None:
    """Count what processes share in the oldest of them, which mostly outlives the others."""
    oldest = min(walked, key=lambda process: process.start_ticks)
    oldest.inherited_bytes -= sum(process.common_bytes for process in walked)
    if not oldest.is_foreign:
        # What was forked in the meantime has a part that was not seen; but the tree holds all that the oldest has.
        oldest.inherited_bytes = min(oldest.inherited_bytes, 0)


def _stand_for(walked: list[_Process], sharers: list[_Process]) -> None:
    """Let those that were walked stand for those that were not."""
    anon = sum(process.anon_bytes for process in walked) or 1
    shmem = sum(process.shmem_bytes for process in walked) or 1
    own = sum(max(0, process.anon_bytes - process.inherited_bytes) for process in walked)
    shmem_pss = sum(process.shmem_pss_bytes for process in walked)
    for process in set(sharers).difference(walked):
        process.inherited_bytes = max(0, process.anon_bytes - process.anon_bytes * own // anon)
        process.shmem_pss_bytes = process.shmem_bytes * shmem_pss // shmem
        process.settle()


def _empty(process: _Process) -> None:
    """Take note that a process holds no memory any more; what it shared may be in doubt."""
    if process.tree is not None and (process.shares_by_fork or process.shmem_bytes):
        process.tree.left_bytes += process.own_bytes
    process.size = process.anon_bytes = 0
    process.forget_image()


def _age_s(start_ticks: int, now_s: float) -> float:
    return max(0.0, now_s - start_ticks / _TICKS_PER_S)


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
