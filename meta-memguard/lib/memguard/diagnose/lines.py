# SPDX-License-Identifier: MIT
"""A line of a log: its message, and whether that only quotes something.

Runs in: task children and the `memguard` command; pure, standard library only.
Covers: colours; what BitBake, CI systems, docker build, containers, syslog and dmesg put before a message; source code,
commands and test reports that hold words of failures without meaning them.
Does not cover: what a message says (rule.py).
"""

from __future__ import annotations

import codecs
import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from memguard.diagnose.prefixes import Prefixes

_CONTROL = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|_[^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^])"
)
_PREFIX = re.compile(
    r"\s*(?:"
    r"\||"  # BitBake's console, quoting the log of a task
    r"\#\d+ (?:\d+\.\d+|ERROR:)(?= )|"  # docker build
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?(?: \d\d[OE]\+?| std(?:out|err) [FP])?"
    r"(?: - (?:INFO|ERROR|WARNING|DEBUG|CRITICAL) +-)?(?:(?= )|(?<=[OE]\+))|"
    r"\[\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[^\]]{0,12}\]|\[\d\d:\d\d:\d\d(?:\.\d+)?\]|"
    r"\d{1,3}:\d\d(?::\d\d)?(?:[.,]\d+)?(?: -)?(?= )|"  # Jenkins, mozbuild
    r"(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])?|"  # dmesg
    r"\[(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) \w{3} +\d+ \d\d:\d\d:\d\d \d{4}\]|"  # dmesg -T
    r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) +\d+ (?:\d\d:\d\d:\d\d)(?:\.\d+)? [\w.:-]+ "  # syslog
    r"(?:kernel|[\w./@-]+\[\d+\]):|"
    r"kern +:\w+ *:|kernel:|"
    r"\[(?:stderr|stdout|INFO|ERROR|WARN(?:ING)?|DEBUG|EXTRA|ALL) *\]|\[pod/[^\]]+\]|\[\d{1,3}\](?= )|"
    r"\#\#\[(?:error|warning|group|command|debug)\]|::(?:error|warning)[^:]*::|"
    r"\[?[A-Za-z][\w.-]{0,40}\]? +\|(?= )|"  # docker compose, wrappers of several builds
    r"[a-z][\w.+-]{1,60}-r\d+:(?= )|"  # portage
    r"(?:NOTE|INFO|DEBUG):(?= )|"
    r">(?= )"
    r")[ \t]?"
)
_MOST_PREFIXES = 6
# What no message begins with: numbered source, traces of a shell, comments; results of tests, warnings, commands.
_QUOTED_BY_SIGN = re.compile(
    r"\s*(?:\d+ \||\+{1,4} (?!kill|ulimit )|//|/\*|\* |#(?:define|include|error|warning|if|pragma)\b|-- )"
)
_QUOTED_BY_WORD = re.compile(
    r"\s*(?:(?:PASS|PASSED|SKIP|SKIPPED|XFAIL|ok|not ok)\b|checking |\w+_test\.(?:go|cc|cpp|py):\d+: |"
    r"warning: |\S+: warning: |[^\s:]+:\d+(?::\d+)?: (?:warning|note): |.*\.\.\. ?(?:ok|OK|PASSED|yes|no)$|"
    r"(?:@?echo|printf|grep|assert\w*|expect\w*|raise|print)\b|"
    r"(?:ccache )?(?:\S*[/-])?(?:gcc|g\+\+|cc|c\+\+|clang|clang\+\+|rustc)(?:-[\d.]+)? -)"
)
# What a compiler shows of the source, and tests print, behind blanks.
_QUOTED_ANYWHERE = re.compile(r"\s*(?:\d+ \||\w+_test\.(?:go|cc|cpp|py):\d+: |not ok \d+ )")
# What stands before a value in a table, and how much of it is looked at.
_WIDEST_COLUMN = 40
_COLUMN = re.compile(r"[\w:]\s{4,}$")
# Longer lines are looked at in part, or not at all. In bytes.
LONGEST_LINE = 4096


_TAG = re.compile(r"</?(?:a|b|br|code|div|em|font|i|li|p|pre|span|strong|td|tr|u)\b[^<>]{0,200}>")
_TO_QUOTE = {sign: re.compile(rf"((?:[^{sign}\\|]|[\\|].?)*){sign}") for sign in "\"'"}
_OPENS = re.compile(r"[=:][\"']$")
_MOST_JSON_VALUES = 40
# What a logger has quoted may have prefixes of its own.
_UNKNOWN = Prefixes(has_few_lines=True)
_LOOK_BYTES = 4096
_WIDE_SHARE = 0.8
# Words in ASCII, as no UTF-16 has them: 16 characters of two such bytes each, a blank among the bytes. In Chinese one
# character in four has two, in Japanese every other, but then seldom a blank.
_NARROW = re.compile(rb"(?=[!-~]{0,31}[\t\n\r ])[\t\n\r -~]{32}")


def strip_prefixes(line: str) -> str:
    """The message of a line: without colours, and without what is put before it, as far as that is listed here."""
    return _strip(without_colours(line))


@dataclass(frozen=True)
class Line:
    """What a line of a log may say.

    messages:  without what stands before them, the likeliest first; never none.
    is_quoted: it only quotes source code, a command or a report, so that its words mean nothing.
    """

    messages: tuple[str, ...]
    is_quoted: bool = False


def read_line(line: str, prefixes: Prefixes) -> Line:
    """A line by the messages that it may hold behind the prefixes of its log."""
    text = without_colours(line)
    found: list[str] = []
    is_quoted = False
    starts = prefixes.starts_in(text)
    for start in starts:
        message = text[start:]
        if text.startswith("  ", start - 2):
            is_quoted = is_quoted or _QUOTED_ANYWHERE.match(message) is not None
            if _COLUMN.search(text, max(0, start - _WIDEST_COLUMN), start):
                continue
        if _OPENS.search(text, max(0, start - 2), start):  # msg="...", text='...'
            quoted = _TO_QUOTE[text[start - 1]].match(message)
            message = _unescaped(quoted[1] if quoted else message)
            is_quoted = is_quoted or _QUOTED_ANYWHERE.match(message) is not None
            found.extend(_strip(message[start:]) for start in _UNKNOWN.starts_in(message))
        message = _strip(message)
        if _QUOTED_BY_WORD.match(message):
            if start and prefixes.has_few_lines and not _QUOTED_ANYWHERE.match(message):
                break  # hardly known: it may as well be the end of a message
            is_quoted = True
        elif not found and (sign := _QUOTED_BY_SIGN.match(message)):
            # Signs behind which a message may begin, in most lines, belong to the prefix.
            behind = len(text) - len(message) + sign.end()
            is_quoted = is_quoted or sign[0].strip()[0].isdigit() or behind not in starts
        found.append(message)
    for message in tuple(found):
        if message.startswith("{") and message.endswith("}"):
            values = [_strip(value) for value in _json_values(message)]
            longest = max(values, key=len, default="")
            is_quoted = is_quoted or (_QUOTED_BY_WORD.match(longest) or _QUOTED_ANYWHERE.match(longest)) is not None
            found.extend(_strip(value[start:]) for value in values for start in _UNKNOWN.starts_in(value))
    return Line(tuple(dict.fromkeys(found)) or ("",), is_quoted)


def without_colours(line: str) -> str:
    """A line as a reader sees it: without colours, HTML, and the blanks at its end."""
    text = _CONTROL.sub("", line).replace("\r", "").rstrip()
    if "<" in text and "</" in text:
        text = _TAG.sub("", text)
    return html.unescape(text) if "&" in text and ";" in text else text


def _unescaped(text: str) -> str:
    """A string as loggers quote it."""
    if "\\" in text:
        try:
            text = str(json.loads(f'"{text}"')).strip()
        except ValueError:
            text = text.replace('\\"', '"').replace("\\n", "")
    return text.replace("|'", "'")


def _json_values(text: str) -> Iterator[str]:
    """The last lines of all strings in an object, also one below another."""
    try:
        left: list[object] = [json.loads(text)]
    except (ValueError, RecursionError):
        return
    for value in left:
        if isinstance(value, dict) and len(left) < _MOST_JSON_VALUES:
            left.extend(value.values())
        elif isinstance(value, str):
            yield without_colours(value.strip().rpartition("\n")[2])


def _strip(text: str) -> str:
    for _ in range(_MOST_PREFIXES):
        found = _PREFIX.match(text)
        if not found or not found.end():
            break
        text = text[found.end() :]
    return text.strip()


def decoded(line: bytes) -> str:
    """A line as text: UTF-8, or Latin-1 where it is none, as older systems and Windows write it."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def wide_encoding_of(head: bytes) -> str | None:
    """The encoding of a log by its first bytes where a character takes two of them (Windows), None for all others.

    A mark alone decides nothing: any two bytes may stand at the begin of a log whose first line is cut.
    """
    head = head[:_LOOK_BYTES]
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return None if _is_narrow(head[2:]) else "utf-16"
    for encoding, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        if len(head) >= 8 and zeros.count(0) > _WIDE_SHARE * len(zeros) and head.count(0) <= len(zeros):
            return encoding
    return None


def _is_narrow(text: bytes) -> bool:
    """Whether bytes behind a mark of UTF-16 are none: words in ASCII, or UTF-8 without a zero."""
    if _NARROW.search(text):
        return True
    try:
        codecs.getincrementaldecoder("utf-8")().decode(text)  # its last character may be cut
    except UnicodeDecodeError:
        return False
    return bool(text) and 0 not in text
