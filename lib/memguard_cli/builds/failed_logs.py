# SPDX-License-Identifier: MIT
"""Where the logs of a failed build are: a build directory -> the logs of the tasks that failed last.

Runs in: outside BitBake.
Covers: logs as files, also compressed; logs that a console names, those that break off; what is no log.
Does not cover: what the logs say (memguard.diagnose), how full memory was then (memory_then).
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from memguard.diagnose.lines import wide_encoding_of
from memguard_cli.builds import configuration
from memguard_cli.builds.unpacked import is_packed, unpacked

MOST_LOGS = 8
_LOOK_BYTES = 4096
_CONSOLE_TAIL_BYTES = 4 << 20
# Logs that ended within this time of each other failed together, in one build.
_TOGETHER_S = 600
_STORED = re.compile(rb"[Ll]og(?:file)? of failure stored in: *(\S+)")
_FINISHED = re.compile(rb"DEBUG: (?:Python|Shell|SetScene) ?\w* function \w+ finished\s*$")


class NoLog(Exception):
    """What was named is no log and holds none; the text goes on after its name."""


def opened(path: Path) -> IO[bytes]:
    """A log, unpacked where it is packed. Raises NoLog for what is none, OSError for what cannot be read.

    Reading one that is packed may raise NotUnpacked.
    """
    mode = path.stat().st_mode
    if stat.S_ISFIFO(mode) and not str(path).startswith(("/dev/fd/", "/proc/self/fd/", "/dev/stdin")):
        raise NoLog("is a FIFO, which may never end: cat it into memguard explain -")
    if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
        raise NoLog("is not a file")
    log = io.BufferedReader(io.FileIO(path))  # closed by whoever reads it
    try:
        head = log.peek(_LOOK_BYTES)[:_LOOK_BYTES]
        if is_packed(head):
            return unpacked(log)
        if not head:
            raise NoLog("is empty")
        if _is_binary(head):
            raise NoLog("is not text")
    except BaseException:
        log.close()
        raise
    return log


def _is_binary(head: bytes) -> bool:
    """A serial console may leave single odd bytes in a log; a program or archive consists of them."""
    if wide_encoding_of(head):
        return False
    odd = sum(byte < 9 or 13 < byte < 27 or 27 < byte < 32 for byte in head)
    return head.startswith(
        (b"\x7fELF", b"PK\x03\x04", b"SQLite format 3\0", b"\x28\xb5\x2f\xfd", b"BZh")
    ) or odd * 10 > len(head)


def find(directory: Path) -> list[Path]:
    """The logs of the tasks that failed in the last build, newest first; its console's where there are none.

    Raises NoLog for a directory that is no build directory, or holds no log.
    """
    temporary = _temporary_directories(directory)
    if not temporary:
        raise NoLog("is not a build directory: it has neither conf/local.conf nor tmp")
    console = _newest(path for tmp in temporary for path in tmp.glob("log/cooker/**/*.log") if not path.is_symlink())
    if console is not None:
        named = [_here(path, temporary) for path in _named_in(console)]
        logs = [path for path in dict.fromkeys(named) if path is not None]
        return logs[-MOST_LOGS:][::-1] or [console]
    unfinished = _unfinished(temporary)
    if unfinished:
        return unfinished
    raise NoLog("contains no build log")


def is_running(directory: Path) -> bool:
    """Whether BitBake holds the lock of a build directory."""
    try:
        inode = (directory / "bitbake.lock").stat().st_ino
        locks = Path("/proc/locks").read_text(encoding="ascii")
    except OSError:
        return False
    return re.search(rf":{inode} ", locks) is not None


def _temporary_directories(directory: Path) -> list[Path]:
    build = configuration.read(directory)
    found = [build.tmpdir] if build else []
    found += sorted(path for path in directory.glob("tmp*") if (path / "work").is_dir() or (path / "log").is_dir())
    return list(dict.fromkeys(path.resolve() for path in found if path.is_dir())) or ([directory] if build else [])


def _newest(paths: Iterator[Path]) -> Path | None:
    return max(paths, key=modified_s, default=None)


def modified_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _named_in(console: Path) -> list[str]:
    """The logs that a console names as those of failed tasks, in its order."""
    with open(console, "rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - _CONSOLE_TAIL_BYTES))
        return [os.fsdecode(found[1]) for found in _STORED.finditer(log.read(_CONSOLE_TAIL_BYTES))]


def _here(name: str, temporary: list[Path]) -> Path | None:
    """A log by the path that it had in its build, which may have been in a container."""
    below = name.rpartition("/work/")[2]
    candidates = [Path(name), *(tmp / "work" / below for tmp in temporary)]
    return next((path for path in candidates if path.is_file()), None)


def _unfinished(temporary: list[Path]) -> list[Path]:
    """The newest task logs without their last line, of tasks that failed or were killed."""
    patterns = [f"work/{levels}/temp/log.do_*.[0-9]*" for levels in ("*/*/*", "*/*")]  # ARCH/PN/PV, or a distro's own
    logs = [path for tmp in temporary for pattern in patterns for path in tmp.glob(pattern) if not path.is_symlink()]
    logs.sort(key=modified_s, reverse=True)
    near = [path for path in logs if modified_s(logs[0]) - modified_s(path) < _TOGETHER_S]
    return [path for path in near[:200] if not _has_finished(path)][:MOST_LOGS]


def _has_finished(path: Path) -> bool:
    with open(path, "rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - _LOOK_BYTES))
        return _FINISHED.search(log.read(_LOOK_BYTES)) is not None
