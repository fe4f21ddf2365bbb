# SPDX-License-Identifier: MIT
"""`memguard predict`: what a task will take, and why a build would think so.

Runs in: outside BitBake.
Covers: the same steps as a build: the user's own line, else the table or the kind of recipe, moved by the history.
Does not cover: the steps themselves (memguard.predict, memguard.learn); what BitBake alone knows of a recipe, which is
asked for: its version and the classes it inherits.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from memguard import settings
from memguard.act.job_variables import jobs_in
from memguard.model import Footprint, Sample
from memguard.predict.fit import MOST_JOBS, learn
from memguard.predict.footprints import Predictor, read_table
from memguard_cli.builds import configuration, history_file
from memguard_cli.builds.configuration import BuildConfiguration
from memguard_cli.screens.prediction import DEFAULT_TASK, Prediction, as_data, show_prediction


@click.command()
@click.argument("target", metavar="PN[:TASK]")
@click.option("--jobs", "-j", type=click.IntRange(1, MOST_JOBS), metavar="N", help="Tell the peak with N jobs.")
@click.option(
    "--class", "classes", multiple=True, metavar="NAME", help="A class the recipe inherits, as cmake; repeat."
)
@click.option("--version", metavar="PV", help="The version to be built; else the newest of the history.")
@click.option("--all-tasks", is_flag=True, help="Tell of do_compile and every task that the history knows.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead; with --all-tasks a list of them.")
@history_file.option
def predict(
    target: str,
    jobs: int | None,
    classes: tuple[str, ...],
    version: str | None,
    all_tasks: bool,
    as_json: bool,
    file: str | None,
) -> int:
    """Tell how much memory a task will take, and what that rests on.

    TASK is do_compile where it is left out. In a build directory MEMGUARD_FOOTPRINT:pn-PN of its conf/local.conf
    counts as in a build. Recipes are not parsed: --class says what PN inherits, which matters while it is unknown.

    \b
    Example:
      memguard predict llvm-native:do_compile --jobs 8
    """
    recipe, task = parse_target(target)
    if all_tasks and task is not None:
        raise click.UsageError(
            f"--all-tasks is for a recipe; {target} names a task. A good one is {recipe} --all-tasks"
        )
    path = history_file.find(file)
    samples = _look_up(path, recipe)
    build = configuration.find()
    predictor = Predictor(read_table(), _read_own(build, recipe))
    tasks = [task or DEFAULT_TASK]
    if task is None:
        tasks += sorted(set(samples) - set(tasks))
    names = frozenset(name.rpartition("/")[2].partition(".")[0] for name in classes)
    version = _newest(samples) if version is None else version
    predictions = [
        explain(predictor, recipe, name, version, names, samples.get(name, ()), jobs, build) for name in tasks
    ]
    if as_json:
        found = [as_data(prediction) for prediction in predictions]
        print(json.dumps(found if all_tasks else found[0], indent=2))
    else:
        show_prediction(predictions, path, all_tasks)
    return 0


def parse_target(text: str) -> tuple[str, str | None]:
    """Recipe and task of PN[:TASK], as bitbake writes them; "compile" is do_compile. Raises UsageError."""
    recipe, colon, task = text.partition(":")
    is_name = all(name and name.isprintable() and not set(name) & set(" /:") for name in (recipe, task or "any"))
    if not is_name or (colon and not task):
        raise click.UsageError(f"{text!r} is no recipe with or without a task; a good one is llvm-native:do_compile")
    return recipe, (task if task.startswith("do_") else f"do_{task}") if task else None


def explain(
    predictor: Predictor,
    recipe: str,
    task: str,
    version: str,
    classes: frozenset[str],
    samples: tuple[Sample, ...],
    jobs: int | None,
    build: BuildConfiguration | None,
) -> Prediction:
    """The prediction that a build would make, with `jobs` jobs or as many as are usual here."""
    prior = predictor.predict(recipe, task, classes)
    told_jobs, jobs_from = (jobs, "--jobs") if jobs is not None else _usual_jobs(recipe, task, samples, build)
    return Prediction(
        recipe,
        task,
        version,
        classes,
        told_jobs,
        jobs_from,
        prior,
        known=predictor.find_known(recipe, task) if prior.origin == "known" else None,
        learned=learn(samples, prior, version),
        samples=samples,
    )


def _look_up(path: Path, recipe: str) -> dict[str, tuple[Sample, ...]]:
    """The samples of each task of a recipe, as many as a build looks at; none where there is no history yet."""
    if not history_file.is_there(path):
        return {}
    with history_file.opened_to_read(path) as source:
        found = source.latest([recipe])
    return {task: tuple(samples) for (_, task), samples in found.items()}


def _read_own(build: BuildConfiguration | None, recipe: str) -> dict[str, dict[str, Footprint]]:
    """The user's own figures. Raises UsageError for a line that would stop a build."""
    name = f"{settings.OVERRIDE_PREFIX}{recipe}"
    if build is None or name not in build.values:
        return {}
    value = build.expand(name)
    if value is None:
        raise click.UsageError(f'{name} = "{build.values[name]}" in {build.directory}/conf is for BitBake to work out')
    try:
        return settings.read({name: value}.get, [name]).overrides
    except settings.SettingsError as error:
        raise click.UsageError(str(error)) from None


def _newest(samples: dict[str, tuple[Sample, ...]]) -> str:
    """The version of the newest build, "" where no run is known."""
    newest = min((runs[0] for runs in samples.values()), key=lambda sample: sample.age_builds, default=None)
    return newest.record.version if newest else ""


def _usual_jobs(
    recipe: str, task: str, samples: tuple[Sample, ...], build: BuildConfiguration | None
) -> tuple[int, str]:
    """The jobs the task would want in a build here, and why that is thought."""
    if build and task.startswith(("do_compile", "do_install")):
        for name in (f"PARALLEL_MAKE:pn-{recipe}", "PARALLEL_MAKE"):
            jobs = jobs_in(build.values.get(name, ""))
            if jobs:
                return min(jobs, MOST_JOBS), name
    for sample in samples:
        if sample.record.jobs is not None:
            return min(sample.record.jobs, MOST_JOBS), "as in its newest run"
    return len(os.sched_getaffinity(0)), "the CPUs here"


# -- in words ----------------------------------------------------------------------------------------------------------
