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

from dataclasses import dataclass

from memguard.diagnose.lines import is_quoted
from memguard.diagnose.memory_rules import DEVICE, KERNEL, MEMORY_RULES
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


class Judge:
    """Takes the lines of one log that may matter, in any order, and weighs them at the end."""

    def __init__(self, task: str) -> None:
        """`task` is the task whose log it is, "" where it is not that of a task."""
        self._first: dict[Strength, Mark] = {}
        self._first_named: dict[Strength, Mark] = {}
        self._kernel: Mark | None = None
        self._has_device = task.startswith(("do_testimage", "do_testsdk"))
        self._places = Places()

    def take_memory(self, line: int, text: str) -> None:
        """Look for words of memory and of kills."""
        sign = None if is_quoted(text) else _first_sign(MEMORY_RULES, text)
        if sign is None:
            return
        mark = Mark(line, text, sign)
        if sign.strength in (STATED, DOUBT) and KERNEL.search(text):
            self._take_kernel(mark)
        else:
            self.add(mark)

    def take_other(self, line: int, text: str) -> None:
        """Look for other causes, for the task at fault, and for traces of a device under test."""
        if DEVICE.search(text):
            self._has_device = True
        self._places.take(line, text)
        if is_quoted(text) or text.startswith("WARNING: "):
            return
        sign = _first_sign(OTHER_RULES, text)
        if sign is not None:
            self.add(Mark(line, text, sign))

    def add(self, mark: Mark) -> None:
        """Count in what has been found, be it in one line or in several."""
        for first in (self._first, self._first_named) if mark.sign.program else (self._first,):
            known = first.get(mark.sign.strength)
            if known is None or mark.line < known.line:
                first[mark.sign.strength] = mark

    def _take_kernel(self, mark: Mark) -> None:
        """Keep the kernel's strongest words apart until the end: only then it is known whose kernel that was."""

        def rank(mark: Mark) -> tuple[Strength, bool, int]:
            return mark.sign.strength, not mark.sign.program, mark.line

        if self._kernel is None or rank(mark) < rank(self._kernel):
            self._kernel = mark

    def finish(self) -> Finding:
        """What all of it says."""
        self._add_kernel()
        decisive = self._decisive()
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

    def _decisive(self) -> Mark | None:
        """The mark that outweighs all others, None where there is none."""
        first, named = self._first, self._first_named
        if STATED in first or KILLED in first:
            killed, stopped = first.get(KILLED), first.get(STOPPED)
            if STATED not in first and killed and stopped and stopped.line < killed.line:
                return stopped
            return named.get(STATED) or named.get(KILLED) or first.get(STATED) or killed
        doubt = first.get(DOUBT)
        for strength in (STOPPED, CAUSE, HINT, DOUBT, WEAK, FAILED):
            if strength is HINT and doubt is not None and doubt.sign.outweighs_hints:
                continue
            if strength in first:
                return named.get(HINT, first[HINT]) if strength is HINT else first[strength]
        return None


def _first_sign(rules: tuple[Rule, ...], text: str) -> Sign | None:
    """What a line says by the first rule that knows it."""
    return next((sign for rule in rules if (sign := rule.sign_in(text))), None)
