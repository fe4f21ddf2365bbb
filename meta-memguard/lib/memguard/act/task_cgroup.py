# SPDX-License-Identifier: MIT
"""A cgroup for the tasks of a build below the container's, so that a kernel kill costs one process and not all.

Runs in: the BitBake server, which makes and removes it; BitBake's workers, which enter it, and with them all tasks; the
sentinel, which bounds it. Standard library only.
Covers: cgroup v2, where the container's own cgroup may be written.
Does not cover: v1, where a kernel kill costs one process in any case; a cgroup for each task, which costs it some 20 ms
and shows nothing that its processes do not.

On v2 a cgroup that hands the memory controller down may hold no process itself. So all that is in the container's is
moved to a child of it, REST, and back when the last build there has ended:

    container's own                 limit, memory.oom.group = 1
    |- memguard.rest                BitBake, the sentinel, shells
    `- memguard.tasks.PID-START     workers and tasks of one build, named after its server: what the limit leaves

Where tasks fill what is left, it is the limit of memguard.tasks that is met: the kernel kills below it, and the
container's memory.oom.group, which is above, does not count (Documentation/admin-guide/cgroup-v2.rst).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

from memguard.model import Reading
from memguard.sense.cgroups import OURS, Place, directories_in
from memguard.sense.kernel_files import KernelFiles
from memguard.sense.level import Level
from memguard.sense.proc_files import ProcessId, descends_from, has_ended, parse_mark
from memguard.units import MIB

REST = f"{OURS}rest"
_TASKS = f"{OURS}tasks."
# What tasks may not use of the limit, so that theirs is met first.
# evidence: the kernel charges in steps of 256 KiB a CPU; what BitBake itself takes moves by less in a second
SPARE_SHARE, SPARE_LEAST_BYTES = 1 / 128, 8 * MIB
# Their limit follows by steps of this.
STEP_BYTES = 2 * MIB
# How long others may keep starting processes meanwhile, or hold the lock.
_PATIENCE_S = 2.0
_PAUSE_S = 0.01


def obstacle(place: Place | None) -> str:
    """Why tasks can have no cgroup of their own here, in words; "" where nothing is known to be in the way."""
    if place is None or not place.levels or not place.levels[0].is_v2:
        return "memory is not counted by cgroup v2"
    if not place.is_found:
        return "the build's own cgroup is not visible"
    own = place.levels[0]
    if own.is_hierarchy_root():
        return "the build is in the root cgroup"
    if "memory" not in own.files.text(own.path("cgroup.controllers")).split():
        return f"{own.directory} has no memory controller"
    if own.files.text(own.path("cgroup.type")).strip() not in ("", "domain"):
        return f"{own.directory} is threaded"
    if _is_kept_by_systemd(own.directory):
        return f"systemd keeps {own.directory} for itself: Delegate=yes hands it to the build"
    files = (own.directory, own.path("cgroup.procs"), own.path("cgroup.subtree_control"))
    closed = next((path for path in files if not os.access(path, os.W_OK)), None)
    return f"{closed} may not be written" if closed else ""


class TaskCgroup:
    """The cgroup of all tasks of one build."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._base = directory.parent
        self._level = Level(str(directory), True, KernelFiles())
        self._limit_bytes: int | None = None

    @classmethod
    def make(cls, place: Place, server: ProcessId) -> TaskCgroup:
        """Make it below the container's own cgroup, and remove what builds have left there that are dead.

        Raises OSError; then all is as it was.
        """
        made = cls(Path(place.levels[0].directory) / f"{_TASKS}{server.mark}")
        with _locked(made._base):
            _sweep(made._base)
            _clear(made.directory)  # of an earlier build of this server, where it could not be removed
            made.directory.mkdir()
            try:
                _hand_down(made._base)
            except OSError:
                made.directory.rmdir()
                _take_back(made._base)
                raise
        return made

    def follow(self, read: Callable[[], Reading]) -> None:
        """Limit what all tasks have together to what the container's limit leaves them, as `read` sees it now.

        No limit but a cgroup's takes the container along. Raises OSError.
        """
        # What ends between two reads would be counted as the rest's, had it been in the container's sum alone.
        before, use, after = read(), self._level.use(1.0), read()
        if after.limit_bytes is None or not after.limit_source.endswith("/memory.max"):
            self._bound(None)
        elif use is not None:
            rest_bytes = max(0, min(before.used_bytes, after.used_bytes) - use.used_bytes)
            spare_bytes = max(SPARE_LEAST_BYTES, int(after.limit_bytes * SPARE_SHARE))
            self._bound(max(STEP_BYTES, after.limit_bytes - rest_bytes - spare_bytes))

    def _bound(self, limit_bytes: int | None) -> None:
        """Write the limit, None for none, where it is another one by a step or more. Raises OSError."""
        known = self._limit_bytes
        is_near = limit_bytes is not None and known is not None and abs(limit_bytes - known) < STEP_BYTES
        if limit_bytes != known and not is_near:
            _write(self.directory / "memory.max", "max" if limit_bytes is None else str(limit_bytes))
            self._limit_bytes = limit_bytes

    def remove(self) -> None:
        """Remove it; what still runs there goes on beside. After the last build all is as it was before the first.

        Never raises: what cannot be removed is left for the next build.
        """
        self._level.files.close()
        with contextlib.suppress(OSError), _locked(self._base):
            _clear(self.directory)
            _take_back(self._base)


def enter(directory: Path) -> None:
    """Let the process that calls this, and what it starts from now on, be there. Raises OSError."""
    _write(directory / "cgroup.procs", "0")


def is_of_own_build(directory: Path) -> bool:
    """Whether the server that has made this cgroup has started the process that asks."""
    server = parse_mark(directory.name[len(_TASKS) :])
    return server is not None and descends_from(server, os.getpid())


def _hand_down(base: Path) -> None:
    """Let children of `base` have memory limits: all its processes move to one of them. Raises OSError."""
    control = base / "cgroup.subtree_control"
    if "memory" in _words(control):
        return
    rest = base / REST
    rest.mkdir(exist_ok=True)
    # EBUSY: another process was started here meanwhile.
    _until_free(lambda: _move(base, rest), lambda: _write(control, "+memory"))


def _take_back(base: Path) -> None:
    """The opposite, where it was this that handed down, and nobody else has children here. Raises OSError."""
    if directories_in(str(base)) != [REST]:
        return
    control = base / "cgroup.subtree_control"
    if "memory" in _words(control):
        _write(control, "-memory")
    _dissolve(base / REST, base)


def _clear(directory: Path) -> None:
    """Remove the cgroup of one build; what still runs there goes on beside. Raises OSError."""
    rest = directory.parent / REST
    # Where memory is handed down there may be no process in the base itself.
    _dissolve(directory, rest if rest.is_dir() else directory.parent)


def _dissolve(directory: Path, target: Path) -> None:
    """Remove a cgroup once all its processes are in another one. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        _until_free(lambda: _move(directory, target), directory.rmdir)


def _until_free(move: Callable[[], object], act: Callable[[], object]) -> None:
    """Move processes out of the way and act, again where others have come meanwhile. Raises OSError."""
    until_s = time.monotonic() + _PATIENCE_S
    while True:
        move()
        try:
            act()
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > until_s:
                raise
            time.sleep(_PAUSE_S)
        else:
            return


def _move(source: Path, target: Path) -> None:
    """Move all processes of a cgroup to another one; what ends meanwhile need not be moved. Raises OSError."""
    for pid in _words(source / "cgroup.procs"):
        with contextlib.suppress(ProcessLookupError):
            _write(target / "cgroup.procs", pid)


def _sweep(base: Path) -> None:
    """Remove what builds have left that are dead. Raises OSError."""
    for name in directories_in(str(base)):
        left = base / name
        if name.startswith(_TASKS) and left.stat().st_uid == os.getuid():
            server = parse_mark(name[len(_TASKS) :])
            if server is not None and has_ended(server):
                _clear(left)


@contextlib.contextmanager
def _locked(base: Path) -> Iterator[None]:
    """Alone among builds in this cgroup. Raises OSError where another one keeps it for too long."""
    descriptor = os.open(base, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until_s:
                    raise
                time.sleep(_PAUSE_S)
        yield
    finally:
        os.close(descriptor)


def _is_kept_by_systemd(directory: str) -> bool:
    """Whether systemd made a cgroup for a unit and has not handed it over: it may change what is below at any time."""
    if not directory.endswith((".scope", ".service", ".slice")):
        return False
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(directory, name) == b"1":
                return False
    return True


def _words(path: Path) -> list[str]:
    """Those of a file, none where it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").split()
    except OSError:
        return []


def _write(path: Path, text: str) -> None:
    """Write to a file of the kernel's, in one write(2). Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)
