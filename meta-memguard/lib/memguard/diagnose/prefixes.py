# SPDX-License-Identifier: MIT
"""What stands before the message in most lines of a log, learned from the log itself.

Runs in: task children and the `memguard` command; pure, standard library only.
Covers: any prefix, listed nowhere: of CI systems, containers, loggers, terminals; also several sources in one log.
Does not cover: prefixes that are known by their form (lines.py); which of the possible messages says what (rule.py).

A line is a row of tokens: words, runs of blanks, groups in square brackets, single signs. Lines with the same prefix
have the same kinds of tokens at the same places, and at each place either numbers or one of a few words; a message
begins where that ends. Where exactly is not certain, so each plausible place gives a form of the line, and a rule may
know any of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

# Looked at of each line, and of a log.
_LONGEST_PREFIX = 200
_MOST_TOKENS = 64
MOST_LINES = 90
_MOST_PATHS = 4
_MOST_PLACES = 16
# A prefix is what at least this share of the lines has.
_SHARE = 0.12
# A place holds one of a few words where the most frequent four make up this share.
_FEW_WORDS, _FEW_SHARE = 4, 0.7
_NUMBERS_SHARE = 0.6
_ALL_SHARE = 0.95
# An outer prefix, behind which others may stand, is one that at least this share of the lines has.
_OUTER_SHARE = 0.8
# Fewer lines than that teach nothing: whatever ends like a prefix may be one.
_FEW_LINES = 4

_WORD, _GROUP, _BLANK = r"\w[\w.\-/@]*", r"\[[^\[\]\"']{0,60}\]", r"\s+"
_TOKEN = re.compile(rf"{_WORD}|{_GROUP}|{_BLANK}|.", re.DOTALL)
_NUMBER = re.compile(r".*\d|[0-9a-f]{6,}$")
_ALIKE = re.compile(r"\W*\d|[0-9a-f]{6,}$")
# In a log of a few lines: numbers, with up to two words before each (not what tests print); groups, signs,
# words that end in a sign or come before one; names with a value, and columns that end in a tab.
_LIKE_PREFIX = re.compile(
    r"\s*(?:\S{0,80}?[=:|][\"']|(?:\[[^\[\]\"']{0,60}\]|<[^<>]{1,80}>|\([^()]{1,40}\)|\S*\d\S*)\s+|"
    r"\S{0,80}[^\s\w][ \t](?=\S)|"
    r"(?:(?!(?i:test|case|running|all )\w*)\w{1,40} ){1,2}(?:\#?\d+|[|>-])[ \t]+(?=\S)|"
    r"[\w.-]{1,40}=[^\s\"']+[ \t]+|\#\#\w+\[\w+ |"
    r"[^\t]{1,80}\t)"
)
# A date in a column of its own: a line of a CI system, copied with its columns, also into a log of other lines.
_DATED = "\t20"
_KINDS = {"w": _WORD, "g": _GROUP, "b": _BLANK}


@dataclass(frozen=True)
class Prefix:
    """One prefix: `pattern` has an empty group wherever a message may begin; most begin at `likely`, 0 at none.

    inner: the prefixes of what begins there, as where a container's log is copied into that of a CI system.
    """

    pattern: re.Pattern[str]
    likely: int
    inner: tuple[Prefix, ...] = ()


@dataclass(frozen=True)
class Prefixes:
    """The prefixes of one log."""

    learned: tuple[Prefix, ...] = ()
    has_few_lines: bool = False

    def starts_in(self, text: str) -> list[int]:
        """Where the message of a line may begin, the likeliest first; 0 is its beginning."""
        likely, starts = set[int](), set[int]()
        for prefix in self.learned:
            found = prefix.pattern.match(text)
            if found:
                starts.update(found.start(group) for group in range(1, prefix.pattern.groups + 1))
                likely.add(found.start(prefix.likely))
                starts.update(_starts_behind(found.end(prefix.likely), prefix.inner, text))
        if self.has_few_lines:
            at = 0
            while len(starts) < 2 * _MOST_PLACES and (found := _LIKE_PREFIX.match(text, at, at + _LONGEST_PREFIX)):
                at = found.end()
                starts.add(at)
        likely.discard(-1)
        dated = text.find(_DATED, 0, _LONGEST_PREFIX)
        if dated >= 0:
            starts.add(dated + 1)
        first = 0 if self.has_few_lines else max(likely, default=0)
        return [start for start in dict.fromkeys([first, 0, *sorted(starts)]) if 0 <= start < len(text)]


def _starts_behind(at: int, inner: tuple[Prefix, ...], text: str) -> Iterator[int]:
    """Where a message may begin behind an outer prefix, which ends at `at`."""
    for prefix in inner:
        found = prefix.pattern.match(text, at)
        if found:
            yield from (found.start(group) for group in range(1, prefix.pattern.groups + 1))


def learn(lines: Sequence[str]) -> Prefixes:
    """The prefixes of these lines, a sample of a log: bounded work, however many they are."""
    step = max(1, len(lines) // MOST_LINES)
    heads = [line[:_LONGEST_PREFIX] for line in lines[::step][: 2 * MOST_LINES] if line.strip()]
    learned = [
        replace(prefix, inner=tuple(inner for inner, _ in _learn_all(_behind(prefix, heads))))
        if share >= _OUTER_SHARE
        else prefix
        for prefix, share in _learn_all(heads)
    ]
    return Prefixes(tuple(learned), len(heads) < _FEW_LINES)


def _behind(prefix: Prefix, heads: Sequence[str]) -> list[str]:
    """What stands behind a prefix in the lines that have it."""
    found = [prefix.pattern.match(head) for head in heads]
    ends = [match.end(prefix.likely) if match else -1 for match in found]
    return [rest for head, end in zip(heads, ends) if end > 0 and (rest := head[end:]).strip()]


def _learn_all(heads: Sequence[str]) -> Iterator[tuple[Prefix, float]]:
    """The prefixes of lines, none of them behind another, and the share of all lines that each was learned from."""
    rows = [_tokens(head) for head in heads]
    count, fewest = len(rows), max(2, round(_SHARE * len(rows)))
    for _ in range(_MOST_PATHS):
        if len(rows) < fewest:
            break
        prefix, followed = _learn_one(rows, fewest)
        if prefix is not None:
            yield prefix, len(followed) / count
        rows = [row for index, row in enumerate(rows) if index not in followed]


@dataclass(frozen=True)
class _Token:
    """Part of a line. kind: "w" a word, "g" a group, "b" blanks, else the sign itself."""

    kind: str
    text: str


def _tokens(head: str) -> list[_Token]:
    tokens = []
    for text in _TOKEN.findall(head)[:_MOST_TOKENS]:
        is_word = text[0].isalnum() or text[0] == "_"
        kind = "w" if is_word else "b" if text.isspace() else "g" if len(text) > 1 else text
        tokens.append(_Token(kind, text))
    return tokens


def _learn_one(rows: list[list[_Token]], fewest: int) -> tuple[Prefix | None, set[int]]:
    """One prefix, and the lines that have it: follows the kinds of tokens that most lines have, place by place."""
    alive, followed = set(range(len(rows))), set[int]()
    parts: list[str] = []
    starts, before = 0, ""
    likely, most_varied = 0, 0.0
    for place in range(_MOST_TOKENS):
        kinds = Counter(rows[row][place].kind for row in alive if place < len(rows[row]))
        kind, count = kinds.most_common(1)[0] if kinds else ("", 0)
        here = {row for row in alive if place < len(rows[row]) and rows[row][place].kind == kind}
        texts = Counter(rows[row][place].text for row in here)
        numbers = sum(number for text, number in texts.items() if _NUMBER.match(text))
        is_number = kind == "w" and numbers >= _NUMBERS_SHARE * count
        is_few = sum(number for _, number in texts.most_common(_FEW_WORDS)) >= _FEW_SHARE * count
        nexts = Counter(_next(rows[row], place) for row in alive)
        varied = 1 - nexts.most_common(1)[0][1] / len(alive)
        if place == 0:
            most_varied = varied / 2  # levels and threads vary, too
        is_inside = kind in ("b", before) or (is_number and count >= _ALL_SHARE * len(alive))
        if (
            before not in ("", "w")
            and not is_inside
            and starts < _MOST_PLACES
            and any(part != _BLANK for part in parts)
        ):
            # What follows is optional: a line may reach this place and go on as no other does.
            parts.append("()(?:")
            starts += 1
            if varied > most_varied:
                likely, most_varied = starts, varied
            followed = followed or set(alive)
        if count < fewest or (kind == "w" and not is_number and not is_few):
            break
        alive, before = here, kind
        parts.append(_KINDS.get(kind) or re.escape(kind))
    if not starts:
        return None, alive
    return Prefix(re.compile("".join(parts) + ")?" * starts), likely), followed


def _next(row: list[_Token], place: int) -> str:
    """What stands at a place, all numbers being alike."""
    text = row[place].text if place < len(row) else ""
    return "0" if _ALIKE.match(text) else text
