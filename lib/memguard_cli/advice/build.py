# SPDX-License-Identifier: MIT
"""What to change after a build: a BuildRecord -> advice, the most urgent first.

Runs in: outside BitBake; pure.
Covers: the limit, the mode, the history, footprints of single recipes, recipes that were killed.
Does not cover: the container a build would have (container, which doctor tells).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from memguard.channels.state import KILLED_SHARE
from memguard.model import HISTORY_ORIGIN, OWN_ORIGIN, Outcome
from memguard.record.events import Killed
from memguard.units import MIB, format_bytes, format_duration
from memguard_cli.advice.limits import By, Limits
from memguard_cli.advice.waiting import MARGIN, WAITING_SHARE, limits_needed, round_up, waiting_s, with_reserve
from memguard_cli.builds.record import RUNNING, BuildRecord, TaskRun

# A prediction is worth a line of configuration where it is that far off, and for a task of that size.
LOW_SHARE, HIGH_SHARE = 1.25, 0.5
WORTH_BYTES = 256 * MIB
# A limit is larger than need be where the peak and the reserve together take less than this share.
IDLE_SHARE = 0.6
_NAMED = 5
# Origins of footprints (model.Footprint) that no rule of thumb is behind.
_KNOWN_ORIGINS = (HISTORY_ORIGIN, OWN_ORIGIN)
_RECIPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+~-]*")
_TASK = re.compile(r"do_[a-z0-9_]+")


@dataclass(frozen=True)
class Advice:
    """One thing to change: what was found, what to do, and lines of configuration to paste, "" where there are none."""

    code: str
    finding: str
    remedy: str
    lines: str = ""


def advise(record: BuildRecord, limits: Limits, is_running: bool = False) -> list[Advice]:
    """All there is to say of a build that `limits` limit."""
    rules = [rule for rule in _RULES if rule is not _larger_limit or limits.by is By.MEMORY]
    said = [advice for rule in rules for advice in rule(record)]
    return said if is_running or record.end is not None else [*_killed_build(record), *said]


def _killed_build(record: BuildRecord) -> Iterator[Advice]:
    last = record.sights[-1] if record.sights else None
    if last is None or not last.limit_bytes:
        return
    fill = last.used_bytes / last.limit_bytes
    if fill < KILLED_SHARE:
        yield Advice(
            "killed-from-outside",
            f"The last reading before the log ends has {format_bytes(last.used_bytes)} of "
            f"{format_bytes(last.limit_bytes)} ({100 * fill:.0f} %) used.",
            "That is far below the limit: look for a time limit of the CI job, an eviction from the node (kubectl "
            "describe pod), or a limit outside the container that cannot be seen from inside.",
            'MEMGUARD_LIMIT = "12G"   # what the pod or the machine really has',
        )
    else:
        yield Advice(
            "killed-at-limit",
            f"The last reading before the log ends has {format_bytes(last.used_bytes)} of "
            f"{format_bytes(last.limit_bytes)} ({100 * fill:.0f} %) used.",
            "Keep more free for what grows between two readings, or raise the limit.",
            'MEMGUARD_RESERVE = "15%"',
        )


def _kernel_kills(record: BuildRecord) -> Iterator[Advice]:
    kills = record.end.oom_kills if record.end else None
    if not kills:
        return
    finding = f"The kernel killed {_count(kills, 'process', 'processes')} of the container for memory."
    if record.mode == "observe":
        yield Advice("kernel-kills", finding, "memguard only observed. Let it act.", 'MEMGUARD_MODE = "enforce"')
    else:
        yield Advice(
            "kernel-kills",
            finding,
            "Something grew faster than memguard could act: keep more free.",
            'MEMGUARD_RESERVE = "15%"',
        )


def _was_killed(run: TaskRun) -> bool:
    return run.outcome == Outcome.MEMORY_KILL or run.count(Killed) > 0


def _killed_tasks(record: BuildRecord) -> Iterator[Advice]:
    killed = [run for run in record.runs if _was_killed(run) and run.outcome != RUNNING]
    if not killed:
        return
    well = sum(run.outcome == Outcome.OK for run in killed)
    ends = (
        f"{well} of {len(killed)} tasks ended well" if len(killed) > 1 else f"it {'ended well' if well else 'failed'}"
    )
    yield Advice(
        "killed-tasks",
        f"Processes of {_names(killed)} were killed for memory; {ends} after a retry.",
        "If the history outlives the build, it has learned this, and there is nothing to do. Otherwise tell memguard "
        "what they take, so that they start with fewer jobs or later.",
        # A small task was killed for what others took.
        _footprint_lines(run for run in killed if (run.peak_bytes or 0) >= WORTH_BYTES),
    )


def _no_limit(record: BuildRecord) -> Iterator[Advice]:
    if record.start is not None and record.start.limit_bytes is None:
        yield Advice(
            "no-limit",
            "No limit of the container was visible, so the whole machine's memory was planned with.",
            "If the container has one all the same (a pod's limit does not show in its containers), set it; on "
            "Kubernetes give the container resources.limits.memory equal to resources.requests.memory.",
            'MEMGUARD_LIMIT = "12G"',
        )


def _observed(record: BuildRecord) -> Iterator[Advice]:
    would = [run for run in record.runs if run.would_hold]
    if would:
        yield Advice(
            "observe",
            f"memguard would have held {_count(len(would), 'task')}, {_names(would)} among them.",
            "It only observed. Let it act.",
            'MEMGUARD_MODE = "enforce"',
        )


def _alone(record: BuildRecord) -> Iterator[Advice]:
    if not record.end or not record.end.forced:
        return
    heaviest = max(record.runs, key=lambda run: run.granted_bytes or 0, default=None)
    if heaviest is not None and heaviest.granted_bytes:
        yield Advice(
            "runs-alone",
            f"{_count(record.end.forced, 'task')} did not fit and ran alone; {heaviest.name} was expected to take "
            f"{format_bytes(heaviest.granted_bytes)}.",
            f"Give the container at least {round_up(with_reserve(record, heaviest.granted_bytes))}.",
        )


def _too_low(record: BuildRecord) -> Iterator[Advice]:
    off = [
        run
        for run in _measured(record)
        if run.origin not in _KNOWN_ORIGINS
        and (run.peak_bytes or 0) > LOW_SHARE * (run.granted_bytes or 0)
        and not _was_killed(run)
    ]
    off.sort(key=lambda run: (run.granted_bytes or 0) - (run.peak_bytes or 0))
    if off:
        yield Advice(
            "predicted-too-low",
            f"{_count(len(off), 'task')} without a history took more than predicted: {_measures(off)}.",
            "The next build will know better if it finds this one's history; otherwise set these lines.",
            _footprint_lines(off),
        )


def _too_high(record: BuildRecord) -> Iterator[Advice]:
    if not record.held_s:
        return
    off = [
        run
        for run in _measured(record)
        if run.origin not in _KNOWN_ORIGINS
        and (run.granted_bytes or 0) >= WORTH_BYTES
        and (run.peak_bytes or 0) < HIGH_SHARE * (run.granted_bytes or 0)
        and run.outcome == Outcome.OK
    ]
    off.sort(key=lambda run: (run.peak_bytes or 0) - (run.granted_bytes or 0))
    if off:
        yield Advice(
            "predicted-too-high",
            f"{_count(len(off), 'task')} without a history took less than half of what was kept for them while others "
            f"waited: {_measures(off)}.",
            "The next build will know better if it finds this one's history; otherwise set these lines.",
            _footprint_lines(off),
        )


def _own_lines(record: BuildRecord) -> Iterator[Advice]:
    off = [
        run
        for run in _measured(record)
        if run.origin == OWN_ORIGIN
        and not HIGH_SHARE * (run.granted_bytes or 0) <= (run.peak_bytes or 0) <= LOW_SHARE * (run.granted_bytes or 0)
    ]
    if off:
        yield Advice(
            "own-footprint-off",
            f"Your own MEMGUARD_FOOTPRINT is far off for {_measures(off)}.",
            "Correct the line, or remove it: the history then decides.",
            _footprint_lines(off),
        )


def _history(record: BuildRecord) -> Iterator[Advice]:
    origins = Counter(run.origin for run in record.runs if run.origin)
    unknown = sum(count for origin, count in origins.items() if origin not in _KNOWN_ORIGINS)
    if unknown > 20 and unknown > sum(origins.values()) / 2:
        yield Advice(
            "no-history",
            f"{unknown:,} of {sum(origins.values()):,} tasks had no history.",
            "That is so in a first build. Where the build directory is thrown away after each build, keep the history "
            "elsewhere, next to the sstate cache for example.",
            'MEMGUARD_HISTORY = "${SSTATE_DIR}/../memguard-history.db"',
        )


def _larger_limit(record: BuildRecord) -> Iterator[Advice]:
    limit = record.limit_bytes
    waited_s = waiting_s(record)
    if limit is None or not record.wall_s or waited_s < WAITING_SHARE * record.wall_s:
        return
    needed = limits_needed(record)
    if not needed:
        return
    half_s, half = 0.0, needed[-1][0]
    for level, held_s in needed:
        half_s += held_s
        if half_s * 2 >= sum(seconds for _, seconds in needed):
            half = level
            break
    most = needed[-1][0]
    if most <= limit:
        return
    finding = (
        f"For {100 * waited_s / record.wall_s:.0f} % of the build's time at least one task waited for memory "
        f"({format_duration(record.held_s)} over all tasks)."
    )
    remedy = f"By what tasks took, nothing would have waited with a limit of about {round_up(most)}"
    if limit < half and round_up(half) != round_up(most):
        remedy += f", and half as long with {round_up(half)}"
    yield Advice("larger-limit", finding, f"{remedy} (it was {format_bytes(limit)}).")


def _smaller_limit(record: BuildRecord) -> Iterator[Advice]:
    limit, peak = record.limit_bytes, record.peak_bytes
    if (
        limit is None
        or peak is None
        or record.end is None
        or record.held_s
        or any(run.is_shrunk for run in record.runs)
    ):
        return
    enough = with_reserve(record, int(peak * MARGIN))
    if enough < IDLE_SHARE * limit and len(record.runs) > 20:
        yield Advice(
            "smaller-limit",
            f"At most {format_bytes(peak)} of {format_bytes(limit)} were used, and no task waited.",
            f"A limit of about {round_up(enough)} would do for this build; one that builds more may take more.",
        )


def _throttled(record: BuildRecord) -> Iterator[Advice]:
    slowed = [run for run in record.runs if run.outcome == Outcome.THROTTLED]
    if slowed:
        yield Advice(
            "throttled",
            f"The kernel slowed {_count(len(slowed), 'task')} down at memory.high, {_names(slowed)} among them.",
            "Raise memory.high to memory.max where you can: at it every process crawls, and none is helped.",
        )


_RULES = (
    _kernel_kills,
    _killed_tasks,
    _no_limit,
    _observed,
    _alone,
    _too_low,
    _own_lines,
    _larger_limit,
    _too_high,
    _history,
    _throttled,
    _smaller_limit,
)


def _measured(record: BuildRecord) -> list[TaskRun]:
    """Runs whose prediction can be judged: nothing follows from what has not ended, or was hardly seen."""
    return [
        run
        for run in record.runs
        if run.is_judged
        and run.peak_bytes
        and run.granted_bytes
        and max(run.peak_bytes, run.granted_bytes) >= WORTH_BYTES
    ]


def _footprint_lines(runs: Iterable[TaskRun]) -> str:
    """MEMGUARD_FOOTPRINT lines for what was measured, with a margin; the first few."""
    recipes: dict[str, dict[str, str]] = {}
    for run in runs:
        peak_bytes = run.peak_bytes or 0
        if peak_bytes and _RECIPE.fullmatch(run.recipe) and _TASK.fullmatch(run.task):
            if len(recipes) == _NAMED and run.recipe not in recipes:
                break
            jobs = run.jobs or 1
            # To ten MiB: more digits would promise more than one run can show.
            # Of a task that was stopped or killed the jobs were never all at their largest.
            share = -(-int(max(peak_bytes // jobs, run.largest_job_bytes) * MARGIN) // (10 * MIB)) * 10
            figure = f"per_job={share}M" if jobs > 1 else f"serial={share}M"
            recipes.setdefault(run.recipe, {}).setdefault(run.task, f"{run.task}:{figure}")
    return "\n".join(
        f'MEMGUARD_FOOTPRINT:pn-{recipe} = "{" ".join(tasks.values())}"' for recipe, tasks in recipes.items()
    )


def _measures(runs: list[TaskRun]) -> str:
    measures = [
        f"{run.name} {format_bytes(run.peak_bytes or 0)} of {format_bytes(run.granted_bytes or 0)}"
        for run in runs[:_NAMED]
    ]
    return ", ".join(measures) + (" ..." if len(runs) > _NAMED else "")


def _names(runs: list[TaskRun]) -> str:
    names = list(dict.fromkeys(run.name for run in runs))
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _count(number: int, noun: str, plural: str = "") -> str:
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
