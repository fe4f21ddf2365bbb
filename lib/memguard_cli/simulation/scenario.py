# SPDX-License-Identifier: MIT
"""Scenarios: YAML files that say which build is simulated, where, and how well it is predicted.

Runs in: outside BitBake.
Covers: every key with its type and range; each error is one sentence with file and line.
Does not cover: what the words mean for the simulation (truth, compare).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import yaml

from memguard.model import Duration, Footprint
from memguard.settings import LEAST_LIMIT_BYTES
from memguard.units import GIB, MIB, format_bytes, parse_bytes
from memguard_cli.simulation.graph import Graph, GraphError, generate
from memguard_cli.simulation.profiles import ERRORS, MOST_WIDTH, Error, Phase, Profile
from memguard_cli.simulation.truth import Figures, Known, chains_of, read_source

MOST_TASKS = 1_000_000
LARGEST_BYTES = 1 << 50
LONGEST_S = 1e9
MOST_CPUS = 4096
MOST_SEEDS = 10_000
# A line for each of thousands of tasks. A MiB of YAML takes four seconds.
LARGEST_FILE_BYTES = MIB // 2

KEYS = (
    "graph",
    "durations",
    "footprints",
    "tasks",
    "error",
    "limits",
    "cpus",
    "threads",
    "jobs",
    "idle",
    "reserve",
    "policies",
    "seeds",
    "seed",
)
TASK_KEYS = ("serial_s", "parallel_s", "base", "per_job", "serial", "phases")
PHASE_KEYS = ("work_s", "jobs", "base", "per_job")
ERROR_KEYS = ("median", "sigma", "duration_sigma")
GRAPH_KEYS = ("generate", "seed")

T = TypeVar("T")


class ScenarioError(ValueError):
    """A scenario that cannot be used, in one sentence with file and line."""


@dataclass(frozen=True)
class Scenario:
    """A build, the containers to try it in, and by how much its predictions miss.

    error:         None for as much as in builds: little for tasks that were seen, much for those that nobody has built.
    threads, jobs: BB_NUMBER_THREADS and PARALLEL_MAKE, None for the number of CPUs.
    reserve_bytes: None for memguard's own.
    policies:      names, None for all.
    """

    graph: Graph
    known: Known
    overrides: tuple[tuple[str, Figures], ...] = ()
    error: Error | None = None
    limits: tuple[int, ...] = (16 * GIB,)
    cpus: tuple[int, ...] = (8,)
    threads: int | None = None
    jobs: int | None = None
    idle_bytes: int = 300 * MIB
    reserve_bytes: int | None = None
    policies: tuple[str, ...] | None = None
    seeds: int = 1
    seed: int = 0


def read_scenario(path: Path) -> Scenario:
    """The scenario in a file; files that it names are looked for beside it. Raises ScenarioError."""
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise ScenarioError(f"{path}: is larger than {format_bytes(LARGEST_FILE_BYTES)}, so it is not a scenario")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ScenarioError(f"{path}: is not UTF-8 text") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise ScenarioError(f"{path}:{line}: is not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ScenarioError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    except RecursionError:
        raise ScenarioError(f"{path}: is nested too deeply for a scenario") from None
    return _Reader(path).read(root)


class _Reader:
    """Reads nodes of YAML; each complaint has the node's line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, root: yaml.Node | None) -> Scenario:
        if root is None:
            raise ScenarioError(f"{self._path}: is empty; a good scenario begins with graph: task-depends.dot")
        values = self._mapping(root, "a scenario", KEYS)
        if "graph" not in values:
            raise self._fault(root, "no graph is named; a good line is graph: task-depends.dot")
        graph, known = self._graph(values["graph"])
        for key in ("durations", "footprints"):
            if key in values:
                known = {**known, **self._known(values[key], key)}
        overrides = self._tasks(values["tasks"], graph) if "tasks" in values else ()
        got: dict[str, Any] = {"graph": graph, "known": known, "overrides": overrides}

        def take(key: str, name: str, read: Callable[[yaml.Node], Any]) -> None:
            if key in values:
                got[name] = read(values[key])

        take("error", "error", self._error)
        take("limits", "limits", lambda node: self._several(node, self._limit, "16G"))
        take("cpus", "cpus", lambda node: self._several(node, lambda one: self._whole(one, 1, MOST_CPUS), "8"))
        take("threads", "threads", lambda node: self._whole(node, 1, MOST_CPUS))
        take("jobs", "jobs", lambda node: self._whole(node, 1, MOST_CPUS))
        take("idle", "idle_bytes", self._size)
        take("reserve", "reserve_bytes", self._size)
        take("policies", "policies", lambda node: self._several(node, self._text, "memguard"))
        take("seeds", "seeds", lambda node: self._whole(node, 1, MOST_SEEDS))
        take("seed", "seed", lambda node: self._whole(node, 0, 1 << 31))
        return Scenario(**got)

    # -- what a scenario is made of ---------------------------------------------------------------------------------

    def _graph(self, node: yaml.Node) -> tuple[Graph, Known]:
        if isinstance(node, yaml.MappingNode):
            values = self._mapping(node, "a generated graph", GRAPH_KEYS)
            if "generate" not in values:
                raise self._fault(node, "a graph to be generated needs its size; a good line is generate: 1000")
            seed = self._whole(values["seed"], 0, 1 << 31) if "seed" in values else 0
            return generate(self._whole(values["generate"], 1, MOST_TASKS), random.Random(seed)), {}
        graph, known = self._source(node)
        if graph is not None:
            return graph, known
        try:
            return chains_of(known), known
        except GraphError as error:
            raise self._fault(node, f"{self._text(node)}: {error}") from None

    def _known(self, node: yaml.Node, key: str) -> Known:
        graph, known = self._source(node)
        if graph is not None:
            raise self._fault(node, f"{key} are in a history or in buildstats, not in a graph")
        if key == "footprints":
            return {task: Figures(None, figures.footprint) for task, figures in known.items() if figures.footprint}
        return known

    def _source(self, node: yaml.Node) -> tuple[Graph | None, Known]:
        path = self._path.parent / self._text(node)
        try:
            return read_source(path)
        except GraphError as error:
            raise ScenarioError(f"{self._path}:{_line(node)}: {error}") from None

    def _tasks(self, node: yaml.Node, graph: Graph) -> tuple[tuple[str, Figures], ...]:
        if not isinstance(node, yaml.MappingNode):
            raise self._fault(node, 'tasks are given by name, as "llvm-native:do_compile": {per_job: 1G}')
        names = [f"{recipe}:{task}" for recipe, task in graph.names]
        found = []
        for key, value in node.value:
            pattern = self._text(key)
            if not any(fnmatchcase(name, pattern) for name in names):
                raise self._fault(key, f"{pattern!r} is not a task of the graph; a good name is {names[0]}")
            found.append((pattern, self._figures(value)))
        return tuple(found)

    def _figures(self, node: yaml.Node) -> Figures:
        values = self._mapping(node, "a task", TASK_KEYS)
        if "phases" in values:
            if len(values) > 1:
                raise self._fault(node, "phases say all of a task; the other keys have no place beside them")
            return Figures(profile=self._phases(values["phases"]))
        duration = footprint = None
        if "serial_s" in values or "parallel_s" in values:
            seconds = [self._number(values[key], 0, LONGEST_S) if key in values else 0.0 for key in TASK_KEYS[:2]]
            duration = Duration(*seconds)
        if any(key in values for key in TASK_KEYS[2:5]):
            base, per_job, serial = (self._size(values[key]) if key in values else 0 for key in TASK_KEYS[2:5])
            footprint = Footprint(base, per_job, serial, "told")
        return Figures(duration, footprint)

    def _phases(self, node: yaml.Node) -> Profile:
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise self._fault(node, "phases are a list, as - {work_s: 60, jobs: 8, base: 64M, per_job: 512M}")
        phases = []
        for item in node.value:
            values = self._mapping(item, "a phase", PHASE_KEYS)
            if "work_s" not in values:
                raise self._fault(item, "a phase has work; a good one is {work_s: 60, jobs: 8, per_job: 512M}")
            phases.append(
                Phase(
                    self._number(values["work_s"], 0, LONGEST_S),
                    self._whole(values["jobs"], 1, MOST_WIDTH) if "jobs" in values else 1,
                    self._size(values["base"]) if "base" in values else 0,
                    self._size(values["per_job"]) if "per_job" in values else 0,
                )
            )
        return Profile(tuple(phases))

    def _error(self, node: yaml.Node) -> Error:
        if isinstance(node, yaml.ScalarNode):
            name = self._text(node)
            if name not in ERRORS:
                raise self._fault(node, f"{name!r} is not an error of predictions; choose from {', '.join(ERRORS)}")
            return ERRORS[name]
        values = self._mapping(node, "an error of predictions", ERROR_KEYS)
        median = self._number(values["median"], 0.01, 100) if "median" in values else 1.0
        spreads = [self._number(values[key], 0, 5) if key in values else 0.0 for key in ERROR_KEYS[1:]]
        return Error(median, *spreads)

    # -- values -----------------------------------------------------------------------------------------------------

    def _mapping(self, node: yaml.Node, what: str, known: tuple[str, ...]) -> Mapping[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise self._fault(node, f"{what} is made of keys and values; the keys are {', '.join(known)}")
        values: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = self._text(key)
            if name not in known:
                raise self._fault(key, f"{name[:40]!r} is not a key of {what}; choose from {', '.join(known)}")
            if name in values:
                raise self._fault(key, f"{name} is there twice")
            values[name] = value
        return values

    def _several(self, node: yaml.Node, read: Callable[[yaml.Node], T], example: str) -> tuple[T, ...]:
        if isinstance(node, yaml.SequenceNode):
            if not node.value:
                raise self._fault(node, f"the list is empty; a good one is [{example}]")
            return tuple(read(item) for item in node.value)
        return (read(node),)

    def _text(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode) or node.tag == "tag:yaml.org,2002:null" or not node.value.strip():
            raise self._fault(node, "a word should be here")
        return str(node.value)

    def _size(self, node: yaml.Node) -> int:
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        try:
            size = parse_bytes(text)
        except ValueError:
            raise self._fault(node, f"{_shown(node)} is not a size; a good one is 16G") from None
        if size > LARGEST_BYTES:
            raise self._fault(node, f"{_shown(node)} is more memory than there is; a good size is 16G")
        return size

    def _limit(self, node: yaml.Node) -> int:
        size = self._size(node)
        if size < LEAST_LIMIT_BYTES:
            raise self._fault(node, f"{_shown(node)} is less than BitBake itself takes; a good limit is 16G")
        return size

    def _whole(self, node: yaml.Node, least: int, most: int) -> int:
        number = self._number(node, least, most)
        if number != int(number):
            raise self._fault(node, f"{_shown(node)} is not a whole number")
        return int(number)

    def _number(self, node: yaml.Node, least: float, most: float) -> float:
        tag = node.tag.rpartition(":")[2]
        number = math.nan
        if isinstance(node, yaml.ScalarNode) and tag in ("int", "float"):
            try:
                number = float(node.value.replace("_", ""))
            except ValueError:
                number = math.nan
        if not least <= number <= most:
            raise self._fault(node, f"{_shown(node)} is not a number from {least:g} to {most:g}")
        return number

    def _fault(self, node: yaml.Node, sentence: str) -> ScenarioError:
        return ScenarioError(f"{self._path}:{_line(node)}: {sentence}")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _shown(node: yaml.Node) -> str:
    if isinstance(node, yaml.ScalarNode):
        return repr(node.value[:40])
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
