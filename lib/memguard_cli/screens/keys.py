# SPDX-License-Identifier: MIT
"""Keys that are pressed while a screen is shown.

Runs in: outside BitBake.
Covers: single keys without Enter, arrows and their kin, a standard input that is no terminal (no key is ever pressed).
Does not cover: what a key does (follow).
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Iterator

try:
    import termios
    import tty
except ImportError:  # not on this system
    termios = tty = None  # type: ignore[assignment]

_SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1bOH": "home",
    b"\x1b[1~": "home",
    b"\x1b[F": "end",
    b"\x1bOF": "end",
    b"\x1b[4~": "end",
    b"\x1b": "escape",
}


class Keys:
    """The keys of one terminal; without one (descriptor None) none is ever pressed."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def wait(self, seconds: float) -> list[str]:
        """The keys that were pressed, as soon as there is one, or none after so long."""
        if self._descriptor is None:
            time.sleep(seconds)
            return []
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return []
        pressed = os.read(self._descriptor, 256)
        if not pressed:  # the other end is closed
            self._descriptor = None
        return list(_names(pressed))


def _names(pressed: bytes) -> Iterator[str]:
    """The keys in what a terminal sends; what is no key that anybody asks for is passed over."""
    while pressed:
        found = next((sequence for sequence in _SEQUENCES if pressed.startswith(sequence)), pressed[:1])
        pressed = pressed[len(found) :]
        yield _SEQUENCES.get(found, found.decode("ascii", "replace"))


@contextlib.contextmanager
def keys_of_terminal() -> Iterator[Keys]:
    """The keys of standard input, without Enter and without an echo; the terminal is as before afterwards."""
    descriptor = _terminal()
    if descriptor is None:
        yield Keys(None)
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield Keys(descriptor)
    finally:
        # In the background this would stop us, and the terminal is somebody else's then.
        with contextlib.suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _terminal() -> int | None:
    """Standard input where it is a terminal, and not that of a shell that has us in the background."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        descriptor = sys.stdin.fileno()
        if termios is not None and os.isatty(descriptor) and _is_in_foreground(descriptor):
            return descriptor
    return None


def _is_in_foreground(descriptor: int) -> bool:
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:  # no shell controls us by it
        return True
