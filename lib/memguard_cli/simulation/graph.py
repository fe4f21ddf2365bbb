# SPDX-License-Identifier: MIT
"""The tasks of a build and what waits for what.

Runs in: outside BitBake.
Covers: `task-depends.dot` of `bitbake -g`, also as .xz; generated graphs; circles, named; BitBake's own order.
Does not cover: what a task takes (profiles), setscene tasks, which such a graph does not have.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from memguard_cli.builds.unpacked import NotUnpacked, is_packed, unpacked

# A graph of 100,000 tasks has some 50 MB of text.
MOST_TEXT_BYTES = 512 * 1024**2
MOST_LINES = 3_000_000
_LONGEST_LINE_BYTES = 1 << 20

_NODE = re.compile(r'^\s*"(?P<task>[^"]+)"\s*(?:\[.*\])?\s*;?\s*$')
_EDGE = re.compile(r'^\s*"(?P<task>[^"]+)"\s*->\s*"(?P<needs>[^"]+)"\s*(?:\[.*\])?\s*;?\s*$')
_FRAME = re.compile(r"^\s*(?:(?:strict\s+)?digraph\b.*\{|\}|//.*|#.*|(?:node|edge|graph)\s*\[.*)?\s*$")

# The tasks of a recipe in OpenEmbedded, each needing the one before.
CHAIN = (
    "do_fetch",
    "do_unpack",
    "do_patch",
    "do_prepare_recipe_sysroot",
    "do_configure",
    "do_compile",
    "do_install",
    "do_populate_sysroot",
    "do_package",
    "do_packagedata",
    "do_package_write_rpm",
    "do_build",
)


class GraphError(ValueError):
    """A graph that cannot be built, in one sentence with file and line."""


@dataclass(frozen=True)
class Graph:
    """Tasks by number, from 0 on.

    names:   recipe and task of each.
    depends: the numbers of the tasks that each needs.
    """

    names: tuple[tuple[str, str], ...]
    depends: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def followers(self) -> tuple[tuple[int, ...], ...]:
        """The numbers of the tasks that need each."""
        found: list[list[int]] = [[] for _ in self.names]
        for task, needed in enumerate(self.depends):
            for dependency in needed:
                found[dependency].append(task)
        return tuple(map(tuple, found))

    @cached_property
    def topological(self) -> tuple[int, ...]:
        """All tasks, each after what it needs. Raises GraphError where some need each other."""
        missing = [len(needed) for needed in self.depends]
        ready = [task for task, count in enumerate(missing) if not count]
        for task in ready:  # grows meanwhile
            for follower in self.followers[task]:
                missing[follower] -= 1
                if not missing[follower]:
                    ready.append(follower)
        if len(ready) < len(missing):
            raise GraphError(f"the tasks need each other in a circle: {self._describe(self.find_circle())}")
        return tuple(ready)

    def find_circle(self) -> list[int]:
        """Tasks that each need the next, and the last the first; empty where there are none."""
        state = [0] * len(self)  # 1: on the way, 2: leads to no circle
        for root in range(len(self)):
            if state[root]:
                continue
            way, branches = [root], [iter(self.depends[root])]
            state[root] = 1
            while way:
                needed = next(branches[-1], None)
                if needed is None:
                    state[way.pop()] = 2
                    branches.pop()
                elif state[needed] == 1:
                    return way[way.index(needed) :]
                elif not state[needed]:
                    state[needed] = 1
                    way.append(needed)
                    branches.append(iter(self.depends[needed]))
        return []

    def _describe(self, circle: Sequence[int]) -> str:
        shown = [".".join(self.names[task]) for task in circle[:6]]
        return " -> ".join([*shown, "..." if len(circle) > 6 else shown[0]])

    def longest_paths(self, durations: Sequence[float]) -> list[float]:
        """Seconds from each task's start to the end of the longest chain that waits for it."""
        paths = [0.0] * len(self)
        for task in reversed(self.topological):
            paths[task] = durations[task] + max((paths[follower] for follower in self.followers[task]), default=0.0)
        return paths

    def stock_order(self) -> list[int]:
        """BitBake's speed order: by the number of ways that lead from a task to the ends of the graph.

        As `calculate_task_weights` and `RunQueueSchedulerSpeed` of bb/runqueue.py have it: an end weighs 10, others 1
        and what the tasks weigh that need them; the heaviest first, of equals the later one.
        """
        weights = [1 if followers else 10 for followers in self.followers]
        for task in reversed(self.topological):
            for needed in self.depends[task]:
                weights[needed] += weights[task]
        by_name = sorted(range(len(self)), key=lambda task: self.names[task])
        return sorted(by_name, key=lambda task: weights[task])[::-1]


def read_dot(path: Path) -> Graph:
    """The graph in a `task-depends.dot`, or in one packed by xz. Raises GraphError."""
    return parse_dot(_lines(path), str(path))


def parse_dot(lines: Iterable[str], name: str) -> Graph:
    """The graph that lines of dot tell of. Raises GraphError, with `name` as the file."""
    places: dict[str, int] = {}
    edges: list[tuple[int, str, int]] = []
    edge_lines: dict[tuple[str, str], int] = {}
    for number, line in enumerate(lines, 1):
        if (edge := _EDGE.match(line)) is not None:
            # bitbake -g writes a task before its edges; others write edges alone.
            task, needs = edge["task"], edge["needs"]
            edges.append((places.setdefault(task, len(places)), needs, number))
            edge_lines.setdefault((task, needs), number)
        elif (node := _NODE.match(line)) is not None:
            places.setdefault(node["task"], len(places))
        elif not _FRAME.match(line):
            raise GraphError(
                f'{name}:{number}: {_shorten(line)} is not a line of a task graph; a good one is "zlib.do_compile" -> '
                f'"zlib.do_configure"'
            )
    if not places:
        raise GraphError(f"{name}: has no task; a good graph is the task-depends.dot that bitbake -g writes")
    depends: list[set[int]] = [set() for _ in places]
    for place, needs, number in edges:
        if needs not in places:
            raise GraphError(f"{name}:{number}: {_shorten(needs)} is a task that the graph does not have")
        depends[place].add(places[needs])
    names = tuple(_split(task, name) for task in places)
    graph = Graph(names, tuple(tuple(sorted(needed)) for needed in depends))
    try:
        graph.topological  # noqa: B018 - it is worked out once, and fails here
    except GraphError as error:
        circle = graph.find_circle()
        texts = list(places)
        pairs = zip(circle, [*circle[1:], circle[0]])
        line_number = max(edge_lines[(texts[task], texts[needed])] for task, needed in pairs)
        raise GraphError(f"{name}:{line_number}: {error}") from None
    return graph


def chain_graph(recipes: Sequence[str], needs: Iterable[tuple[int, int]], tasks: Sequence[str] = CHAIN) -> Graph:
    """Each recipe's tasks in their chain; for a pair (a, b) of `needs` recipe a is configured with b's sysroot."""
    names = [(recipe, task) for recipe in recipes for task in tasks]
    depends: list[list[int]] = [[] if place % len(tasks) == 0 else [place - 1] for place in range(len(names))]
    for recipe, needed in needs:
        depends[recipe * len(tasks) + tasks.index("do_prepare_recipe_sysroot")].append(
            needed * len(tasks) + tasks.index("do_populate_sysroot")
        )
    return Graph(tuple(names), tuple(map(tuple, depends)))


def generate(tasks: int, dice: random.Random) -> Graph:
    """A graph of about `tasks` tasks: recipes in chains of twelve, each with up to four earlier ones that it needs."""
    recipes = max(1, tasks // len(CHAIN))
    needs: list[tuple[int, int]] = []
    for recipe in range(1, recipes):
        # Real recipes need a few that everything needs, and a few of their own kind.
        reach = {int(recipe * dice.random() ** 3) for _ in range(dice.randrange(4))}
        reach |= {recipe - 1 - dice.randrange(min(recipe, 50))} if dice.random() < 0.5 else set()
        needs += [(recipe, needed) for needed in sorted(reach)]
    return chain_graph([f"recipe-{number}" for number in range(recipes)], needs)


def _lines(path: Path) -> Iterator[str]:
    """The lines of a plain or packed text. Raises GraphError."""
    try:
        with open(path, "rb") as file, unpacked(file) if is_packed(file.peek(6)) else file as text:
            # BitBake writes a label's line breaks as \n, two characters, so each task has one line.
            number = size = 0
            while line := text.readline(_LONGEST_LINE_BYTES):
                number, size = number + 1, size + len(line)
                if size > MOST_TEXT_BYTES or number > MOST_LINES:
                    most = f"{MOST_TEXT_BYTES} bytes or {MOST_LINES:,} lines"
                    raise GraphError(f"{path}: is larger than {most}, so it is not the graph of a build")
                yield line.decode("utf-8")
    except NotUnpacked as reason:
        raise GraphError(f"{path}: {reason}") from None
    except OSError as error:
        raise GraphError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise GraphError(f"{path}:{number}: is not UTF-8 text, so it is not a graph of bitbake -g") from None


def _split(text: str, name: str) -> tuple[str, str]:
    """Recipe and task of RECIPE.do_TASK."""
    recipe, dot, task = text.rpartition(".do_")
    if not dot or not recipe or not task:
        raise GraphError(f"{name}: {_shorten(text)} is not a task of a recipe; a good one is zlib.do_compile")
    return recipe, f"do_{task}"


def _shorten(text: str) -> str:
    text = text.strip()
    return repr(text if len(text) <= 60 else text[:57] + "...")
