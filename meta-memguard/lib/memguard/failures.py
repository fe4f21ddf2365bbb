# SPDX-License-Identifier: MIT
"""The log of something that failed -> whether memory was the cause, which program died, and the line that says so.

Runs in: task children (before a retry) and the `memguard` command; pure, standard library only.
Covers: what compilers, linkers, build tools, packagers, language runtimes, shells, kernels and container runtimes say
when memory ends, behind the prefixes of BitBake, CI systems, docker build, syslog and dmesg, in colours or not.
Does not cover: opening files; what the kernel counts (`oom_kill`) and what was measured, which is better evidence.

How lines are weighed, the strongest first. A rule knows a program and its way of dying, never one log's text.

1. STATED: a tool, the kernel or the container says in words that memory ended: memory. A size that no machine has
   (a corrupt archive or object), a kind of memory that is not the build's (TLS, GPU, locked pages) and the kernel log
   of a device under test are no such words.
2. KILLED: a named program died by signal 9: memory, for nothing else sends that to a compiler, unless the log said
   before that somebody stopped the build (STOPPED).
3. CAUSE: another cause in so many words (compile error, crash, full disk, fetch, patch, QA): other. STOPPED is one of
   them: interrupted, timed out, cancelled.
4. HINT: signal 9 or status 137 of nobody in particular, Bazel's server gone, an assembler whose input broke off, a
   BitBake console that ends while heavy tasks run: memory, as long as nothing above says otherwise. Such a console ends
   without a word only when BitBake's own processes are killed all at once, which is what the kernel does to a container
   (memory.oom.group); whoever stops a build by hand or by a time limit leaves a line. Where only light tasks ran, it is
   a DOUBT.
5. DOUBT: it may have been memory: a linker or compressor that crashed, a lost runner, a small victim in a kernel log
   that may be a device's, a ninja edge that failed without a word: unclear.
6. WEAK: lines that also stand in logs of good builds (command not found, No such file): other.
7. FAILED: something failed, and nothing says why: other, since memory leaves the traces above.
Nothing at all: unclear.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from memguard.failure_rules import (
    CAUSE,
    DEVICE,
    DOUBT,
    FAILED,
    HINT,
    KERNEL,
    KILLED,
    MEMORY_RULES,
    STATED,
    STOPPED,
    TAIL_RULES,
    UNCLEAR,
    VERDICTS,
    WEAK,
)


@dataclass(frozen=True)
class Finding:
    """What a log says. `line` counts from 1; all but verdict and reason are None where the log does not tell.

    reason: a few words for people. recipe and task: of the BitBake task that failed, as far as lines name it.
    is_certain: memory is named in words, or a named program was killed by signal 9.
    """

    verdict: str
    reason: str
    program: str | None = None
    evidence: str | None = None
    line: int | None = None
    is_certain: bool = False
    recipe: str | None = None
    task: str | None = None


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


def place_of(path: str) -> tuple[str, str] | None:
    """Recipe and task of a task's log by its path (work/ARCH/PN/PV/temp/log.do_compile.123), None for others."""
    found = _TASK_LOG.search(path)
    return (found["recipe"], found["task"]) if found else None


# -- the line ----------------------------------------------------------------------------------------------------------

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
_QUOTED = re.compile(
    r"\s*(?:\d+ \||\+{1,4} |//|/\*|\* |#(?:define|include|error|warning|if|pragma)\b|(?:PASS|PASSED|SKIP|SKIPPED|"
    r"XFAIL|ok|not ok)\b|checking |-- |"
    r"warning: |\S+: warning: |[^\s:]+:\d+(?::\d+)?: (?:warning|note): |.*\.\.\. ?(?:ok|OK|PASSED|yes|no)$|"
    r"(?:@?echo|printf|grep|assert\w*|expect\w*|raise|print)\b|"
    r"(?:ccache )?(?:\S*[/-])?(?:gcc|g\+\+|cc|c\+\+|clang|clang\+\+|rustc)(?:-[\d.]+)? -)"
)
_LONGEST_LINE = 4096
_LONGEST_EVIDENCE = 400


def strip_prefixes(line: str) -> str:
    """A line of a log without colours and without what CI systems, containers, kernels and BitBake put before it."""
    text = _CONTROL.sub("", line).replace("\r", "").rstrip()
    for _ in range(_MOST_PREFIXES):
        found = _PREFIX.match(text)
        if not found or not found.end():
            break
        text = text[found.end() :]
    return text.strip()


# -- the log -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mark:
    strength: int
    reason: str
    program: str | None
    text: str
    line: int


class _Judge:
    """Takes lines that may matter, in any order, and keeps the first and the telling one of each strength."""

    def __init__(self, task: str) -> None:
        self._marks: dict[int, _Mark] = {}
        self._named: dict[int, _Mark] = {}
        self._device: _Mark | None = None
        self._is_device = task.startswith("do_testimage") or task.startswith("do_testsdk")
        self._places: list[tuple[int, str, str]] = []

    def take_memory(self, line: int, text: str) -> bool:
        """Look for words of memory and of kills; says whether there were any."""
        if _QUOTED.match(text):
            return False
        for rule in MEMORY_RULES:
            found = rule.find(text)
            if not found:
                continue
            strength, reason, program = rule.weigh(found)
            mark = _Mark(strength, reason, program, text[:_LONGEST_EVIDENCE], line)
            if strength in (STATED, DOUBT) and KERNEL.search(text):
                self._take_kernel(mark)
            else:
                self._add(mark)
            return True
        return False

    def take_other(self, line: int, text: str) -> None:
        """Look for other causes, for the task at fault, and for signs of a device under test."""
        if DEVICE.search(text):
            self._is_device = True
        place = _find_place(text)
        if place and len(self._places) < _MOST_PLACES:
            self._places.append((line, *place))
        if _QUOTED.match(text) or text.startswith("WARNING: "):
            return
        for rule in TAIL_RULES:
            found = rule.find(text)
            if found:
                strength, reason, program = rule.weigh(found)
                self._add(_Mark(strength, reason, program, text[:_LONGEST_EVIDENCE], line))
                return

    def doubt(self, line: int, text: str, reason: str, strength: int = DOUBT) -> None:
        """Add what no single line shows."""
        self._add(_Mark(strength, reason, None, text[:_LONGEST_EVIDENCE], line))

    def has(self, *strengths: int) -> bool:
        """Whether there is anything of these strengths."""
        return any(strength in self._marks for strength in strengths)

    def _add(self, mark: _Mark) -> None:
        known = self._marks.get(mark.strength)
        if known is None or mark.line < known.line:
            self._marks[mark.strength] = mark
        if mark.program:
            named = self._named.get(mark.strength)
            if named is None or mark.line < named.line:
                self._named[mark.strength] = mark

    def _take_kernel(self, mark: _Mark) -> None:
        """Keep the kernel's words apart until the end: only then it is known whose kernel that was."""
        known = self._device
        if known is None or (known.strength, not known.program, known.line) > (
            mark.strength,
            not mark.program,
            mark.line,
        ):
            self._device = mark

    def finish(self) -> Finding:
        if self._device is not None:
            mark = self._device
            if self._is_device:
                mark = replace(mark, strength=CAUSE, reason="the memory that ended is that of the device under test")
                if self.has(STATED, KILLED):
                    mark = replace(mark, strength=FAILED)
            self._add(mark)
        telling = self._telling()
        if telling is None:
            return Finding(UNCLEAR, "no line tells of a failure")
        recipe, task = self._place(telling.line) or (None, None)
        verdict = VERDICTS[telling.strength]
        is_certain = telling.strength in (STATED, KILLED)
        return Finding(verdict, telling.reason, telling.program, telling.text, telling.line, is_certain, recipe, task)

    def _telling(self) -> _Mark | None:
        marks = dict(self._marks)
        stopped = marks.get(STOPPED)
        killed = marks.get(KILLED)
        if stopped and killed and stopped.line < killed.line and STATED not in marks:
            return stopped
        memory = [strength for strength in (STATED, KILLED) if strength in marks]
        if memory:
            named = [self._named[strength] for strength in memory if strength in self._named]
            return named[0] if named else marks[memory[0]]
        for strength in (STOPPED, CAUSE, HINT, DOUBT, WEAK, FAILED):
            if strength in marks:
                if strength == HINT and DOUBT in marks and "container runtime saw" in marks[DOUBT].reason:
                    return marks[DOUBT]
                return self._named.get(strength, marks[strength]) if strength == HINT else marks[strength]
        return None

    def _place(self, line: int) -> tuple[str, str] | None:
        """The task at fault: the last one named before the line, else the first one after it."""
        before = [place for place in self._places if place[0] <= line]
        after = [place for place in self._places if place[0] > line]
        best = (
            max(before, key=lambda place: place[0]) if before else min(after, key=lambda place: place[0], default=None)
        )
        return (best[1], best[2]) if best else None


_MOST_PLACES = 4096
_TASK_LOG = re.compile(r"/(?P<recipe>[^/\s]+)/[^/\s]+/temp/(?:log|run)\.(?P<task>do_\w+?)(?:\.\d+)?(?:$|[^\w.])")
_PLACES = (
    _TASK_LOG,
    re.compile(
        r"\bTask \(?(?:\d+ \()?(?:\w+:)*(?:/\S*/)?(?P<recipe>[^/\s:]+?)(?:_[^/\s:]*)?\.bb(?::|"
        r", )(?P<task>do_\w+)\)? failed"
    ),
    re.compile(r"^ERROR: (?P<recipe>[a-z0-9][\w.+-]*?)-(?:\d|git|v\d|svn)[^\s-]*-r\d\S* (?P<task>do_\w+):"),
    re.compile(r"\brecipe (?P<recipe>\S+?)-(?:\d|git|v\d|svn)[^\s-]*-r\d\S*: task (?P<task>do_\w+): Failed"),
)


def _find_place(text: str) -> tuple[str, str] | None:
    if "do_" in text:
        for pattern in _PLACES:
            found = pattern.search(text)
            if found:
                return found["recipe"], found["task"]
    return None


STOPS = "the console stops"
_STARTED = re.compile(r"^recipe (?P<recipe>\S+): task (?P<task>do_\w+): (?P<state>Started|Succeeded|Failed)")
_LISTED = re.compile(r"^\d+: (?P<recipe>\S+) (?P<task>do_\w+) - (?:\d+[hms])+")
_RUNNING = re.compile(
    r"^(?:Running (?:setscene )?task \d+ of \d+ |Currently +\d+ running tasks|Executing (?:SetScene |"
    r"RunQueue )?Tasks|Initialising tasks)"
)
_ENDED = re.compile(r"^(?:Tasks Summary: |Summary: |Attempted \d+ tasks|Keyboard Interrupt|Second Keyboard)")
_HEAVY = re.compile(
    r"do_(?:compile|install|package|image|rootfs|kernel|link|populate_sdk|bundle|configure|build_|create_spdx|"
    r"uboot|sizecheck|ptest)\w*"
)
_MOST_TASKS = 4096


class _Console:
    """Follows a BitBake console to see whether it ends in mid-course."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], int] = {}
        self._is_console = False
        self._has_ended = False
        self._last = (0, "")

    def take(self, line: int, text: str) -> None:
        if _RUNNING.match(text):
            self._is_console, self._has_ended = True, False
            if text.startswith("Currently"):
                self._running.clear()
            self._last = (line, text)
        elif _ENDED.match(text):
            self._has_ended = True
        else:
            self._take_task(line, text)

    def _take_task(self, line: int, text: str) -> None:
        found = _STARTED.match(text)
        listed = None if found else _LISTED.match(text)
        if found and found["state"] != "Started":
            self._running.pop((found["recipe"], found["task"]), None)
        elif (found or listed) and len(self._running) < _MOST_TASKS:
            named = found or listed
            assert named is not None
            self._running[named["recipe"], named["task"]] = line
        else:
            return
        self._is_console = True
        self._last = (line, text)

    def finish(self, judge: _Judge) -> None:
        """Tell the judge of a console that just stops."""
        if not self._is_console or self._has_ended:
            return
        line, text = self._last
        heavy = [task for _, task in self._running if _HEAVY.fullmatch(task) and not task.endswith("_setscene")]
        if heavy:
            judge.doubt(line, text, f"{STOPS} while heavy tasks run: all of BitBake was killed at once", HINT)
        else:
            judge.doubt(line, text, f"{STOPS} in mid-course")


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
        self._judge = _Judge(task)
        self._console = _Console()
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
                    if part and len(part) <= _LONGEST_LINE:
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
    lowest, highest = max(0, at - _LONGEST_LINE), min(len(chunk), at + _LONGEST_LINE)
    start = max(chunk.rfind(b"\n", lowest, at), chunk.rfind(b"\r", lowest, at)) + 1 or lowest
    end = chunk.find(b"\n", at, highest)
    end = highest if end < 0 else end
    stop = chunk.find(b"\r", at, end)
    return start, end if stop < 0 else stop
