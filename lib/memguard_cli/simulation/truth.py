# SPDX-License-Identifier: MIT
"""What the tasks of a graph take: as the user says, as earlier builds saw, else drawn around their kind.

Runs in: outside BitBake.
Covers: graphs and figures out of a task-depends.dot, a history, a directory of buildstats, or nothing but a size.
Does not cover: recipes that need each other, where there is no task-depends.dot: a history and buildstats tell of tasks
and not of what they wait for, so each recipe's tasks are then a chain, and images come after all of them.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from memguard.model import Duration, Footprint, Outcome, PastRun, Sample
from memguard.predict.durations import by_kind, learn_duration
from memguard.predict.fit import learn
from memguard.predict.footprints import Predictor, read_table
from memguard.predict.remembered_lives import MOST_UNITS, Lives
from memguard.record.history.store import History
from memguard_cli.builds.buildstats import NoBuildstats, read_builds
from memguard_cli.simulation.beliefs import classes_of
from memguard_cli.simulation.graph import CHAIN, Graph, GraphError, read_dot
from memguard_cli.simulation.profiles import (
    Profile,
    Unit,
    compilers_each,
    draw_profile,
    draw_task,
    scale_footprint,
    units_of,
)

# The origin of footprints that the table of known recipes has.
KNOWN_ORIGIN = "known"
# By how much tasks that nobody has seen spread about their kind (sigma of the logarithm).
UNKNOWN_DURATION_SIGMA = 1.0
UNKNOWN_FOOTPRINT_SIGMA = 0.5

_SQLITE = b"SQLite format 3\0"
# Tasks of an image, which needs the packages of all recipes.
_LAST = ("do_rootfs", "do_image*", "do_populate_sdk*", "do_build")


@dataclass(frozen=True)
class Figures:
    """What is known of one task; None for what is not.

    units:      its compilers, none where no single ones were seen; base_bytes: what it holds besides.
    kind:       the name of what it is one of, "" if unknown.
    """

    duration: Duration | None = None
    footprint: Footprint | None = None
    profile: Profile | None = None
    units: tuple[Unit, ...] = ()
    base_bytes: int = 0
    kind: str = ""


@dataclass(frozen=True)
class Truth:
    """A build as it will be. durations and footprints are what its profiles were drawn around.

    known:     of how many tasks the duration, and the footprint, was seen or told; the others are drawn by kind.
    in_table:  how many of the others the table of known footprints has.
    priors:    of the tasks whose footprint nobody has seen, by place, what a first build takes them to need.
    kinds:     by place the names of kinds, as far as they are known.
    known_compilers: of how many tasks single compilers were seen; where there are any, all tasks have single ones.
    """

    graph: Graph
    profiles: tuple[Profile, ...]
    durations: tuple[Duration, ...]
    footprints: tuple[Footprint, ...]
    known_durations: int
    known_footprints: int
    in_table: int = 0
    priors: Mapping[int, Footprint] = field(default_factory=dict)
    kinds: Mapping[int, str] = field(default_factory=dict)
    known_compilers: int = 0


Known = Mapping[tuple[str, str], Figures]


def read_source(path: Path) -> tuple[Graph | None, Known]:
    """What a file or directory tells: a graph, or what tasks took, from which chains follow. Raises GraphError."""
    try:
        if path.is_dir():
            return None, _read_buildstats(path)
        with open(path, "rb") as file:
            is_database = file.read(len(_SQLITE)) == _SQLITE
    except OSError as error:
        raise GraphError(f"{path}: {error.strerror}") from None
    return (None, _read_history(path)) if is_database else (read_dot(path), {})


def chains_of(known: Known) -> Graph:
    """A graph of tasks of which nobody knows what they wait for: chains, with images at the end. Raises GraphError."""
    recipes: dict[str, list[str]] = {}
    for recipe, task in sorted(known):
        if not task.endswith("_setscene"):
            recipes.setdefault(recipe, []).append(task)
    if not recipes:
        raise GraphError("there is no task in it; a good source is a history, buildstats, or a task-depends.dot")
    names: list[tuple[str, str]] = []
    depends: list[tuple[int, ...]] = []
    ends: list[int] = []
    images: list[tuple[str, list[str]]] = []
    for recipe, tasks in recipes.items():
        if any(fnmatchcase(task, pattern) for task in tasks for pattern in _LAST[:2]):
            images.append((recipe, tasks))
            continue
        for place, task in enumerate(sorted(tasks, key=_stage)):
            depends.append((len(names) - 1,) if place else ())
            names.append((recipe, task))
        ends.append(len(names) - 1)
    for recipe, tasks in images:
        last: tuple[int, ...] = tuple(ends)
        for task in sorted(tasks, key=_stage):
            depends.append(last)
            last = (len(names),)
            names.append((recipe, task))
    return Graph(tuple(names), tuple(depends))


def find_truth(graph: Graph, known: Known, overrides: Iterable[tuple[str, Figures]], dice: random.Random) -> Truth:
    """What every task takes: what `overrides` say for patterns RECIPE:TASK, what is `known`, else its kind."""
    predictor = Predictor(read_table(), {})
    own = list(overrides)
    profiles, durations, footprints = [], [], []
    known_durations = known_footprints = 0
    priors: dict[int, Footprint] = {}
    kinds: dict[int, str] = {}
    known_compilers = sum(bool(known.get(name, Figures()).units) for name in graph.names)
    most = compilers_each(known_compilers)
    # Of a recipe that was built each task that ran is known; what is not runs nothing.
    built = {recipe for recipe, _ in known if known_compilers}
    for place, (recipe, task) in enumerate(graph.names):
        name = f"{recipe}:{task}"
        told = next((figures for pattern, figures in own if fnmatchcase(name, pattern)), Figures())
        seen = known.get((recipe, task), Figures())
        if recipe in built and seen == told == Figures():
            told = Figures(profile=Profile(()))
        kinds[place] = seen.kind
        duration, footprint = told.duration or seen.duration, told.footprint or seen.footprint
        known_durations += duration is not None or told.profile is not None
        known_footprints += footprint is not None or told.profile is not None
        if duration is None:
            kind, factor = by_kind(task), math.exp(dice.gauss(0, UNKNOWN_DURATION_SIGMA))
            duration = Duration(kind.serial_s * factor, kind.parallel_s * factor)
        if footprint is None:
            footprint = predictor.predict(recipe, task, frozenset())
            if told.profile is None:
                priors[place] = footprint
            footprint = scale_footprint(footprint, math.exp(dice.gauss(0, UNKNOWN_FOOTPRINT_SIGMA)))
        units = seen.units if duration is seen.duration and footprint is seen.footprint else ()
        profile = told.profile or (
            draw_task(duration, footprint, units, seen.base_bytes, dice, most)
            if known_compilers
            else draw_profile(duration, footprint, dice)
        )
        if told.profile is not None:
            duration, footprint = _around(told.profile)
        profiles.append(profile)
        durations.append(duration)
        footprints.append(footprint)
    in_table = sum(prior.origin == KNOWN_ORIGIN for prior in priors.values())
    figures = tuple(profiles), tuple(durations), tuple(footprints)
    return Truth(graph, *figures, known_durations, known_footprints, in_table, priors, kinds, known_compilers)


def _around(profile: Profile) -> tuple[Duration, Footprint]:
    """What memguard would learn of a profile that was told phase by phase."""
    alone = [phase for phase in profile.phases if phase.width == 1]
    shared = [phase for phase in profile.phases if phase.width > 1]
    widest = max(shared, key=lambda phase: phase.job_bytes, default=None)
    serial_bytes = max((phase.used_bytes(1) for phase in alone), default=0)
    return (
        Duration(sum(phase.work_s for phase in alone), sum(phase.work_s for phase in shared)),
        Footprint(
            max((phase.base_bytes for phase in shared), default=serial_bytes),
            widest.job_bytes if widest is not None else 0,
            serial_bytes,
            "told",
        ),
    )


def _stage(task: str) -> tuple[int, str]:
    """Where a task of a recipe stands in its chain; a task of no known name after the compile."""
    order = (*CHAIN, *_LAST)
    for place, pattern in enumerate(order):
        if fnmatchcase(task, pattern):
            return place, task
    return CHAIN.index("do_install"), task


def _read_history(path: Path) -> Known:
    history = History(path, warn=_say_later, is_read_only=True)
    with contextlib.closing(history):
        runs = history.fastest_runs()
        samples = history.latest({recipe for recipe, _ in runs})
        lives = {(task.recipe, task.task): task.packed for task in history.all_lives()}
        if history.failure is not None:
            raise GraphError(history.failure)
    predictor = Predictor(read_table(), {})
    return {key: _learn(predictor, key, run, samples.get(key, []), lives.get(key, b"")) for key, run in runs.items()}


def _learn(
    predictor: Predictor, key: tuple[str, str], run: PastRun, samples: list[Sample], packed_lives: bytes
) -> Figures:
    """What is known of a task: how long it takes by `run`, and where that was seen what memory by its samples."""
    duration = learn_duration(run)
    newest = next((sample.record for sample in samples if sample.record.outcome is Outcome.OK), None)
    if newest is None or newest.peak_bytes is None:
        return Figures(duration, kind=run.kind)
    prior = predictor.predict(*key, classes_of(run.kind))
    learned = learn(samples, prior, newest.version)
    # The margin is memguard's caution and no part of the truth.
    footprint = scale_footprint(learned.footprint, 1 / (1 + learned.margin))
    units = units_of(Lives.found(packed_lives).sample(MOST_UNITS), run.cpu_s)
    return Figures(duration, footprint, None, units, _beside(samples, units, prior), run.kind)


def _beside(samples: Iterable[Sample], units: Iterable[Unit], prior: Footprint) -> int:
    """What make and its shells hold: the most while one compiler ran, less the largest one; else as of its kind."""
    most = [
        record.serial_bytes or (record.peak_bytes if record.jobs == 1 else None) or 0
        for record in (sample.record for sample in samples)
    ]
    largest_bytes = max((unit.life.peak_bytes for unit in units), default=0)
    return max(max(most, default=0) - largest_bytes, 0) or prior.base_bytes


def _read_buildstats(path: Path) -> Known:
    try:
        builds = list(read_builds(path, _say_later))
    except NoBuildstats as error:
        raise GraphError(str(error)) from None
    found = {}
    for build in builds:
        for record in build.records:
            if record.outcome is Outcome.OK and not record.task.endswith("_setscene"):
                jobs = max(1, round(record.cpu_s / record.wall_s)) if record.wall_s else 1
                duration = Duration(0.2 * record.wall_s, 0.8 * record.wall_s * jobs) if jobs > 1 else None
                found[record.recipe, record.task] = Figures(duration or Duration(record.wall_s, 0.0))
    return found


def _say_later(text: str) -> None:
    """The history keeps what went wrong; files of buildstats that are none are passed over."""
