# SPDX-License-Identifier: MIT
"""The files of /proc/PID.

Runs in: whoever looks at processes; standard library only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

MARK = "MEMGUARD_TASK"
MARK_IS = f"{MARK}=".encode()
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class ProcessId(NamedTuple):
    """One process and no other that gets its pid later: the pid, and the start time in clock ticks since boot."""

    pid: int
    start_ticks: int

    @property
    def mark(self) -> str:
        """Of a task's leader: the value of MEMGUARD_TASK by which processes are known that left its session."""
        return f"{self.pid}-{self.start_ticks}"


def find_process(pid: int, root: Path = Path("/proc")) -> ProcessId | None:
    """The process that has this pid now; None where there is none."""
    try:
        raw = read_file(f"{root}/{pid}/stat")
        return ProcessId(pid, int(split_stat(raw or b"")[1][19]))
    except (ValueError, IndexError):
        return None


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


def split_stat(raw: bytes) -> tuple[bytes, list[bytes]]:
    """The name in a stat line, and the fields from the third on (proc(5)); a name may hold anything but NUL."""
    end = raw.rfind(b")")
    return raw[raw.find(b"(") + 1 : end], raw[end + 1 :].split()


def read_size(text: bytes, name: bytes) -> int | None:
    """Bytes of the line "Name:  123 kB" of a kernel file; None where it is missing."""
    words = text.partition(b"\n" + name)[2].split(maxsplit=1)
    try:
        return int(words[0]) * 1024
    except (ValueError, IndexError):
        return None


def age_of(start_ticks: int, now_s: float) -> float:
    return max(0.0, now_s - start_ticks / TICKS_PER_S)
