# SPDX-License-Identifier: MIT
"""`memguard explain`: whether memory ended a build, which process died, and what to do about it.

Runs in: outside BitBake.
Does not cover: judging logs (memguard.failures); finding them in a build directory (failed_logs).
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from memguard.diagnose.console import STOPS
from memguard.diagnose.place import place_of
from memguard.diagnose.scan import classify_stream
from memguard.diagnose.verdict import Finding
from memguard.units import format_bytes
from memguard_cli.builds import failed_logs
from memguard_cli.builds.memory_then import Moment, moment_of
from memguard_cli.screens.text import make_console, plain, printable

STYLES = {"memory": "bold red", "other": "bold", "unclear": "bold yellow"}
# Of the limit: where a build that was killed is taken to have died of memory, and where not.
FULL_SHARE = 0.85
ROOMY_SHARE = 0.6
GOOD_ONE = "a good one is tmp/work/ARCH/RECIPE/VERSION/temp/log.do_compile.123, or a build directory"


@dataclass(frozen=True)
class Explanation:
    """What is told of one input, or of one log of a build directory."""

    file: str
    finding: Finding
    moment: Moment | None = None


class Unreadable(Exception):
    """An input that cannot be judged; the text says which, why, and what a good one is."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a list of JSON objects instead, one for each input.")
@click.argument("inputs", nargs=-1, metavar="[LOG | BUILD DIRECTORY | -]...")
def explain(as_json: bool, inputs: tuple[str, ...]) -> int:
    """Tell whether memory ended a build, which process died, and what to do.

    LOG is any log: of a task, of the console, of a CI job, of the kernel (plain, .gz or .xz); - reads standard input.
    Of a build directory the logs of the tasks that failed last are read, and what memguard recorded of memory then.
    Without an argument it is the build directory where you are ($BUILDDIR).

    Example: memguard explain tmp/work/*/*/*/temp/log.do_compile.*

    Exit status: 0 whatever the verdict, 2 if one of the inputs cannot be read; the others are told all the same.
    """
    given = inputs or (os.environ.get("BUILDDIR") or ".",)
    told: list[list[Explanation]] = []
    status = 0
    for name in given:
        try:
            told.append(_explain(name))
        except Unreadable as reason:
            click.echo(f"memguard: {printable(str(reason))}", err=True)
            status = 2
    if as_json:
        print(json.dumps([as_data(explanations) for explanations in told], indent=2))
    else:
        console = make_console()
        for explanation in (explanation for explanations in told for explanation in explanations):
            _show(console, explanation)
    return status


def _explain(name: str) -> list[Explanation]:
    """All that is told of one input: one explanation of a log, one or more of a build directory."""
    if name == "-":
        return [Explanation(name, classify_stream(sys.stdin.buffer))]
    path = Path(name)
    try:
        if path.is_dir():
            return _explain_build(path)
        return [_explain_log(path, name)]
    except (OSError, EOFError) as error:
        raise Unreadable(f"{name} cannot be read: {getattr(error, 'strerror', None) or error}; {GOOD_ONE}") from None
    except failed_logs.NoLog as reason:
        raise Unreadable(f"{name} {reason}; {GOOD_ONE}") from None


def _explain_log(path: Path, name: str) -> Explanation:
    place = place_of(str(path.absolute()))
    with failed_logs.opened(path) as log:
        finding = classify_stream(log, place[1] if place else "")
    if place:  # where the log lies says more than what it quotes
        finding = replace(finding, recipe=place[0], task=place[1])
    moment = moment_of(path, finding.recipe, finding.task)
    return Explanation(name, _weigh(finding, moment), moment)


def _weigh(finding: Finding, moment: Moment | None) -> Finding:
    """A console that just stops says little; how full memory was then says more."""
    share = moment.share if moment else None
    if moment is None or share is None or moment.is_peak or not finding.reason.startswith(STOPS):
        return finding
    reason = f"{STOPS} with {share * 100:.0f} % of the limit used"
    if share >= FULL_SHARE:
        return replace(finding, verdict="memory", reason=reason)
    return replace(finding, verdict="unclear", reason=reason) if share < ROOMY_SHARE else finding


def _explain_build(directory: Path) -> list[Explanation]:
    """The tasks that failed last, memory first; the console where no task's log is left."""
    logs = failed_logs.find(directory)
    explanations = [_explain_log(path, str(path)) for path in logs]
    order = ("memory", "unclear", "other")
    return sorted(explanations, key=lambda explanation: order.index(explanation.finding.verdict))


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


def as_data(explanations: list[Explanation]) -> dict[str, Any]:
    """One input for machines: its first explanation, and the others of a build directory under `others`."""
    data = [_as_data(explanation) for explanation in explanations]
    return {**data[0], **({"others": data[1:]} if data[1:] else {})}


def _as_data(explanation: Explanation) -> dict[str, Any]:
    finding, moment = explanation.finding, explanation.moment
    return {
        "file": explanation.file,
        "verdict": finding.verdict,
        "program": finding.program,
        "evidence": finding.evidence,
        "line": finding.line,
        "reason": finding.reason,
        "recipe": finding.recipe,
        "task": finding.task,
        "memory": asdict(moment) if moment else None,
        "advice": advise(finding),
    }


def _show(console: Console, explanation: Explanation) -> None:
    finding, moment = explanation.finding, explanation.moment
    who = " ".join(word for word in (finding.recipe, finding.task) if word)
    console.print(plain(explanation.file), soft_wrap=True)
    verdict = plain(f"  {finding.verdict}", STYLES[finding.verdict])
    verdict.append(plain(f": {finding.reason}"))
    console.print(verdict)
    for label, value in (("task", who), ("program", finding.program or "")):
        if value:
            console.print(plain(f"  {label:<10}{value}"))
    if finding.evidence:
        console.print(plain(f"  {f'line {finding.line}':<10}{finding.evidence}"), soft_wrap=True)
    if moment:
        console.print(plain(f"  {'memory':<10}{_memory(moment)}"))
    for label, sentence in advise(finding).items():
        name = {"bitbake": "BitBake", "kubernetes": "Kubernetes"}[label]
        console.print(plain(f"  {name}: {sentence}", "dim"), soft_wrap=True)
    console.print()


def _memory(moment: Moment) -> str:
    """Memory at that moment, as a sentence."""
    limit = f" of {format_bytes(moment.limit_bytes)}" if moment.limit_bytes else ""
    share = f" ({moment.used_bytes * 100 // moment.limit_bytes} %)" if moment.limit_bytes else ""
    if moment.is_peak:
        return f"{format_bytes(moment.used_bytes)}{limit}{share} at the peak of that build"
    own = f", {format_bytes(moment.task_bytes)} by this task" if moment.task_bytes is not None else ""
    heaviest = f"; the heaviest was {moment.heaviest}" if moment.heaviest else ""
    return f"{format_bytes(moment.used_bytes)}{limit}{share} used at {moment.clock}{own}{heaviest}"
