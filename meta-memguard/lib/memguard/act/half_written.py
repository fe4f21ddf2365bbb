# SPDX-License-Identifier: MIT
"""What a killed attempt leaves behind, and taking it away: processes that still write, and files half written.

Runs in: task children and the sentinel (written_by); standard library only.
Covers: processes of the task's own session; outputs that a killed program was writing, whether it was seen to write
them or a build tool names them in the log.
Does not cover: what left the session (servers of ccache, sccache and bazel, pseudo), which outlives tasks anyway.

A build tool takes an output that is newer than its inputs for finished. ninja and cargo remember what they finished,
and make removes the target of a command that a signal has ended; but where ld is killed, gcc ends with an exit status,
and half a library stays.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from memguard.sense.proc_files import TICKS_PER_S, read_stat

# How long programs have to end by themselves: a compiler removes its temporary files in no time.
_PATIENCE_S = 2.0
_KILL_S = 10.0
_LOOK_EVERY_S = 0.05
_BEHIND_S = 1.0

_ACCESS_WRITES = (os.O_WRONLY, os.O_RDWR)

# "make[2]: Entering directory '/x'", and with a time or a prefix before it; ninja -C says it, too.
_ENTERING = re.compile(r"\b(?:\w*make(?:\[(?P<level>\d+)\])?|ninja): Entering directory [`'](?P<directory>.+)'")
# "make[2]: *** [Makefile:12: libx.so] Error 1", make before 4.0 without the line; also "Killed" in place of "Error 1".
_FAILED_MAKE = re.compile(r"\b\w*make(?:\[(?P<level>\d+)\])?: \*\*\* \[(?:[^\]]*?:\d+: )?(?P<target>[^\]]+)\]")
# "FAILED: a.o b.o", and "FAILED: [code=1] a.o" since ninja 1.13.
_FAILED_NINJA = re.compile(r"^FAILED: (?:\[code=\d+\] )?(?P<targets>.+)$")


def written_by(pid: int) -> tuple[str, ...]:
    """The regular files a process has open for writing; what it appends to is a log and no output.

    Empty where the process is gone, or belongs to somebody else.
    """
    found = []
    with contextlib.suppress(OSError):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                info = Path(f"/proc/{pid}/fdinfo/{file.name}").read_bytes()
                flags = int(info.partition(b"flags:")[2].split()[0], 8)
                status = file.stat()
                is_file = stat.S_ISREG(status.st_mode) and status.st_nlink > 0
                if is_file and flags & os.O_ACCMODE in _ACCESS_WRITES and not flags & os.O_APPEND:
                    found.append(str(file.readlink()))
    return tuple(dict.fromkeys(found))


def now_ticks() -> int:
    """The time now as the kernel gives the start of processes: clock ticks since boot."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * TICKS_PER_S)


def members_of(session: int, since_ticks: int = 0) -> dict[int, int]:
    """The living processes of a session but its leader that started since then: start time in ticks, by pid."""
    found = {}
    for process in Path("/proc").iterdir():
        pid = int(process.name) if process.name.isdigit() else session
        if pid != session:
            seen = read_stat(pid)
            if seen and seen.session == session and seen.state not in (b"Z", b"X") and seen.start_ticks >= since_ticks:
                found[pid] = seen.start_ticks
    return found


def end_session(session: int, since_ticks: int = 0) -> tuple[str, ...]:
    """End every process of a session but its leader that started since then; the files that they were writing.

    They are asked first, so that compilers remove their temporary files, and killed where they do not listen.
    """
    written: dict[str, None] = {}
    started_s = time.monotonic()
    while time.monotonic() - started_s < _KILL_S:
        members = members_of(session, since_ticks)
        if not members:
            break
        is_late = time.monotonic() - started_s >= _PATIENCE_S
        for pid, start_ticks in members.items():
            written.update(dict.fromkeys(written_by(pid)))
            # Another look, so that whoever gets the number in the meantime is not hit.
            again = read_stat(pid)
            if again and (again.session, again.start_ticks) == (session, start_ticks):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL if is_late else signal.SIGTERM)
                    # What was stopped for memory hears nothing else.
                    os.kill(pid, signal.SIGCONT)
        time.sleep(_LOOK_EVERY_S)
    return tuple(written)


def failed_targets(lines: Iterable[str], start_directory: str) -> list[str]:
    """Where the outputs may lie that make and ninja say they failed to make, as absolute paths.

    A line names no directory, only its depth in the recursion: with several jobs it may be about any of those that were
    entered at that depth.
    """
    entered: dict[str, list[str]] = {}
    found: dict[str, None] = {}
    for line in lines:
        match = _ENTERING.search(line)
        if match:
            directories = entered.setdefault(match["level"] or "", [])
            if match["directory"] not in directories:
                directories.append(match["directory"])
            continue
        match = _FAILED_MAKE.search(line)
        ninja = None if match else _FAILED_NINJA.match(line)
        level = (match["level"] or "") if match else ""
        targets = [match["target"]] if match else ninja["targets"].split() if ninja else []
        for target in targets:
            for directory in entered.get(level) or [start_directory]:
                found[os.path.normpath(f"{directory}/{target}" if target[0] != "/" else target)] = None
    return list(found)


def oldest_mtime(since_s: float, since_epoch_s: float) -> float:
    """The least that the time of a file may be that was written to since then (monotonic, and since 1970).

    The clock of files is a little behind; one that was set back meanwhile makes what was written later seem older.
    """
    return min(since_epoch_s, time.time() - (time.monotonic() - since_s)) - _BEHIND_S


def remove_partial(
    paths: Iterable[str], roots: Sequence[str], spared: Sequence[str] = (), since_s: float = 0.0
) -> list[str]:
    """Remove those of `paths` that are regular files below `roots` and were written to after `since_s`; which ones.

    Nothing is removed below `spared`, through a symbolic link, or from a directory that is a link to elsewhere.
    """
    within = [os.path.realpath(root) for root in roots if root]
    without = [os.path.realpath(root) for root in spared if root]
    removed = []
    for path in dict.fromkeys(paths):
        with contextlib.suppress(OSError, ValueError):
            place = f"{Path(path).parent.resolve()}/{Path(path).name}"
            if not _lies_in(place, within) or _lies_in(place, without):
                continue
            status = os.lstat(place)
            if stat.S_ISREG(status.st_mode) and status.st_mtime >= since_s:
                Path(place).unlink()
                removed.append(place)
    return removed


def _lies_in(path: str, directories: Iterable[str]) -> bool:
    return any(path.startswith(directory.rstrip("/") + "/") for directory in directories)
