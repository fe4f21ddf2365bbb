# SPDX-License-Identifier: MIT
"""The board of a limit: what the sentinel of each build under it says of its running tasks, for those of the others.

Runs in: the sentinel, the command (which only reads); standard library only.
Covers: where the board lies, whom it may be trusted from, one small file for each build, and what is in it.
Does not cover: which limit that is (sense/limit_id), who is alive, and what follows from it (sentinel/neighbours).

All files are opened below the descriptor of a directory that was checked: its user's own that nobody else may write to,
or one that root has made for all, with the sticky bit. Nothing that lies there names a file to open or a process to
signal.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from memguard.typed_json import as_json, from_json, values_of

# Made by root for all users of a container, and else made by each user: memory, so that no look waits for a disk. Each
# container has its own, and BitBake, whose workers need it for their semaphores, does not run without.
SHARED_PLACE = "/run/memguard"
OWN_PLACE = "/dev/shm/memguard-{uid}"

# A board with more builds, tasks or jobs than this is read in part. A build's file has 5 KiB as a rule, with as many of
# all as are read it has 700; and what is read of all of them at one look costs no more than a tenth of a second.
_NAMES_MOST = 2000
BUILDS_MOST = 64
_TASKS_MOST = 64
# Of all tasks together, and for each job those lives that it is expected to have one of (SAMPLE of predict/job_lives).
_JOBS_MOST = 512
_LIVES_MOST = 12
_FILE_MOST_BYTES = 1 << 20
_ALL_MOST_BYTES = 4 << 20
_NAME = re.compile(r"\.?([0-9a-f]{16})\.([1-9][0-9]{0,9})\.([0-9]{1,18})", re.ASCII)
# A FIFO that somebody has put there is not waited for.
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True)
class LifeEntry:
    """One life that a job may have (bytes, seconds): its peak, its length, and when it rises."""

    peak_bytes: int
    wall_s: float
    rise_s: float
    begun_s: float


@dataclass(frozen=True)
class JobEntry:
    """One job: which process, what it holds (bytes), and the life it is expected to have (bytes, seconds).

    lives: it will have one of these.
    """

    pid: int
    start_ticks: int
    bytes: int
    age_s: float
    growth_bytes_s: float
    peak_bytes: int
    wall_s: float
    rise_s: float
    begun_s: float = 0.0
    ended: int = 0
    swapped_bytes: int = 0
    is_stopped: bool = False
    may_stop: bool = True
    lives: tuple[LifeEntry, ...] = ()


@dataclass(frozen=True)
class TaskEntry:
    """One task: its leader, what it holds, its tokens, and the life that its next job is expected to have.

    next_lives:    the next job will have one of these.
    pending_bytes: what it will take that the lives of its jobs do not show, since it has run none yet.
    works:         it compiles, or holds memory that counts.
    is_alone:      it runs again, and wants no other beside it.
    waits_s:       how long it has waited to run again, None where it does not.
    alone_next, again_bytes: whether it then wants no other beside it, and what it is expected to take.
    """

    pid: int
    start_ticks: int
    most_jobs: int
    current_bytes: int
    next_peak_bytes: int
    next_wall_s: float
    next_rise_s: float
    next_begun_s: float = 0.0
    next_ended: int = 0
    pending_bytes: int = 0
    swapped_bytes: int = 0
    held_tokens: int | None = None
    idle_tokens: int = 0
    is_stopped: bool = False
    may_stop: bool = True
    may_kill: bool = True
    works: bool = False
    is_alone: bool = False
    waits_s: float | None = None
    alone_next: bool = False
    again_bytes: int = 0
    next_lives: tuple[LifeEntry, ...] = ()
    jobs: tuple[JobEntry, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One build: its running tasks, the CPUs that they keep busy, their CPU seconds, and jobs that it killed so far.

    turns:         how often a task of it was let run again so far.
    pending_bytes: what tasks will take that have been let start, and not begun yet.
    alone: in words, the task that wants to run, or runs, with no other beside it; "" for none.
    reserve_bytes, late_s, is_pressed: how carefully it judges memory (Caution of decide/moment).
    """

    cpus: float = 0.0
    cpu_s: float = 0.0
    kills: int = 0
    turns: int = 0
    pending_bytes: int = 0
    alone: str = ""
    reserve_bytes: int = 0
    late_s: float = 0.0
    is_pressed: bool = False
    tasks: tuple[TaskEntry, ...] = ()


class Name(NamedTuple):
    """What a file's name says: the limit, and the sentinel by its pid and start."""

    key: str
    pid: int
    start_ticks: int


class Found(NamedTuple):
    """A file on the board: what changes whenever its sentinel writes, and what it holds."""

    name: Name
    signature: tuple[int, int, int]
    content: bytes


def as_bytes(entry: Entry) -> bytes:
    """An entry as its file holds it. Of too many jobs the oldest are in it: one of these goes on whatever happens."""
    tasks, left = [], _JOBS_MOST
    for task in entry.tasks[:_TASKS_MOST]:
        jobs = task.jobs[max(0, len(task.jobs) - left) :]
        left -= len(jobs)
        told = {**as_json(task), "jobs": [{**as_json(job), "lives": _numbers(job.lives)} for job in jobs]}
        tasks.append({**told, "next_lives": _numbers(task.next_lives)})
    return json.dumps({**as_json(entry), "tasks": tasks}, separators=(",", ":")).encode("ascii")


def parse(content: bytes) -> Entry:
    """The entry in a file, of this version or one that has the same fields. Raises ValueError for anything else."""
    try:
        told = json.loads(content)
        tasks, left = [], _JOBS_MOST
        for one in _listed(told, "tasks")[:_TASKS_MOST]:
            tasks.append(_task(one, left))
            left -= len(tasks[-1].jobs)
        return Entry(**values_of(Entry, told), tasks=tuple(tasks))
    except (TypeError, AttributeError, RecursionError):
        raise ValueError("form") from None


def _task(told: Any, jobs_most: int) -> TaskEntry:
    jobs = tuple(
        JobEntry(**values_of(JobEntry, job), lives=_lives(job, "lives")) for job in _listed(told, "jobs")[:jobs_most]
    )
    return TaskEntry(**values_of(TaskEntry, told), jobs=jobs, next_lives=_lives(told, "next_lives"))


def _numbers(lives: Sequence[LifeEntry]) -> list[tuple[float, ...]]:
    return [astuple(life) for life in lives[:_LIVES_MOST]]


def _lives(told: Any, name: str) -> tuple[LifeEntry, ...]:
    names = [field.name for field in fields(LifeEntry)]
    return tuple(from_json(LifeEntry, dict(zip(names, life))) for life in _listed(told, name)[:_LIVES_MOST])


def _listed(told: Any, name: str) -> list[Any]:
    value = told.get(name, [])
    if not isinstance(value, list):
        raise ValueError(name)
    return value


class Board:
    """The files of one place. Raises OSError where there is none that can be trusted; whoever looks only makes none.

    setting: MEMGUARD_NEIGHBOURS: auto, or the path of a directory.
    """

    def __init__(self, setting: str, makes: bool = True) -> None:
        self._directory, self._is_shared = _open_place(setting, makes)

    def write(self, key: str, pid: int, start_ticks: int, content: bytes) -> None:
        """Say something of a build, whole, in place of what was said before. Raises OSError."""
        name = f"{key}.{pid}.{start_ticks}"
        draft = f".{name}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS
        mode = 0o644 if self._is_shared else 0o600
        try:
            file = os.open(draft, flags, mode, dir_fd=self._directory)
        except FileExistsError:
            os.unlink(draft, dir_fd=self._directory)
            file = os.open(draft, flags, mode, dir_fd=self._directory)
        try:
            with open(file, "wb") as output:
                os.fchmod(file, mode)  # whatever the umask says
                output.write(content)
            os.rename(draft, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(draft, dir_fd=self._directory)
            raise

    def read(self, key: str) -> Iterator[Found]:
        """What is said by all under the limit of this key. Raises OSError; what cannot be read is passed over."""
        names = {name for name in self.names() if name.key == key}
        left_bytes = _ALL_MOST_BYTES
        for name in sorted(names)[:BUILDS_MOST]:
            found = self._read_one(name)
            if found is not None and len(found.content) <= left_bytes:
                left_bytes -= len(found.content)
                yield found

    def names(self) -> list[Name]:
        """All who have said something, or have begun to. Raises OSError."""
        with os.scandir(self._directory) as places:
            names = [_NAME.fullmatch(place.name) for _, place in zip(range(_NAMES_MOST), places)]
        return [Name(name[1], int(name[2]), int(name[3])) for name in names if name is not None]

    def remove(self, key: str, pid: int, start_ticks: int) -> None:
        """Take away what is said of a build; what is another user's stays."""
        for draft in ("", "."):
            with contextlib.suppress(OSError):
                os.unlink(f"{draft}{key}.{pid}.{start_ticks}", dir_fd=self._directory)

    def close(self) -> None:
        """Let go of the directory."""
        os.close(self._directory)

    def _read_one(self, name: Name) -> Found | None:
        try:
            file = os.open(".".join(map(str, name)), os.O_RDONLY | _FLAGS, dir_fd=self._directory)
        except OSError:
            return None
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_size > _FILE_MOST_BYTES:
                return None
            signature = (status.st_ino, status.st_mtime_ns, status.st_size)
            return Found(name, signature, os.read(file, _FILE_MOST_BYTES))
        except OSError:
            return None
        finally:
            os.close(file)


def _open_place(setting: str, makes: bool) -> tuple[int, bool]:
    """The directory of the board, open, and whether it is for all users. Raises OSError."""
    if setting != "auto":
        return _open_directory(setting, makes)
    with contextlib.suppress(OSError):
        directory, is_shared = _open_directory(SHARED_PLACE, makes=False)
        if is_shared:
            return directory, True
        os.close(directory)
    return _open_directory(OWN_PLACE.format(uid=os.geteuid()), makes)


def _open_directory(path: str, makes: bool) -> tuple[int, bool]:
    if makes:
        with contextlib.suppress(FileExistsError):
            Path(path).mkdir(0o700)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _FLAGS)
    status = os.fstat(directory)
    is_shared = status.st_uid == 0 and bool(status.st_mode & stat.S_ISVTX)
    is_own = status.st_uid == os.geteuid() and not status.st_mode & 0o022
    if not is_shared and not is_own:
        os.close(directory)
        raise OSError(errno.EPERM, "others may write there, and root has not made it with the sticky bit", path)
    return directory, is_shared
