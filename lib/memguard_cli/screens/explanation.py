# SPDX-License-Identifier: MIT
"""Explanations in words and as data: what `memguard explain` prints.

Runs in: outside BitBake; pure.
Does not cover: what is found (advice/explanation), and what to do about it (advice/remedies).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console

from memguard.units import format_bytes
from memguard_cli.advice.explanation import GOOD, RUNNING, Explanation
from memguard_cli.builds.memory_then import MemoryThen
from memguard_cli.screens.text import plain

_STYLES = {"memory": "bold red", "other": "bold", "unclear": "bold yellow", RUNNING: "bold", GOOD: "bold green"}
_LABELS = {
    "bitbake": "BitBake",
    "kubernetes": "Kubernetes",
    "systemd": "systemd",
    "batch": "Batch system",
    "java": "Java",
    "javascript": "JavaScript",
    "limit": "Limit",
}


def as_data(explanations: list[Explanation]) -> dict[str, Any]:
    """One input for machines: its first explanation, and the others of a build directory under `others`."""
    data = [_as_data(explanation) for explanation in explanations]
    return {**data[0], **({"others": data[1:]} if data[1:] else {})}


def _as_data(explanation: Explanation) -> dict[str, Any]:
    finding, then = explanation.finding, explanation.then
    return {
        "file": explanation.file,
        "verdict": explanation.verdict,
        "program": finding.program,
        "evidence": finding.evidence,
        "line": finding.line,
        "reason": explanation.reason,
        "recipe": finding.recipe,
        "task": finding.task,
        "memory": asdict(then) if then else None,
        "advice": explanation.advice,
    }


def show(console: Console, explanation: Explanation) -> None:
    """Print one explanation."""
    finding, then = explanation.finding, explanation.then
    who = " ".join(word for word in (finding.recipe, finding.task) if word)
    console.print(plain(explanation.file), soft_wrap=True)
    verdict = plain(f"  {explanation.verdict}", _STYLES[explanation.verdict])
    verdict.append(plain(f": {explanation.reason}"))
    console.print(verdict)
    for label, value in (("task", who), ("program", finding.program or "")):
        if value:
            console.print(plain(f"  {label:<10}{value}"))
    if finding.evidence:
        console.print(plain(f"  {f'line {finding.line}':<10}{finding.evidence}"), soft_wrap=True)
    if then:
        console.print(plain(f"  {'memory':<10}{_memory(then)}"))
    for label, sentence in explanation.advice.items():
        console.print(plain(f"  {_LABELS[label]}: {sentence}", "dim"), soft_wrap=True)
    console.print()


def _memory(then: MemoryThen) -> str:
    """Memory at that moment, as a sentence."""
    limit = f" of {format_bytes(then.limit_bytes)}" if then.limit_bytes else ""
    share = f" ({then.used_bytes * 100 // then.limit_bytes} %)" if then.limit_bytes else ""
    if then.is_peak:
        return f"{format_bytes(then.used_bytes)}{limit}{share} at the peak of that build"
    own = f", {format_bytes(then.task_bytes)} by this task" if then.task_bytes is not None else ""
    heaviest = f"; the heaviest was {then.heaviest}" if then.heaviest else ""
    return f"{format_bytes(then.used_bytes)}{limit}{share} used at {then.clock}{own}{heaviest}"
