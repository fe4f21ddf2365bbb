# SPDX-License-Identifier: MIT
"""The first look at a log: which of its lines a rule of memory may know.

Runs in: task children and the `memguard` command; pure, standard library only.
Covers: a search for a few parts of words in whole chunks, which is what makes hundreds of MiB a matter of seconds.
Does not cover: what the lines say (memory_rules.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from memguard.diagnose.lines import LONGEST_LINE, decoded

# Nothing but progress (what ninja, Kbuild and make echo), quoted source, warnings.
DULL = re.compile(
    rb"(?:\| )?(?:\[\d+/\d+\] |  (?:CC|CXX|LD|AR|AS|HOSTCC)\b|\s*$|(?:ccache )?\S*(?:gcc|g\+\+|clang) +-|"
    rb" +(?:\d+ )?\| |[^\s:]+:\d+:\d+: warning: )"
)
# Of a chunk no more candidates than these are found, and none that only tell of progress where there are more of those:
# an option with such a word in each command says nothing.
_MOST_CANDIDATES, _MOST_DULL = 5_000, 1_000


class _Stem(NamedTuple):
    """Part of a word of the memory rules; it counts where the pattern fits, which begins with it."""

    word: bytes
    pattern: re.Pattern[bytes]


def _stem(word: bytes, before: bytes = b"", behind: bytes = b"", never_behind: bytes = b"") -> _Stem:
    """`before` and `behind`: one of them must stand beside the word; `before` is parted by "|", each of fixed width."""
    around = [b"(?<=" + one + re.escape(word) + b")" for one in before.split(b"|") if one]
    around += [b"(?=" + behind + b")"] if behind else []
    but = b"(?!" + never_behind + b")" if never_behind else b""
    return _Stem(word, re.compile(re.escape(word) + (b"(?:" + b"|".join(around) + b")" if around else b"") + but))


# Every line that a rule of memory knows holds one. Each costs time with every log, so the fewer the better.
_STEMS = (
    _stem(
        b"emory",
        rb"[oO]f [mM]|ate m|ent m|enough m|to m|: m|\"m|&quot;m|\(m|of_m|OfM|[Ll]ow m|for m|t_m|al m",
        rb" ?(?:ex|al|bu|cg|us|li|qu|re|!)|Error|Exc|Press|\. Th|\.oom|\.av",
    ),
    _stem(b"lloc", rb"[to] a|o re|bad_a|x[mrc]a", rb"ation fail"),
    _stem(
        b"137", rb"[ '\"=(;-]", rb"\)(?<!\w137\))", never_behind=rb"[\d%]|\.\d| \||:\d"
    ),  # nor the number of a quoted line
    _stem(b"-9", rb"[ '=(\";]", rb"$", never_behind=rb"[\w%]|\.\d"),
    _stem(b"ill", rb"", rb"ed\b|ing\b| process|able"),
    _stem(b"oom", rb"ontainer |\"|&quot;|/tasks/|[dD] ", rb"[-_]k|_reaper|d kill|d\["),
    _stem(b"rrno", rb"", rb"\W{1,2}12"),
    _stem(b" bytes", rb"\d", rb""),
    _stem(b"space", rb" |eta", never_behind=rb"[\w-]"),
    _stem(b"xceed"),
    _stem(b"ignal"),
    _stem(b"OOM"),
    _stem(b"MEM"),
    _stem(b"KILL"),
    _stem(b"VmRSS"),
    _stem(b"abruptly"),
    _stem(b"*** ["),
    _stem(b"tandard input}"),
    _stem(b"Bazel server"),
)


def candidates(chunk: bytes, first_line: int) -> Iterator[tuple[int, str]]:
    """The lines that a rule of memory may know, with their numbers; of a long line the part around the word."""
    ends: dict[int, int] = {}
    dull: dict[int, int] = {}
    for word, pattern in _STEMS:
        at = chunk.find(word)
        found = pattern.search(chunk, at) if at >= 0 else None
        while found and len(ends) < _MOST_CANDIDATES:
            start, after = _line_around(chunk, found.start())
            kind = dull if DULL.match(chunk, start) else ends
            kind[start] = max(after, kind.get(start, 0))
            found = pattern.search(chunk, after)
    if len(dull) <= _MOST_DULL:
        ends.update(dull)
    counted, number = 0, first_line
    for start in sorted(ends):
        number += chunk.count(b"\n", counted, start)
        counted = start
        yield number, decoded(chunk[start : ends[start]])


def _line_around(chunk: bytes, at: int) -> tuple[int, int]:
    """Where the line begins and ends that holds the byte `at`; a carriage return parts lines, too."""
    lowest, highest = max(0, at - LONGEST_LINE), min(len(chunk), at + LONGEST_LINE)
    start = max(chunk.rfind(b"\n", lowest, at), chunk.rfind(b"\r", lowest, at)) + 1 or lowest
    end = chunk.find(b"\n", at, highest)
    end = highest if end < 0 else end
    stop = chunk.find(b"\r", at, end)
    return start, end if stop < 0 else stop
