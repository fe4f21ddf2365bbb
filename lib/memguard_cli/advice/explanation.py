# SPDX-License-Identifier: MIT
"""Whether memory ended a build: a log, or a build directory -> explanations, and what to do about them.

Runs in: outside BitBake.
Covers: which logs of a build directory count, and in which order; how full memory was when a console just stops.
Does not cover: judging a log (memguard.diagnose), finding logs (builds/failed_logs), the screen (screens/explanation).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from memguard.channels.state import KILLED_SHARE
from memguard.diagnose.console import STOPS
from memguard.diagnose.place import place_of
from memguard.diagnose.scan import classify_stream
from memguard.diagnose.verdict import Finding
from memguard_cli.builds import failed_logs
from memguard_cli.builds.memory_then import MemoryThen, find_memory_then
from memguard_cli.errors import UserError

# Of the limit: a build that was killed with less than this in use did not die of memory.
_ROOMY_SHARE = 0.6
_EXAMPLE = "tmp/work/ARCH/RECIPE/VERSION/temp/log.do_compile.123, or a build directory"
_ORDER = ("memory", "unclear", "other")


@dataclass(frozen=True)
class Explanation:
    """What there is to say of one input, or of one log of a build directory."""

    file: str
    finding: Finding
    then: MemoryThen | None = None


def explain_input(name: str, standard_input: IO[bytes]) -> list[Explanation]:
    """One explanation of a log ("-" is standard input), one or more of a build directory.

    Raises UserError for what cannot be judged.
    """
    if name == "-":
        return [Explanation(name, classify_stream(standard_input))]
    path = Path(name)
    try:
        return _explain_build(path) if path.is_dir() else [_explain_log(path, name)]
    except (OSError, EOFError) as error:
        raise UserError(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}", _EXAMPLE) from None
    except failed_logs.NoLog as reason:
        raise UserError(f"{name} {reason}", _EXAMPLE) from None


def _explain_log(path: Path, name: str) -> Explanation:
    place = place_of(str(path.absolute()))
    with failed_logs.opened(path) as log:
        finding = classify_stream(log, place[1] if place else "")
    if place:  # where the log lies says more than what it quotes
        finding = replace(finding, recipe=place[0], task=place[1])
    then = find_memory_then(path, finding.recipe, finding.task, has_stopped=finding.has_stopped)
    return Explanation(name, _weigh(finding, then), then)


def _weigh(finding: Finding, then: MemoryThen | None) -> Finding:
    """A console that just stops says little; how full memory was then says more."""
    share = then.share if then else None
    if then is None or share is None or then.is_peak or not finding.has_stopped:
        return finding
    reason = f"{STOPS} with {share * 100:.0f} % of the limit used"
    if share >= KILLED_SHARE:
        return replace(finding, verdict="memory", reason=reason)
    return replace(finding, verdict="unclear", reason=reason) if share < _ROOMY_SHARE else finding


def _explain_build(directory: Path) -> list[Explanation]:
    """The tasks that failed last, memory first; the console where no task's log is left."""
    explanations = [_explain_log(path, str(path)) for path in failed_logs.find(directory)]
    if failed_logs.is_running(directory):
        explanations = [_still_running(each) if each.finding.has_stopped else each for each in explanations]
    return sorted(explanations, key=lambda explanation: _ORDER.index(explanation.finding.verdict))


def _still_running(explanation: Explanation) -> Explanation:
    """A console that has not ended yet, for BitBake holds its lock."""
    finding = replace(explanation.finding, verdict="unclear", reason="the build is still running")
    return replace(explanation, finding=finding)


def advise(finding: Finding) -> dict[str, str]:
    """What to do, in a sentence for BitBake and one for Kubernetes; nothing where memory is not the cause."""
    recipe = finding.recipe or "RECIPE"
    if finding.verdict == "memory":
        bitbake = (
            f'Give {recipe} fewer jobs (PARALLEL_MAKE:pn-{recipe} = "-j 2"), or let memguard do it '
            '(INHERIT += "memguard"), and build again: what is compiled already is kept.'
        )
        if finding.task and not finding.task.startswith(("do_compile", "do_install")):
            bitbake = (
                f"Run fewer tasks at once beside {recipe} {finding.task} (BB_NUMBER_THREADS), or let memguard hold "
                'them (INHERIT += "memguard"), and build again.'
            )
        return {
            "bitbake": bitbake,
            "kubernetes": "Raise resources.limits.memory of the build's container, and requests.memory with it, so "
            "that the node has it; memguard doctor tells what a build sees.",
        }
    if finding.verdict == "unclear":
        return {
            "bitbake": "Look into the kernel log of the build host (dmesg | grep -i oom) for a kill at that time.",
            "kubernetes": "kubectl describe pod tells whether the last state of the container was OOMKilled.",
        }
    return {}
