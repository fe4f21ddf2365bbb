# SPDX-License-Identifier: MIT
"""A log, however long it is -> what it says, in one pass.

Runs in: task children and the `memguard` command; pure but for reading the stream it is given.
Covers: which lines are looked at closely: words of memory count everywhere, all else in the last 2 MiB. Of a log that
has nothing but short lines, or words of memory in each, no more than a given number.
Does not cover: opening files; the first look (stems.py); what lines say (memory_rules.py, other_rules.py), and weigh
(verdict.py).
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import Protocol

from memguard.diagnose.console import Console, FailedEdges
from memguard.diagnose.lines import LONGEST_LINE, Line, decoded, read_line, wide_encoding_of, without_colours
from memguard.diagnose.prefixes import MOST_LINES, Prefixes, learn
from memguard.diagnose.stems import DULL, candidates
from memguard.diagnose.verdict import Finding, Judge

_CHUNK_BYTES = 1 << 20
_KEPT_CHUNKS = 2
_SAMPLE_BYTES = 16 << 10
# Lines that are looked at closely at the end: 2 MiB of a build's log have 30,000, and a look takes some 20 us.
_CLOSE_LINES = 60_000
# Lines with words of memory that are looked at closely in all, and those of each later chunk, its last ones.
_CLOSE_CANDIDATES, _LATER_CANDIDATES = 20_000, 200


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
    """Judge a log of any size in one pass: keeps some 3 MiB. Bytes that are no UTF-8 are taken for Latin-1."""
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
        self._candidates_left = _CLOSE_CANDIDATES

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
        found = list(candidates(chunk, self._line))
        most = max(self._candidates_left, _LATER_CANDIDATES)
        self._candidates_left -= len(found)
        for number, line in found[-most:]:
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
        surplus = sum(_count_parts(chunk) for _, chunk in self._kept) - _CLOSE_LINES
        for first, chunk in self._kept:
            edges = FailedEdges()
            skipped, surplus = surplus, surplus - _count_parts(chunk)
            for number, line in _lines(chunk, first, edges, skipped):
                if not edges.shows_command:
                    self._judge.take_other(number, line)
                any(console.take(number, text) for text in line.messages)
                silent = edges.take(number, *line.messages)
                if silent:
                    self._judge.add(silent)
        self._judge.add_console(console)
        return self._judge.finish()


def _count_parts(chunk: bytes) -> int:
    """Lines, and parts of lines between carriage returns."""
    return chunk.count(b"\n") + chunk.count(b"\r") + 1


def _lines(chunk: bytes, first_line: int, edges: FailedEdges, surplus: int = 0) -> Iterator[tuple[int, Line]]:
    """The lines of the last part by their messages, with their numbers; dull ones only inside a failed edge.

    surplus: so many lines, or parts of lines between carriage returns, are passed over first.
    """
    prefixes = _prefixes_of(chunk)
    for number, raw in enumerate(chunk.split(b"\n"), first_line):
        skipped = max(0, surplus)
        surplus -= 1 + raw.count(b"\r")
        if surplus >= 0:
            continue
        if edges.is_open or not DULL.match(raw):
            for part in raw.rstrip(b"\r").split(b"\r")[skipped:]:
                if part and len(part) <= LONGEST_LINE:
                    yield number, read_line(decoded(part), prefixes)


def _prefixes_of(chunk: bytes) -> Prefixes:
    """What stands before the messages of a chunk, by the lines at its begin, in its middle, and at its end."""
    if len(chunk) <= 3 * _SAMPLE_BYTES:
        sample = chunk.split(b"\n")
    else:
        middle = (len(chunk) - _SAMPLE_BYTES) // 2
        parts = (chunk[:_SAMPLE_BYTES], chunk[middle : middle + _SAMPLE_BYTES], chunk[-_SAMPLE_BYTES:])
        sample = [line for part in parts for line in part.split(b"\n")[1:-1]]
    sample = sample[:: max(1, len(sample) // MOST_LINES)]
    return learn([without_colours(decoded(line[:LONGEST_LINE])) for line in sample])
