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
from dataclasses import dataclass, replace

from memguard.diagnose.memory_rules import DEVICE, KERNEL, MEMORY_RULES
from memguard.diagnose.other_rules import TAIL_RULES
from memguard.diagnose.rule import CAUSE, DOUBT, FAILED, HINT, KILLED, STATED, STOPPED, UNCLEAR, VERDICTS, WEAK


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


def place_of(path: str) -> tuple[str, str] | None:
    """Recipe and task of a task's log by its path (work/ARCH/PN/PV/temp/log.do_compile.123), None for others."""
    found = _TASK_LOG.search(path)
    return (found["recipe"], found["task"]) if found else None


# -- the line ----------------------------------------------------------------------------------------------------------

_QUOTED = re.compile(
    r"\s*(?:\d+ \||\+{1,4} |//|/\*|\* |#(?:define|include|error|warning|if|pragma)\b|(?:PASS|PASSED|SKIP|SKIPPED|"
    r"XFAIL|ok|not ok)\b|checking |-- |"
    r"warning: |\S+: warning: |[^\s:]+:\d+(?::\d+)?: (?:warning|note): |.*\.\.\. ?(?:ok|OK|PASSED|yes|no)$|"
    r"(?:@?echo|printf|grep|assert\w*|expect\w*|raise|print)\b|"
    r"(?:ccache )?(?:\S*[/-])?(?:gcc|g\+\+|cc|c\+\+|clang|clang\+\+|rustc)(?:-[\d.]+)? -)"
)
LONGEST_LINE = 4096
_LONGEST_EVIDENCE = 400


# -- the log -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Mark:
    strength: int
    reason: str
    program: str | None
    text: str
    line: int


class Judge:
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
