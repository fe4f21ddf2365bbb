# SPDX-License-Identifier: MIT
"""A history as a table and as data: what `memguard history show` prints.

Runs in: outside BitBake.
Covers: runs summed up by task, the heaviest first; how many of them a screen shows.
Does not cover: the file itself (memguard.record.history), what is wrong with it (builds/history_file).
"""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rich.table import Table

from memguard.record.history.store import History
from memguard.units import format_bytes
from memguard_cli.builds import history_file
from memguard_cli.screens.text import count, make_console, make_table, plain, printable

# Of a whole build's thousands of tasks a screen shows those that matter.
_SHOWN_TASKS = 40
# Nobody reads more on a screen, and rich takes a millisecond for each.
_MOST_SHOWN_TASKS = 1000


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


def is_named(recipe: str, patterns: tuple[str, ...]) -> bool:
    """Whether a recipe is one of those that are asked for, by name or shell pattern; without a pattern all are."""
    return not patterns or any(fnmatchcase(recipe, pattern) for pattern in patterns)


def show_history(path: Path, patterns: tuple[str, ...], as_json: bool) -> None:
    """Print what each task of these recipes took. Raises UserError where there is no history, or it cannot be read."""
    builds: set[str] = set()
    samples: list[dict[str, Any]] = []
    known = 0
    with history_file.opened_to_read(path) as source:
        for sample in source.export():
            known += 1
            builds.add(sample["build"])
            if is_named(sample["pn"], patterns):
                samples.append(sample)
        history_file.check(source)
    tasks = summarise(samples)
    if as_json:
        print(json.dumps(_data(source, known, len(builds), tasks), indent=2))
        return
    console = make_console()
    shown = tasks[: _MOST_SHOWN_TASKS if patterns else _SHOWN_TASKS]
    if shown:
        console.print(_table(shown))
    if len(shown) < len(tasks):
        more = "--json tells of all" if patterns else "memguard history show '*'"
        console.print(plain(f"and {len(tasks) - len(shown):,} lighter tasks: {more}", "dim"))
    if patterns and not tasks:
        console.print(plain(f"no recipe here is called {' or '.join(patterns)}"))
    ends = f"{describe(source)}, {count(known, 'sample')} of {count(len(builds), 'build')}"
    console.print(plain(ends), soft_wrap=True)  # the name of the file stays in one piece


def describe(history: History) -> str:
    """The file and its size, in a few words."""
    return f"{printable(str(history.path))}: {format_bytes(history.size_bytes())}"


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


def _data(source: History, samples: int, builds: int, tasks: list[TaskSummary]) -> dict[str, Any]:
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


def _table(tasks: list[TaskSummary]) -> Table:
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
