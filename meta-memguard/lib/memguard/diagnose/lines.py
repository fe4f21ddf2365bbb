# SPDX-License-Identifier: MIT
"""A line of a log: its message, and whether that only quotes something.

Runs in: task children and the `memguard` command; pure, standard library only.
Covers: colours; what BitBake, CI systems, docker build, containers, syslog and dmesg put before a message; source code,
commands and test reports that hold words of failures without meaning them.
Does not cover: what a message says (rule.py).
"""

from __future__ import annotations

import re

_CONTROL = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|_[^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^])"
)
_PREFIX = re.compile(
    r"\s*(?:"
    r"\||"  # BitBake's console, quoting the log of a task
    r"\#\d+ (?:\d+\.\d+|ERROR:)(?= )|"  # docker build
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?(?: \d\d[OE]\+?)?"
    r"(?: - (?:INFO|ERROR|WARNING|DEBUG|CRITICAL) +-)?(?= )|"
    r"\[\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[^\]]{0,12}\]|\[\d\d:\d\d:\d\d(?:\.\d+)?\]|"
    r"\d{1,3}:\d\d(?::\d\d)?(?:[.,]\d+)?(?: -)?(?= )|"  # Jenkins, mozbuild
    r"(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])?|"  # dmesg
    r"\[(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) \w{3} +\d+ \d\d:\d\d:\d\d \d{4}\]|"  # dmesg -T
    r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +\d+ (?:\d\d:\d\d:\d\d)(?:\.\d+)? [\w.:-]+ "  # syslog
    r"(?:kernel|[\w./@-]+\[\d+\]):|"
    r"kern +:\w+ *:|kernel:|"
    r"\[(?:stderr|stdout|INFO|ERROR|WARN(?:ING)?|DEBUG|EXTRA|ALL) *\]|\[pod/[^\]]+\]|\[\d{1,3}\](?= )|"
    r"\#\#\[(?:error|warning|group|command|debug)\]|::(?:error|warning)[^:]*::|"
    r"[A-Za-z][\w.-]{0,40} +\|(?= )|"  # docker compose
    r"[a-z][\w.+-]{1,60}-r\d+:(?= )|"  # portage
    r"(?:NOTE|INFO|DEBUG):(?= )|"
    r">(?= )"
    r")[ \t]?"
)
_MOST_PREFIXES = 6
# What no message begins with: numbered source, traces of a shell, comments, warnings, results of tests, commands.
_QUOTED = re.compile(
    r"\s*(?:\d+ \||\+{1,4} |//|/\*|\* |#(?:define|include|error|warning|if|pragma)\b|"
    r"(?:PASS|PASSED|SKIP|SKIPPED|XFAIL|ok|not ok)\b|checking |-- |"
    r"warning: |\S+: warning: |[^\s:]+:\d+(?::\d+)?: (?:warning|note): |.*\.\.\. ?(?:ok|OK|PASSED|yes|no)$|"
    r"(?:@?echo|printf|grep|assert\w*|expect\w*|raise|print)\b|"
    r"(?:ccache )?(?:\S*[/-])?(?:gcc|g\+\+|cc|c\+\+|clang|clang\+\+|rustc)(?:-[\d.]+)? -)"
)
# Longer lines are looked at in part, or not at all. In bytes.
LONGEST_LINE = 4096


def strip_prefixes(line: str) -> str:
    """The message of a line: without colours, and without what is put before it."""
    text = _CONTROL.sub("", line).replace("\r", "").rstrip()
    for _ in range(_MOST_PREFIXES):
        found = _PREFIX.match(text)
        if not found or not found.end():
            break
        text = text[found.end() :]
    return text.strip()


def is_quoted(text: str) -> bool:
    """Whether a message only quotes source code, a command or a report, so that its words mean nothing."""
    return _QUOTED.match(text) is not None
