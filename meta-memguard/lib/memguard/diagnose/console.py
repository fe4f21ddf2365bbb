# SPDX-License-Identifier: MIT
"""What BitBake's console says of tasks: started, running, ended.

Runs in: everywhere; pure.
"""

from __future__ import annotations

import re

from memguard.diagnose.rule import HINT
from memguard.diagnose.verdict import Judge

STOPS = "the console stops"
_STARTED = re.compile(r"^recipe (?P<recipe>\S+): task (?P<task>do_\w+): (?P<state>Started|Succeeded|Failed)")
_LISTED = re.compile(r"^\d+: (?P<recipe>\S+) (?P<task>do_\w+) - (?:\d+[hms])+")
_RUNNING = re.compile(
    r"^(?:Running (?:setscene )?task \d+ of \d+ |Currently +\d+ running tasks|Executing (?:SetScene |"
    r"RunQueue )?Tasks|Initialising tasks)"
)
_ENDED = re.compile(r"^(?:Tasks Summary: |Summary: |Attempted \d+ tasks|Keyboard Interrupt|Second Keyboard)")
_HEAVY = re.compile(
    r"do_(?:compile|install|package|image|rootfs|kernel|link|populate_sdk|bundle|configure|build_|create_spdx|"
    r"uboot|sizecheck|ptest)\w*"
)
_MOST_TASKS = 4096


class Console:
    """Follows a BitBake console to see whether it ends in mid-course."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], int] = {}
        self._is_console = False
        self._has_ended = False
        self._last = (0, "")

    def take(self, line: int, text: str) -> None:
        if _RUNNING.match(text):
            self._is_console, self._has_ended = True, False
            if text.startswith("Currently"):
                self._running.clear()
            self._last = (line, text)
        elif _ENDED.match(text):
            self._has_ended = True
        else:
            self._take_task(line, text)

    def _take_task(self, line: int, text: str) -> None:
        found = _STARTED.match(text)
        listed = None if found else _LISTED.match(text)
        if found and found["state"] != "Started":
            self._running.pop((found["recipe"], found["task"]), None)
        elif (found or listed) and len(self._running) < _MOST_TASKS:
            named = found or listed
            assert named is not None
            self._running[named["recipe"], named["task"]] = line
        else:
            return
        self._is_console = True
        self._last = (line, text)

    def finish(self, judge: Judge) -> None:
        """Tell the judge of a console that just stops."""
        if not self._is_console or self._has_ended:
            return
        line, text = self._last
        heavy = [task for _, task in self._running if _HEAVY.fullmatch(task) and not task.endswith("_setscene")]
        if heavy:
            judge.doubt(line, text, f"{STOPS} while heavy tasks run: all of BitBake was killed at once", HINT)
        else:
            judge.doubt(line, text, f"{STOPS} in mid-course")
