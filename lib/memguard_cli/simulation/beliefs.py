# SPDX-License-Identifier: MIT
"""What memguard thinks of the tasks of a simulated build: what it remembers of each, else what its kind takes.

Runs in: outside BitBake.
Covers: predictions and durations as builds have them; what tasks that run teach of others of their kind.
Does not cover: errors that are drawn (compare), what tasks truly take (truth).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

from memguard.decide.pool_form import TASKS
from memguard.model import PastRun, Record, Sample, Task
from memguard.predict.durations import by_kind, learn_duration
from memguard.predict.footprints import Predictor, read_table
from memguard.predict.kinds import KINDS
from memguard.predict.kinds import by_kind as kind_of
from memguard_cli.simulation.graph import Graph


def classes_of(kind: str) -> frozenset[str]:
    """Classes that make a recipe one of this kind; none for one that needs none, and for a word that is no kind."""
    return next((known.classes for known in KINDS if known.name == kind), frozenset())


class Beliefs:
    """The tasks of a graph, each as memguard judges it now.

    kinds:   the name of each task's kind, "" where it is not known.
    jobs:    what a task that has jobs wants.
    records: what is remembered of each task, by its number, the oldest first.
    """

    def __init__(
        self, graph: Graph, kinds: Callable[[int], str], jobs: int, records: Mapping[int, Sequence[Record]]
    ) -> None:
        self._graph, self._kinds, self._jobs, self._records = graph, kinds, jobs, records
        self._numbers = {name: number for number, name in enumerate(graph.names)}
        self._predictor = Predictor(read_table(), {}, self._samples)
        self._tasks: dict[int, Task] = {}
        for number, known in records.items():
            for record in known[-1:]:
                if record.peak_bytes and record.jobs:
                    self._take(number, record.jobs, record.peak_bytes, has_ended=True)

    def __getitem__(self, number: int) -> Task:
        task = self._tasks.get(number)
        if task is None:
            recipe, name = self._graph.names[number]
            footprint, past = self._predictor.predict(recipe, name, self._classes(number)), self._past(number)
            duration = learn_duration(past) if past else None
            task = Task(str(number), "", recipe, name, footprint, self._wanted(number), duration)
            self._tasks[number] = task
        return task

    def seconds(self, number: int, cpus: float) -> float:
        """How long a task takes with the jobs it wants and has CPUs for; of an unknown one, how long its kind does."""
        past, name = self._past(number), self._graph.names[number][1]
        job_bytes = kind_of(name, self._classes(number)).per_job_bytes
        duration = learn_duration(past) if past else by_kind(name, job_bytes)
        return duration.seconds(max(1, min(self._wanted(number), int(cpus))))

    def learn(self, number: int, jobs: int, peak_bytes: int, has_ended: bool, running: Container[str]) -> list[Task]:
        """What a task took, or takes: the tasks besides those that run of which something else is expected now."""
        kind = self._take(number, max(1, jobs), peak_bytes, has_ended) if peak_bytes else ""
        if not kind:
            return []
        found = [
            other
            for other, task in self._tasks.items()
            if task.footprint.is_guess and task.footprint.origin == kind and task.tid not in running
        ]
        for other in found:
            del self._tasks[other]
        return [self[other] for other in found]

    def _take(self, number: int, jobs: int, peak_bytes: int, has_ended: bool) -> str:
        recipe, name = self._graph.names[number]
        return self._predictor.take(recipe, name, self._classes(number), jobs, peak_bytes, has_ended)

    def _classes(self, number: int) -> frozenset[str]:
        return classes_of(self._kinds(number))

    def _samples(self, recipe: str, task: str) -> Sequence[Sample]:
        records = self._records.get(self._numbers[recipe, task], ())
        return [Sample(record, len(records) - 1 - place) for place, record in enumerate(records)]

    def _wanted(self, number: int) -> int:
        return self._jobs if self._graph.names[number][1] in TASKS else 1

    def _past(self, number: int) -> PastRun | None:
        last = next(iter(self._records.get(number, ())[-1:]), None)
        return PastRun(last.jobs, last.wall_s, last.cpu_s, last.peak_bytes) if last else None
