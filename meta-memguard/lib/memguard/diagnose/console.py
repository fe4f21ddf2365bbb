# SPDX-License-Identifier: MIT
"""What a console says without words: it ends while tasks run, or a command fails and prints nothing.

Runs in: task children and the `memguard` command; pure, standard library only.
Covers: which tasks run, by BitBake's console; whether that ends in mid-course, or well; ninja's edges that fail
silently.
Does not cover: lines that say why something failed (rule.py).
"""

from __future__ import annotations

import re

from memguard.diagnose.place import Place, place_of_run
from memguard.diagnose.rule import DOUBT, KILLED, Mark, Sign, program_in

# What the reason begins with where a console just stops.
STOPS = "the console stops"
_STARTED = re.compile(r"^recipe (?P<recipe>\S+): task (?P<task>do_\w+): (?P<state>Started|Succeeded|Failed)")
_LISTED = re.compile(r"^\d+: (?P<recipe>\S+) (?P<task>do_\w+) - (?:\d+[hms])+")
_RUNNING = re.compile(
    r"^(?:Running (?:setscene )?task \d+ of \d+ |Currently +\d+ running tasks|"
    r"Executing (?:SetScene |RunQueue )?Tasks|Initialising tasks)"
)
_ENDED = re.compile(r"^(?:Tasks Summary: |Summary: |Attempted \d+ tasks|Keyboard Interrupt|Second Keyboard)")
_SUCCEEDED = re.compile(r"^Tasks Summary: Attempted \d+ tasks .*\ball succeeded\b")
_COMPLAINED = re.compile(r"^Summary: .*\breturning a non-zero exit code\b")
_MOST_TASKS = 4096


class Console:
    """Follows BitBake's console, line by line, to see whether it ends in mid-course."""

    def __init__(self) -> None:
        self._running: set[tuple[str, str]] = set()
        self._is_console = False
        self._has_ended = False
        self._succeeded_at: int | None = None
        self._last = (0, "")

    def take(self, line: int, text: str) -> bool:
        """Whether this is one of the messages by which BitBake's console is known."""
        if _RUNNING.match(text):
            self._is_console, self._has_ended, self._succeeded_at = True, False, None
            if text.startswith("Currently"):
                self._running.clear()
            self._last = (line, text)
        elif _ENDED.match(text):
            self._has_ended = True
            if _SUCCEEDED.match(text) or _COMPLAINED.match(text):
                self._succeeded_at = line if text.startswith("Tasks") else None
        elif self._take_task(text):
            self._is_console = True
            self._last = (line, text)
        else:
            return False
        return True

    @property
    def succeeded_at(self) -> int | None:
        """The line in which the last build says that all of it succeeded, None where it does not."""
        return self._succeeded_at

    @property
    def only_task(self) -> Place | None:
        """The one task that runs, None where there are none or several."""
        return place_of_run(*next(iter(self._running))) if len(self._running) == 1 else None

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
        sign = Sign(DOUBT, f"{STOPS} in mid-course: killed as a whole, cut off, or still running")
        return Mark(*self._last, sign)


_CHAINED = re.compile(r"&&|\|\||;")


def last_program_in(command: str) -> str | None:
    """The program of the last command of a line of shell, also where a variable of that line names it."""
    for part in reversed(_CHAINED.split(command)):
        variable = re.match(r"\s*(?:env (?:-\S+ )*)?[\"']?\$\{?(\w+)\}?[\"']?(?:\s|$)", part)
        if variable:
            values = re.findall(rf"\b{variable[1]}=([^&;]*)", command)
            words = re.findall(r"[\w.+-]+", values[-1]) if values else []
            return program_in(words[-1]) if words else None
        program = program_in(part)
        if program:
            return program
    return None


_PROGRESS = re.compile(r"\[\d+/\d+\] ")
_NINJA = re.compile(r"FAILED: |ninja: build stopped|\[\d+/\d+\] ")


class FailedEdges:
    """Follows ninja, line by line: "FAILED: x", then its command, then what that printed.

    An edge that prints nothing fails without a word; one that prints "Killed" alone says that its command was.
    """

    def __init__(self) -> None:
        self._failed: tuple[int, str] | None = None
        self._command = ""
        self._following = 0

    @property
    def is_open(self) -> bool:
        """Whether the lines that come now are those of an edge that failed."""
        return self._failed is not None

    @property
    def shows_command(self) -> bool:
        """Whether the line that comes now is the command of such an edge, which only quotes what was run."""
        return self._failed is not None and self._following == 0

    def take(self, line: int, *messages: str) -> Mark | None:
        """Look at one line by its messages; what it says of the edge that failed before it."""
        text = next((text for text in messages if _NINJA.match(text)), "")
        if text.startswith("FAILED: "):
            self._failed, self._following = (line, text), 0
        elif self._failed and (text.startswith("ninja: build stopped") or _PROGRESS.match(text)):
            failed, self._failed = self._failed, None
            if self._following <= 1:
                return Mark(*failed, Sign(DOUBT, "the command ninja ran failed without a word"))
        else:
            self._following += 1
            if self._failed and self._following == 1:
                self._command = messages[0]
            elif self._failed and "Killed" in messages and (program := last_program_in(self._command)):
                return Mark(line, "Killed", Sign(KILLED, "killed by signal 9", program))
        return None
