# SPDX-License-Identifier: MIT
"""Which task of which recipe a log is about.

Runs in: task children and the `memguard` command; pure, standard library only.
Covers: the path of a task's log; the lines in which BitBake names a task that failed.
Does not cover: opening files.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Place(NamedTuple):
    """A task, as PN and do_NAME."""

    recipe: str
    task: str


_TASK_LOG = re.compile(r"/(?P<recipe>[^/\s]+)/[^/\s]+/temp/(?:log|run)\.(?P<task>do_\w+?)(?:\.\d+)?(?:$|[^\w.])")
_NAMED_BY = (
    _TASK_LOG,
    re.compile(
        r"\bTask \(?(?:\d+ \()?(?P<variant>(?:[\w-]+:)*)(?:/\S*/)?(?P<recipe>[^/\s:]+?)(?:_[^/\s:]*)?\.bb(?::|, )"
        r"(?P<task>do_\w+)\)? failed"
    ),
    # What BitBake lists under "Summary: 1 task failed:".
    re.compile(r"^(?P<variant>(?:[\w-]+:)*)/\S*/(?P<recipe>[^/\s:]+?)(?:_[^/\s:]*)?\.bb:(?P<task>do_\w+)$"),
    re.compile(r"^ERROR: (?P<recipe>[a-z0-9][\w.+-]*?)-(?:\d|git|v\d|svn)[^\s-]*-r\d\S* (?P<task>do_\w+):"),
    re.compile(r"\brecipe (?P<recipe>\S+?)-(?:\d|git|v\d|svn)[^\s-]*-r\d\S*: task (?P<task>do_\w+): Failed"),
)
_MOST_PLACES = 4096


def place_of(path: str) -> Place | None:
    """The task whose log lies at this path (work/ARCH/PN/PV/temp/log.do_compile.123), None for other files."""
    found = _TASK_LOG.search(path)
    return Place(found["recipe"], found["task"]) if found else None


def place_in(text: str) -> Place | None:
    """The task that a line says has failed, None where it names none."""
    if "do_" in text:
        for pattern in _NAMED_BY:
            found = pattern.search(text)
            if found:
                return Place(_named(found["recipe"], found.groupdict().get("variant") or ""), found["task"])
    return None


def _named(recipe: str, variant: str) -> str:
    """PN of a recipe's file in a variant, as it stands before the path: "virtual:native:", "virtual:multilib:x:"."""
    kinds = variant.split(":")
    if "nativesdk" in kinds:
        return f"nativesdk-{recipe}"
    if "multilib" in kinds:
        recipe = f"{kinds[kinds.index('multilib') + 1]}-{recipe}"
    return f"{recipe}-native" if "native" in kinds and not recipe.endswith("-native") else recipe


_PF = re.compile(r"(?P<recipe>.+?)-(?:\d|git|v\d|svn)[^\s-]*-r\d\S*$")


def place_of_run(pf: str, task: str) -> Place:
    """The task that BitBake's console names by PF (name-version-revision) while it runs."""
    found = _PF.match(pf)
    return Place(found["recipe"] if found else pf, task)


class Places:
    """The tasks that the lines of a log name."""

    def __init__(self) -> None:
        self._places: list[tuple[int, Place]] = []

    def take(self, line: int, text: str) -> bool:
        """Whether a line names a task."""
        place = place_in(text)
        if place and len(self._places) < _MOST_PLACES:
            self._places.append((line, place))
        return place is not None

    def nearest(self, line: int) -> Place | None:
        """The task at fault for what this line says: the last one named up to it, else the first one after it."""
        before = [(at, place) for at, place in self._places if at <= line]
        if before:
            return max(before, key=lambda named: named[0])[1]
        after = min(self._places, key=lambda named: named[0], default=None)
        return after[1] if after else None
