# SPDX-License-Identifier: MIT
"""A prediction in words and as data: what `memguard predict` prints.

Runs in: outside BitBake.
Does not cover: the prediction (advice/prediction).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from memguard import settings
from memguard.model import Footprint, Outcome, Sample
from memguard.units import format_bytes
from memguard_cli.advice.prediction import Prediction
from memguard_cli.builds import history_file
from memguard_cli.screens.text import count, make_console, make_table, plain

_USUAL_JOBS = (1, 2, 4, 8, 16)


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
            "row_measured": list(prediction.known.measured) if prediction.known else None,
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
    return sorted({*_USUAL_JOBS, prediction.jobs})


def show_prediction(predictions: list[Prediction], path: Path, all_tasks: bool) -> None:
    """Print the first in full and the others as a table, or all as a table; `path` is the history."""
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
        measured = " and ".join(prediction.known.measured)
        derived = f"{measured} measured, the rest derived" if measured else "all of it is derived"
        yield "table", f"{prediction.known.source}; {derived}"


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
        return f"your own {settings.OVERRIDE_PREFIX}{prediction.recipe}; no run changes it"
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
    return f"{kind} (--class says what it inherits)"


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


def _jobs_table(prediction: Prediction) -> Table:
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
