# SPDX-License-Identifier: MIT
"""How full memory was when a log ended: the log's place and time -> a MemoryThen.

Runs in: outside BitBake.
Covers: readings of that moment, the state that a killed build left, else the peak of that build; the mode of memguard.
Does not cover: which logs there are (failed_logs), what follows from it (advice/explanation).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memguard.channels.build_directory import USUAL_NAME, BuildDirectory
from memguard.channels.state import StateFile
from memguard.record.events import BuildEnded, BuildStarted, ReadingTaken
from memguard_cli.builds import configuration
from memguard_cli.builds.failed_logs import is_running, modified_s
from memguard_cli.builds.log_lines import events_in_tail, first_event

# What was recorded this long before or after the end of a log says nothing of it.
_NEAR_S = 120
_LAST_MOMENTS_S = 10
_TAIL_BYTES = 32 << 20
# A log lies no deeper in a build directory.
_DEEPEST = 12


@dataclass(frozen=True)
class MemoryThen:
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


def find_memory_then(log: Path, recipe: str | None, task: str | None, has_stopped: bool = False) -> MemoryThen | None:
    """Memory at the last moment of a log that lies in a build directory; None where nobody recorded it.

    `has_stopped`: the log says nothing of its end, which is then that of the last reading.
    """
    written = _written_of(log)
    if written is None:
        return None
    ended_s = modified_s(log)
    readings = _last_before(written.readings, ended_s)
    if has_stopped:
        return _at_the_stop(log, written, readings, ended_s, recipe, task) or _peak_in(
            _last_before(written.events, ended_s), ended_s
        )
    known = [*_in_readings(readings, ended_s, recipe, task), *_in_state(written.path, recipe, task)]
    near = [then for then in known if abs(then.time_s - ended_s) < _NEAR_S]
    # What was seen at or before the end counts: a moment later the memory of the dead is free.
    nearest = min(near, key=lambda then: (then.time_s > ended_s + 1, abs(then.time_s - ended_s)), default=None)
    return nearest or _peak_in(_last_before(written.events, ended_s), ended_s)


def _at_the_stop(
    log: Path, written: BuildDirectory, readings: Path | None, ended_s: float, recipe: str | None, task: str | None
) -> MemoryThen | None:
    """Memory when a build was last seen, which may be long after the last line of its console.

    The fullest of the last moments counts: whoever reads memory may outlive the build, and then reads what it left.
    """
    state = [then for then in _in_state(written.path, recipe, task) if then.time_s > ended_s - _NEAR_S]
    last_s = max((event.time for event in _readings_in(readings)), default=ended_s)
    if state and _is_newest(log):
        last_s = max(last_s, state[0].time_s)
    known = [*_in_readings(readings, last_s, recipe, task), *state]
    last = [then for then in known if last_s - _LAST_MOMENTS_S <= then.time_s <= last_s]
    return max(last, key=lambda then: then.used_bytes, default=None)


def mode_then(log: Path) -> str | None:
    """MEMGUARD_MODE of the build that a log is of, by its events, else by the configuration; None without memguard."""
    written = _written_of(log)
    path = _last_before(written.events, modified_s(log)) if written else None
    try:
        began = first_event(path) if path else None
    except OSError:
        began = None
    if isinstance(began, BuildStarted) and began.mode:
        return began.mode
    build = next((build for build in map(configuration.read, _above(log)) if build), None)
    return (build.expand("MEMGUARD_MODE") or "enforce") if build and build.inherits_memguard else None


def is_of_running_build(log: Path) -> bool:
    """Whether a log is the newest of its directory, and BitBake holds the lock of its build directory."""
    return _is_newest(log) and any(is_running(directory) for directory in _above(log))


def _is_newest(log: Path) -> bool:
    """Whether no other log of its directory was written later."""
    path = log.resolve()
    return all(modified_s(other) <= modified_s(path) for other in path.parent.glob("*.log"))


def _above(log: Path) -> list[Path]:
    """The directories that may be the build directory of a log."""
    return [*log.absolute().parents][:_DEEPEST]


def _written_of(log: Path) -> BuildDirectory | None:
    """What memguard wrote in the build directory that a log lies in."""
    for directory in _above(log):
        build = configuration.read(directory)
        usual = BuildDirectory(directory / USUAL_NAME)
        if build is not None:
            named = build.expand("MEMGUARD_DIR")
            return BuildDirectory(Path(named)) if named else usual
        if usual.events.is_dir() or usual.readings.is_dir():
            return usual
    return None


def _last_before(directory: Path, time_s: float) -> Path | None:
    """The file of the build that was running at that time: the newest that began before it."""
    stamp = time.strftime("%Y%m%d%H%M%S", time.localtime(time_s + 1))
    try:
        names = sorted(path for path in directory.glob("*.jsonl") if path.stem.partition("-")[0] <= stamp)
    except OSError:
        return None
    return names[-1] if names else None


def _readings_in(path: Path | None) -> Iterator[ReadingTaken]:
    if path:
        yield from (event for event in events_in_tail(path, _TAIL_BYTES) if isinstance(event, ReadingTaken))


def _in_readings(path: Path | None, ended_s: float, recipe: str | None, task: str | None) -> Iterator[MemoryThen]:
    limit_bytes: int | None = None
    for event in events_in_tail(path, _TAIL_BYTES) if path else ():
        sizes: dict[tuple[str, str], int] = {}
        if isinstance(event, ReadingTaken):
            limit_bytes = event.limit_bytes or limit_bytes
            sizes = {(row.recipe, row.task): row.current_bytes for row in event.tasks}
        used_bytes = getattr(event, "used_bytes", None)
        if used_bytes is not None and abs(event.time - ended_s) < _NEAR_S:
            yield MemoryThen(used_bytes, limit_bytes, event.time, *_weigh(sizes, recipe, task))


def _in_state(directory: Path, recipe: str | None, task: str | None) -> Iterator[MemoryThen]:
    """What a killed build left behind."""
    state = StateFile(directory).left()
    if state is not None:
        sizes = {(running.recipe, running.task): running.current_bytes for running in state.tasks.values()}
        yield MemoryThen(state.used_bytes, state.limit_bytes, state.time, *_weigh(sizes, recipe, task))


def _peak_in(path: Path | None, ended_s: float) -> MemoryThen | None:
    """The peak of a build that was still running when the log ended, None where that is not known."""
    for event in events_in_tail(path, _TAIL_BYTES) if path else ():
        if isinstance(event, BuildEnded) and event.peak_bytes and event.time + 1 > ended_s:
            return MemoryThen(event.peak_bytes, event.limit_bytes, event.time, is_peak=True)
    return None


def _weigh(sizes: dict[tuple[str, str], int], recipe: str | None, task: str | None) -> tuple[int | None, str | None]:
    """What this task used, and the name of the heaviest other one."""
    own = sizes.get((recipe or "", task or ""))
    others = {name: size for name, size in sizes.items() if name != (recipe, task) and size > (own or 0)}
    heaviest = max(others.items(), key=lambda item: item[1], default=None)
    return own, " ".join(heaviest[0]) if heaviest else None
