# SPDX-License-Identifier: MIT
"""The state of a running build, as those who look on read it: a MEMGUARD_DIR -> a State.

Runs in: outside BitBake.
Covers: telling apart a state that is not there, one that is damaged, one of another version, and one whose sentinel
is dead.
Does not cover: what is in it (memguard.channels.state), which docs/events.md tells people.
"""

from __future__ import annotations

import time
from pathlib import Path

import psutil

from memguard.channels.build_directory import BuildDirectory
from memguard.channels.state import IDLE_FRESHEN_S, VERSION, OtherVersion, State, parse
from memguard_cli.builds import plain_file
from memguard_cli.errors import UserError

_MOST_BYTES = 64 * 1024**2
# By this a sentinel is known in a command line.
_SENTINEL = "memguard.sentinel.process"


class NoState(Exception):
    """No build runs."""


class BadState(UserError):
    """What is there is no state, or one that this version cannot read."""


def read_state(directory: Path) -> State:
    """The state in a MEMGUARD_DIR. Raises NoState where there is none, BadState where it cannot be used."""
    path = BuildDirectory(directory).state
    try:
        with plain_file.opened(path) as descriptor, open(descriptor, "rb", closefd=False) as file:
            content = file.read(_MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        raise NoState(str(path)) from None
    except OSError as error:
        raise BadState(f"{path} cannot be read: {error.strerror}") from None
    try:
        return parse(content)
    except OtherVersion as other:
        mend = (
            "update meta-memguard where you run this command to what the build uses"
            if other.version > VERSION
            else "the build uses an older layer; update the layer, or run the memguard command that came with it"
        )
        said = f"{path} is of version {other.version}, and this memguard reads version {VERSION}"
        raise BadState(f"{said}: {mend}") from None
    except ValueError as fault:
        what = f"is half-written or damaged ({fault})" if content.strip() else "is empty"
        raise BadState(f"{path} {what}, which no build leaves; remove it when no build runs here") from None


def has_writer(state: State, now_s: float) -> bool:
    """Whether the sentinel of a state lives at `now_s` (seconds since 1970): it wrote a moment ago, or is there."""
    return abs(now_s - state.time) <= IDLE_FRESHEN_S or _is_sentinel(state.pid)


def _is_sentinel(pid: int) -> bool:
    """Whether the process with this number is a sentinel, and not one that got its number later."""
    try:
        return any(_SENTINEL in word for word in psutil.Process(pid).cmdline())
    except (psutil.Error, ValueError, OverflowError):
        return False


def now_s() -> float:
    """The clock that a state's times are of: seconds since 1970."""
    return time.time()
