# SPDX-License-Identifier: MIT
"""Files of /proc/PID: which process it is, what its stat says, and the beginning of any other.

Runs in: whoever looks at processes; standard library only.
Covers: a name for a process that is right even after its pid was given to another; the only parser of stat.
Does not cover: what the numbers mean together (process_reader, process_tree); files of the machine or of cgroups, and
the tables of one process that may be in a tree somebody sent in (kernel_files).
Source of the formats: proc_pid_stat(5), proc_pid_status(5).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

MARK = "MEMGUARD_TASK"
MARK_IS = f"{MARK}=".encode()
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Those of 64 bits.
_DIGITS_MOST = 20
FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class ProcessId(NamedTuple):
    """One process, and no other that gets its pid later: the pid, and the start time in clock ticks since boot."""

    pid: int
    start_ticks: int

    @property
    def mark(self) -> str:
        """Of a task's leader: the value of MEMGUARD_TASK by which processes are known that left its session."""
        return f"{self.pid}-{self.start_ticks}"


class Stat(NamedTuple):
    """What /proc/PID/stat says of a process.

    comm:      the name of its program, cut by the kernel to 15 bytes; it may hold anything but NUL.
    state:     one letter: R, S, D, T, Z (zombie), X (dead) and others.
    faults:    page faults that needed no disk.
    cpu_ticks: user and system time of its own and of the children it has waited for, in clock ticks.
    image:     addresses of its code, stack and heap, which exec chooses anew and fork leaves alone; empty where the
               kernel hides them.
    """

    comm: bytes
    state: bytes
    parent: int
    session: int
    faults: int
    cpu_ticks: int
    start_ticks: int
    image: tuple[bytes, ...]


def parse_stat(raw: bytes) -> Stat | None:
    """The line of a stat file; None where it is none, or only the beginning of one."""
    end = raw.rfind(b")")
    # From the third field on: those before are the pid and the name, which may itself hold parentheses and blanks.
    fields = raw[end + 1 :].split()
    try:
        return Stat(
            raw[raw.find(b"(") + 1 : end],
            fields[0],
            _number(fields[1]),
            _number(fields[3]),
            _number(fields[7]),
            sum(map(_number, fields[11:15])),
            _number(fields[19]),
            (fields[23], fields[25], fields[44]) if fields[25] != b"0" else (),
        )
    except (ValueError, IndexError):
        return None


def _number(text: bytes) -> int:
    """A number of the kernel's, of 64 bits at most. Raises ValueError for any other text."""
    if len(text) > _DIGITS_MOST:
        raise ValueError(text[:_DIGITS_MOST])
    return int(text)


def read_stat(pid: int, root: Path = Path("/proc")) -> Stat | None:
    """What the stat file of the process with this pid says now; None where there is none or it cannot be read."""
    return parse_stat(read_file(f"{root}/{pid}/stat") or b"")


def find_process(pid: int, root: Path = Path("/proc")) -> ProcessId | None:
    """The process that has this pid now, a zombie included; None where there is none."""
    stat = read_stat(pid, root)
    return ProcessId(pid, stat.start_ticks) if stat is not None else None


def descends_from(ancestor: ProcessId, pid: int) -> bool:
    """Whether `ancestor` is the parent of the process with this pid, or its parent's, and so on."""
    while pid > 1:
        stat = read_stat(pid)
        if stat is None:
            return False
        if ProcessId(pid, stat.start_ticks) == ancestor:
            return True
        pid = stat.parent
    return False


def parse_mark(mark: str) -> ProcessId | None:
    """The process that has this mark; None where it is none."""
    pid, _, start_ticks = mark.partition("-")
    is_mark = all(one.isdecimal() and len(one) <= _DIGITS_MOST for one in (pid, start_ticks))
    return ProcessId(int(pid), int(start_ticks)) if is_mark else None


def has_ended(process: ProcessId, is_thorough: bool = True) -> bool:
    """Whether a process has ended.

    is_thorough: also notice zombies, and another process that has its pid. Without it the answer costs a tenth.
    """
    if is_thorough:
        stat = read_stat(process.pid)
        return stat is None or stat.state in (b"Z", b"X") or stat.start_ticks != process.start_ticks
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


def read_file(path: str, most_bytes: int = 4096) -> bytes | None:
    """The beginning of a file: None where it is not there or its process is gone, b"" where it is unreadable."""
    try:
        file = os.open(path, FLAGS)
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        return None
    except OSError:
        return b""
    try:
        found = os.read(file, most_bytes)
        # The kernel may give less than was asked for, and there may be more: environ comes by the page.
        while most_bytes > PAGE_BYTES and len(found) < most_bytes:
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


def read_size(text: bytes, name: bytes) -> int | None:
    """Bytes of the line "Name:  123 kB" of a kernel file; None where it is missing."""
    words = text.partition(b"\n" + name)[2].split(maxsplit=1)
    try:
        return _number(words[0]) * 1024
    except (ValueError, IndexError):
        return None


def age_of(start_ticks: int, now_s: float) -> float:
    """Seconds since a process started, at `now_s` seconds since boot; never less than nothing."""
    return max(0.0, now_s - start_ticks / TICKS_PER_S)
