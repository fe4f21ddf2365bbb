# SPDX-License-Identifier: MIT
"""What a build here would think that a task takes, with all that it rests on: a Prediction.

Runs in: outside BitBake.
Covers: the same steps as a build: the user's own line, else the table or the kind of recipe, moved by the history.
Does not cover: the steps themselves (memguard.predict); what BitBake alone knows of a recipe, which is asked for: its
version and the classes it inherits; how it looks (screens/prediction).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from memguard import settings
from memguard.model import Footprint, PastRun, Sample
from memguard.predict.fit import MOST_JOBS, Learned, learn
from memguard.predict.footprints import Known, Predictor, read_table
from memguard_cli.builds import history_file
from memguard_cli.builds.configuration import BuildConfiguration
from memguard_cli.builds.job_counts import count_jobs
from memguard_cli.errors import UserError

DEFAULT_TASK = "do_compile"
# Origins of footprints.
OWN, KNOWN = "MEMGUARD_FOOTPRINT", "known"


@dataclass(frozen=True)
class Prediction:
    """What one task is thought to take, with all it rests on.

    footprint: what a build would plan with: the user's own figures, else what was learned.
    jobs_from: why it is for `jobs` jobs.
    prior:     what was thought before any run; known is the row of the table it is from, if it is from there.
    learned:   what the runs make of the prior, also where the user's own figures stand.
    samples:   the runs, newest build first.
    """

    recipe: str
    task: str
    version: str
    classes: frozenset[str]
    jobs: int
    jobs_from: str
    prior: Footprint
    known: Known | None
    learned: Learned
    samples: tuple[Sample, ...]

    @property
    def is_own(self) -> bool:
        return self.prior.origin == OWN

    @property
    def footprint(self) -> Footprint:
        return self.prior if self.is_own else self.learned.footprint

    @property
    def confidence(self) -> float:
        """0 to 1, as Learned has it; 0 for what rests on no run, as the user's own figures do."""
        return 0.0 if self.is_own else self.learned.confidence


@dataclass(frozen=True)
class Question:
    """What is asked of a prediction.

    task:    None for do_compile and every other task that the history knows.
    version: what is to be built, None for the newest of the history.
    jobs:    None for as many as are usual here.
    """

    recipe: str
    task: str | None = None
    version: str | None = None
    classes: frozenset[str] = frozenset()
    jobs: int | None = None


def predict_tasks(question: Question, path: Path, build: BuildConfiguration | None) -> list[Prediction]:
    """The predictions that a build would make; `path` is the history, which need not be there.

    Raises UserError for a history that cannot be read, and for a line of the user's that would stop a build.
    """
    recipe = question.recipe
    samples, past = _look_up(path, recipe)
    predictor = Predictor(read_table(), _read_own(build, recipe))
    for (other, task), run in past.items():
        if run.kind and run.peak_bytes and run.jobs:
            predictor.take_remembered(other, task, run.kind, run.jobs, run.peak_bytes)
    tasks = [question.task or DEFAULT_TASK]
    if question.task is None:
        tasks += sorted(set(samples) - set(tasks))
    version = _newest(samples) if question.version is None else question.version
    found = []
    for task in tasks:
        runs = samples.get(task, ())
        prior = predictor.predict(recipe, task, question.classes)
        jobs = (question.jobs, "--jobs") if question.jobs is not None else _usual_jobs(recipe, task, runs, build)
        known = predictor.find_known(recipe, task) if prior.origin == KNOWN else None
        learned = learn(runs, prior, version)
        found.append(Prediction(recipe, task, version, question.classes, *jobs, prior, known, learned, runs))
    return found


def _look_up(path: Path, recipe: str) -> tuple[dict[str, tuple[Sample, ...]], dict[tuple[str, str], PastRun]]:
    """The samples of each task of a recipe, as many as a build looks at, and the last run of each task of all recipes.

    None where there is no history yet.
    """
    if not history_file.is_there(path):
        return {}, {}
    with history_file.opened_to_read(path) as source:
        found, past = source.latest([recipe]), source.fastest_runs()
    return {task: tuple(samples) for (_, task), samples in found.items()}, past


def _read_own(build: BuildConfiguration | None, recipe: str) -> dict[str, dict[str, Footprint]]:
    """The user's own figures. Raises UserError for a line that would stop a build."""
    name = f"{settings.OVERRIDE_PREFIX}{recipe}"
    if build is None or not build.written(name):
        return {}
    value = build.expand(name)
    if value is None:
        raise UserError(f'{name} = "{build.written(name)}" in {build.directory}/conf is for BitBake to work out')
    try:
        return settings.read({name: value}.get, [name]).overrides
    except settings.SettingsError as error:
        raise UserError(str(error)) from None


def _newest(samples: dict[str, tuple[Sample, ...]]) -> str:
    """The version of the newest build, "" where no run is known."""
    newest = min((runs[0] for runs in samples.values()), key=lambda sample: sample.age_builds, default=None)
    return newest.record.version if newest else ""


def _usual_jobs(
    recipe: str, task: str, samples: tuple[Sample, ...], build: BuildConfiguration | None
) -> tuple[int, str]:
    """The jobs the task would want in a build here, and why that is thought."""
    if build and task.startswith(("do_compile", "do_install")):
        count = count_jobs(build, recipe)
        if count.count and not count.is_default:
            return min(count.count, MOST_JOBS), count.variable
    for sample in samples:
        if sample.record.jobs is not None:
            return min(sample.record.jobs, MOST_JOBS), "as in its newest run"
    return len(os.sched_getaffinity(0)), "the CPUs here"
