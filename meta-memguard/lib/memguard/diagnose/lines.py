# SPDX-License-Identifier: MIT
"""Lines of a log without what stands before the message.

Runs in: everywhere; pure.
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
    r"(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])?|\[(?:Mon|Tue|Wed|Thu|Fri|Sat|"
    r"Sun) \w{3} +\d+ \d\d:\d\d:\d\d \d{4}\]|"  # dmesg
    r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +\d+ (?:\d\d:\d\d:\d\d)(?:\.\d+)? [\w.:-]+ (?:kernel|"
    r"[\w./@-]+\[\d+\]):|"  # syslog
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


def strip_prefixes(line: str) -> str:
    """A line of a log without colours and without what CI systems, containers, kernels and BitBake put before it."""
    text = _CONTROL.sub("", line).replace("\r", "").rstrip()
    for _ in range(_MOST_PREFIXES):
        found = _PREFIX.match(text)
        if not found or not found.end():
            break
        text = text[found.end() :]
    return text.strip()
