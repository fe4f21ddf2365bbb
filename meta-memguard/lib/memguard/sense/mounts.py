# SPDX-License-Identifier: MIT
"""The mount table of a process, /proc/PID/mountinfo, as text -> mounts.

Runs in: the BitBake server, the sentinel and the command; pure.
Covers: the fields that say what is mounted where, as the process sees it.
Does not cover: reading the file, and what a mount of cgroups shows (cgroups).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple


class Mounted(NamedTuple):
    """One mount: where, which part of its file system it shows, the kind of that, and options of mount and of it."""

    point: str
    root: str
    kind: str
    options: frozenset[str]
    super_options: frozenset[str]


def parse(mountinfo: str) -> Iterator[Mounted]:
    """The mounts in the order of mounting; format in proc_pid_mountinfo(5). Lines of another shape are passed over."""
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if dash and len(fields) >= 6 and len(tail) >= 3:
            options, super_options = frozenset(fields[5].split(",")), frozenset(tail[2].split(","))
            yield Mounted(_unescape(fields[4]), _unescape(fields[3]), tail[0], options, super_options)


def over(path: str, mountinfo: str) -> Mounted | None:
    """The mount that an absolute `path` lies on: the deepest, and of two on one point the later; None of none."""
    found, deepest = None, -1
    for mounted in parse(mountinfo):
        point = mounted.point.rstrip("/")
        if f"{path}/".startswith(f"{point}/") and len(point) >= deepest:
            found, deepest = mounted, len(point)
    return found


def _unescape(field: str) -> str:
    """A field with its octal escapes (\\040 for a space) undone."""
    return re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), field)
