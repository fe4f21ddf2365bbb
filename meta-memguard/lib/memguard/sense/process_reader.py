# SPDX-License-Identifier: MIT
"""Reads the files of single processes: how large each is at every scan, who it is and its CPU time now and then.

Runs in: the sentinel and `memguard run`, several times a second; standard library only.
Covers: the files that stay open, how often each file of which process is read, processes that end meanwhile.
Does not cover: which processes there are and whose they are (process_table), proportional sizes (walks).

statm alone is read at every scan: resident less shared is anonymous memory. Where shared memory changed, status says
how much of that is tmpfs and MAP_SHARED and how much is page cache. stat is read at one scan in LOOK_EVERY.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterable

from memguard.sense.compilers import COMM_MOST_BYTES, is_compiler, source_of, unit_of
from memguard.sense.proc_files import FLAGS, MARK_IS, PAGE_BYTES, parse_stat, read_file, read_size
from memguard.sense.process_tree import Process, Tree

# A process whose file and shared pages grew by this is asked which of the two they are.
_SHARED_STEP_BYTES = 1 << 20
# An open statm costs the kernel some 5 KiB; it is the quickest to read, and never another process's.
FILES_MOST = 1024
_FILES_SPARE = 256
# Scans from one look at a process (name, CPU time) to the next.
LOOK_EVERY = 16
# What has not changed for this many scans, and is no compiler, is measured and looked at a quarter as often: of a
# build's processes most are shells and makes that wait. When they wake, that is seen within a second.
_IDLE_SCANS = 8
_IDLE_EVERY = 4
# While no more processes than this share memory by fork, each scan looks at all of them, for their page faults.
_SHARERS_MOST = 32

_ENVIRON_MOST_BYTES = 1 << 20
_COMMAND_LINE_MOST_BYTES = 1 << 17


class ProcessReader:
    """Reads the files of processes below `root`, and writes what they say into each Process.

    An open file per process of a task, up to FILES_MOST, makes reading cheap and reuse of its pid harmless; the soft
    limit of open files is raised for it. Processes beyond that are opened each time, and a pid that was reused is
    noticed there at the next look (LOOK_EVERY).

    gone: the names in /proc of those that were found to have ended, until take_gone().
    """

    def __init__(self, root: str) -> None:
        self.gone: set[str] = set()
        self._root = root
        self._files_left = _raise_files_limit()
        self._sharers = 0
        self._to_look: set[Process] = set()

    def measure_all(self, trees: Iterable[Tree], scans: int, is_thorough: bool = False) -> None:
        """Measure the members of all trees, but of the idle ones only some; the loop in which a scan's time goes.

        is_thorough: look at all of them, too, so that their CPU time is known.
        """
        measure, to_look, sharers = self.measure, self._to_look, 0
        looks_at_sharers = self._sharers <= _SHARERS_MOST
        for tree in trees:
            if is_thorough:
                to_look.update(tree.members.values())
            for process in tree.members.values():
                turn = process.pid + scans
                if process.idle_scans >= _IDLE_SCANS and not process.is_compiler:
                    if turn % _IDLE_EVERY:
                        continue
                    turn //= _IDLE_EVERY
                measure(process)
                if process.inherited_bytes or process.has_copies:
                    sharers += 1
                    if looks_at_sharers:
                        to_look.add(process)
                        continue
                if turn % LOOK_EVERY == 0:
                    to_look.add(process)
        self._sharers = sharers
        for process in to_look:
            self.look(process)
        to_look.clear()

    def measure(self, process: Process) -> None:
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
            process.empty()
            return
        process.statm = raw
        try:
            size, resident, shared, text = map(int, raw.split()[:4])
        except ValueError:
            return
        process.size = size
        process.anon_bytes = max(0, resident - shared) * PAGE_BYTES
        self._measure_swapped(process)
        if text != process.text or process.anon_bytes < process.inherited_bytes:
            # Another program, or a fresh start of the same.
            process.text = text
            self._to_look.add(process)
        shared_bytes = shared * PAGE_BYTES
        if abs(shared_bytes - process.seen_shared_bytes) >= _SHARED_STEP_BYTES:
            process.seen_shared_bytes = shared_bytes
            process.shmem_bytes = read_size(self.read(process, "status") or b"", b"RssShmem:") or 0

    def _measure_swapped(self, process: Process) -> None:
        """Of a process that has less in memory than it had: how much of it lies in swap.

        What was forked and has not called exec has in swap what its parent has there, too.
        """
        process.most_anon_bytes = max(process.most_anon_bytes, process.anon_bytes)
        has_less = process.most_anon_bytes - process.anon_bytes >= _SHARED_STEP_BYTES
        if process.swapped_bytes or (has_less and not process.shares_by_fork):
            process.swapped_bytes = read_size(self.read(process, "status") or b"", b"VmSwap:") or 0

    def look(self, process: Process) -> None:
        """Read who a process is now, and the CPU time it has had."""
        raw = self.read(process, "stat")
        if raw is None:
            self._note_gone(process)
            return
        stat = parse_stat(raw)
        if stat is None:
            return
        if process.start_ticks not in (-1, stat.start_ticks):
            self._note_gone(process)
            return
        # Sums are worked out again only where something has changed: most processes wait for others.
        before = (process.comm, process.parent, process.faults, process.cpu_ticks, process.image)
        if process.tree is not None and before != (stat.comm, stat.parent, stat.faults, stat.cpu_ticks, stat.image):
            process.tree.is_changed = True
        process.parent, process.session, process.start_ticks = stat.parent, stat.session, stat.start_ticks
        process.faults, process.cpu_ticks = stat.faults, stat.cpu_ticks
        if stat.image != process.image:
            if process.image:
                process.forget_image()
            process.image = stat.image
            process.unit = 0
        if stat.comm != process.comm:
            process.comm = stat.comm
            process.name = self._name(process)
            process.is_compiler = is_compiler(process.name)
            process.unit = 0
        if process.is_compiler and not process.unit:
            command_line = self.read(process, "cmdline", _COMMAND_LINE_MOST_BYTES) or b""
            process.unit, process.source = unit_of(command_line), source_of(command_line)

    def meet(self, process: Process) -> None:
        """Measure a new process and look at it; it may be gone afterwards."""
        self.open(process)
        # statm first: should exec come between, the name is the newer of the two, and the next statm shows the other.
        self.measure(process)
        self.look(process)
        self._to_look.discard(process)

    def look_soon(self, process: Process) -> None:
        """Look at a process in the scan that goes on."""
        self._to_look.add(process)

    def forget(self, process: Process) -> None:
        """Close the file of a process that is gone, and look at it no more."""
        self.close(process)
        self._to_look.discard(process)

    def take_gone(self) -> set[str]:
        """The names of those that were found to be gone since this was last asked."""
        gone, self.gone = self.gone, set()
        return gone

    def mark_of(self, process: Process) -> bytes:
        """The variable of the environment that a program was started with, b"" where there is none or it is hidden."""
        environ = b"\0" + (self.read(process, "environ", _ENVIRON_MOST_BYTES) or b"")
        _, found, rest = environ.partition(b"\0" + MARK_IS)
        return MARK_IS + rest.partition(b"\0")[0] if found else b""

    def open(self, process: Process) -> None:
        """Keep the statm of a process open from now on, if another file may be."""
        if process.file < 0 and self._files_left > 0:
            with contextlib.suppress(OSError):
                process.file = os.open(f"{self._root}/{process.pid}/statm", FLAGS)
                self._files_left -= 1

    def close(self, process: Process) -> None:
        """Close what open() opened; what is read of the process still is opened each time."""
        if process.file >= 0:
            os.close(process.file)
            process.file = -1
            self._files_left += 1

    def read(self, process: Process, name: str, most_bytes: int = 4096) -> bytes | None:
        """The beginning of a file of a process: None where the process is gone, b"" where it is unreadable."""
        return read_file(f"{self._root}/{process.pid}/{name}", most_bytes)

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
        raw = self.read(process, "statm")
        if raw is None:
            self._note_gone(process)
            return None
        return raw or process.statm

    def _note_gone(self, process: Process) -> None:
        """The next scan forgets it, and meets whoever has its pid then."""
        self.close(process)
        process.is_gone = True
        self.gone.add(str(process.pid))

    def _name(self, process: Process) -> str:
        """The name of the program: its comm, or how it was called where the kernel cut that."""
        comm = process.comm
        if len(comm) >= COMM_MOST_BYTES:
            called = (self.read(process, "cmdline") or b"").partition(b"\0")[0].rpartition(b"/")[2]
            if called.startswith(comm):
                comm = called
        return comm.decode("utf-8", "backslashreplace")


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
