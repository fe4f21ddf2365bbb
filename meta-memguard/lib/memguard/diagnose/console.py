# SPDX-License-Identifier: MIT
"""What a console says without words: it ends while tasks run, or a command fails and prints nothing.

Runs in: task children and the `memguard` command; pure, standard library only.
Covers: which tasks run, by BitBake's console; whether that ends in mid-course; ninja's edges that fail silently.
Does not cover: lines that say why something failed (rule.py).
"""

from __future__ import annotations

import re

from memguard.diagnose.rule import DOUBT, Mark, Sign

# What the reason begins with where a console just stops.
STOPS = "the console stops"
_STARTED = re.compile(r"^recipe (?P<recipe>\S+): task (?P<task>do_\w+): (?P<state>Started|Succeeded|Failed)")
_LISTED = re.compile(r"^\d+: (?P<recipe>\S+) (?P<task>do_\w+) - (?:\d+[hms])+")
_RUNNING = re.compile(
    r"^(?:Running (?:setscene )?task \d+ of \d+ |Currently +\d+ running tasks|"
    r"Executing (?:SetScene |RunQueue )?Tasks|Initialising tasks)"
)
_ENDED = re.compile(r"^(?:Tasks Summary: |Summary: |Attempted \d+ tasks|Keyboard Interrupt|Second Keyboard)")
_MOST_TASKS = 4096


class Console:
    """Follows BitBake's console, line by line, to see whether it ends in mid-course."""

    def __init__(self) -> None:
        self._running: set[tuple[str, str]] = set()
        self._is_console = False
        self._has_ended = False
        self._last = (0, "")

    def take(self, line: int, text: str) -> bool:
        """Whether this is one of the messages by which BitBake's console is known."""
        if _RUNNING.match(text):
            self._is_console, self._has_ended = True, False
            if text.startswith("Currently"):
                self._running.clear()
            self._last = (line, text)
        elif _ENDED.match(text):
            self._has_ended = True
        elif self._take_task(text):
            self._is_console = True
            self._last = (line, text)
        else:
            return False
        return True

    def _take_task(self, text: str) -> bool:
        """Whether the message says that a task runs, or runs no longer."""
        found = _STARTED.match(text)
        if found and found["state"] != "Started":
            self._running.discard((found["recipe"], found["task"]))
            return True
        found = found or _LISTED.match(text)
        if found and len(self._running) < _MOST_TASKS:
            self._running.add((found["recipe"], found["task"]))
            return True
        return False

    def finish(self) -> Mark | None:
        """What the end of the console says, None where it is no console, or came to its end."""
        if not self._is_console or self._has_ended:
            return None
        sign = Sign(DOUBT, f"{STOPS} in mid-course: killed all at once, cut off, or still running")
        return Mark(*self._last, sign)


_PROGRESS = re.compile(r"\[\d+/\d+\] ")
_NINJA = re.compile(r"FAILED: |ninja: build stopped|\[\d+/\d+\] ")


class SilentEdges:
    """Follows ninja, line by line, to find an edge that fails and prints nothing: "FAILED: x", its command, no more."""

    def __init__(self) -> None:
        self._failed: tuple[int, str] | None = None
        self._following = 0

    @property
    def is_open(self) -> bool:
        """Whether the lines that come now are those of an edge that failed."""
        return self._failed is not None

    def take(self, line: int, *messages: str) -> Mark | None:
        """Look at one line; what it says of the edge before it, if that failed without a word."""
        text = next((text for text in messages if _NINJA.match(text)), "")
        if text.startswith("FAILED: "):
            self._failed, self._following = (line, text), 0
        elif self._failed and (text.startswith("ninja: build stopped") or _PROGRESS.match(text)):
            failed, self._failed = self._failed, None
            if self._following <= 1:
                return Mark(*failed, Sign(DOUBT, "the command ninja ran failed without a word"))
        else:
            self._following += 1
        return None
