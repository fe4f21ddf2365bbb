# SPDX-License-Identifier: MIT
"""Two builds side by side: what has changed in time, memory, waiting, and in single tasks.

Runs in: outside BitBake; pure but for printing.
Covers: figures of both, the tasks that changed most, tasks that only one of them ran; the same for machines.
Does not cover: which builds are meant (build).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console

from memguard.record.events import Killed, Retried, Stopped
from memguard.units import MIB, format_bytes, format_duration
from memguard_cli.advice.waiting import waiting_s
from memguard_cli.builds.record import BuildRecord, TaskRun
from memguard_cli.report.text import WIDTH
from memguard_cli.report.words import Standing, held_tasks, local_time
from memguard_cli.screens.text import count, make_table, plain

# A task has changed by this share, and by so much: runs of one task spread by 6 to 15 % (docs/prediction.md).
CHANGED_SHARE, CHANGED_S, CHANGED_BYTES = 0.2, 2.0, 32 * MIB
_SHOWN, _NAMED = 15, 6


@dataclass(frozen=True)
class TaskChange:
    """One task in both builds: seconds and bytes of its last run there; None where that is not known."""

    name: str
    seconds: tuple[float | None, float | None]
    bytes: tuple[int | None, int | None]

    @property
    def has_changed(self) -> bool:
        """Whether time or peak differ by more than runs of one task do anyway."""
        return _differ(self.seconds, CHANGED_S) or _differ(self.bytes, CHANGED_BYTES)

    @property
    def weight(self) -> float:
        """What it is listed by: seconds, and what half a second is to memory."""
        return abs(_step(self.seconds)) + abs(_step(self.bytes)) / (64 * MIB)


@dataclass(frozen=True)
class Comparison:
    """Two builds: figures as (name, first, second), changed tasks, the most first, and tasks of one of them alone."""

    figures: tuple[tuple[str, str, str], ...]
    changes: tuple[TaskChange, ...]
    gone: tuple[str, ...]
    new: tuple[str, ...]


def compare(first: tuple[BuildRecord, Standing], second: tuple[BuildRecord, Standing]) -> Comparison:
    """What has changed from the first build to the second."""
    columns = [_figures(*build) for build in (first, second)]
    names = list(dict.fromkeys([*columns[0], *columns[1]]))
    figures = tuple((name, columns[0].get(name, "-"), columns[1].get(name, "-")) for name in names)
    runs = [_last_runs(record) for record, _ in (first, second)]
    both = [name for name in runs[0] if name in runs[1]]
    changes = [_change(name, runs[0][name], runs[1][name]) for name in both]
    changed = sorted((change for change in changes if change.has_changed), key=lambda change: -change.weight)
    gone = tuple(sorted(set(runs[0]) - set(runs[1])))
    return Comparison(figures, tuple(changed), gone, tuple(sorted(set(runs[1]) - set(runs[0]))))


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Print it in 80 columns."""
    console.width = WIDTH
    table = make_table("", "first", "second")
    for column in table.columns[1:]:
        column.max_width = None
    for name, *values in comparison.figures:
        table.add_row(plain(name, "bold"), *map(plain, values))
    console.print(table)
    console.print()
    if not comparison.changes:
        console.print("No task that both ran has changed by more than a fifth.")
    else:
        changed = make_table("task", "time", "then", "peak", "then")
        changed.columns[0].no_wrap, changed.columns[0].overflow = True, "ellipsis"
        for change in comparison.changes[:_SHOWN]:
            cells = [*map(_duration, change.seconds), *map(_size, change.bytes)]
            changed.add_row(plain(change.name), *map(plain, cells))
        console.print(plain(f"{count(len(comparison.changes), 'task')} changed by more than a fifth", "bold"))
        console.print(changed)
        if len(comparison.changes) > _SHOWN:
            console.print(plain(f"and {len(comparison.changes) - _SHOWN:,} more: --json lists all", "dim"))
    for words, names in (("only in the first", comparison.gone), ("only in the second", comparison.new)):
        if names:
            more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
            console.print(plain(f"{count(len(names), 'task')} {words}: {', '.join(names[:_NAMED])}{more}"))


def comparison_data(comparison: Comparison) -> dict[str, Any]:
    """It for machines: sizes in bytes, times in seconds, null for what is not known."""
    return {
        "figures": {name: [first, second] for name, first, second in comparison.figures},
        "changed": [
            {"task": change.name, "wall_s": list(change.seconds), "peak_bytes": list(change.bytes)}
            for change in comparison.changes
        ],
        "only_first": list(comparison.gone),
        "only_second": list(comparison.new),
    }


def _figures(record: BuildRecord, standing: Standing) -> dict[str, str]:
    limit, kills = record.limit_bytes, record.end.oom_kills if record.end else None
    held = "would be held" if record.mode == "observe" else "held"
    return {
        "begun": local_time(record.began_s),
        "standing": standing.value,
        "mode": record.mode or "-",
        "time": format_duration(record.wall_s),
        "peak": _size(record.peak_bytes),
        "limit": "none visible" if limit is None else format_bytes(limit),
        "tasks": f"{sum(run.began_s is not None for run in record.runs):,}",
        held: f"{len(held_tasks(record)):,}",
        "one or more waited": format_duration(waiting_s(record)),
        "shrunk": f"{sum(run.is_shrunk for run in record.runs):,}",
        "stopped": f"{record.count(Stopped):,}",
        "killed": f"{record.count(Killed):,}",
        "retried": f"{record.count(Retried):,}",
        "killed by the kernel": "-" if kills is None else f"{kills:,}",
    }


def _last_runs(record: BuildRecord) -> dict[str, TaskRun]:
    return {run.name: run for run in record.runs if run.began_s is not None}


def _change(name: str, first: TaskRun, second: TaskRun) -> TaskChange:
    seconds = (first.wall_s, second.wall_s)
    return TaskChange(name, seconds, (_peak(first), _peak(second)))


def _peak(run: TaskRun) -> int | None:
    """What it took, None where only a bound is known."""
    return run.peak_bytes if run.is_judged else None


def _step(pair: tuple[float | None, float | None]) -> float:
    return 0.0 if pair[0] is None or pair[1] is None else pair[1] - pair[0]


def _differ(pair: tuple[float | None, float | None], least: float) -> bool:
    step = abs(_step(pair))
    return step >= least and step > CHANGED_SHARE * max(pair[0] or 0.0, pair[1] or 0.0)


def _duration(seconds: float | None) -> str:
    return "-" if seconds is None else format_duration(seconds)


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else format_bytes(size_bytes)
