# SPDX-License-Identifier: MIT
"""A history as a table and as data: what `memguard history show` prints.

Runs in: outside BitBake.
Covers: runs summed up by task, the heaviest first; how many of them a screen shows.
Does not cover: the file itself (memguard.record.history), what is wrong with it (builds/history_file).
"""

from __future__ import annotations

import json
import statistics
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
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
# Of a task that ran with many numbers of jobs those that it ran with most often.
_MEDIANS_MOST = 3


@dataclass(frozen=True)
class TaskSummary:
    """All runs of one task. Sizes are None where no run tells; jobs, fewest first, are those that are known.

    version: of the newest build.
    medians: number of runs and median peak for each number of jobs, fewest first; None for jobs that are not known.
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
    medians: tuple[tuple[int | None, int, int], ...] = ()

    @property
    def weight_bytes(self) -> int:
        """What it is heavy by: the whole task's peak, or its largest process where no more is known."""
        return max(self.peak_max_bytes or 0, self.largest_process_bytes)


def summarise(samples: Iterable[dict[str, Any]]) -> list[TaskSummary]:
    """Samples as History.export() gives them, oldest build first, by task; the heaviest first."""
    runs: dict[tuple[str, str], _Runs] = {}
    for sample in samples:
        runs.setdefault((sample["pn"], sample["task"]), _Runs()).add(sample)
    summaries = [_summarise(recipe, task, these) for (recipe, task), these in runs.items()]
    return sorted(summaries, key=lambda summary: (-summary.weight_bytes, summary.recipe, summary.task))


def is_named(recipe: str, patterns: tuple[str, ...]) -> bool:
    """Whether a recipe is one of those that are asked for, by name or shell pattern; without a pattern all are."""
    return not patterns or any(fnmatchcase(recipe, pattern) for pattern in patterns)


def show_history(path: Path, patterns: tuple[str, ...], as_json: bool) -> None:
    """Print what each task of these recipes took. Raises UserError where there is no history, or it cannot be read."""
    builds: set[str] = set()
    known = 0

    def named(samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        nonlocal known
        for sample in samples:
            known += 1
            builds.add(sample["build"])
            if is_named(sample["pn"], patterns):
                yield sample

    with history_file.opened_to_read(path) as source:
        tasks = summarise(named(source.export()))
    if as_json:
        print(json.dumps(_data(source, known, len(builds), tasks), indent=2))
        return
    console = make_console()
    shown = tasks[: _MOST_SHOWN_TASKS if patterns else _SHOWN_TASKS]
    if shown:
        console.print(_table(shown))
    if len(shown) < len(tasks):
        more = "--json lists them all" if patterns else "memguard history show '*'"
        console.print(plain(f"and {len(tasks) - len(shown):,} lighter tasks: {more}", "dim"))
    if patterns and not tasks:
        console.print(plain(f"no recipe here is called {' or '.join(patterns)}"))
    ends = f"{describe(source)}, {count(known, 'sample')} of {count(len(builds), 'build')}"
    console.print(plain(ends), soft_wrap=True)  # the name of the file stays in one piece


def describe(history: History) -> str:
    """The file and its size, in a few words."""
    return f"{printable(str(history.path))}: {format_bytes(history.size_bytes())}"


class _Runs:
    """The runs of one task, of each only what the summary is made of: a full history has half a million."""

    def __init__(self) -> None:
        self.count = 0
        self.version = ""
        self.builds: set[str] = set()
        self.jobs: set[int] = set()
        self.peaks: dict[int | None, array[int]] = {}
        self.largest_process_bytes = 0
        self.outcomes: Counter[str] = Counter()

    def add(self, sample: dict[str, Any]) -> None:
        """Take in a run that began after those before."""
        self.count += 1
        self.version = sample["pv"]
        self.builds.add(sys.intern(sample["build"]))
        self.outcomes[sample["outcome"]] += 1
        self.largest_process_bytes = max(self.largest_process_bytes, sample["largest_process_bytes"])
        jobs, peak_bytes = sample["jobs"], sample["peak_bytes"]
        if jobs is not None:
            self.jobs.add(jobs)
        if peak_bytes is not None:
            self.peaks.setdefault(jobs, array("q")).append(peak_bytes)


def _summarise(recipe: str, task: str, runs: _Runs) -> TaskSummary:
    peaks = [peak for these in runs.peaks.values() for peak in these]
    return TaskSummary(
        recipe,
        task,
        version=runs.version,
        runs=runs.count,
        builds=len(runs.builds),
        jobs=tuple(sorted(runs.jobs)),
        peak_median_bytes=int(statistics.median(peaks)) if peaks else None,
        peak_max_bytes=max(peaks, default=None),
        largest_process_bytes=runs.largest_process_bytes,
        outcomes=dict(runs.outcomes.most_common()),
        medians=_medians(runs),
    )


def _medians(runs: _Runs) -> tuple[tuple[int | None, int, int], ...]:
    """Jobs, runs and the median of their peaks; a run of one job and one of eight have no median in common."""
    ordered = sorted(runs.peaks.items(), key=lambda pair: pair[0] or 0)
    return tuple((jobs, len(these), int(statistics.median(these))) for jobs, these in ordered)


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
                "medians": [
                    {"jobs": jobs, "runs": runs, "peak_median_bytes": peak} for jobs, runs, peak in task.medians
                ],
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
            _jobs(task),
            "\n".join(format_bytes(peak) for _, _, peak in _shown_medians(task)) or "-",
            _size(task.peak_max_bytes),
            _size(task.largest_process_bytes),
        )
    return table


def _shown_medians(task: TaskSummary) -> tuple[tuple[int | None, int, int], ...]:
    """The medians of the numbers of jobs that ran most often, as many as a row has lines for."""
    if len(task.medians) <= _MEDIANS_MOST:
        return task.medians
    usual = sorted(task.medians, key=lambda median: -median[1])[:_MEDIANS_MOST]
    return tuple(median for median in task.medians if median in usual)


def _jobs(task: TaskSummary) -> str:
    """The numbers of jobs that the medians beside are of."""
    if not task.medians:
        return ",".join(map(str, task.jobs[:2])) or "-"
    return "\n".join("-" if jobs is None else str(jobs) for jobs, _, _ in _shown_medians(task))


def _short(version: str) -> str:
    return version if len(version) <= 10 else f"{version[:9]}…"


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else format_bytes(size_bytes)


def tell_lives(tasks: int) -> str:
    """What was taken over beside samples, to stand behind their counts; "" for nothing."""
    return f", what single jobs of {count(tasks, 'task')} took" if tasks else ""
