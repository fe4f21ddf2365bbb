# SPDX-License-Identifier: MIT
"""How well peaks are predicted after 0, 1, 3 and 10 builds: memguard's method beside others and beside baselines.

Data: generated recipes (bench/recipes.py), and measured samples as JSON lines, one per run of a task. A task is
exceeded when it would have taken more than predicted. Over-reservation is (predicted - real) / real; its mean is over
the tasks that were not exceeded. The product (share exceeded + 1 %) x over-reservation makes one number of the two;
less is better. "oracle" knows all of a generated recipe but how the dice fall: it shows what can be had. Of measured
series, every run of 0, 1, 3 and 10 builds predicts the build that follows it; of generated ones, their first builds do.
Where samples tell the kind of their task, each is predicted from all others of its kind, too, as if never built before.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memguard.model import Outcome, Record, Sample
from memguard.predict.footprints import Predictor, read_table
from memguard.predict.kinds import KINDS, Kinds
from memguard_cli.simulation.beliefs import classes_of

from .candidates import BASELINES, METHODS
from .recipes import CLASSES, HELD_OUT, Run, Series, generate

BUILDS = (0, 1, 3, 10)
ORACLE = "oracle"
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "samples"
TARGET_BUILDS, TARGET_EXCEEDED, TARGET_OVER = 3, 0.02, 0.30
TARGET_UNSEEN_EXCEEDED, TARGET_UNSEEN_OVER = 0.15, 1.0


@dataclass
class Score:
    """Tasks predicted by one method, how many took more, and what was reserved in vain for the others."""

    tasks: int = 0
    exceeded: int = 0
    over: float = 0.0

    def add(self, predicted: float, real: int) -> None:
        """Count one task."""
        self.tasks += 1
        if predicted < real:
            self.exceeded += 1
        else:
            self.over += predicted / real - 1

    @property
    def exceeded_share(self) -> float:
        return self.exceeded / self.tasks

    @property
    def over_reservation(self) -> float:
        return self.over / max(1, self.tasks - self.exceeded)

    @property
    def product(self) -> float:
        return (self.exceeded_share + 0.01) * self.over_reservation

    @property
    def meets_target(self) -> bool:
        return self.exceeded_share <= TARGET_EXCEEDED and self.over_reservation <= TARGET_OVER


Scores = dict[tuple[str, int, str], Score]


def main(arguments: list[str]) -> int:
    """Print the tables; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/bench predict", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="of the generated recipes")
    parser.add_argument("--recipes", type=int, default=500, help="generated recipes of each class")
    parser.add_argument("--samples", type=Path, nargs="+", metavar="FILE", help="measured samples, JSON lines")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    options = parser.parse_args(arguments)
    files = options.samples or sorted(FIXTURES.glob("*.jsonl"))
    scores: Scores = {}
    try:
        measured = [series for path in files for series in read_series(path)]
    except (OSError, ValueError) as wrong:
        print(wrong, file=sys.stderr)
        return 2
    for series in measured:
        for start in range(len(series.runs)):
            judge(scores, "measured", series, start)
    for series in measured if len(measured) > 1 else ():
        for start in range(len(series.runs)):
            judge(scores, f"measured: {series.name.strip()}", series, start)
    for name in CLASSES:
        for series in generate(name, options.recipes, max(BUILDS) + 1, options.seed, BUILDS):
            judge(scores, name, series, 0)
    _add_up(scores, "all generated", list(CLASSES))
    unseen = judge_kinds(measured)
    print(f"seed {options.seed}, {options.recipes} recipes of each class; no parameter was chosen on {HELD_OUT!r}")
    print(f"measured: {len(measured)} series of {', '.join(map(str, files)) or 'no file'}")
    for data in dict.fromkeys(data for data, _, _ in scores):
        print(f"\n{data}\n" + "\n".join(table(scores, data)))
    if unseen:
        print("\nrecipes left out one by one, from others of their kind\n" + "\n".join(kinds_table(unseen)))
    if options.json:
        options.json.write_text(json.dumps(rows(scores, options), indent=1) + "\n", encoding="utf-8")
    return 0


def judge(scores: Scores, data: str, series: Series, start: int) -> None:
    """Let every method predict the build that follows 0, 1, 3 and 10 builds of `series`, from build `start` on."""
    for builds in BUILDS:
        if start + builds >= len(series.runs):
            return
        target = series.runs[start + builds]
        if target.true_bytes is None:
            continue
        if target.oracle_bytes is not None:
            scores.setdefault((data, builds, ORACLE), Score()).add(target.oracle_bytes, target.true_bytes)
        past = [Sample(run.record, builds - 1 - age) for age, run in enumerate(series.runs[start : start + builds])]
        for name, method in METHODS.items():
            predict = method(past, series.prior, target.record.version)
            if predict is not None:
                score = scores.setdefault((data, builds, name), Score())
                score.add(predict(target.record.jobs), target.true_bytes)


def judge_kinds(measured: Sequence[Series]) -> dict[str, dict[str, Score]]:
    """Predict each run from the runs with as many jobs of the other recipes of its kind; scores by kind and method."""
    scores: dict[str, dict[str, Score]] = {}
    for series in measured:
        others = [other for other in measured if other.kind == series.kind and other is not series]
        for run in series.runs if series.kind else ():
            if run.true_bytes is None:
                continue
            jobs, kinds = run.record.jobs, Kinds()
            for other in others:
                for beside in other.runs:
                    if beside.record.jobs == jobs and beside.true_bytes:
                        kinds.learn(series.prior, other.name, jobs, beside.true_bytes)
            for name, footprint in (("guess", series.prior), ("learned", kinds.footprint(series.prior))):
                for kind in (series.kind, "all kinds"):
                    score = scores.setdefault(kind, {}).setdefault(name, Score())
                    score.add(footprint.peak_bytes(jobs), run.true_bytes)
    return scores


def kinds_table(scores: dict[str, dict[str, Score]]) -> Iterator[str]:
    """One line for each kind, and what is to be said of the target."""
    yield f"{'':30} {'tasks':>6} {'guess: exceeded, over':>24} {'learned: exceeded, over':>26}"
    for kind, methods in sorted(scores.items(), key=lambda item: item[0] == "all kinds"):
        guess, learned = (f"{score.exceeded_share:.1%} {score.over_reservation:6.0%}" for score in methods.values())
        yield f"{kind:30} {methods['guess'].tasks:6} {guess:>24} {learned:>26}"
    ours = scores["all kinds"]["learned"]
    is_met = ours.exceeded_share <= TARGET_UNSEEN_EXCEEDED and ours.over_reservation <= TARGET_UNSEEN_OVER
    yield f"target for recipes that nobody has built {'met' if is_met else 'missed'}"


def _add_up(scores: Scores, data: str, parts: list[str]) -> None:
    """Put the sum of the scores of `parts` under the name `data`."""
    for builds in BUILDS:
        for method in (*METHODS, ORACLE):
            found = [scores[part, builds, method] for part in parts if (part, builds, method) in scores]
            if found:
                tasks, exceeded = sum(score.tasks for score in found), sum(score.exceeded for score in found)
                scores[data, builds, method] = Score(tasks, exceeded, sum(score.over for score in found))


def table(scores: Scores, data: str) -> Iterator[str]:
    """One line per method, with three columns for each number of builds, and what is to be said of the target."""
    yield f"{'':22}" + "".join(f"after {builds} builds".center(26) for builds in BUILDS)
    yield f"{'':22}" + "".join(f"{'exceeded':>9} {'over':>7} {'product':>8}" for _ in BUILDS)
    for method in (*METHODS, ORACLE):
        if (data, TARGET_BUILDS, method) not in scores:
            continue
        cells = []
        for builds in BUILDS:
            score = scores.get((data, builds, method))
            cells.append(
                f"{score.exceeded_share:9.1%} {score.over_reservation:7.0%} {score.product:8.4f}"
                if score
                else f"{'-':>9} {'-':>7} {'-':>8}"
            )
        yield f"{method:22}" + "".join(cells)
    ours = scores.get((data, TARGET_BUILDS, "memguard"))
    if ours:
        verdict = "met" if ours.meets_target else "missed"
        yield f"target after {TARGET_BUILDS} builds {verdict}; {_compare(scores, data, ours)}"


def _compare(scores: Scores, data: str, ours: Score) -> str:
    """In what `ours` is better than each baseline."""
    words = []
    for name in BASELINES:
        theirs = scores[data, TARGET_BUILDS, name]
        if ours.exceeded_share < theirs.exceeded_share and ours.over_reservation < theirs.over_reservation:
            words.append(f"better on both than {name}")
        elif ours.product < theirs.product:
            words.append(f"better on the product than {name}")
        else:
            words.append(f"NOT better than {name}")
    return ", ".join(words)


def rows(scores: Scores, options: argparse.Namespace) -> dict[str, Any]:
    """All that was found, for machines."""
    return {
        "seed": options.seed,
        "recipes": options.recipes,
        "held_out": HELD_OUT,
        "rows": [
            {
                "data": data,
                "builds": builds,
                "method": method,
                "tasks": score.tasks,
                "exceeded_share": score.exceeded_share,
                "over_reservation": score.over_reservation,
                "product": score.product,
            }
            for (data, builds, method), score in scores.items()
        ],
    }


def read_series(path: Path) -> list[Series]:
    """The series of a file of JSON lines, one per recipe, task and machine, in the order of the file.

    Raises OSError, or ValueError that names file and line.
    """
    found: dict[tuple[str, str, str], list[Run]] = {}
    kinds: dict[tuple[str, str, str], str] = {}
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                fields = json.loads(line)
                record = _record(fields)
            except (KeyError, TypeError, ValueError) as wrong:
                raise ValueError(f"{path}:{number}: not a sample: {wrong!r}") from None
            real = record.peak_bytes if record.outcome is Outcome.OK and record.peak_bytes > 0 else None
            key = (record.recipe, record.task, record.machine)
            found.setdefault(key, []).append(Run(record, real))
            kinds[key] = str(fields.get("kind") or "")
    predictor, known = Predictor(read_table(), {}), {kind.name for kind in KINDS}
    kinds = {key: kind if kind in known else "" for key, kind in kinds.items()}
    return [
        Series(" ".join(key), predictor.predict(key[0], key[1], classes_of(kinds[key])), tuple(runs), kinds[key])
        for key, runs in found.items()
    ]


def _record(fields: dict[str, Any]) -> Record:
    """A record out of the JSON-lines schema of exported samples."""
    return Record(
        build=str(fields["build"]),
        recipe=str(fields["pn"]),
        version=str(fields["pv"]),
        task=str(fields["task"]),
        machine=str(fields.get("machine") or ""),
        jobs=int(fields["jobs"]),
        peak_bytes=int(fields["peak_bytes"]),
        largest_process_bytes=int(fields["largest_process_bytes"]),
        wall_s=float(fields["duration_s"]),
        cpu_s=float(fields["cpu_s"]),
        outcome=Outcome(fields["outcome"]),
        per_job_bytes=_optional(fields.get("per_job_bytes")),
        serial_bytes=_optional(fields.get("serial_bytes")),
    )


def _optional(value: Any) -> int | None:
    return None if value is None else int(value)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
