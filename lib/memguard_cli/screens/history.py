# SPDX-License-Identifier: MIT
"""A history as a table."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from memguard.record.history.store import History
from memguard.units import format_bytes
from memguard_cli.screens.text import make_table, plain, printable


@dataclass(frozen=True)
class TaskSummary:
    """All runs of one task. Sizes are None where no run tells; jobs, fewest first, are those that are known.

    version: of the newest build.
    """

    recipe: str
    task: str
    version: str
    runs: int
    builds: int
    jobs: tuple[int, ...]
    peak_median_bytes: int | None
    peak_max_bytes: int | None
    largest_process_bytes: int
    outcomes: dict[str, int]

    @property
    def weight_bytes(self) -> int:
        """What it is heavy by: the whole task's peak, or its largest process where no more is known."""
        return max(self.peak_max_bytes or 0, self.largest_process_bytes)


def summarise(samples: Iterable[dict[str, Any]]) -> list[TaskSummary]:
    """Samples as History.export() gives them, oldest build first, by task; the heaviest first."""
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for sample in samples:
        runs.setdefault((sample["pn"], sample["task"]), []).append(sample)
    summaries = [_summarise(recipe, task, these) for (recipe, task), these in runs.items()]
    return sorted(summaries, key=lambda summary: (-summary.weight_bytes, summary.recipe, summary.task))


def _summarise(recipe: str, task: str, runs: list[dict[str, Any]]) -> TaskSummary:
    peaks = [run["peak_bytes"] for run in runs if run["peak_bytes"] is not None]
    return TaskSummary(
        recipe,
        task,
        version=runs[-1]["pv"],
        runs=len(runs),
        builds=len({run["build"] for run in runs}),
        jobs=tuple(sorted({run["jobs"] for run in runs if run["jobs"] is not None})),
        peak_median_bytes=int(statistics.median(peaks)) if peaks else None,
        peak_max_bytes=max(peaks, default=None),
        largest_process_bytes=max(run["largest_process_bytes"] for run in runs),
        outcomes=dict(Counter(run["outcome"] for run in runs).most_common()),
    )


def history_data(source: History, samples: int, builds: int, tasks: list[TaskSummary]) -> dict[str, Any]:
    """The summary for machines: null for what is not known. samples and builds are those of the whole file."""
    return {
        "file": printable(str(source.path)),
        "size_bytes": source.size_bytes(),
        "samples": samples,
        "builds": builds,
        "tasks": [
            {
                "pn": task.recipe,
                "task": task.task,
                "pv": task.version,
                "runs": task.runs,
                "builds": task.builds,
                "jobs": list(task.jobs),
                "peak_median_bytes": task.peak_median_bytes,
                "peak_max_bytes": task.peak_max_bytes,
                "largest_process_bytes": task.largest_process_bytes,
                "outcomes": task.outcomes,
            }
            for task in tasks
        ],
    }


def history_table(tasks: list[TaskSummary]) -> Any:
    table = make_table("task", "version", "runs", "builds", "jobs", "median", "most", "process", left=2)
    for task in tasks:
        ill = [f"{runs} {outcome}" for outcome, runs in task.outcomes.items() if outcome != "ok"]
        cell = plain(f"{task.recipe} {task.task}")
        if ill:
            cell.append(f"\n  {', '.join(ill)}", "yellow")
        table.add_row(
            cell,
            plain(_short(task.version)),
            str(task.runs),
            str(task.builds),
            _jobs(task.jobs),
            _size(task.peak_median_bytes),
            _size(task.peak_max_bytes),
            _size(task.largest_process_bytes),
        )
    return table


def _jobs(jobs: tuple[int, ...]) -> str:
    if len(jobs) <= 2:
        return ",".join(map(str, jobs)) or "-"
    return f"{jobs[0]}-{jobs[-1]}"


def _short(version: str) -> str:
    return version if len(version) <= 10 else f"{version[:9]}…"


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else format_bytes(size_bytes)
