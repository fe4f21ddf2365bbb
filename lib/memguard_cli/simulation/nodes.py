# SPDX-License-Identifier: MIT
"""How many builds run at once on the nodes of a cluster, and how many that makes an hour.

Runs in: outside BitBake; pure.
Covers: containers of one size or of several, each on one node; a queue of builds that is never empty.
Does not cover: what nodes keep for themselves (give what is allocatable), disks and networks that builds share, other
pods than builds.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass

from memguard.units import parse_bytes
from memguard_cli.simulation.plans import Plan

_NODES = re.compile(r"(?:(?P<count>\d{1,6})x)?(?P<size>[^/x]+)/(?P<cpus>\d{1,6})")
# As many as Kubernetes itself supports.
MOST_NODES = 5000


@dataclass(frozen=True)
class Node:
    """What pods may use of one node."""

    memory_bytes: int
    cpus: int


@dataclass(frozen=True, order=True)
class Shape:
    """One build in a container: what it is called, CPUs and memory of its pod, and how long it takes."""

    name: str
    cpus: int
    limit_bytes: int
    time_s: float


@dataclass(frozen=True)
class Row:
    """Builds of one shape. at_once: how many fit on all nodes together."""

    shape: Shape
    at_once: int

    @property
    def an_hour(self) -> float:
        """Builds that end in an hour while the nodes are full of them."""
        return self.at_once * 3600 / self.shape.time_s if self.shape.time_s else 0.0


def parse_nodes(text: str) -> tuple[Node, ...]:
    """Nodes of "4x64G/16,128G/32". Raises ValueError."""
    nodes: list[Node] = []
    for word in text.split(","):
        found = _NODES.fullmatch(word.strip())
        if found is None:
            raise ValueError(word)
        count, size, cpus = int(found["count"] or 1), parse_bytes(found["size"]), int(found["cpus"])
        if not (count and size and cpus) or len(nodes) + count > MOST_NODES:
            raise ValueError(word)
        nodes += [Node(size, cpus)] * count
    return tuple(nodes)


def shapes_of(name: str, plans: Sequence[Plan]) -> list[Shape]:
    """The containers of one build that are worth a comparison: the smallest and the knee for each number of CPUs."""
    found: dict[tuple[int, int], Shape] = {}
    for plan in plans:
        for point in (plan.smallest, plan.knee):
            if point is not None and point.time_s is not None:
                found[plan.cpus, point.limit_bytes] = Shape(name, plan.cpus, point.limit_bytes, point.time_s)
    return list(found.values())


def fill(shape: Shape, nodes: Sequence[Node]) -> Row:
    """As many builds of one shape as fit."""
    return Row(shape, sum(min(node.memory_bytes // shape.limit_bytes, node.cpus // shape.cpus) for node in nodes))


def best_of(rows: Sequence[Row]) -> Row | None:
    """The container in which most builds of one kind end in an hour, of equals the one that is faster for each."""
    fitting = [row for row in rows if row.at_once]
    return max(fitting, key=lambda row: (round(row.an_hour, 6), -row.shape.time_s), default=None)


def mix(shapes: Sequence[Shape], nodes: Sequence[Node]) -> list[int]:
    """How many builds of each shape run at once where one of each is started in turn, until the next fits nowhere."""
    free = _Free(nodes)
    counts = [0] * len(shapes)
    while shapes and free.take(shapes[sum(counts) % len(shapes)]) is not None:
        counts[sum(counts) % len(shapes)] += 1
    return counts


def until_done_s(shapes: Sequence[Shape], nodes: Sequence[Node], builds: int) -> float | None:
    """Seconds until `builds` builds are done, one of each shape in turn, all there from the start.

    A build that fits nowhere waits, and others that fit pass it, as pods do. None where one of them fits on no node.
    """
    if not all(fill(shape, nodes).at_once for shape in shapes):
        return None
    free = _Free(nodes)
    # Of each shape the number of the build that is next.
    turns = list(range(len(shapes)))
    running: list[tuple[float, int, Shape]] = []
    now_s = 0.0
    while running or min(turns) < builds:
        waiting = [turn for turn in turns if turn < builds]
        heapq.heapify(waiting)
        while waiting:
            turn = heapq.heappop(waiting)
            shape = shapes[turn % len(shapes)]
            node = free.take(shape)
            if node is None:
                continue  # nor do the others of this shape fit
            heapq.heappush(running, (now_s + shape.time_s, node, shape))
            following = turns[turn % len(shapes)] = turn + len(shapes)
            if following < builds:
                heapq.heappush(waiting, following)
        now_s, node, shape = heapq.heappop(running)
        free.give_back(node, shape)
    return now_s


class _Free:
    """What is left of each node."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._left = [[node.memory_bytes, node.cpus] for node in nodes]

    def take(self, shape: Shape) -> int | None:
        """The node that a build goes to, the one on which the least memory is left; None where it fits nowhere."""
        fitting = [
            (memory_bytes, place)
            for place, (memory_bytes, cpus) in enumerate(self._left)
            if memory_bytes >= shape.limit_bytes and cpus >= shape.cpus
        ]
        if not fitting:
            return None
        _, place = min(fitting)
        self._left[place][0] -= shape.limit_bytes
        self._left[place][1] -= shape.cpus
        return place

    def give_back(self, place: int, shape: Shape) -> None:
        """A build has ended."""
        self._left[place][0] += shape.limit_bytes
        self._left[place][1] += shape.cpus
