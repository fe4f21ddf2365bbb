# SPDX-License-Identifier: MIT
"""What the lines of a log say together: whether memory was the cause, which program died, and the line that says so.

Runs in: task children (before a retry) and the `memguard` command; pure, standard library only.
Covers: weighing. What is weighed is what compilers, linkers, build tools, packagers, language runtimes, shells, kernels
and container runtimes say when memory ends, and when anything else does.
Does not cover: reading a log (scan.py); what the kernel counts (`oom_kill`) and what was measured, which is better
evidence.

How lines are weighed, the strongest first. A rule knows a program and its way of dying, never one log's text.

1. STATED: a tool, the kernel or the container says in words that memory ended: memory. A size that no machine has
   (a corrupt archive or object), a kind of memory that is not the build's (TLS, GPU, locked pages) and the kernel log
   of a device under test are no such words.
2. KILLED: a named program died by signal 9: memory, for nothing else sends that to a compiler, unless the log said
   before that somebody stopped the build (STOPPED).
3. CAUSE: another cause in plain words (compile error, crash, full disk, fetch, patch, QA): other. STOPPED is one of
   them: interrupted, timed out, cancelled.
4. HINT: signal 9 or status 137 of nobody in particular, Bazel's server gone, an assembler whose input broke off:
   memory, as long as nothing above says otherwise.
5. DOUBT: it may have been memory: a linker or compressor that crashed, a lost runner, a small victim in a kernel log
   that may be a device's, a ninja edge that failed without a word: unclear. So is a console that just stops with no
   failure behind its last task (it may still run, or its terminal or machine may be gone; what was measured then says
   more).
6. WEAK: lines that also stand in logs of good builds (command not found, No such file): other.
7. FAILED: something failed, and nothing says why: other, since memory leaves the traces above.
Nothing at all: unclear. A sign may outweigh what is stronger by kind (`outweighs`): a runner's shutdown stands before
the cancelling that follows from it, and the name of another limit before the word that memory ended, in the same line;
or within a few lines, where nothing was killed, as such a limit makes calls fail, and kills nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from memguard.diagnose.console import Console
from memguard.diagnose.container_rules import CONTAINER_RULES
from memguard.diagnose.kernel_rules import KERNEL_RULES
from memguard.diagnose.kernels import DEVICE, KERNEL
from memguard.diagnose.lines import Line
from memguard.diagnose.memory_rules import MEMORY_RULES
from memguard.diagnose.other_rules import OTHER_RULES, REPORT_RULES
from memguard.diagnose.place import Place, Places
from memguard.diagnose.rule import (
    CAUSE,
    DOUBT,
    FAILED,
    HINT,
    KILLED,
    MEMORY,
    OTHER,
    STATED,
    STOPPED,
    UNCLEAR,
    WEAK,
    Mark,
    Remedy,
    Rule,
    Sign,
    Strength,
)
from memguard.diagnose.stop_rules import STOP_RULES

_VERDICTS = {
    STATED: MEMORY,
    KILLED: MEMORY,
    HINT: MEMORY,
    CAUSE: OTHER,
    STOPPED: OTHER,
    WEAK: OTHER,
    FAILED: OTHER,
    DOUBT: UNCLEAR,
}
_LONGEST_EVIDENCE = 400
# By whom a process is killed for memory.
_BY_OTHERS = (*KERNEL_RULES, *CONTAINER_RULES)
# Another limit is the cause of memory that ends within so many lines of its name.
_NEAR_LINES = 40
_MOST_OUTWEIGHING = 256
# What is said of a log that says nothing.
NO_FAILURE = "no line reports a failure"


@dataclass(frozen=True)
class Finding:
    """What a log says. `line` counts from 1; all but verdict and reason are None where the log does not say.

    verdict:    MEMORY, OTHER or UNCLEAR.
    reason:     a few words for people.
    recipe and task: of the BitBake task that failed, as far as lines name it.
    has_stopped: nothing but that a console ends in mid-course.
    has_succeeded: the build ended well, whatever else is said; memory may have cost it a retry.
    remedy:     what helps, where memory or another limit was the cause.
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
    has_stopped: bool = False
    has_succeeded: bool = False
    remedy: Remedy = Remedy.USUAL


class Judge:
    """Takes the lines of one log that may matter, in any order, and weighs them at the end."""

    def __init__(self, task: str) -> None:
        """`task` is the task whose log it is, "" where it is not that of a task."""
        self._first: dict[Strength, Mark] = {}
        self._first_named: dict[Strength, Mark] = {}
        self._outweighing = deque[Mark](maxlen=_MOST_OUTWEIGHING)
        self._has_kill = False
        self._kernel: Mark | None = None
        self._has_device = task.startswith(("do_testimage", "do_testsdk"))
        self._places = Places()
        self._stop: Mark | None = None
        self._succeeded_at: int | None = None
        self._only_task: Place | None = None
        self._last: dict[Strength, int] = {}

    def take_memory(self, number: int, line: Line) -> None:
        """Look for words of memory and of kills in one line, by the messages that it may be."""
        found = None if line.is_quoted else _first_sign(MEMORY_RULES, line.messages)
        if found is None:
            return
        mark = Mark(number, *found)
        if mark.sign.strength in (STATED, DOUBT) and KERNEL.search(mark.text):
            self._take_kernel(mark)
        else:
            self.add(mark)

    def take_other(self, number: int, line: Line) -> None:
        """Look for other causes, for the task at fault, and for traces of a device under test."""
        for text in line.messages:
            if DEVICE.search(text):
                self._has_device = True
            if self._places.take(number, text):
                break
        is_warning = any(text.startswith("WARNING: ") for text in line.messages)
        found = _first_sign(
            REPORT_RULES if line.is_quoted else STOP_RULES if is_warning else OTHER_RULES, line.messages
        )
        if found is not None:
            self.add(Mark(number, *found))

    def add(self, mark: Mark) -> None:
        """Count in what has been found, be it in one line or in several."""
        if mark.sign.outweighs:
            self._outweighing.append(mark)
            if mark.sign.strength is WEAK:  # a setting: it says something only beside what failed
                return
        self._has_kill = self._has_kill or _is_kill(mark)
        self._last[mark.sign.strength] = max(mark.line, self._last.get(mark.sign.strength, 0))
        for first in (self._first, self._first_named) if mark.sign.program else (self._first,):
            known = first.get(mark.sign.strength)
            if known is None or mark.line < known.line:
                first[mark.sign.strength] = mark

    def add_console(self, console: Console) -> None:
        """Count in that a console ends in mid-course, or well."""
        self._stop, self._succeeded_at = console.finish(), console.succeeded_at
        self._only_task = console.only_task

    def _take_kernel(self, mark: Mark) -> None:
        """Keep the kernel's strongest words apart until the end: only then it is known whose kernel that was."""

        def rank(mark: Mark) -> tuple[Strength, bool, int]:
            return mark.sign.strength, not mark.sign.program, mark.line

        if self._kernel is None or rank(mark) < rank(self._kernel):
            self._kernel = mark

    def finish(self) -> Finding:
        """What all of it says."""
        self._add_kernel()
        decisive = self._heaviest()
        if self._stop and self._stop.line > self._last.get(FAILED, 0) and not _is_plain(decisive):
            decisive = self._stop
        for mark in self._outweighing:
            if decisive is not None and self._is_outweighed(decisive, mark):
                decisive = mark
        has_succeeded = self._has_succeeded()
        if has_succeeded and not (decisive and decisive.sign.strength in (STATED, KILLED)):
            return Finding(UNCLEAR, "the build ended well", has_succeeded=True)
        if decisive is None:
            return Finding(UNCLEAR, NO_FAILURE)
        sign = decisive.sign
        recipe, task = self._places.nearest(decisive.line) or self._only_task or (None, None)
        return Finding(
            verdict=_VERDICTS[sign.strength],
            reason=sign.reason,
            program=sign.program,
            evidence=decisive.text[:_LONGEST_EVIDENCE],
            line=decisive.line,
            is_certain=sign.strength in (STATED, KILLED),
            has_stopped=decisive is self._stop,
            has_succeeded=has_succeeded,
            remedy=sign.remedy,
            recipe=recipe,
            task=task,
        )

    def _is_outweighed(self, decisive: Mark, mark: Mark) -> bool:
        """Whether a mark stands before the decisive one; that of another limit only where it plausibly is the cause."""
        if decisive.sign.strength not in mark.sign.outweighs:
            return False
        if mark.sign.strength is DOUBT or mark.line == decisive.line:
            return True
        return not self._has_kill and abs(mark.line - decisive.line) <= _NEAR_LINES

    def _has_succeeded(self) -> bool:
        """Whether a build ended well, and nothing failed after it."""
        ends = [line for strength, line in self._last.items() if strength is not WEAK]
        return self._succeeded_at is not None and self._succeeded_at > max(ends, default=0)

    def _add_kernel(self) -> None:
        """Count in what a kernel says; that of a device is a cause of its own, but hardly one if the build has one."""
        mark = self._kernel
        if mark is None:
            return
        if self._has_device:
            strength = FAILED if STATED in self._first or KILLED in self._first else CAUSE
            reason = "the device under test ran out of memory, not the build"
            mark = Mark(mark.line, mark.text, Sign(strength, reason, mark.sign.program))
        self.add(mark)

    def _heaviest(self) -> Mark | None:
        """The mark that is strongest by its kind, None where there is none."""
        first, named = self._first, self._first_named
        if STATED in first or KILLED in first:
            killed, stopped = first.get(KILLED), first.get(STOPPED)
            if STATED not in first and killed and stopped and stopped.line < killed.line:
                return stopped
            return named.get(STATED) or named.get(KILLED) or first.get(STATED) or killed
        for strength in (STOPPED, CAUSE, HINT, DOUBT, WEAK, FAILED):
            if strength in first:
                return named.get(HINT, first[HINT]) if strength is HINT else first[strength]
        return None


def _is_kill(mark: Mark) -> bool:
    """Whether a mark says that somebody sent signal 9; limits of a process make its calls fail, and send none."""
    strength = mark.sign.strength
    return strength in (KILLED, HINT) or (strength is STATED and _first_sign(_BY_OTHERS, (mark.text,)) is not None)


def _is_plain(mark: Mark | None) -> bool:
    """Whether a mark says more than a console that just stops; lines that good builds print as well do not."""
    return mark is not None and mark.sign.strength not in (WEAK, FAILED)


def _first_sign(rules: tuple[Rule, ...], messages: Sequence[str]) -> tuple[str, Sign] | None:
    """What a line says by the first rule that knows it, and which of the messages that it may be."""
    whole = "\n".join(messages)
    for rule in rules:
        if rule.has_word_in(whole) and (found := rule.sign_in(messages)):
            return found
    return None
