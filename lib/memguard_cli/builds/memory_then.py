# SPDX-License-Identifier: MIT
"""What memory was at the time of a failure, by the readings."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memguard_cli.builds import configuration
from memguard_cli.builds.failed_logs import NEAR_S, RECORD_TAIL_BYTES, modified_s


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
    ended_s = modified_s(log)
    moments = [
        *_moments_in(_last_before(records / "readings", ended_s), ended_s, recipe, task),
        *_moment_of_state(records / "state.json", recipe, task),
    ]
    near = [moment for moment in moments if abs(moment.time_s - ended_s) < NEAR_S]
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
        build = configuration.read(directory)
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
        if used_bytes is None or not isinstance(time_s, (int, float)) or abs(time_s - ended_s) >= NEAR_S:
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
            file.seek(max(0, os.fstat(file.fileno()).st_size - RECORD_TAIL_BYTES))
            for line in file:
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                if isinstance(record, dict):
                    yield record
    except OSError:
        return
