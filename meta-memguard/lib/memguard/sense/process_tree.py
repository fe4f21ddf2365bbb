# SPDX-License-Identifier: MIT
"""The processes of one task and what they hold together, memory that they share counted once.

Runs in: the sentinel and `memguard run`; pure.
Covers: anonymous and shared memory, compilers and CPU time of a tree, and by how much its memory may be wrong.
Does not cover: reading files (process_reader), dividing what is in doubt (walks). Page cache, hugetlbfs, what forked
copies have in swap, kernel memory (page tables, stacks) and tmpfs files that no process maps are in no process; the
Reading of the container has these.

How memory that is shared is counted once:

- Resident less shared is anonymous memory, which is a process's own unless it forked.
- A process that was forked and has not called exec holds what its parent holds: only what it grows by counts. What it
  writes to of that becomes its own, too, which its size does not show; but no more than it had page faults.
- Shared memory that is mapped (tmpfs, MAP_SHARED) counts in a tree as the largest part that one process has touched.
- Where either leaves more than 2 % of a tree in doubt, a walk divides it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from memguard.sense.origin import Origin
from memguard.sense.proc_files import PAGE_BYTES, TICKS_PER_S, ProcessId, age_of

# Less in doubt than this, or than this share of the tree, is not worth a walk.
_DOUBT_LEAST_BYTES = 1 << 20
_DOUBT_LEAST_SHARE = 0.02


@dataclass(frozen=True)
class Compiler:
    """A compiler process: what identifies it, its share of memory, how long ago it started, and what it builds.

    swapped: what of it lies in swap, beside its share of memory.
    unit: the same for the same in another build (compilers.unit_of), 0 where that is not known.
    source: that for people (compilers.source_of), "" where it is not known.
    """

    pid: int
    start_ticks: int
    name: str
    bytes: int
    age_s: float
    unit: int = 0
    swapped_bytes: int = 0
    source: str = ""


@dataclass(frozen=True)
class Usage:
    """What one task's processes use at one moment.

    current_bytes:  anonymous memory and mapped shared memory, what is shared counted once.
    swapped_bytes:  what of it lies in swap, beside current_bytes; not of what was forked and has not called exec.
    processes:      processes with memory of their own, that is without zombies.
    workers:        processes, zombies included, that have no other of the task as their child: no fewer than the jobs
                    that run. Threads are not counted.
    compilers:      its compiler processes, the youngest first.
    largest_process_bytes, largest_process: the largest share one process has in these two, and its name.
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
    swapped_bytes: int = 0


class Process:
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
        "most_anon_bytes",
        "name",
        "parent",
        "pid",
        "seen_shared_bytes",
        "session",
        "shmem_bytes",
        "shmem_pss_bytes",
        "size",
        "source",
        "start_ticks",
        "statm",
        "swapped_bytes",
        "text",
        "tree",
        "unit",
        "walked_anon_bytes",
        "walked_faults",
        "walked_shmem_bytes",
    )

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.tree: Tree | None = None
        self.mark: bytes | None = None
        self.name = ""
        self.comm = b""
        self.is_compiler = False
        self.unit, self.source = 0, ""
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
        # The most anonymous memory it had, and what of it lies in swap.
        self.most_anon_bytes = self.swapped_bytes = 0
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
            faults_bytes = (self.faults - self.walked_faults) * PAGE_BYTES
            grown_bytes = max(0, self.anon_bytes - self.walked_anon_bytes)
            doubt += max(0, min(self.anon_bytes, faults_bytes - grown_bytes))
        return doubt

    def settle(self) -> None:
        """Nothing is in doubt now."""
        self.walked_anon_bytes, self.walked_shmem_bytes = self.anon_bytes, self.shmem_bytes
        self.walked_faults = self.faults

    def empty(self) -> None:
        """It holds no memory any more; what it shared may be in doubt."""
        if self.tree is not None and (self.shares_by_fork or self.shmem_bytes):
            self.tree.left_bytes += self.own_bytes
        self.size = self.anon_bytes = self.swapped_bytes = 0
        self.forget_image()

    def forget_image(self) -> None:
        """After exec nothing is inherited and nothing is mapped."""
        self.inherited_bytes = self.shmem_bytes = self.seen_shared_bytes = self.shmem_pss_bytes = 0
        self.has_copies = self.is_foreign = False
        self.most_anon_bytes = 0
        self.settle()
        self.statm = b""


class Tree:
    """The processes of one task. origin: its leader's as last read, None where that had ended before anybody looked."""

    def __init__(self, leader: ProcessId, now_s: float, origin: Origin | None = None) -> None:
        self.leader = leader
        self.origin = origin
        self.members: dict[int, Process] = {}
        # Of each image the process that was met last.
        self.kin: dict[tuple[bytes, ...], Process] = {}
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
        anon = shmem_pss = shmem = doubt = processes = largest = ticks = swapped = 0
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
            swapped += process.swapped_bytes
            if process.shmem_bytes:
                own += process.shmem_pss_bytes
                shmem_pss += process.shmem_pss_bytes
                shmem = max(shmem, process.shmem_bytes)
                doubt += process.doubt_bytes
            elif process.has_copies or process.inherited_bytes:
                doubt += process.doubt_bytes
            if own + process.swapped_bytes >= largest:
                largest, largest_process = own + process.swapped_bytes, process
            if process.is_compiler:
                compilers.append((process, own))
        self.bytes, self.doubt_bytes = anon + max(shmem_pss, shmem), doubt + self.left_bytes
        self.cpu_s = max(self.cpu_s, (ticks + self.lost_ticks) / TICKS_PER_S)
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
                    age_of(process.start_ticks, now_s),
                    0 if process.pid in waiting else process.unit,
                    process.swapped_bytes,
                    process.source,
                )
                for process, own in compilers
            ),
            largest_process_bytes=largest,
            largest_process=largest_process.name if largest_process else "",
            cpu_s=self.cpu_s,
            swapped_bytes=swapped,
        )
        return self._last

    def urgency(self, now_s: float) -> float:
        """Bytes in doubt times seconds since the last walk: what one would clear up; 0 where that is not worth it."""
        if now_s < self.walk_from_s or self.doubt_bytes < max(_DOUBT_LEAST_BYTES, self.bytes * _DOUBT_LEAST_SHARE):
            return 0.0
        return self.doubt_bytes * (now_s - self.walked_s)

    def settle(self, now_s: float, walk_from_s: float) -> None:
        """It was walked now, and may be again from `walk_from_s` on: nothing is in doubt until somebody changes."""
        self.walked_s, self.walk_from_s = now_s, walk_from_s
        self.left_bytes, self.is_changed = 0, True

    def sharers(self) -> list[Process]:
        """Members that may share memory with others, the largest first."""
        images = Counter(process.image for process in self.members.values())
        found = [
            process
            for process in self.members.values()
            if process.shares_by_fork or process.shmem_bytes or (process.image and images[process.image] > 1)
        ]
        return sorted(found, key=lambda process: process.anon_bytes + process.shmem_bytes, reverse=True)
