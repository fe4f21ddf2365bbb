# SPDX-License-Identifier: MIT
"""Where the logs of a failed build are, and what memguard recorded of memory at that moment.

Runs in: outside BitBake.
Covers: logs as files, also compressed; build directories; MEMGUARD_DIR's readings, events and state.
Does not cover: what the logs say (memguard.failures).
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from memguard_cli import build_configuration

MOST_LOGS = 8
_LOOK_BYTES = 4096
_CONSOLE_TAIL_BYTES = 4 << 20
_RECORD_TAIL_BYTES = 32 << 20
# Logs that ended within this time of each other failed together, in one build.
_TOGETHER_S = 600
_NEAR_S = 120
_STORED = re.compile(rb"[Ll]og(?:file)? of failure stored in: *(\S+)")
_FINISHED = re.compile(rb"DEBUG: (?:Python|Shell|SetScene) ?\w* function \w+ finished\s*$")


class NoLog(Exception):
    """What was named is no log and holds none; the text goes on after its name."""


def opened(path: Path) -> IO[bytes]:
    """A log, unpacked where it is packed. Raises NoLog for what is none, OSError for what cannot be read."""
    mode = path.stat().st_mode
    if stat.S_ISFIFO(mode) and not str(path).startswith(("/dev/fd/", "/proc/self/fd/", "/dev/stdin")):
        raise NoLog("is a FIFO, which may never end: cat it into memguard explain -")
    if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
        raise NoLog("is no file")
    log = io.BufferedReader(io.FileIO(path))  # closed by whoever reads it
    try:
        head = log.peek(_LOOK_BYTES)[:_LOOK_BYTES]
        if head.startswith(b"\x1f\x8b"):
            return cast(IO[bytes], gzip.GzipFile(fileobj=log))
        if head.startswith(b"\xfd7zXZ\0"):
            return cast(IO[bytes], lzma.LZMAFile(log))
        if not head:
            raise NoLog("is empty")
        if _is_binary(head):
            raise NoLog("is no text")
    except BaseException:
        log.close()
        raise
    return cast(IO[bytes], log)


def _is_binary(head: bytes) -> bool:
    """A serial console may leave single odd bytes in a log; a program or archive consists of them."""
    odd = sum(byte < 9 or 13 < byte < 27 or 27 < byte < 32 for byte in head)
    return head.startswith(
        (b"\x7fELF", b"PK\x03\x04", b"SQLite format 3\0", b"\x28\xb5\x2f\xfd", b"BZh")
    ) or odd * 10 > len(head)


# -- build directories -------------------------------------------------------------------------------------------------


def find(directory: Path) -> list[Path]:
    """The logs of the tasks that failed in the last build, newest first; its console's where there are none.

    Raises NoLog for a directory that is no build directory, or holds no log.
    """
    temporary = _temporary_directories(directory)
    if not temporary:
        raise NoLog("is no build directory: it has neither conf/local.conf nor tmp")
    console = _newest(path for tmp in temporary for path in tmp.glob("log/cooker/**/*.log") if not path.is_symlink())
    if console is not None:
        named = [_here(path, temporary) for path in _named_in(console)]
        logs = [path for path in dict.fromkeys(named) if path is not None]
        return logs[-MOST_LOGS:][::-1] or [console]
    unfinished = _unfinished(temporary)
    if unfinished:
        return unfinished
    raise NoLog("holds no log of a build")


def _temporary_directories(directory: Path) -> list[Path]:
    build = build_configuration.read(directory)
    found = [build.tmpdir] if build else []
    found += sorted(path for path in directory.glob("tmp*") if (path / "work").is_dir() or (path / "log").is_dir())
    return list(dict.fromkeys(path.resolve() for path in found if path.is_dir())) or ([directory] if build else [])


def _newest(paths: Iterator[Path]) -> Path | None:
    return max(paths, key=_modified_s, default=None)


def _modified_s(path: Path) -> float:
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
    logs.sort(key=_modified_s, reverse=True)
    near = [path for path in logs if _modified_s(logs[0]) - _modified_s(path) < _TOGETHER_S]
    return [path for path in near[:200] if not _has_finished(path)][:MOST_LOGS]


def _has_finished(path: Path) -> bool:
    with open(path, "rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - _LOOK_BYTES))
        return _FINISHED.search(log.read(_LOOK_BYTES)) is not None


# -- memory at that moment ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """Memory when a log ended, as memguard recorded it. None where that is not known.

    is_peak: nobody looked at that moment; used is the most of the whole build.
    """

    used_bytes: int
    limit_bytes: int | None
    time_s: float
    task_bytes: int | None = None
    heaviest: str | None = None
    is_peak: bool = False

    @property
    def clock(self) -> str:
        """The time of day, local."""
        return time.strftime("%H:%M:%S", time.localtime(self.time_s))

    @property
    def share(self) -> float | None:
        """Used of limit, None without a limit."""
        return self.used_bytes / self.limit_bytes if self.limit_bytes else None


def moment_of(log: Path, recipe: str | None, task: str | None) -> Moment | None:
    """Memory at the last moment of a log that lies in a build directory; None where nobody recorded it."""
    records = _records_directory(log)
    if records is None:
        return None
    ended_s = _modified_s(log)
    moments = [
        *_moments_in(_last_before(records / "readings", ended_s), ended_s, recipe, task),
        *_moment_of_state(records / "state.json", recipe, task),
    ]
    near = [moment for moment in moments if abs(moment.time_s - ended_s) < _NEAR_S]
    # What was seen at or before the end counts: a moment later the memory of the dead is free.
    nearest = min(near, key=lambda moment: (moment.time_s > ended_s + 1, abs(moment.time_s - ended_s)), default=None)
    return nearest or _peak_in(_last_before(records / "events", ended_s), ended_s)


def _peak_in(path: Path | None, ended_s: float) -> Moment | None:
    """The peak of a build that was still running when the log ended, None where that is not known."""
    for record in _records(path):
        peak_bytes, time_s = _size(record.get("peak_bytes")), record.get("time")
        if (
            record.get("event") == "build_end"
            and peak_bytes
            and isinstance(time_s, (int, float))
            and time_s + 1 > ended_s
        ):
            return Moment(peak_bytes, _size(record.get("limit_bytes")), float(time_s), is_peak=True)
    return None


def _records_directory(log: Path) -> Path | None:
    for directory in [*log.absolute().parents][:12]:
        build = build_configuration.read(directory)
        if build is not None:
            return Path(build.expand("MEMGUARD_DIR") or directory / "memguard")
        if (directory / "memguard" / "events").is_dir() or (directory / "memguard" / "readings").is_dir():
            return directory / "memguard"
    return None


def _last_before(directory: Path, time_s: float) -> Path | None:
    """The file of the build that was running at that time: the newest that began before it."""
    stamp = time.strftime("%Y%m%d%H%M%S", time.localtime(time_s + 1))
    try:
        names = sorted(path for path in directory.glob("*.jsonl") if path.stem.partition("-")[0] <= stamp)
    except OSError:
        return None
    return names[-1] if names else None


def _moments_in(path: Path | None, ended_s: float, recipe: str | None, task: str | None) -> Iterator[Moment]:
    limit_bytes: int | None = None
    for record in _records(path):
        limit_bytes = _size(record.get("limit_bytes")) or limit_bytes
        used_bytes, time_s = _size(record.get("used_bytes")), record.get("time")
        if used_bytes is None or not isinstance(time_s, (int, float)) or abs(time_s - ended_s) >= _NEAR_S:
            continue
        rows = record.get("tasks")
        tasks = [row for row in rows if isinstance(row, list) and len(row) >= 3] if isinstance(rows, list) else []
        own, heaviest = _weights({(str(row[0]), str(row[1])): _size(row[2]) or 0 for row in tasks}, recipe, task)
        yield Moment(used_bytes, limit_bytes, float(time_s), own, heaviest)


def _moment_of_state(path: Path, recipe: str | None, task: str | None) -> Iterator[Moment]:
    """What a killed build left behind."""
    for state in _records(path):
        used_bytes, time_s, tasks = _size(state.get("used_bytes")), state.get("time"), state.get("tasks")
        if used_bytes is not None and isinstance(time_s, (int, float)):
            rows = [row for row in tasks.values() if isinstance(row, dict)] if isinstance(tasks, dict) else []
            sizes = {(str(r.get("recipe")), str(r.get("task"))): _size(r.get("current_bytes")) or 0 for r in rows}
            own, heaviest = _weights(sizes, recipe, task)
            yield Moment(used_bytes, _size(state.get("limit_bytes")), float(time_s), own, heaviest)


def _weights(sizes: dict[tuple[str, str], int], recipe: str | None, task: str | None) -> tuple[int | None, str | None]:
    """What this task used, and the name of the heaviest other one."""
    own = sizes.get((recipe or "", task or ""))
    others = {name: size for name, size in sizes.items() if name != (recipe, task) and size > (own or 0)}
    heaviest = max(others.items(), key=lambda item: item[1], default=None)
    return own, " ".join(heaviest[0]) if heaviest else None


def _size(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _records(path: Path | None) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file's lines; what is none, or cannot be read, is passed over."""
    try:
        if path is None or not path.is_file():
            return
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _RECORD_TAIL_BYTES))
            for line in file:
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(record, dict):
                    yield record
    except OSError:
        return
