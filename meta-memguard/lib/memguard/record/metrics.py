# SPDX-License-Identifier: MIT
"""A build's state as Prometheus metrics, and the file that node_exporter's textfile collector reads them from.

Runs in: the sentinel (MetricsFile) and the command (METRICS, measure); standard library only.
Covers: names, kinds and meaning of all metrics, in one table; text in the exposition format, in a file that is whole
or not there.
Does not cover: serving them over HTTP (memguard_cli.export).

Names follow https://prometheus.io/docs/practices/naming/, the text
https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from memguard.channels.plain_file import replace_plain
from memguard.channels.state import Counts, State

# Prometheus scrapes every 15 to 60 s; a file costs some 100 us.
INTERVAL_S = 5.0

GAUGE, COUNTER = "gauge", "counter"


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    label:     the name of its only label, "" where it has none.
    is_ending: whether it has a value when no build runs, too.
    """

    name: str
    kind: str
    help: str
    label: str = ""
    is_ending: bool = False


@dataclass(frozen=True)
class Value:
    """One number: of which metric, and with which value of its label."""

    metric: str
    value: float
    label: str = ""


METRICS = (
    Metric("memguard_build_running", GAUGE, "1 while a build runs, else 0.", is_ending=True),
    Metric(
        "memguard_build_killed",
        GAUGE,
        "1 when the newest build was killed outright and left its state behind.",
        is_ending=True,
    ),
    Metric("memguard_build_info", GAUGE, "Always 1; the label says what memguard may do to the build.", "mode"),
    Metric("memguard_state_timestamp_seconds", GAUGE, "When these values were taken.", is_ending=True),
    Metric("memguard_limit_bytes", GAUGE, "Memory limit of the container; missing where none is visible."),
    Metric("memguard_used_bytes", GAUGE, "Memory in use that cannot be reclaimed, never page cache."),
    Metric("memguard_reserve_bytes", GAUGE, "Memory that memguard keeps free."),
    Metric(
        "memguard_mark_bytes",
        GAUGE,
        "Levels of used memory at which tokens are withdrawn, and compilers stopped and killed.",
        "mark",
    ),
    Metric("memguard_cpus", GAUGE, "CPUs that the build may use."),
    Metric("memguard_tasks", GAUGE, "Tasks that are running, stopped, being retried, or held for memory.", "state"),
    Metric("memguard_held_oldest_seconds", GAUGE, "How long the oldest held task has waited; 0 when none is held."),
    Metric("memguard_tasks_current_bytes", GAUGE, "Memory that all running tasks take."),
    Metric("memguard_tasks_swapped_bytes", GAUGE, "Memory of all running tasks that is in swap."),
    Metric("memguard_neighbours", GAUGE, "Other builds under the same limit that are counted in."),
    Metric("memguard_neighbours_bytes", GAUGE, "Memory that the tasks of these builds take."),
    Metric("memguard_tasks_granted_bytes", GAUGE, "Memory that all running tasks are expected to take at most."),
    Metric("memguard_compilers", GAUGE, "Compiler processes of all tasks that run or are stopped.", "state"),
    Metric("memguard_tokens", GAUGE, "Job tokens given to all tasks; missing where no task has a pool."),
    Metric("memguard_tasks_granted_total", COUNTER, "Tasks that were started.", is_ending=True),
    Metric("memguard_tasks_held_total", COUNTER, "Tasks that had to wait for memory.", is_ending=True),
    Metric("memguard_tasks_shrunk_total", COUNTER, "Tasks that started with fewer jobs than wanted.", is_ending=True),
    Metric(
        "memguard_tasks_retried_total", COUNTER, "Tasks that were run again in place with fewer jobs.", is_ending=True
    ),
    Metric(
        "memguard_tasks_lost_total",
        COUNTER,
        "Tasks that failed for lack of memory after all retries.",
        is_ending=True,
    ),
    Metric(
        "memguard_compilers_stopped_total", COUNTER, "Compiler processes that were stopped for a while.", is_ending=True
    ),
    Metric("memguard_compilers_killed_total", COUNTER, "Compiler processes that memguard killed.", is_ending=True),
    Metric("memguard_oom_kills_total", COUNTER, "OOM kills by the kernel in the container.", is_ending=True),
)

# The counts of a state, and the metric that each is.
COUNTS = {
    "granted": "memguard_tasks_granted_total",
    "held": "memguard_tasks_held_total",
    "shrunk": "memguard_tasks_shrunk_total",
    "retried": "memguard_tasks_retried_total",
    "lost": "memguard_tasks_lost_total",
    "stopped": "memguard_compilers_stopped_total",
    "killed": "memguard_compilers_killed_total",
    "oom_kills": "memguard_oom_kills_total",
}
TASK_STATES = ("running", "stopped", "retrying", "held")
MARKS = ("withdraw", "stop", "kill")


def measure(state: State, is_running: bool = True, was_killed: bool = False) -> Iterator[Value]:
    """The numbers in the state of a build, now or as it was left."""
    yield from measure_end(state.time, state.counts, is_running, was_killed)
    if is_running:
        yield from _measure_now(state)


def measure_end(
    time_s: float | None, counts: Counts, is_running: bool = False, was_killed: bool = False
) -> Iterator[Value]:
    """What holds of a build that does not run, too: nobody uses any more what it used. `time_s` is the epoch's."""
    yield Value("memguard_build_running", int(is_running))
    yield Value("memguard_build_killed", int(was_killed))
    if time_s is not None:
        yield Value("memguard_state_timestamp_seconds", time_s)
    for name, metric in COUNTS.items():
        count = getattr(counts, name)
        if count is not None:
            yield Value(metric, count)


def _measure_now(state: State) -> Iterator[Value]:
    """What is true at this moment only."""
    yield Value("memguard_build_info", 1, state.mode)
    for name in ("limit_bytes", "used_bytes", "reserve_bytes", "cpus"):
        yield Value(f"memguard_{name}", getattr(state, name))
    for mark in MARKS:
        yield Value("memguard_mark_bytes", getattr(state.marks, f"{mark}_bytes"), mark)
    tasks = list(state.tasks.values())
    for name in TASK_STATES[:-1]:
        yield Value("memguard_tasks", len([task for task in tasks if task.state == name]), name)
    yield Value("memguard_tasks", len(state.held), TASK_STATES[-1])
    oldest_s = min((held.since for held in state.held), default=state.time)
    yield Value("memguard_held_oldest_seconds", max(0.0, state.time - oldest_s))
    yield Value("memguard_tasks_current_bytes", sum(task.current_bytes for task in tasks))
    yield Value("memguard_tasks_swapped_bytes", sum(task.swapped_bytes for task in tasks))
    yield Value("memguard_neighbours", state.neighbours)
    yield Value("memguard_neighbours_bytes", state.neighbours_bytes)
    yield Value("memguard_tasks_granted_bytes", sum(task.granted_bytes for task in tasks))
    stopped = sum(task.stopped for task in tasks)
    yield Value("memguard_compilers", max(0, sum(task.compilers for task in tasks) - stopped), "running")
    yield Value("memguard_compilers", stopped, "stopped")
    if any(task.tokens is not None for task in tasks):
        yield Value("memguard_tokens", sum(task.tokens or 0 for task in tasks))


def format_text(values: Iterable[Value]) -> str:
    """`values` in Prometheus' text format, those of a metric together, in the order of the table."""
    by_metric: dict[str, list[Value]] = {}
    for value in values:
        by_metric.setdefault(value.metric, []).append(value)
    lines = []
    for metric in METRICS:
        these = by_metric.get(metric.name, ())
        if these:
            lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
        for value in these:
            label = f'{{{metric.label}="{_escape(value.label)}"}}' if metric.label else ""
            lines.append(f"{metric.name}{label} {value.value!r}")
    return "".join(f"{line}\n" for line in lines)


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def write(path: str, text: str) -> None:
    """Write `text` to `path` whole or not at all, readable for all. Raises OSError.

    What is beside it until the rename ends in another way: node_exporter reads every *.prom.
    """
    draft = f"{path}.{os.getpid()}.draft"
    try:
        replace_plain(path, draft, text.encode("utf-8", "replace"), mode=0o644)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(draft).unlink()
        raise


class MetricsFile:
    """The file of one build, written every few seconds; says once what is wrong with it, and never raises."""

    def __init__(self, path: str, warn: Callable[[str], None]) -> None:
        """path: where, "" for nowhere. Nothing is written yet."""
        self._path = path
        self._warn = warn
        self._is_off = not path
        self._written_at_s = -math.inf

    def update(self, state: State, now_s: float) -> None:
        """Write a running build's state when the last one is INTERVAL_S old; `now_s` is the monotonic clock."""
        if not self._is_off and now_s - self._written_at_s >= INTERVAL_S:
            self._written_at_s = now_s
            self._write(measure(state))

    def finish(self, time_s: float, counts: Counts) -> None:
        """Write that the build has ended at `time_s` (epoch) and what it counted in all."""
        if not self._is_off:
            self._write(measure_end(time_s, counts))

    def _write(self, values: Iterable[Value]) -> None:
        try:
            write(self._path, format_text(values))
        except OSError as error:
            self._is_off = True
            self._warn(f"{self._path} cannot be written ({error.strerror}): no metrics of this build")
        except Exception as error:  # a build must not suffer from its own picture
            self._is_off = True
            self._warn(f"no metrics of this build: {error!r}")
