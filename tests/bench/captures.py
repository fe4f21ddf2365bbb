# SPDX-License-Identifier: MIT
"""Real graphs, and what their tasks take, mapped from captures of real builds by recipe and task.

Sources (tests/fixtures/graphs/README.md): graphs that `bitbake -g` gave; the order of all events of a kirkstone build
of 8,195 tasks, with the seconds of its longest ones in two configurations; buildstats of a core-image-minimal.
A duration is, in this order: measured by buildstats, measured among the longest, estimated from the order of events,
drawn around that of its kind of task. docs/benchmarks.md says how many of each there are.
"""

from __future__ import annotations

import csv
import functools
import itertools
import lzma
import math
import random
import re
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from memguard.model import Duration, Footprint
from memguard.predict.durations import by_kind
from memguard.predict.footprints import Predictor, read_table
from memguard_cli.builds.buildstats import split_name
from memguard_cli.simulation.graph import Graph, read_dot
from memguard_cli.simulation.profiles import scale_footprint

FIXTURES = Path(__file__).parents[1] / "fixtures" / "graphs"
GRAPHS = ("core-image-minimal", "rpi-test-image", "core-image-sato")

# The whole kirkstone build took so long; its log of events has no times but their order.
KIRKSTONE_S = 7911.29
BIN = 100  # events for which one rate is fitted
LEAST_RATE_S = 0.03  # nobody starts and ends more than thirty tasks a second

# Most of CPU work is not in those captures. A task that takes d seconds on the machine of the capture with all its jobs
# is taken to use d / 20 CPUs on average, 1 to 40: so gcc's 408 s are 2.3 CPU hours, chromium's 3,218 s are 36.
CPUS_PER_S, MOST_CPUS = 1 / 20, 40.0
PARALLEL_TASKS = ("do_compile", "do_compile_ptest_base", "do_compile_kernelmodules")

# Peaks of recipes nobody measured spread about that of their kind by this much (sigma of the logarithm), known ones by
# less. A share of compiles is C, whose compilers take a third.
UNKNOWN_SIGMA, KNOWN_SIGMA, SHARE_C = 0.5, 0.15, 0.6
DURATION_SIGMA = 1.0

# gcc-cross-arm takes what gcc takes, zlib-native what zlib takes, where it was not captured itself.
_VARIANT = re.compile(r"(-native|-cross(-\w+)?|-cross-canadian(-\w+)?|-initial)$")


@dataclass(frozen=True)
class Truth:
    """What the tasks of a graph take, and how many of the durations come from where."""

    graph: Graph
    durations: tuple[Duration, ...]
    footprints: tuple[Footprint, ...]
    sources: dict[str, int]


@functools.cache
def read_graph(name: str) -> Graph:
    """One of GRAPHS."""
    return read_dot(FIXTURES / f"{name}.dot.xz")


def find_truth(name: str, seed: int = 0) -> Truth:
    """What the tasks of one of GRAPHS take; the same for the same seed."""
    graph = read_graph(name)
    dice = random.Random(f"{name}{seed}")
    stats, longest, events = _buildstats(), _longest(), _events()
    durations, sources = [], Counter[str]()
    for recipe, task in graph.names:
        keys = [(recipe, task), (_VARIANT.sub("", recipe), task)]
        found = [key for key in keys if key in stats or key in longest or key in events]
        if found and found[0] in stats:
            source, duration = "buildstats", stats[found[0]]
        elif found and found[0] in longest:
            source, duration = "longest tasks", _from_wall(task, longest[found[0]])
        elif found:
            source, duration = "order of events", _from_wall(task, events[found[0]])
        else:
            source, kind = "kind", by_kind(task)
            factor = math.exp(dice.gauss(0, DURATION_SIGMA))
            duration = Duration(kind.serial_s * factor, kind.parallel_s * factor)
        sources[source] += 1
        durations.append(duration)
    predictor = Predictor(read_table(), {})
    footprints = tuple(_footprint(predictor, recipe, task, dice) for recipe, task in graph.names)
    return Truth(graph, tuple(durations), footprints, dict(sources))


def _footprint(predictor: Predictor, recipe: str, task: str, dice: random.Random) -> Footprint:
    classes = frozenset({"autotools"} if dice.random() < SHARE_C else {"cmake"})
    mean = predictor.predict(recipe, task, classes)
    sigma = KNOWN_SIGMA if predictor.find_known(recipe, task) else UNKNOWN_SIGMA
    factor = math.exp(dice.gauss(0, sigma))
    return scale_footprint(mean, factor)


def _from_wall(task: str, seconds: float) -> Duration:
    """A duration out of wall seconds with all the jobs of a large machine."""
    if task not in PARALLEL_TASKS:
        return Duration(seconds, 0.0)
    cpus = min(MOST_CPUS, max(1.0, seconds * CPUS_PER_S))
    return Duration(0.2 * seconds, 0.8 * seconds * cpus)


@functools.cache
def _buildstats() -> dict[tuple[str, str], Duration]:
    found = {}
    with open(FIXTURES / "core-image-minimal.seconds.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            wall_s, cpu_s = float(row["wall_s"]), float(row["cpu_s"])
            serial = Duration(wall_s, 0.0)
            parallel = Duration(0.2 * wall_s, max(0.8 * wall_s, cpu_s - 0.2 * wall_s))
            found[row["recipe"], row["task"]] = parallel if row["task"] in PARALLEL_TASKS else serial
    return found


@functools.cache
def _longest() -> dict[tuple[str, str], float]:
    """Seconds of the longest tasks of the build that ran two at a time, each with all CPUs of the machine."""
    return {(split_name(recipe)[0], task): seconds for seconds, recipe, task in _read_longest("kirkstone-2-threads")}


def _read_longest(name: str) -> Iterator[tuple[float, str, str]]:
    for line in (FIXTURES / f"{name}.top20.txt").read_text(encoding="utf-8").splitlines():
        seconds, _, path = line.split(None, 2)
        recipe, _, task = path.strip().partition("/")
        if task.startswith("do_"):
            yield float(seconds), recipe, task


@functools.cache
def _events() -> dict[tuple[str, str], float]:
    """Seconds of every task of the build that ran 64 at a time, scaled to what it takes with the CPUs to itself.

    The log has the order of starts and ends, and seconds are known of the longest tasks. So the seconds that pass with
    each hundred events are fitted such that these tasks last as long as they did and the whole build, too (a
    multiplicative fit). The crowd made tasks slower; how much the median of the tasks that are in both lists says.
    """
    with lzma.open(FIXTURES / "kirkstone.events.csv.xz", "rt", encoding="utf-8") as file:
        rows = [(row["recipe_version"], row["task"], row["event"]) for row in csv.DictReader(file)]
    begun: dict[tuple[str, str], int] = {}
    spans: dict[tuple[str, str], tuple[int, int]] = {}
    for place, (recipe, task, event) in enumerate(rows):
        if event == "start":
            begun[recipe, task] = place
        else:
            spans[recipe, task] = (begun[recipe, task], place)
    anchors = [
        (seconds, *spans[recipe, task])
        for seconds, recipe, task in _read_longest("kirkstone-64-threads")
        if (recipe, task) in spans
    ]
    times = _fit_times(len(rows), anchors)
    alone = dict(_longest())
    crowded = {(split_name(recipe)[0], task): s for s, recipe, task in _read_longest("kirkstone-64-threads")}
    speedup = statistics.median(alone[key] / crowded[key] for key in alone.keys() & crowded.keys())
    return {
        (split_name(recipe)[0], task): max(0.05, (times[end] - times[start]) * speedup)
        for (recipe, task), (start, end) in spans.items()
    }


def _fit_times(events: int, anchors: list[tuple[float, int, int]]) -> list[float]:
    """The time of each event."""
    bins = events // BIN + 1
    rates = [KIRKSTONE_S / events] * bins
    times: list[float] = []
    for _ in range(300):
        times = [0.0, *itertools.accumulate(rates[place // BIN] for place in range(events))]
        logs, counts = [0.0] * bins, [0] * bins
        for seconds, start, end in anchors:
            miss = math.log(seconds / (times[end] - times[start]))
            for place in range(start // BIN, end // BIN + 1):
                logs[place] += miss
                counts[place] += 1
        whole = (KIRKSTONE_S / times[-1]) ** 0.5
        rates = [
            max(LEAST_RATE_S, rate * math.exp(0.3 * log / count if count else 0.0) * whole)
            for rate, log, count in zip(rates, logs, counts)
        ]
    return times
