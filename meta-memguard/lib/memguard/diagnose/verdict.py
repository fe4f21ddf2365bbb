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
   that may be a device's, a ninja edge that failed without a word, a console that just stops (it may still run, or its
   terminal or machine may be gone; what was measured then says more): unclear.
6. WEAK: lines that also stand in logs of good builds (command not found, No such file): other.
7. FAILED: something failed, and nothing says why: other, since memory leaves the traces above.
Nothing at all: unclear. A sign may outweigh what is stronger by kind (`outweighs`): the name of another limit stands
before the word that memory ended, a runner's shutdown before the cancelling that follows from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memguard.diagnose.kernels import DEVICE, KERNEL
from memguard.diagnose.lines import Line
from memguard.diagnose.memory_rules import MEMORY_RULES
from memguard.diagnose.other_rules import OTHER_RULES
from memguard.diagnose.place import Places
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
    Rule,
    Sign,
    Strength,
)

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


@dataclass(frozen=True)
class Finding:
    """What a log says. `line` counts from 1; all but verdict and reason are None where the log does not say.

    verdict:    MEMORY, OTHER or UNCLEAR.
    reason:     a few words for people.
    recipe and task: of the BitBake task that failed, as far as lines name it.
    has_stopped: nothing but that a console ends in mid-course.
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


class Judge:
    """Takes the lines of one log that may matter, in any order, and weighs them at the end."""

    def __init__(self, task: str) -> None:
        """`task` is the task whose log it is, "" where it is not that of a task."""
        self._first: dict[Strength, Mark] = {}
        self._first_named: dict[Strength, Mark] = {}
        self._outweighing: list[Mark] = []
        self._kernel: Mark | None = None
        self._has_device = task.startswith(("do_testimage", "do_testsdk"))
        self._places = Places()
        self._stop: Sign | None = None

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
        if line.is_quoted or any(text.startswith("WARNING: ") for text in line.messages):
            return
        found = _first_sign(OTHER_RULES, line.messages)
        if found is not None:
            self.add(Mark(number, *found))

    def add(self, mark: Mark) -> None:
        """Count in what has been found, be it in one line or in several."""
        if mark.sign.outweighs and not any(known.sign == mark.sign for known in self._outweighing):
            self._outweighing.append(mark)
        for first in (self._first, self._first_named) if mark.sign.program else (self._first,):
            known = first.get(mark.sign.strength)
            if known is None or mark.line < known.line:
                first[mark.sign.strength] = mark

    def add_stop(self, mark: Mark) -> None:
        """Count in that the console ends in mid-course."""
        self._stop = mark.sign
        self.add(mark)

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
        for mark in self._outweighing:
            if decisive is not None and decisive.sign.strength in mark.sign.outweighs:
                decisive = mark
        if decisive is None:
            return Finding(UNCLEAR, "no line tells of a failure")
        sign = decisive.sign
        recipe, task = self._places.nearest(decisive.line) or (None, None)
        return Finding(
            verdict=_VERDICTS[sign.strength],
            reason=sign.reason,
            program=sign.program,
            evidence=decisive.text[:_LONGEST_EVIDENCE],
            line=decisive.line,
            is_certain=sign.strength in (STATED, KILLED),
            has_stopped=sign is self._stop,
            recipe=recipe,
            task=task,
        )

    def _add_kernel(self) -> None:
        """Count in what a kernel says; that of a device is a cause of its own, but hardly one if the build has one."""
        mark = self._kernel
        if mark is None:
            return
        if self._has_device:
            strength = FAILED if STATED in self._first or KILLED in self._first else CAUSE
            reason = "the memory that ended is that of the device under test"
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


def _first_sign(rules: tuple[Rule, ...], messages: Sequence[str]) -> tuple[str, Sign] | None:
    """What a line says by the first rule that knows it, and which of the messages that it may be."""
    return next((found for rule in rules if (found := rule.sign_in(messages))), None)
