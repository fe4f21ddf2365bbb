# SPDX-License-Identifier: MIT
"""`memguard top`: a running build, live in the terminal, or as plain lines where there is none.

Runs in: outside BitBake.
Covers: waiting for a build, following it to its end, and what there is to say when none runs.
Does not cover: reading the state (state_file), drawing it (top_screen).
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import click
from rich.console import Console
from rich.live import Live

from memguard.units import format_bytes
from memguard_cli.builds.assemble import end_of, first_s, logs_of
from memguard_cli.builds.directory import DIRECTORY_NAME, find_directory
from memguard_cli.builds.state import BadState, NoState, State, now_s, read_state
from memguard_cli.screens import event_words
from memguard_cli.screens.text import make_console, plain, printable
from memguard_cli.screens.top import Room, draw, duration, event_line, status

# On a terminal, and for plain lines, which stay.
_INTERVAL_S, _PLAIN_INTERVAL_S = 1.0, 10.0
# How soon a new size of the terminal, a new event or the end of the build shows.
_LOOK_S = 0.2


@click.command()
@click.argument("build", required=False, type=click.Path(path_type=Path), metavar="[BUILD DIRECTORY]")
@click.option("--interval", type=float, metavar="S", help="Seconds between pictures: 1, or 10 between plain lines.")
@click.option("--once", is_flag=True, help="Print one picture and end.")
@click.option("--wait", is_flag=True, help="Wait for a build that has not begun.")
def top(build: Path | None, interval: float | None, once: bool, wait: bool) -> int:
    """Watch a running build: memory against the limit, what each task takes, who is held and why.

    BUILD DIRECTORY is where bitbake was started, else $BUILDDIR or the current directory; its MEMGUARD_DIR will do,
    too. It ends with the build, or with Ctrl-C. Without a terminal it prints a line for each event and now and then
    one for the whole. NO_COLOR is respected.

    Example: memguard top ~/yocto/build

    Exit status: 0 the build has ended, 2 there is none to watch, 130 interrupted.
    """
    if interval is not None and not 0.1 <= interval <= 3600:
        raise click.UsageError(f"--interval {interval:g}: not between 0.1 and 3600 seconds; a good one is 1")
    if once and wait:
        raise click.UsageError("--once and --wait exclude each other: one looks now, the other later")
    directory = find_directory(build, is_awaited=wait)
    console = make_console()
    state = _await(directory, console) if wait else _current(directory)
    view = _View(directory, console)
    if once:
        console.print(view.picture(state, room_height=None))
        return 0
    is_live = console.is_terminal and not console.is_dumb_terminal
    with _ended_by_signals():
        if is_live:
            last = view.follow_live(state, interval or _INTERVAL_S)
        else:
            last = view.follow(state, interval or _PLAIN_INTERVAL_S)
    with contextlib.suppress(NoState, BadState):
        left = _read_twice(directory)
        if not left.has_writer(now_s()):
            _refuse_dead(directory, left)
    console.print(plain(_farewell(directory, last)), soft_wrap=True)
    return 0


def _current(directory: Path) -> State:
    """The state of the build that runs. Raises UsageError where none does."""
    try:
        state = _read_twice(directory)
    except NoState:
        raise click.UsageError(
            f"no build is running in {_place(directory)}; --wait waits for one, and memguard report tells of the last"
        ) from None
    except BadState as error:
        raise click.UsageError(str(error)) from None
    if not state.has_writer(now_s()):
        _refuse_dead(directory, state)
    return state


def _read_twice(directory: Path) -> State:
    """The state; a damaged one is read again, since a network's file system may show the moment of its change."""
    try:
        return read_state(directory)
    except BadState:
        time.sleep(_LOOK_S)
        return read_state(directory)


def _refuse_dead(directory: Path, state: State) -> NoReturn:
    """Say what is left of a build that was killed."""
    heaviest = state.heaviest
    ago = f"{duration(now_s() - state.time_s)} ago"
    memory = f"{format_bytes(state.used_bytes)} were used"
    if state.limit_bytes is not None:
        memory += f" of {format_bytes(state.limit_bytes)}"
    last = f"no task ran, {memory}"
    if heaviest is not None:
        last = f"the heaviest task was {heaviest.name} with {format_bytes(heaviest.current_bytes)}, and {memory}"
    raise click.UsageError(
        f"the build in {_place(directory)} was killed {ago}: its sentinel (process {state.pid}) is gone; {last}"
    )


def _place(directory: Path) -> Path:
    """What a person calls the build in a MEMGUARD_DIR: its build directory."""
    return directory.parent if directory.name == DIRECTORY_NAME else directory


def _await(directory: Path, console: Console) -> State:
    """The state of the build that runs here, as soon as one does."""
    is_told = False
    while True:
        with contextlib.suppress(NoState):
            try:
                state = _read_twice(directory)
            except BadState as error:
                raise click.UsageError(str(error)) from None
            if state.has_writer(now_s()):
                return state
        if not is_told:
            console.print(plain(f"waiting for a build in {_place(directory)}"), soft_wrap=True)
            is_told = True
        time.sleep(_LOOK_S)


class _View:
    """One build, followed until its state is gone or nobody writes it any more."""

    def __init__(self, directory: Path, console: Console) -> None:
        self._directory = directory
        self._console = console
        self._title = f"memguard  {_place(directory)}"
        self._began_s = _began_s(directory)
        self._has_blocks = not console.options.ascii_only

    def picture(self, state: State, room_height: int | None) -> Any:
        room = Room(self._console.width, room_height, self._has_blocks)
        return draw(state, self._title, self._began_s, now_s(), room)

    def follow_live(self, state: State, interval_s: float) -> State:
        """Draw until the build ends; the last state. What was on the screen before is there again afterwards."""
        with Live(console=self._console, screen=True, auto_refresh=False, redirect_stdout=False) as live:
            for last, _ in self._looks(state, interval_s, self._size):
                live.update(self.picture(last, self._console.height), refresh=True)
        return last

    def follow(self, state: State, interval_s: float) -> State:
        """Print a line for each event, and one for the whole in each interval, until the build ends."""
        known: list[dict[str, Any]] | None = None
        told_at_s = -interval_s
        for last, at_s in self._looks(state, _LOOK_S, lambda: None):
            events = [event for event in last.events if event_words.is_worth_telling(event)]
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

    def _size(self) -> object:
        return self._console.size

    def _looks(self, state: State, interval_s: float, size: Any) -> Iterator[tuple[State, float]]:
        """The state and the monotonic time, now, after each interval, and when the size has changed."""
        while True:
            looked_at_s, looked_size = time.monotonic(), size()
            yield state, looked_at_s
            while True:
                left_s = looked_at_s + interval_s - time.monotonic()
                if left_s <= 0 or size() != looked_size:
                    break
                time.sleep(min(left_s, _LOOK_S))
                if not (self._directory / DIRECTORY_NAME).exists():
                    break
            try:
                state = _read_twice(self._directory)
            except NoState:
                return
            except BadState as error:
                raise click.UsageError(str(error)) from None
            if not state.has_writer(now_s()):
                return


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Leave the terminal as it was also when told to end, or when the terminal goes away."""

    def end(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _began_s(directory: Path) -> float | None:
    """When the newest build began, by its events log."""
    with contextlib.suppress(OSError, IndexError):
        return first_s(logs_of(directory)[-1])
    return None


def _farewell(directory: Path, state: State) -> str:
    """What is said when the build has ended."""
    end, place = None, _place(directory)
    with contextlib.suppress(OSError, IndexError):
        end = end_of(logs_of(directory)[-1])
    if end is None:
        return printable(f"The build in {place} has ended. More: memguard report {place}")
    peak = "" if end.peak_bytes is None else f", at most {format_bytes(end.peak_bytes)}"
    limit = end.limit_bytes if end.limit_bytes is not None else state.limit_bytes
    peak += f" of {format_bytes(limit)} used" if peak and limit is not None else " used" if peak else ""
    wall = "" if end.wall_s is None else f" after {duration(end.wall_s)}"
    return printable(f"The build in {place} has ended{wall}{peak}. More: memguard report {place}")
