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
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live

from memguard.channels.build_directory import BuildDirectory
from memguard.channels.state import State
from memguard.record.events import Event
from memguard.units import format_bytes
from memguard_cli.builds.assemble import end_of, first_s, logs_of
from memguard_cli.builds.directory import build_directory_of
from memguard_cli.builds.state import BadState, NoState, has_writer, now_s, read_state
from memguard_cli.errors import UserError
from memguard_cli.screens.text import plain, printable
from memguard_cli.screens.top import Room, draw, duration, event_line, status, worth_telling

# How soon a new size of the terminal, a new event or the end of the build shows.
_LOOK_S = 0.2


def find_running(directory: Path) -> State:
    """The state of the build that runs in a MEMGUARD_DIR. Raises UserError where none does."""
    try:
        state = _read_twice(directory)
    except NoState:
        place = build_directory_of(directory)
        raise UserError(
            f"no build is running in {place}; --wait waits for one, and memguard report tells of the last"
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

    def picture(self, state: State, room_height: int | None) -> RenderableType:
        """The screen, of that many rows or as many as it takes."""
        room = Room(self._console.width, room_height, self._has_blocks)
        return draw(state, self._title, self._began_s, now_s(), room)

    def follow_live(self, state: State, interval_s: float) -> State:
        """Draw until the build ends; the last state. What was on the screen before is there again afterwards."""
        with Live(console=self._console, screen=True, auto_refresh=False, redirect_stdout=False) as live:
            for last, _ in self._looks(state, interval_s, lambda: self._console.size):
                live.update(self.picture(last, self._console.height), refresh=True)
        return last

    def follow(self, state: State, interval_s: float) -> State:
        """Print a line for each event, and one for the whole in each interval, until the build ends."""
        known: list[Event] | None = None
        told_at_s = -interval_s
        for last, at_s in self._looks(state, _LOOK_S, lambda: None):
            events = worth_telling(last)
            for event in [] if known is None else [event for event in events if event not in known]:
                self._say(event_line(event))
            known = events
            if at_s - told_at_s >= interval_s:
                told_at_s = at_s
                self._say(f"{time.strftime('%H:%M:%S')} {status(last)}")
        return last

    def _say(self, line: str) -> None:
        self._console.print(plain(line), soft_wrap=True)
        sys.stdout.flush()

    def _looks(self, state: State, interval_s: float, size: Callable[[], object]) -> Iterator[tuple[State, float]]:
        """The state and the monotonic time, now, after each interval, and when the size has changed."""
        path = BuildDirectory(self._directory).state
        while True:
            looked_at_s, looked_size = time.monotonic(), size()
            yield state, looked_at_s
            while True:
                left_s = looked_at_s + interval_s - time.monotonic()
                if left_s <= 0 or size() != looked_size:
                    break
                time.sleep(min(left_s, _LOOK_S))
                if not path.exists():
                    break
            try:
                state = _read_twice(self._directory)
            except NoState:
                return
            if not has_writer(state, now_s()):
                return


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
    wall = "" if end.wall_s is None else f" after {duration(end.wall_s)}"
    return printable(f"The build in {place} has ended{wall}{peak}. More: memguard report {place}")


def _refuse_dead(directory: Path, state: State) -> None:
    """Raises UserError with what is left of a build that was killed, where this one was."""
    if has_writer(state, now_s()):
        return
    heaviest = state.heaviest
    ago = f"{duration(now_s() - state.time)} ago"
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
