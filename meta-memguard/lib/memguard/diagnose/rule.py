# SPDX-License-Identifier: MIT
"""A rule: what a line of a log says of memory.

Runs in: everywhere; pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

MEMORY = "memory"
OTHER = "other"
UNCLEAR = "unclear"
# How much a line says; `failures` tells how they are weighed.
STATED, KILLED, STOPPED, CAUSE, HINT, DOUBT, WEAK, FAILED = range(8)
VERDICTS = {
    STATED: MEMORY,
    KILLED: MEMORY,
    HINT: MEMORY,
    CAUSE: OTHER,
    STOPPED: OTHER,
    WEAK: OTHER,
    FAILED: OTHER,
    DOUBT: UNCLEAR,
}
Reader = Callable[["re.Match[str]"], "tuple[int, str, str | None]"]


@dataclass(frozen=True)
class Rule:
    """One way of dying: searched for in lines without prefixes that hold one of `words`.

    patterns: the group "program" (or "victim", where that one comes before) names who died.
    read: looks closer: gives strength, reason, program.
    """

    strength: int
    reason: str
    words: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...]
    read: Reader | None = None

    def find(self, text: str) -> re.Match[str] | None:
        """Where the line says it, None where it does not."""
        if any(word in text for word in self.words):
            for pattern in self.patterns:
                found = pattern.search(text)
                if found:
                    return found
        return None

    def weigh(self, found: re.Match[str]) -> tuple[int, str, str | None]:
        """Strength, reason and program of a match."""
        return self.read(found) if self.read else (self.strength, self.reason, named(found))


def rule(strength: int, reason: str, words: str, *patterns: str, read: Reader | None = None) -> Rule:
    return Rule(strength, reason, tuple(words.split("|")), tuple(map(re.compile, patterns)), read)


def named(found: re.Match[str]) -> str | None:
    groups = found.groupdict()
    return program_in(groups.get("victim") or groups.get("program"))


_PROGRAM = re.compile(r"(?=.*\w)[\w.+@-]{1,64}")
_NO_PROGRAM = re.compile(
    r"^(?i:error|fatal|because|caused?|note|warning|info|details|reason|message|failed|what|line)$|(?:Error|"
    r"Exception)$|"
    r"\.so(?:\.|$)|\.(?:o|a|lo|c|cc|cpp|cxx|h|hpp|rs|go|s|S|bb|bc)$"
)


def program_in(words: str | None) -> str | None:
    """The name of the program in a command line or path, None where there is none."""
    for word in (words or "").split():
        word = word.strip("`'\"()[]{}:,;\u201c\u201d\u2018\u2019")
        if (
            not word
            or re.match(r"[A-Za-z_]\w*=", word)
            or word in ("env", "exec", "nice", "time", "&&", "if", "!", "cd")
        ):
            continue
        name = word.replace("\\", "/").rstrip("/").rpartition("/")[2]
        return name if _PROGRAM.fullmatch(name) and not _NO_PROGRAM.search(name) else None
    return None
