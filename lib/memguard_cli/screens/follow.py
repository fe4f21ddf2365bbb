# SPDX-License-Identifier: MIT
"""A build followed to its end: live in the terminal, or as plain lines where there is none.

Runs in: outside BitBake.
Covers: waiting for a build, when to look again and to draw, what is said of a build that has ended or was killed.
Does not cover: the picture (top), reading the state (builds/state).
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live

from memguard.channels.build_directory import BuildDirectory
from memguard.channels.state import State
from memguard.record.events import Event, ReadingTaken
from memguard.units import KIB, format_bytes, format_duration
from memguard_cli.builds.assemble import end_of, first_s, logs_of
from memguard_cli.builds.directory import build_directory_of
from memguard_cli.builds.log_lines import events_in_tail
from memguard_cli.builds.state import BadState, NoState, has_writer, now_s, read_state
from memguard_cli.errors import UserError
from memguard_cli.screens.container_bar import COURSE_S
from memguard_cli.screens.keys import Keys, keys_of_terminal
from memguard_cli.screens.text import plain, printable
from memguard_cli.screens.top import Room, Sight, draw, event_line, explain, status, worth_telling

# How soon a new size of the terminal, a new event or the end of the build shows.
_LOOK_S = 0.2
# Five minutes of readings, a line of up to 2 KiB each second.
_TAIL_BYTES = 600 * KIB


def find_running(directory: Path) -> State:
    """The state of the build that runs in a MEMGUARD_DIR. Raises UserError where none does."""
    try:
        state = _read_twice(directory)
    except NoState:
        place = build_directory_of(directory)
        raise UserError(
            f"no build is running in {place}; --wait waits for one, and memguard report shows the last"
        ) from None
    _refuse_dead(directory, state)
    return state


def await_running(directory: Path, console: Console) -> State:
    """The state of the build that runs here, as soon as one does. Raises UserError for a state that is none."""
    is_told = False
    while True:
        with contextlib.suppress(NoState):
            state = _read_twice(directory)
            if has_writer(state, now_s()):
                return state
        if not is_told:
            console.print(plain(f"waiting for a build in {build_directory_of(directory)}"), soft_wrap=True)
            is_told = True
        time.sleep(_LOOK_S)


class View:
    """One build, followed until its state is gone or nobody writes it any more."""

    def __init__(self, directory: Path, console: Console) -> None:
        self._directory = directory
        self._console = console
        self._title = f"memguard  {build_directory_of(directory)}"
        self._began_s = _began_s(directory)
        self._has_blocks = not console.options.ascii_only
        self._course = deque(_course_so_far(directory))
        self._skipped = 0
        self._explains = False

    def picture(self, state: State, room_height: int | None, has_keys: bool = False) -> RenderableType:
        """The screen, of that many rows or as many as it takes."""
        if self._explains:
            return explain(self._console.width)
        room = Room(self._console.width, room_height, self._has_blocks)
        self._course.append((state.time, state.used_bytes))
        while self._course[0][0] < state.time - COURSE_S:
            self._course.popleft()
        self._skipped = max(0, min(self._skipped, len(state.tasks) - 1))
        sight = Sight(self._course, self._skipped, has_keys)
        return draw(state, self._title, self._began_s, now_s(), room, sight)

    def _obey(self, key: str) -> bool:
        """Do what a key asks for; whether to go on."""
        if key in "qQ":
            return False
        page = max(1, self._console.height // 3)
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -page, "page down": page, "home": -(10**6)}
        steps["end"] = 10**6
        self._skipped += steps.get(key, 0)
        if key == "?" or (key == "escape" and self._explains):
            self._explains = not self._explains
        return True

    def follow_live(self, state: State, interval_s: float) -> State | None:
        """Draw until the build ends; the last state, None where a key has ended it before.

        What was on the screen before is there again afterwards.
        """
        with (
            keys_of_terminal() as keys,
            Live(console=self._console, screen=True, auto_refresh=False, redirect_stdout=False) as live,
        ):
            for last, _ in self._looks(state, interval_s, lambda: self._console.size, keys):
                if last is None:
                    return None
                state = last
                live.update(self.picture(state, self._console.height, has_keys=True), refresh=True)
        return state

    def follow(self, state: State, interval_s: float) -> State:
        """Print a line for each event, and one for the whole in each interval, until the build ends."""
        known: list[Event] | None = None
        told_at_s = -interval_s
        for last, at_s in self._looks(state, _LOOK_S, lambda: None, Keys(None)):
            state = last or state
            events = worth_telling(state)
            for event in [] if known is None else [event for event in events if event not in known]:
                self._say(event_line(event))
            known = events
            if at_s - told_at_s >= interval_s:
                told_at_s = at_s
                self._say(f"{time.strftime('%H:%M:%S')} {status(state)}")
        return state

    def _say(self, line: str) -> None:
        self._console.print(plain(line), soft_wrap=True)
        sys.stdout.flush()

    def _looks(
        self, state: State, interval_s: float, size: Callable[[], object], keys: Keys
    ) -> Iterator[tuple[State | None, float]]:
        """The state and the monotonic time, now, after each interval, after a key, and when the size has changed.

        None for the state where a key asks for the end.
        """
        path = BuildDirectory(self._directory).state
        while True:
            looked_at_s, looked_size = time.monotonic(), size()
            yield state, looked_at_s
            while True:
                left_s = looked_at_s + interval_s - time.monotonic()
                if left_s <= 0 or size() != looked_size:
                    break
                pressed = keys.wait(min(left_s, _LOOK_S))
                if not all([self._obey(key) for key in pressed]):
                    yield None, looked_at_s
                    return
                if pressed or not path.exists():
                    break
            try:
                state = _read_twice(self._directory)
            except NoState:
                return
            if not has_writer(state, now_s()):
                return


def _course_so_far(directory: Path) -> Iterator[tuple[float, int]]:
    """What was used in the last minutes, by the readings of the newest build."""
    with contextlib.suppress(OSError, IndexError):
        log = BuildDirectory(directory).readings / logs_of(directory)[-1].name
        for event in events_in_tail(log, _TAIL_BYTES):
            if isinstance(event, ReadingTaken):
                yield event.time, event.used_bytes


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Leave the terminal as it was also when a signal ends this process, or the terminal goes away."""

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def farewell(directory: Path, state: State) -> str:
    """What is said when a build has ended; raises UserError for one that was killed."""
    left = None
    with contextlib.suppress(NoState, BadState):
        left = _read_twice(directory)
    if left is not None:
        _refuse_dead(directory, left)
    end, place = None, build_directory_of(directory)
    with contextlib.suppress(OSError, IndexError):
        end = end_of(logs_of(directory)[-1])
    if end is None:
        return printable(f"The build in {place} has ended. More: memguard report {place}")
    peak = "" if end.peak_bytes is None else f", at most {format_bytes(end.peak_bytes)}"
    limit = end.limit_bytes if end.limit_bytes is not None else state.limit_bytes
    peak += f" of {format_bytes(limit)} used" if peak else ""
    wall = "" if end.wall_s is None else f" after {format_duration(end.wall_s)}"
    return printable(f"The build in {place} has ended{wall}{peak}. More: memguard report {place}")


def _refuse_dead(directory: Path, state: State) -> None:
    """Raises UserError with what is left of a build that was killed, where this one was."""
    if has_writer(state, now_s()):
        return
    heaviest = state.heaviest
    ago = f"{format_duration(now_s() - state.time)} ago"
    memory = f"{format_bytes(state.used_bytes)} were used of {format_bytes(state.limit_bytes)}"
    last = f"no task ran, {memory}"
    if heaviest is not None:
        last = f"the heaviest task was {heaviest.name} with {format_bytes(heaviest.current_bytes)}, and {memory}"
    place = build_directory_of(directory)
    raise UserError(f"the build in {place} was killed {ago}: its sentinel (process {state.pid}) is gone; {last}")


def _read_twice(directory: Path) -> State:
    """The state; a damaged one is read again, since a network's file system may show the moment of its change."""
    try:
        return read_state(directory)
    except BadState:
        time.sleep(_LOOK_S)
        return read_state(directory)


def _began_s(directory: Path) -> float | None:
    """When the newest build began, by its events log."""
    with contextlib.suppress(OSError, IndexError):
        return first_s(logs_of(directory)[-1])
    return None
