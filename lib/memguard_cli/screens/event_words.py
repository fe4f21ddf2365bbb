# SPDX-License-Identifier: MIT
"""One event of a build as a sentence.

Runs in: outside BitBake; pure.
Covers: the events of docs/events.md; of others, their name.
Does not cover: what a terminal would obey in it (screen).
"""

from __future__ import annotations

from typing import Any

from memguard.units import format_bytes

_SHORTER_THAN_A_NAME = 200


def is_worth_telling(event: dict[str, Any]) -> bool:
    """Whether somebody who looks on wants to know: not that a task started or ended as it should."""
    name = event.get("event")
    if name == "grant":
        return event.get("jobs") != event.get("wanted_jobs")
    if name in ("end", "task"):
        return event.get("outcome") != "ok"
    return name not in ("start", "reading", "release")


def sentence(event: dict[str, Any]) -> str:
    """The event in words; fields that are missing or odd are left out."""
    name = _text(event.get("event"))
    task = " ".join(filter(None, (_text(event.get("recipe")), _text(event.get("task")))))
    reason = _text(event.get("reason"))
    because = f": {reason}" if reason else ""
    if name == "build_start":
        return f"the build starts, {_size(event, 'used_bytes')} used of {_size(event, 'limit_bytes')}"
    if name == "build_end":
        return f"the build ends, at most {_size(event, 'peak_bytes')} used"
    if name == "hold":
        return f"{'would hold' if event.get('observed') else 'hold'} {task}{because}"
    if name == "release":
        return f"release {task} after {_number(event, 'held_s'):.0f} s{because}"
    if name == "grant":
        return f"start {task} with {_count(event, 'jobs')} of {_count(event, 'wanted_jobs')} jobs{because}"
    if name == "start":
        return f"{task} runs"
    if name in ("end", "task"):
        return f"{task} has ended: {_text(event.get('outcome')) or 'unknown'}"
    if name == "retry":
        jobs = f" with {_count(event, 'jobs')} jobs" if "jobs" in event else ""
        return f"{task} waits to run again{jobs}{because}"
    if name == "withdraw":
        tokens = f": {_count(event, 'tokens_before')} to {_count(event, 'tokens')} tokens" if "tokens" in event else ""
        return f"withdraw jobs from {task}{tokens}{because}"
    if name == "extend":
        return f"let {task} have {_count(event, 'jobs')} jobs"
    if name in ("stop", "wake", "kill"):
        program = _text(event.get("program"))
        size = f" ({_size(event, 'bytes')})" if "bytes" in event else ""
        of = f"{program or 'a process'}{size} of " if program or "pid" in event else "all of "
        return f"{name} {of}{task}{because}"
    return f"{name} {task}{because}".strip()


def _text(value: object) -> str:
    return value[:_SHORTER_THAN_A_NAME] if isinstance(value, str) else ""


def _number(event: dict[str, Any], name: str) -> float:
    value = event.get(name)
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e15 else 0.0


def _count(event: dict[str, Any], name: str) -> str:
    value = event.get(name)
    return str(value) if type(value) is int and 0 <= value < 1e6 else "?"


def _size(event: dict[str, Any], name: str) -> str:
    value = event.get(name)
    if value is None and name == "limit_bytes":
        return "a machine without a limit"
    return format_bytes(value) if isinstance(value, (int, float)) and abs(value) < 1e18 else "?"
