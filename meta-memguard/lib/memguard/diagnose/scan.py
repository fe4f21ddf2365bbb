# SPDX-License-Identifier: MIT
"""A log, however long it is -> what it says, in one pass.

Runs in: task children and the `memguard` command; pure but for reading the stream it is given.
Covers: which lines are looked at closely: words of memory count everywhere, all else in the last 2 MiB.
Does not cover: opening files; what lines say (memory_rules.py, other_rules.py), and weigh (verdict.py).
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from memguard.diagnose.console import Console, SilentEdges
from memguard.diagnose.lines import LONGEST_LINE, Line, read_line, wide_encoding_of, without_colours
from memguard.diagnose.prefixes import Prefixes, learn
from memguard.diagnose.verdict import Finding, Judge

_CHUNK_BYTES = 1 << 20
_KEPT_CHUNKS = 2
_SAMPLE_BYTES = 16 << 10
# Nothing but progress (what ninja, Kbuild and make echo), quoted source, warnings.
_DULL = re.compile(
    rb"(?:\| )?(?:\[\d+/\d+\] |  (?:CC|CXX|LD|AR|AS|HOSTCC)\b|\s*$|(?:ccache )?\S*(?:gcc|g\+\+|clang) +-|"
    rb" +(?:\d+ )?\| |[^\s:]+:\d+:\d+: warning: )"
)


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


class _Scan:
    """Bytes in, finding out."""

    def __init__(self, task: str) -> None:
        self._judge = Judge(task)
        self._rest = b""
        self._is_new = True
        self._decoder: codecs.IncrementalDecoder | None = None
        self._line = 1
        self._kept: list[tuple[int, bytes]] = []

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the log."""
        if self._is_new:
            self._is_new = False
            encoding = wide_encoding_of(data)
            self._decoder = codecs.getincrementaldecoder(encoding)("replace") if encoding else None
            data = data.removeprefix(codecs.BOM_UTF8)
        if self._decoder is not None:
            data = self._decoder.decode(data).encode("utf-8", "replace")
        self._rest += data
        if len(self._rest) >= _CHUNK_BYTES:
            end = self._rest.rfind(b"\n") + 1 or len(self._rest)
            self._take(self._rest[:end])
            self._rest = self._rest[end:]

    def _take(self, chunk: bytes) -> None:
        """Look for words of memory in a chunk, and keep it in case it is one of the last."""
        prefixes: Prefixes | None = None
        for number, line in candidates(chunk, self._line):
            prefixes = prefixes or _prefixes_of(chunk)
            self._judge.take_memory(number, read_line(line, prefixes))
        self._kept.append((self._line, chunk))
        del self._kept[:-_KEPT_CHUNKS]
        self._line += chunk.count(b"\n")

    def finish(self) -> Finding:
        """Read the last part closely, now that it is known which that is, and judge."""
        if self._rest:
            self._take(self._rest)
        console = Console()
        for first, chunk in self._kept:
            edges = SilentEdges()
            for number, line in _lines(chunk, first, edges):
                self._judge.take_other(number, line)
                any(console.take(number, text) for text in line.messages)
                silent = edges.take(number, *line.messages)
                if silent:
                    self._judge.add(silent)
        stop = console.finish()
        if stop:
            self._judge.add_stop(stop)
        return self._judge.finish()


def _lines(chunk: bytes, first_line: int, edges: SilentEdges) -> Iterator[tuple[int, Line]]:
    """The lines of the last part by their messages, with their numbers; dull ones only inside a failed edge."""
    prefixes = _prefixes_of(chunk)
    for number, raw in enumerate(chunk.split(b"\n"), first_line):
        if edges.is_open or not _DULL.match(raw):
            for part in raw.rstrip(b"\r").split(b"\r"):
                if part and len(part) <= LONGEST_LINE:
                    yield number, read_line(part.decode("utf-8", "replace"), prefixes)


def _prefixes_of(chunk: bytes) -> Prefixes:
    """What stands before the messages of a chunk, by the lines at its begin, in its middle, and at its end."""
    if len(chunk) <= 3 * _SAMPLE_BYTES:
        sample = chunk.split(b"\n")
    else:
        middle = (len(chunk) - _SAMPLE_BYTES) // 2
        parts = (chunk[:_SAMPLE_BYTES], chunk[middle : middle + _SAMPLE_BYTES], chunk[-_SAMPLE_BYTES:])
        sample = [line for part in parts for line in part.split(b"\n")[1:-1]]
    return learn([without_colours(line[:LONGEST_LINE].decode("utf-8", "replace")) for line in sample])


# -- the first look ----------------------------------------------------------------------------------------------------


class _Stem(NamedTuple):
    """Part of a word of the memory rules. One that is frequent counts only next to certain others."""

    word: bytes
    before: tuple[bytes, ...] = ()
    behind: tuple[bytes, ...] = ()


# Looking for a few stems in whole chunks is what makes a log of hundreds of MiB a matter of seconds. Every word of the
# memory rules holds one.
_STEMS = (
    _Stem(
        b"emory",
        (b"of m", b"ate m", b"ent m", b"enough m", b"to m", b": m", b"irtual m", b"Out_of_m", b"OfM"),
        (b" ex", b" alloc", b" cg", b" us", b" li", b"Error", b"Exception"),
    ),
    _Stem(b"alloc", (b"t ", b"o ", b"o re", b"bad_")),
    _Stem(
        b"137",
        (
            *(
                b"rror ",
                b"ode ",
                b"ode: ",
                b"ode=",
                b"ode '",
                b'ode": ',
                b"   ",
                b"tatus ",
                b"tatus '",
                b"tatus: ",
                b"ned '",
            ),
            *(b"xit ", b"with ", b"ed ", b"Done(", b"alue "),
        ),
    ),
    _Stem(b"-9", (b"rror ", b"ode ", b"ode: ", b"tatus ", b"'", b"(")),
    _Stem(b"SIG", (b"sending ",), (b"KILL",)),
    _Stem(b"oom", (), (b"-kill", b"_reaper")),
    _Stem(b" 12", (b"rrno", b"rrno:", b"rror")),
    _Stem(b"ill", (), (b"ed", b" process", b"able")),
    _Stem(b"ignal"),
    _Stem(b"OOM"),
    _Stem(b"ENOMEM"),
    _Stem(b"enough space"),
    _Stem(b"heap space"),
    _Stem(b"oom", (b"ontainer ", b'"', b"/tasks/"), (b"_kill event", b"-kill event")),
    _Stem(b"Expiring Daemon"),
    _Stem(b"MEMLIMIT"),
    _Stem(b"exceeded limit"),
    _Stem(b"to commit"),
    _Stem(b"to reserve"),
    _Stem(b"commit_m"),
    _Stem(b"LLVM ERR"),
    _Stem(b"compiler error"),
    _Stem(b"abruptly"),
    _Stem(b"standard input}"),
    _Stem(b"Bazel server"),
)


def candidates(chunk: bytes, first_line: int) -> Iterator[tuple[int, str]]:
    """The lines that a rule of memory may know, with their numbers; of a long line the part around the word."""
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
