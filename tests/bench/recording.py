# SPDX-License-Identifier: MIT
"""A real build, task by task and compiler by compiler, as a file from which `scripts/bench replay` builds it again.

Covers: taking it out of what memguard wrote of a build and BitBake's graph; the file.
Does not cover: building it (replay). The build should have run one job at a time on each CPU, so that a compiler took
as long as it computed, and in a container, so that what was used was its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from memguard.channels.build_directory import BuildDirectory
from memguard.decide.pool_form import TASKS
from memguard.predict.job_lives import Life
from memguard.predict.remembered_lives import MOST_UNITS, Lives
from memguard.record.history.store import History
from memguard_cli.simulation.graph import Graph
from testbed.events import read_log


@dataclass(frozen=True)
class RecordedTask:
    """One task.

    kind:       of which kind it was taken to be before anybody had built it; "" for one that runs nothing.
    needs:      the places of the tasks that it needs.
    wall_s:     from its start to its end, as BitBake says; cpu_s: with all that it started.
    peak_bytes: of all its processes at once, with one job.
    has_pool:   its jobs take tokens.
    units:      the lives of its compilers as far as they were seen, in no order.
    """

    recipe: str
    task: str
    kind: str
    needs: tuple[int, ...]
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0
    has_pool: bool = False
    units: tuple[Life, ...] = ()


@dataclass(frozen=True)
class Recording:
    """A build. around_s: what it took before its first task and after its last; idle_bytes: used when no task runs."""

    origin: str
    around_s: float
    idle_bytes: int
    tasks: tuple[RecordedTask, ...]

    def slowed(self, factor: float) -> Recording:
        """The same on CPUs on which all takes `factor` times as long."""
        tasks = [
            replace(
                task,
                wall_s=task.wall_s * factor,
                cpu_s=task.cpu_s * factor,
                units=tuple(
                    Life(unit.peak_bytes, unit.wall_s * factor, unit.rise_s * factor, unit.begun_s * factor)
                    for unit in task.units
                ),
            )
            for task in self.tasks
        ]
        return replace(self, tasks=tuple(tasks))

    def write(self, file: Path) -> None:
        """Write it as JSON, a line for each task."""
        lines = ",\n".join(json.dumps(_packed(task)) for task in self.tasks)
        head = json.dumps({"origin": self.origin, "around_s": self.around_s, "idle_bytes": self.idle_bytes})
        file.write_text(f'{head[:-1]}, "tasks": [\n{lines}\n]}}\n', encoding="utf-8")


def read_recording(file: Path) -> Recording:
    """What write() wrote. Raises OSError, or ValueError that names the file."""
    try:
        return _unpacked(json.loads(file.read_text(encoding="utf-8")))
    except (KeyError, TypeError, ValueError) as wrong:
        raise ValueError(f"{file}: not a recording of scripts/bench samples --recording: {wrong!r}") from None


def _unpacked(data: dict[str, Any]) -> Recording:
    tasks = tuple(
        RecordedTask(
            **{
                **task,
                "needs": tuple(task["needs"]),
                "units": tuple(Life(*unit) for unit in task.get("units", ())),
            }
        )
        for task in data["tasks"]
    )
    return Recording(data["origin"], data["around_s"], data["idle_bytes"], tasks)


def _packed(task: RecordedTask) -> dict[str, Any]:
    fields = {name: value for name, value in asdict(task).items() if value not in (0, False, "", ())}
    fields["needs"] = task.needs
    if task.units:
        fields["units"] = [
            [unit.peak_bytes, *(round(value, 2) for value in (unit.wall_s, unit.rise_s, unit.begun_s))]
            for unit in task.units
        ]
    return {"recipe": "", "task": "", "kind": "", **fields}


def record_build(written: BuildDirectory, graph: Graph, wall_s: float, origin: str) -> Recording:
    """The one build of which there is a log. wall_s: how long its command took."""
    (log,) = written.events.glob("*.jsonl")
    events = read_log(log)
    readings = read_log(written.readings / log.name)
    history = History(written.history, warn=print, is_read_only=True)
    lives = {name: Lives.found(history.lives(*name)) for name in graph.names if name[1] in TASKS}
    history.close()
    kinds = granted_kinds(events)
    starts, ends = (
        {_name(line): line["time"] for line in events if line["event"] == what} for what in ("start", "end")
    )
    used = {_name(line): line for line in readings if line["event"] == "task"}
    seen_at = [line for line in readings if line["event"] == "reading"]
    idle_bytes = min(line["used_bytes"] - sum(row[2] for row in line["tasks"]) for line in seen_at)
    tasks = []
    for number, name in enumerate(graph.names):
        seen: Mapping[str, Any] = used.get(name, {})
        has_run = name in starts and name in ends
        tasks.append(
            RecordedTask(
                *name,
                kinds.get(name, "") if has_run else "",
                graph.depends[number],
                round(ends[name] - starts[name], 2) if has_run else 0.0,
                round(seen.get("cpu_s") or 0.0, 2),
                seen.get("peak_bytes") or 0,
                units=tuple(lives.get(name, Lives()).sample(MOST_UNITS)),
            )
        )
    built_s = events[-1]["time"] - events[0]["time"]
    return Recording(origin, round(wall_s - built_s, 1), idle_bytes, tuple(tasks))


def granted_kinds(events: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """Of which kind each task of a first build was taken to be, or where else its footprint was from."""
    return {_name(event): event["origin"] for event in events if event["event"] == "grant"}


def _name(event: Mapping[str, Any]) -> tuple[str, str]:
    return event["recipe"], event["task"]


def with_pools(recording: Recording, written: BuildDirectory) -> Recording:
    """The recording, and which tasks took tokens in any of the builds: with one job none does."""
    lines = [line for log in written.readings.glob("*.jsonl") for line in read_log(log) if line["event"] == "reading"]
    pools = {(row[0], row[1]) for line in lines for row in line["tasks"] if row[5] is not None}
    tasks = [replace(task, has_pool=(task.recipe, task.task) in pools) for task in recording.tasks]
    return replace(recording, tasks=tuple(tasks))
