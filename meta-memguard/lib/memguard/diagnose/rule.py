# SPDX-License-Identifier: MIT
"""A rule: one way of failing, how a line of a log says it, and how much that is worth.

Runs in: task children and the `memguard` command; pure, standard library only.
Covers: one line at a time, without what stands before its message (lines.py).
Does not cover: which rules there are (memory_rules.py, other_rules.py); weighing lines against each other (verdict.py).
See also: memguard_cli.advice.remedies, what each Remedy means for a user.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# What a log as a whole may say.
MEMORY, OTHER, UNCLEAR = "memory", "other", "unclear"


class Strength(enum.IntEnum):
    """How much a line says; verdict.py describes each, and weighs them."""

    STATED = 0
    KILLED = 1
    STOPPED = 2
    CAUSE = 3
    HINT = 4
    DOUBT = 5
    WEAK = 6
    FAILED = 7


STATED, KILLED, STOPPED, CAUSE, HINT, DOUBT, WEAK, FAILED = Strength


class Remedy(enum.Enum):
    """What helps, where it is not the same for all memory: whose limit was reached."""

    USUAL = "usual"
    REQUEST = "request"
    SCOPE = "scope"
    BATCH = "batch"
    JAVA_HEAP = "java-heap"
    V8_HEAP = "v8-heap"
    THREADS = "threads"
    MAPPINGS = "mappings"
    ADDRESS_SPACE = "address-space"


@dataclass(frozen=True)
class Sign:
    """What one line says.

    reason:    in a few words, for people.
    program:   who died of it, None where the line names nobody.
    outweighs: strengths that otherwise stand before this sign's.
    """

    strength: Strength
    reason: str
    program: str | None = None
    outweighs: tuple[Strength, ...] = ()
    remedy: Remedy = Remedy.USUAL


@dataclass(frozen=True)
class Mark:
    """A sign, and the line that it was found in; lines count from 1."""

    line: int
    text: str
    sign: Sign


# Looks closer at what a pattern has matched.
Reader = Callable[["re.Match[str]"], Sign]


@dataclass(frozen=True)
class Rule:
    """One way of failing.

    words:    a line that holds none of them is not searched at all.
    patterns: tried one after the other; the group "program" (or "victim", which goes first) names who died.
    read:     says what a match means where `strength` and `reason` alone do not.
    remedy:   of the signs that `read` does not make.
    """

    strength: Strength
    reason: str
    words: tuple[str, ...]
    patterns: tuple[re.Pattern[str], ...]
    read: Reader | None = None
    remedy: Remedy = Remedy.USUAL

    def sign_in(self, messages: Sequence[str]) -> tuple[str, Sign] | None:
        """What a line says by this rule, and which of the messages that it may be; None where it says nothing."""
        for text in messages:
            if self.has_word_in(text):
                for pattern in self.patterns:
                    found = pattern.search(text)
                    if found:
                        return text, self.read(found) if self.read else self._sign(found)
        return None

    def has_word_in(self, text: str) -> bool:
        """Whether a text holds one of the words."""
        for word in self.words:  # noqa: SIM110 - every line of a log comes here, and a generator takes twice as long
            if word in text:
                return True
        return False

    def _sign(self, found: re.Match[str]) -> Sign:
        return Sign(self.strength, self.reason, program_of(found), remedy=self.remedy)


def rule(
    strength: Strength,
    reason: str,
    words: str,
    *patterns: str,
    read: Reader | None = None,
    remedy: Remedy = Remedy.USUAL,
) -> Rule:
    """A row of a table of rules; `words` are parted by "|"."""
    return Rule(strength, reason, tuple(words.split("|")), tuple(map(re.compile, patterns)), read, remedy)


def program_of(found: re.Match[str]) -> str | None:
    """The program that a match says has died, None where it names none."""
    groups = found.groupdict()
    return program_in(groups.get("victim") or groups.get("program"))


_PROGRAM = re.compile(r"(?=.*\w)[\w.+@-]{1,64}")
# Words that messages begin with, names of exceptions, libraries, objects and sources.
_NO_PROGRAM = re.compile(
    r"^(?i:error|fatal|because|caused?|note|warning|info|details|reason|message|failed|what|line|command|process|"
    r"job|task|step|child|it|exit|was|is|script|container)$|"
    r"(?:Error|Exception)$|"
    r"\.so(?:\.|$)|\.(?:o|a|lo|c|cc|cpp|cxx|h|hpp|rs|go|s|S|bb|bc)$"
)
# What stands before a program in a command line, beside VARIABLE=value.
_PRELUDE = ("env", "exec", "nice", "time", "&&", "if", "!", "cd")
_VARIABLE = re.compile(r"[A-Za-z_]\w*=")


def program_in(words: str | None) -> str | None:
    """The name of the program in a command line or path, None where there is none."""
    for word in (words or "").split():
        word = word.strip("`'\"()[]{}:,;\u201c\u201d\u2018\u2019")
        if not word or word.startswith("-") or _VARIABLE.match(word) or word in _PRELUDE:
            continue
        name = word.replace("\\", "/").rstrip("/").rpartition("/")[2]
        return name if _PROGRAM.fullmatch(name) and not _NO_PROGRAM.search(name) else None
    return None


# What a tool begins a message with: its own name. Rules are anchored to it wherever a tool has it, so that source code,
# test names and command lines that hold the same words do not match.
TOOL = r"(?:(?P<program>[\w./+@-]{1,200}?)(?:\[\d+\])?(?:\(\d+\))?: )"
# strsignal(SIGKILL) as C libraries translate it; gcc and collect2 print it inside their own words.
KILLED_WORDS = (
    r"(?:Killed|killed|SIGKILL|Kill|Get(?:ö|oe)tet|Tu(?:é|\\303\\251)|Processus arr[êe]t[ée]|Unicestwiony|Ucciso|"
    r"Matado|Terminado \(killed\)|Morto|Afgeschoten|Geforceerd beëindigd|Убито|Уничтожено|已杀死|已殺掉|"
    r"強制終了(?:しました)?|강제 종료됨|죽었음)"
)
