# SPDX-License-Identifier: MIT
"""One event of a build as a sentence.

Runs in: outside BitBake; pure.
Covers: every event of memguard.record.events.
Does not cover: what a terminal would obey in it (screens/text).
"""

from __future__ import annotations

from memguard.model import Outcome
from memguard.record.events import (
    BuildEnded,
    BuildStarted,
    Ended,
    Event,
    Extended,
    Granted,
    Held,
    ReadingTaken,
    Released,
    Retried,
    Started,
    TaskMeasured,
    Withdrawn,
)
from memguard.units import counted, format_bytes, format_duration

_SHORTER_THAN_A_NAME = 200
_OUTCOMES = {Outcome.THROTTLED.value: "ok, slowed down at memory.high", Outcome.MEMORY_KILL.value: "killed for memory"}


def is_worth_telling(event: Event) -> bool:
    """Whether somebody who looks on wants to know: not that a task started or ended as it should."""
    if isinstance(event, Granted):
        return event.jobs != event.wanted_jobs
    if isinstance(event, (Ended, TaskMeasured)):
        return event.outcome != Outcome.OK
    return not isinstance(event, (Started, ReadingTaken, Released))


def sentence(event: Event) -> str:
    """The event in words, with a question mark for a number that it lacks."""
    if isinstance(event, BuildStarted):
        limit = "a machine without a limit" if event.limit_bytes is None else format_bytes(event.limit_bytes)
        return f"the build starts, {_size(event.used_bytes)} used of {limit}"
    if isinstance(event, BuildEnded):
        return f"the build ends, at most {_size(event.peak_bytes)} used"
    if isinstance(event, ReadingTaken):
        return f"{_size(event.used_bytes)} used"
    task = " ".join(filter(None, (_short(event.recipe), _short(event.task))))
    reason = _short(getattr(event, "reason", ""))
    because = f": {reason}" if reason else ""
    if isinstance(event, Held):
        return f"{'would hold' if event.observed else 'hold'} {task}{because}"
    if isinstance(event, Released):
        return f"release {task} after {format_duration(event.held_s or 0)}{because}"
    if isinstance(event, Granted):
        return f"start {task} with {_count(event.jobs)} of {_count(event.wanted_jobs)} jobs{because}"
    if isinstance(event, Extended):
        return f"let {task} have {_count(event.jobs)} jobs"
    if isinstance(event, Started):
        return f"{task} runs"
    if isinstance(event, (Ended, TaskMeasured)):
        outcome = _OUTCOMES.get(event.outcome) or _short(event.outcome) or "unknown"
        return f"{task} has ended: {outcome}"
    if isinstance(event, Retried):
        jobs = "" if event.jobs is None else f" with {counted(event.jobs, 'job')}"
        return f"{task} waits to run again{jobs}{because}"
    if isinstance(event, Withdrawn):
        tokens = "" if event.tokens is None else f": {_count(event.tokens_before)} to {event.tokens} tokens"
        return f"withdraw jobs from {task}{tokens}"
    program = _short(event.program)
    size = "" if event.bytes is None else f" ({format_bytes(event.bytes)})"
    what = f"{program or 'a process'}{size} of " if program or event.pid is not None else "all of "
    return f"{event.event} {what}{task}{because}"


def _short(text: str) -> str:
    return text[:_SHORTER_THAN_A_NAME]


def _count(number: int | None) -> str:
    return "?" if number is None else str(number)


def _size(size_bytes: int | None) -> str:
    return "?" if size_bytes is None else format_bytes(size_bytes)
