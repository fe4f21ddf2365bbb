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
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from memguard import settings
from memguard.knobs import jobs_in
from memguard.learn import MOST_JOBS, Learned, learn
from memguard.model import Footprint, Outcome, Sample
from memguard.predict import Known, Predictor, read_table
from memguard.units import format_bytes
from memguard_cli import build_configuration, history_file
from memguard_cli.build_configuration import BuildConfiguration
from memguard_cli.screen import count, make_console, make_table, plain

USUAL_JOBS = (1, 2, 4, 8, 16)
DEFAULT_TASK = "do_compile"
OWN = "MEMGUARD_FOOTPRINT"


@dataclass(frozen=True)
class Prediction:
    """What one task is thought to take, with all it rests on.

    footprint: what a build would plan with: the user's own figures, else what was learned.
    jobs_from: why `jobs` is the job count it is told for.
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
    build = build_configuration.find()
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
        _show(predictions, path, all_tasks)
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


def as_data(prediction: Prediction) -> dict[str, Any]:
    """The prediction for machines. source is MEMGUARD_FOOTPRINT, history, known, or the name of a kind of recipe."""
    footprint, prior, learned = prediction.footprint, prediction.prior, prediction.learned
    return {
        "pn": prediction.recipe,
        "task": prediction.task,
        "pv": prediction.version,
        "classes": sorted(prediction.classes),
        "jobs": prediction.jobs,
        "peak_bytes": footprint.peak_bytes(prediction.jobs),
        **_sizes(footprint),
        "source": footprint.origin,
        "samples": len(prediction.samples),
        "samples_fitted": learned.samples,
        "samples_raising": learned.bounds,
        "confidence": round(prediction.confidence, 4),
        "peaks_bytes": {str(jobs): footprint.peak_bytes(jobs) for jobs in _job_counts(prediction)},
        "margin": round(learned.margin, 4),
        "spread": round(learned.spread, 4),
        "raised": round(learned.raised, 4),
        "per_job_source": learned.job_from,
        "is_new_version": learned.is_new_version,
        "prior": {
            **_sizes(prior),
            "source": prior.origin,
            "row": prediction.known.recipe if prediction.known else None,
            "row_source": prediction.known.source if prediction.known else None,
        },
    }


def _sizes(footprint: Footprint) -> dict[str, int | None]:
    """most_bytes is None where peaks grow with the jobs, as far as is known."""
    return {
        "base_bytes": footprint.base_bytes,
        "per_job_bytes": footprint.per_job_bytes,
        "serial_bytes": footprint.serial_bytes,
        "most_bytes": footprint.most_bytes,
    }


def _job_counts(prediction: Prediction) -> list[int]:
    return sorted({*USUAL_JOBS, prediction.jobs})


# -- in words ----------------------------------------------------------------------------------------------------------


def _show(predictions: list[Prediction], path: Path, all_tasks: bool) -> None:
    console = make_console()
    if not all_tasks:
        first, *predictions = predictions
        console.print(plain(_title(f"{first.recipe} {first.task}", first.version), "bold"))
        facts = make_table("", "", left=2)
        facts.show_header = False
        facts.columns[0].no_wrap = True
        for name, text in (*_facts(first), ("history", _history(path, first))):
            facts.add_row(plain(name, "bold"), plain(text))
        console.print(facts)
        console.print()
        console.print(_jobs_table(first))
    if predictions:
        if not all_tasks:
            console.print()
        title = _title(predictions[0].recipe, predictions[0].version) if all_tasks else "other tasks in the history"
        console.print(plain(title, "bold"))
        table = make_table("task", "source", "jobs", "peak", "base", "a job", "at least", "confidence", left=2)
        for prediction in predictions:
            footprint = prediction.footprint
            sizes = (footprint.base_bytes, footprint.per_job_bytes, footprint.serial_bytes)
            table.add_row(
                plain(prediction.task),
                plain(footprint.origin),
                str(prediction.jobs),
                format_bytes(footprint.peak_bytes(prediction.jobs)),
                *map(format_bytes, sizes),
                f"{prediction.confidence:.2f}",
            )
        console.print(table)


def _title(name: str, version: str) -> str:
    return f"{name}, version {version}" if version else name


def _facts(prediction: Prediction) -> Iterator[tuple[str, str]]:
    footprint, learned = prediction.footprint, prediction.learned
    peak = format_bytes(footprint.peak_bytes(prediction.jobs))
    yield "peak", f"{peak} with {count(prediction.jobs, 'job')} ({prediction.jobs_from})"
    yield "footprint", _formula(footprint)
    yield "source", _source(prediction)
    if learned.samples and not prediction.is_own:
        yield "a job", _A_JOB[learned.job_from]
        spread = f"past runs spread by {_share(learned.spread)}"
        if learned.is_new_version:
            spread += f", and none was of version {prediction.version.partition('.')[0]}"
        if learned.footprint.most_bytes is not None:
            yield "at most", "more jobs took no more, and did as much work"
        yield "margin", f"{_share(learned.margin)} above the middle of the runs: {spread}"
    if learned.bounds:
        yield "raised", _raised(prediction)
    yield "confidence", f"{prediction.confidence:.2f} of 1: {_confidence(prediction)}"
    if prediction.is_own and learned.footprint is not prediction.prior:
        peak = format_bytes(learned.footprint.peak_bytes(prediction.jobs))
        yield "the runs", f"say {_formula(learned.footprint)}: {peak} with {count(prediction.jobs, 'job')}"
    if footprint is not prediction.prior:
        yield "prior", f"{_prior(prediction)}: {_formula(prediction.prior)}"
    if prediction.known and prediction.known.source:
        yield "table", prediction.known.source


_A_JOB = {
    "runs": "from peaks at several job counts",
    "processes": "from the compiler processes that were measured",
    "prior": "as large in relation to the whole as the prior has it: no run shows more",
}


def _formula(footprint: Footprint) -> str:
    text = f"{format_bytes(footprint.base_bytes)} + {format_bytes(footprint.per_job_bytes)} a job"
    if footprint.serial_bytes:
        text += f", at least {format_bytes(footprint.serial_bytes)}"
    return text if footprint.most_bytes is None else f"{text}, at most {format_bytes(footprint.most_bytes)}"


def _source(prediction: Prediction) -> str:
    learned = prediction.learned
    if prediction.is_own:
        return f"your own {settings.OVERRIDE_PREFIX}{prediction.recipe}; no run moves it"
    if learned.samples:
        *fewer, most = map(str, learned.jobs)
        counts = f"{', '.join(fewer)} and {most} jobs" if fewer else count(int(most), "job")
        return f"history: {count(learned.samples, 'run')} that ended well, with {counts}"
    if learned.footprint is not prediction.prior and learned.raised > 1:
        return "history: the prior, raised by runs that say what it takes at least"
    return f"{_prior(prediction)}; no run has been measured that ended well"


def _prior(prediction: Prediction) -> str:
    if prediction.known:
        return f"the table of known recipes ({prediction.known.recipe})"
    kind = f"the kind of recipe: {prediction.prior.origin}"
    if prediction.classes:
        return f"{kind} (inherits {', '.join(sorted(prediction.classes))})"
    return f"{kind} (--class tells what it inherits)"


def _raised(prediction: Prediction) -> str:
    """What the runs that did not end well, or were not measured whole, have done."""
    ill = Counter(_KINDS_OF_BOUNDS[sample.record.outcome] for sample in prediction.samples if not _is_ok(sample))
    partly = prediction.learned.bounds - sum(ill.values())
    parts = [f"{count(runs, 'run')} {what}" for what, runs in ill.items()]
    if partly:
        parts.append(f"{count(partly, 'run')} known by the largest process only")
    by = prediction.learned.raised
    verb = f"x {by:.2f} for" if by > 1 and not prediction.is_own else "no: it covers"
    return f"{verb} {', '.join(parts)}"


_KINDS_OF_BOUNDS = {
    Outcome.MEMORY_KILL: "killed for memory",
    Outcome.THROTTLED: "throttled",
    Outcome.FAILED: "failed",
}


def _is_ok(sample: Sample) -> bool:
    return sample.record.outcome is Outcome.OK


def _confidence(prediction: Prediction) -> str:
    learned = prediction.learned
    if prediction.is_own or not learned.samples:
        return "it rests on no run"
    evidence = learned.confidence / (1 - learned.confidence)
    return f"{count(learned.samples, 'run')}, worth {evidence:.1f} by age and version"


def _history(path: Path, prediction: Prediction) -> str:
    if not history_file.is_there(path):
        return f"none yet: {path} does not exist"
    if not prediction.samples:
        return f"{path} knows nothing of this task"
    return f"{path}: the newest {count(len(prediction.samples), 'run')} of this task"


def _jobs_table(prediction: Prediction) -> Any:
    """The peak at several job counts, beside the most that was measured there."""
    counts = _job_counts(prediction)
    table = make_table("jobs", *map(str, counts))
    table.add_row(plain("peak"), *(format_bytes(prediction.footprint.peak_bytes(jobs)) for jobs in counts))
    seen: dict[int, int] = {}
    for sample in prediction.samples:
        jobs, peak = sample.record.jobs, sample.record.peak_bytes
        if jobs is not None and peak is not None:
            seen[jobs] = max(seen.get(jobs, 0), peak)
    if seen:
        table.add_row(plain("seen"), *(format_bytes(seen[jobs]) if jobs in seen else "-" for jobs in counts))
    return table


def _share(share: float) -> str:
    return f"{100 * share:.0f} %"
