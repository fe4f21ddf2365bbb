# SPDX-License-Identifier: MIT
"""What is done to a build that must survive it: at random times, by a thread beside it, or by its surroundings.

neighbour  a process inside the container takes and frees memory
limit      the container's limit moves
compiler   compilers are killed by SIGKILL
sentinel   the sentinel is killed by SIGKILL
history    the history is locked by somebody
disk       MEMGUARD_DIR is on a disk that is full for some seconds
hang       the sentinel is stopped for 30 seconds
watchman   sentinel and watchman are killed, both at once
pids       pids.max keeps the sentinel from starting any process or thread
lock       every second compiler waits for one lock (flock), whatever task it belongs to
files      `ulimit -n 64` for all of the build
hidepid    /proc hides the processes of others (hidepid=2), and root may not look all the same
frozen     MEMGUARD_DIR is on a disk that does not answer for some seconds (fsfreeze)
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from memguard.model import Policy
from memguard.units import MIB, format_bytes
from testbed.container import Container, NoContainer

# What a compiler takes (meta-chaos), the largest of them, and a server with its workers.
LARGEST_MIB, BITBAKE_MIB = 200, 300
LIMIT_MIB, LEAST_LIMIT_MIB = 1024, 704
NEIGHBOUR_MOST_MIB = LEAST_LIMIT_MIB - LARGEST_MIB - BITBAKE_MIB
DISTURBANCES = (
    *("neighbour", "limit", "compiler", "sentinel", "history", "disk"),
    *("hang", "watchman", "pids", "lock", "files", "hidepid", "frozen"),
)
# Of these one disk can be chosen only.
DISKS = ("disk", "frozen")
# Those after which the kernel may kill without anybody's having had a chance against it.
HINDERING = frozenset({"sentinel", "history", "disk", "hang", "watchman", "pids", "files", "frozen"})
# What the surroundings of a build do, and no thread.
_STANDING = ("lock", "files", "hidepid")
SAMPLE_S = 0.05
# The time in which memory is short before the reflex must have done something.
REFLEX_S = 0.5
_HANG_S = 30.0
_PIDS = Path("/sys/fs/cgroup/pids")

# Holds as many MiB as the last line of its input says.
_NEIGHBOUR = """
import sys
held = []
for line in sys.stdin:
    while len(held) > int(line):
        held.pop()
    while len(held) < int(line):
        held.append(bytearray(b"x" * 2**20))
"""


def choose(dice: random.Random) -> list[str]:
    """Some of the disturbances, at most one of the disks."""
    chosen = [name for name in DISTURBANCES if dice.random() < (0.5 if name in DISTURBANCES[:6] else 0.25)]
    if set(DISKS) <= set(chosen):
        chosen.remove(dice.choice(DISKS))
    return chosen


def surroundings(chosen: list[str]) -> tuple[str, ...]:
    """Words to put before the build."""
    words: tuple[str, ...] = ()
    if "hidepid" in chosen:
        mount = 'mount -t proc -o hidepid=2 proc /proc && exec setpriv --bounding-set -sys_ptrace -- "$@"'
        words += ("unshare", "-m", "sh", "-c", mount, "sh")
    if "files" in chosen:
        words += ("sh", "-c", 'ulimit -n 64 && exec "$@"', "sh")
    return words


@contextlib.contextmanager
def own_disk(directory: Path) -> Iterator[None]:
    """A file system of 4 MiB at `directory`."""
    with _mounted(["-t", "tmpfs", "-o", "size=4m", "memguard-chaos"], directory):
        yield


@contextlib.contextmanager
def freezable_disk(directory: Path) -> Iterator[None]:
    """A file system at `directory` that can be frozen; it is thawed at the end."""
    image = directory.with_suffix(".img")
    with open(image, "wb") as file:
        file.truncate(64 * MIB)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", str(image)], check=True)
        with _mounted(["-o", "loop", str(image)], directory):
            try:
                yield
            finally:
                subprocess.run(["fsfreeze", "-u", str(directory)], capture_output=True)
    finally:
        image.unlink()


@contextlib.contextmanager
def _mounted(words: list[str], directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", *words, str(directory)], capture_output=True, text=True)
    if done.returncode:
        raise NoContainer(f"no disk of its own can be mounted ({done.stderr.strip()}); run this as root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


class Chaos(threading.Thread):
    """Disturbs one build until it is ended, and watches its memory. `dice` decides what happens when."""

    def __init__(self, box: Container, directory: Path, chosen: list[str], dice: random.Random) -> None:
        super().__init__(daemon=True)
        self.missed_kills = 0
        # What was done and seen, with the time of day, for whoever must find out why something failed.
        self.story: list[str] = []
        self._box = box
        self._directory = directory
        self._ended = threading.Event()
        self._dice = dice
        # When each disturbance strikes, in seconds after the build's start; several have a next time.
        self._due_s = {name: dice.uniform(2, 12) for name in chosen if name not in _STANDING}
        self._compilers_left = 2
        self._limit_bytes = LIMIT_MIB * MIB
        self._neighbour: subprocess.Popen[str] | None = None
        self._lock: sqlite3.Connection | None = None
        self._hanging: int | None = None
        self._few_pids: Path | None = None

    def end(self) -> None:
        """Stop, and leave nothing."""
        self._ended.set()
        self.join()
        if self._hanging is not None:
            self._wake()
        if self._few_pids is not None:
            _remove(self._few_pids)
        if self._lock is not None:
            self._lock.close()
        if self._neighbour is not None:
            self._neighbour.kill()
            self._neighbour.communicate()

    def run(self) -> None:
        started_s = time.monotonic()
        short_since_s: float | None = None
        kills = 0
        while not self._ended.wait(SAMPLE_S):
            now_s = time.monotonic()
            reserve_bytes = Policy().reserve_of(self._limit_bytes)
            is_short = self._limit_bytes - self._box.used_bytes < reserve_bytes // 2
            now_kills = self._box.oom_kills
            if now_kills > kills:
                self._note(f"{now_kills - kills} kernel kills at {format_bytes(self._box.used_bytes)}")
            if now_kills > kills and short_since_s is not None and now_s - short_since_s >= REFLEX_S:
                self.missed_kills += now_kills - kills
            kills = now_kills
            short_since_s = (short_since_s or now_s) if is_short else None
            for name, due_s in list(self._due_s.items()):
                if now_s - started_s >= due_s:
                    del self._due_s[name]
                    pause_s = getattr(self, f"_strike_{name}")()
                    self._note(f"{name}, again in {pause_s:.1f} s")
                    if pause_s:
                        self._due_s[name] = now_s - started_s + pause_s

    def _note(self, what: str) -> None:
        self.story.append(f"{time.time():.2f} {what}, limit {format_bytes(self._limit_bytes)}")

    def _strike_neighbour(self) -> float:
        """Take, or free, memory inside the container."""
        if self._neighbour is None:
            self._neighbour = subprocess.Popen(
                [*self._box.prefix, sys.executable, "-S", "-c", _NEIGHBOUR], stdin=subprocess.PIPE, text=True
            )
        with contextlib.suppress(OSError):
            assert self._neighbour.stdin is not None
            self._neighbour.stdin.write(f"{self._dice.randint(0, NEIGHBOUR_MOST_MIB)}\n")
            self._neighbour.stdin.flush()
        return self._dice.uniform(0.5, 4)

    def _strike_limit(self) -> float:
        """Move the limit; the kernel refuses one that is below what is in use."""
        limit_bytes = self._dice.randint(LEAST_LIMIT_MIB, LIMIT_MIB) * MIB
        v1, v2 = self._box.directory / "memory.limit_in_bytes", self._box.directory / "memory.max"
        # Below what is used on v2 the kernel would kill at once, with no time for anybody.
        if v1.exists() or self._box.used_bytes < limit_bytes:
            with contextlib.suppress(OSError):
                if v1.exists() and limit_bytes > self._limit_bytes:
                    # Beside swap, the larger of the two comes first.
                    with contextlib.suppress(OSError):
                        (self._box.directory / "memory.memsw.limit_in_bytes").write_text(str(LIMIT_MIB * MIB))
                (v1 if v1.exists() else v2).write_text(str(limit_bytes))
                self._limit_bytes = limit_bytes
        return self._dice.uniform(2, 8)

    def _strike_compiler(self) -> float:
        """Kill a compiler that runs, if one does."""
        running = [pid for pid in self._box.pids if _comm(pid) == "cc1"]
        if running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._dice.choice(running), signal.SIGKILL)
            self._compilers_left -= 1
        return self._dice.uniform(1, 8) if self._compilers_left else 0.0

    def _strike_sentinel(self) -> float:
        """Kill the sentinel; try again while there is none."""
        return self._kill(b"memguard.sentinel.process")

    def _strike_watchman(self) -> float:
        """Kill sentinel and watchman, so that neither can wake anybody; try again while there is no watchman."""
        return self._kill(b"wake_all()", b"memguard.sentinel.process")

    def _kill(self, *texts: bytes) -> float:
        """Kill at once the processes that have these texts in their command lines, if there are all of them."""
        found = [self._find(text) for text in texts]
        if None in found:
            return 1.0
        for pid in filter(None, found):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return 0.0

    def _strike_hang(self) -> float:
        """Stop the sentinel, or let it go on where it has not been replaced."""
        if self._hanging is not None:
            self._wake()
            return 0.0
        pid = self._find(b"memguard.sentinel.process")
        if pid is None:
            return 1.0
        self._hanging = os.pidfd_open(pid)
        signal.pidfd_send_signal(self._hanging, signal.SIGSTOP)
        return _HANG_S

    def _wake(self) -> None:
        assert self._hanging is not None
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._hanging, signal.SIGCONT)
        os.close(self._hanging)
        self._hanging = None

    def _strike_pids(self) -> float:
        """Let the sentinel start nothing for a while, or again."""
        if self._few_pids is not None:
            _remove(self._few_pids)
            self._few_pids = None
            return 0.0
        pid = self._find(b"memguard.sentinel.process")
        if pid is None:
            return 1.0
        place = _PIDS / self._box.directory.name
        with contextlib.suppress(OSError):
            place.mkdir()
            self._few_pids = place
            (place / "cgroup.procs").write_text(str(pid))
            (place / "pids.max").write_text((place / "pids.current").read_text())
        return self._dice.uniform(5, 20)

    def _strike_frozen(self) -> float:
        """Freeze the disk that memguard writes to for some seconds; once more later."""
        disk = str(self._directory / "memguard")
        subprocess.run(["fsfreeze", "-f", disk], check=True)
        try:
            self._ended.wait(self._dice.uniform(3, 12))
        finally:
            subprocess.run(["fsfreeze", "-u", disk], check=True)
        return self._dice.uniform(3, 8)

    def _strike_history(self) -> float:
        """Lock the history, or let it go."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
            return self._dice.uniform(3, 8)
        database = self._directory / "memguard" / "history.db"
        with contextlib.suppress(sqlite3.Error):
            if database.exists():
                self._lock = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
                self._lock.execute("BEGIN EXCLUSIVE")
                return self._dice.uniform(2, 6)
        return 1.0

    def _strike_disk(self) -> float:
        """Fill the disk that memguard writes to, or make room."""
        filler = self._directory / "memguard" / "filler"
        if filler.exists():
            filler.unlink()
            return self._dice.uniform(3, 8)
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        return self._dice.uniform(3, 10)

    def _find(self, text: bytes) -> int | None:
        """A process inside with this in its command line."""
        for pid in self._box.pids:
            with contextlib.suppress(OSError):
                if text in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return None


def _remove(pids: Path) -> None:
    """Give the processes of a pids cgroup back to the one above, and remove it."""
    with contextlib.suppress(OSError):
        for pid in (pids / "cgroup.procs").read_text(encoding="ascii").split():
            (pids.parent / "cgroup.procs").write_text(pid)
    pids.rmdir()


def _comm(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
