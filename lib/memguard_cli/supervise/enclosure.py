# SPDX-License-Identifier: MIT
"""A memory cgroup for one command, and the janitor that leaves nothing of it behind.

Runs in: outside BitBake.
Covers: cgroup v1 and v2, below the cgroup that this process is in; an end by SIGKILL of this process.
Does not cover: other controllers, and moving processes that are in the way (v2 allows no child cgroup with a memory
limit beside processes, except below the root).

The janitor is a shell at the other end of a pipe. When that ends, it kills what is left in the cgroup, and removes it
and the directory of the pool.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from pathlib import Path

from memguard.sense.container import Sensor

_JANITOR = """
trap '' INT TERM HUP QUIT
read -r _
cgroup=$1 scratch=$2
rm -rf -- "$scratch"
[ -n "$cgroup" ] || exit 0
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    while read -r pid; do kill -KILL "$pid"; done < "$cgroup/cgroup.procs"
    rmdir -- "$cgroup" && exit 0
    sleep 0.25
done
"""


class NoEnclosure(Exception):
    """No memory cgroup can be made here; the text says why."""


class Enclosure:
    """A cgroup with a hard memory limit and no swap."""

    def __init__(self, limit_bytes: int) -> None:
        """Make it. Raises NoEnclosure."""
        memory = Sensor().memory
        if memory is None or not memory.levels:
            raise NoEnclosure("no memory controller is mounted")
        own = memory.levels[0]
        self.limit_bytes = limit_bytes
        self.directory = Path(own.directory) / f"memguard-run-{os.getpid()}"
        self.limit_file = self._file("memory.max" if own.is_v2 else "memory.limit_in_bytes")
        self._kills_file = self._file("memory.events" if own.is_v2 else "memory.oom_control")
        try:
            if own.is_v2:
                _enable_memory(Path(own.directory))
            self.directory.mkdir()
        except OSError as error:
            # cgroups.rst, "No Internal Process Constraint"
            is_full = own.is_v2 and error.errno == errno.EBUSY
            why = "processes lie in the cgroup above" if is_full else error.strerror
            raise NoEnclosure(f"{self.directory}: {why}") from None
        try:
            self.limit_file.write_text(str(limit_bytes))
            with contextlib.suppress(OSError):
                swap = "memory.swap.max" if own.is_v2 else "memory.memsw.limit_in_bytes"
                self._file(swap).write_text("0" if own.is_v2 else str(limit_bytes))
        except OSError as error:
            self.directory.rmdir()
            raise NoEnclosure(f"{self.directory} takes no limit: {error.strerror}") from None

    def enter(self) -> None:
        """Move the calling process into it. Raises OSError."""
        self._file("cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        """Remove it, where no janitor has; not while a process is in it."""
        with contextlib.suppress(OSError):
            self.directory.rmdir()

    def oom_kills(self) -> int:
        """How often the kernel has killed in it for memory; known, too, when the command was gone before any look."""
        with contextlib.suppress(OSError):
            for line in self._kills_file.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill" and count.isdigit():
                    return int(count)
        return 0

    def _file(self, name: str) -> Path:
        return self.directory / name


def _enable_memory(parent: Path) -> None:
    """Let children of a v2 cgroup have memory limits. Raises OSError, EBUSY where processes are in the way."""
    control = parent / "cgroup.subtree_control"
    if "memory" not in control.read_text().split():
        control.write_text("+memory")


class Janitor:
    """Cleans up after one command, at close() or when this process has died."""

    def __init__(self, scratch: Path, enclosure: Enclosure | None) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _JANITOR, "sh", str(enclosure.directory) if enclosure else "", str(scratch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def close(self) -> None:
        """Let it clean up, and wait for that."""
        self._shell.communicate()
