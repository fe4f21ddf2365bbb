# SPDX-License-Identifier: MIT
"""Whether memory ended a build: a log, or a build directory -> explanations.

Runs in: outside BitBake.
Covers: which logs of a build directory count, and in which order; how full memory was when a console just stops.
Does not cover: judging a log (memguard.diagnose), finding logs (builds/failed_logs), what to do (advice/remedies), the
screen (screens/explanation).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from memguard.channels.state import KILLED_SHARE
from memguard.diagnose.console import STOPS
from memguard.diagnose.place import place_of
from memguard.diagnose.rule import MEMORY, UNCLEAR
from memguard.diagnose.scan import classify_stream
from memguard.diagnose.verdict import NO_FAILURE, Finding
from memguard_cli.advice.remedies import Advice, advise
from memguard_cli.builds import failed_logs
from memguard_cli.builds.memory_then import MemoryThen, find_memory_then, is_of_running_build, mode_then
from memguard_cli.builds.unpacked import NotUnpacked
from memguard_cli.errors import UserError

# Of the limit: a build that was killed with less than this in use did not run out of memory.
_ROOMY_SHARE = 0.6
_EXAMPLE = "tmp/work/ARCH/RECIPE/VERSION/temp/log.do_compile.123, or a build directory"
# What is said of a build that did not fail, beside the verdicts on those that did.
RUNNING, GOOD = "running", "good"
_ORDER = ("memory", RUNNING, "unclear", "other", GOOD)


@dataclass(frozen=True)
class Explanation:
    """What there is to say of one input, or of one log of a build directory.

    mode: MEMGUARD_MODE of that build, None without memguard.
    """

    file: str
    finding: Finding
    then: MemoryThen | None = None
    mode: str | None = None
    is_running: bool = False

    @property
    def verdict(self) -> str:
        """That of the finding, or that the build still runs, or ended well."""
        if self.is_running and self.finding.verdict == UNCLEAR:
            return RUNNING
        return GOOD if self.finding.has_succeeded and self.finding.verdict == UNCLEAR else self.finding.verdict

    @property
    def reason(self) -> str:
        """Why that is the verdict, in a few words."""
        if self.verdict == RUNNING:
            return "the build is still running"
        aside = "; the build ended well all the same" if self.finding.has_succeeded else ""
        aside = "; the build is still running" if self.is_running else aside
        return self.finding.reason + (aside if self.verdict != GOOD else "")

    @property
    def advice(self) -> Advice:
        """What to do about it."""
        if self.verdict in (RUNNING, GOOD):
            return {}
        return advise(self.finding, self.mode, self.then.heaviest if self.then else None)


def explain_input(name: str, standard_input: IO[bytes]) -> list[Explanation]:
    """One explanation of a log ("-" is standard input), one or more of a build directory.

    Raises UserError for what cannot be judged.
    """
    if name == "-":
        return [Explanation(name, classify_stream(standard_input))]
    path = Path(name)
    try:
        return _explain_build(path) if path.is_dir() else [_explain_log(path, name)]
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}", _EXAMPLE) from None
    except (failed_logs.NoLog, NotUnpacked) as reason:
        raise UserError(f"{name} {reason}", _EXAMPLE) from None


def _explain_log(path: Path, name: str) -> Explanation:
    place = place_of(str(path.absolute()))
    with failed_logs.opened(path) as log:
        finding = classify_stream(log, place[1] if place else "")
    if place:  # where the log lies says more than what it quotes
        finding = replace(finding, recipe=place[0], task=place[1])
    then = find_memory_then(path, finding.recipe, finding.task, has_stopped=finding.has_stopped)
    is_running = finding.has_stopped and is_of_running_build(path)
    weighed = finding if is_running else _weigh(finding, then)
    return Explanation(name, weighed, then, mode_then(path), is_running)


def _weigh(finding: Finding, then: MemoryThen | None) -> Finding:
    """A console that just stops says little; how full memory was then says more."""
    share = then.share if then else None
    if then is None or share is None or then.is_peak or not finding.has_stopped:
        return finding
    reason = f"{STOPS} with {share * 100:.0f} % of the limit used"
    if share >= KILLED_SHARE:
        return replace(finding, verdict=MEMORY, reason=reason)
    return replace(finding, verdict=UNCLEAR, reason=reason) if share < _ROOMY_SHARE else finding


def _explain_build(directory: Path) -> list[Explanation]:
    """The tasks that failed last, memory first; the console where no task's log is left."""
    is_running = failed_logs.is_running(directory)
    try:
        logs = failed_logs.find(directory)
    except failed_logs.NoLog:
        if not is_running:
            raise
        return [Explanation(str(directory), Finding(UNCLEAR, NO_FAILURE), is_running=True)]
    explanations = [replace(_explain_log(path, str(path)), is_running=is_running) for path in logs]
    return sorted(explanations, key=lambda explanation: _ORDER.index(explanation.verdict))
