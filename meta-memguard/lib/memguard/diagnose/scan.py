# SPDX-License-Identifier: MIT
"""One pass over a log, however long it is.

Runs in: everywhere; pure but for reading the stream it is given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Protocol

from memguard.diagnose.console import Console
from memguard.diagnose.lines import strip_prefixes
from memguard.diagnose.verdict import LONGEST_LINE, Finding, Judge


class Source(Protocol):
    """Anything that is read as a binary file is."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, none at the end."""


def classify(lines: Iterable[str], task: str = "") -> Finding:
    """Judge a log given as lines, with or without their ends; `task` is the task whose log it is, if any."""
    scan = _Scan(task)
    for line in lines:
        text = line[:-1] if line.endswith("\n") else line
        scan.feed(text.replace("\n", " ").encode("utf-8", "replace") + b"\n")
    return scan.finish()


def classify_stream(source: Source, task: str = "") -> Finding:
    """Judge a log of any size in one pass: keeps some 3 MiB. Bytes that are no UTF-8 do not matter."""
    scan = _Scan(task)
    while chunk := source.read(_CHUNK_BYTES):
        scan.feed(chunk)
    return scan.finish()


# Looking for a few stems in whole chunks is what makes a log of hundreds of MiB a matter of seconds. Every word of the
# memory rules holds one; what may stand around a frequent stem is looked at before its line is.
_STEMS: tuple[tuple[bytes, tuple[bytes, ...], tuple[bytes, ...]], ...] = (  # stem, what stands before or after it
    (
        b"emory",
        (b"of m", b"ate m", b"ent m", b"enough m", b"to m", b": m", b"irtual m", b"Out_of_m"),
        (b" ex", b" alloc", b" cg", b" us", b" li", b"Error", b"Exception"),
    ),
    (b"alloc", (b"t ", b"o ", b"o re", b"bad_"), ()),
    (
        b"137",
        (
            b"rror ",
            b"ode ",
            b"ode: ",
            b"ode=",
            b"ode '",
            b'ode": ',
            b"   ",
            b"tatus ",
            b"tatus '",
            b"xit ",
            b"with ",
            b"ed ",
            b"Done(",
            b"alue ",
        ),
        (),
    ),
    (b"-9", (b"rror ", b"ode ", b"ode: ", b"tatus ", b"'", b"("), ()),
    (b"SIG", (b"sending ",), (b"KILL",)),
    (b"oom", (), (b"-kill", b"_reaper")),
    (b" 12", (b"rrno", b"rrno:", b"rror"), ()),
    (b"ill", (), (b"ed", b" process", b"able")),
    (b"ignal", (), ()),
    (b"OOM", (), ()),
    (b"ENOMEM", (), ()),
    (b"enough space", (), ()),
    (b"to commit", (), ()),
    (b"to reserve", (), ()),
    (b"commit_m", (), ()),
    (b"LLVM ERR", (), ()),
    (b"compiler error", (), ()),
    (b"abruptly", (), ()),
    (b"standard input}", (), ()),
    (b"Bazel server", (), ()),
)
_CHUNK_BYTES = 1 << 20
_KEPT_CHUNKS = 2
# Nothing but progress (what ninja, Kbuild and make echo), quoted source, warnings.
_DULL = re.compile(
    rb"(?:\| )?(?:\[\d+/\d+\] |  (?:CC|CXX|LD|AR|AS|HOSTCC)\b|\s*$|(?:ccache )?\S*(?:gcc|g\+\+|clang) +-|"
    rb" +(?:\d+ )?\| |[^\s:]+:\d+:\d+: warning: )"
)


class _Scan:
    """Bytes in, finding out. Words of memory count everywhere, all else in the last 2 MiB."""

    def __init__(self, task: str) -> None:
        self._judge = Judge(task)
        self._console = Console()
        self._rest = b""
        self._line = 1
        self._kept: list[tuple[int, bytes]] = []

    def feed(self, data: bytes) -> None:
        self._rest += data
        if len(self._rest) >= _CHUNK_BYTES:
            end = self._rest.rfind(b"\n") + 1 or len(self._rest)
            self._take(self._rest[:end])
            self._rest = self._rest[end:]

    def _take(self, chunk: bytes) -> None:
        for number, line in _candidates(chunk, self._line):
            self._judge.take_memory(number, strip_prefixes(line))
        self._kept.append((self._line, chunk))
        del self._kept[:-_KEPT_CHUNKS]
        self._line += chunk.count(b"\n")

    def finish(self) -> Finding:
        if self._rest:
            self._take(self._rest)
        for first, chunk in self._kept:
            silent: list[tuple[int, str]] = []
            for number, raw in enumerate(chunk.split(b"\n"), first):
                if _DULL.match(raw) and not silent:
                    continue
                for part in raw.rstrip(b"\r").split(b"\r"):
                    if part and len(part) <= LONGEST_LINE:
                        text = strip_prefixes(part.decode("utf-8", "replace"))
                        silent = self._take_text(number, text, silent)
        self._console.finish(self._judge)
        return self._judge.finish()

    def _take_text(self, number: int, text: str, edge: list[tuple[int, str]]) -> list[tuple[int, str]]:
        """One line of the last part; `edge` is what ninja said of a failed edge so far: a line, a command, output."""
        self._judge.take_other(number, text)
        self._console.take(number, text)
        if text.startswith("FAILED: "):
            return [(number, text)]
        if edge and (text.startswith("ninja: build stopped") or re.match(r"\[\d+/\d+\] ", text)):
            if len(edge) <= 2:
                self._judge.doubt(*edge[0], "the command ninja ran failed without a word")
            return []
        return [*edge, (number, text)][:4] if edge else []


def _candidates(chunk: bytes, first_line: int) -> Iterator[tuple[int, str]]:
    """The lines that hold a stem, with their numbers; of long ones the part around it."""
    ends: dict[int, int] = {}
    for stem, before, behind in _STEMS:
        is_rare = not before and not behind
        at = chunk.find(stem)
        while at >= 0:
            after = at + len(stem)
            if is_rare or chunk.endswith(before, 0, at) or chunk.startswith(behind, after):
                start, after = _line_around(chunk, at)
                ends[start] = max(after, ends.get(start, 0))
            at = chunk.find(stem, after)
    counted, number = 0, first_line
    for start in sorted(ends):
        number += chunk.count(b"\n", counted, start)
        counted = start
        yield number, chunk[start : ends[start]].decode("utf-8", "replace")


def _line_around(chunk: bytes, at: int) -> tuple[int, int]:
    """Where the line begins and ends that holds the byte `at`; a carriage return parts lines, too."""
    lowest, highest = max(0, at - LONGEST_LINE), min(len(chunk), at + LONGEST_LINE)
    start = max(chunk.rfind(b"\n", lowest, at), chunk.rfind(b"\r", lowest, at)) + 1 or lowest
    end = chunk.find(b"\n", at, highest)
    end = highest if end < 0 else end
    stop = chunk.find(b"\r", at, end)
    return start, end if stop < 0 else stop
