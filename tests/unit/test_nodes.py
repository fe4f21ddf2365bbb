# SPDX-License-Identifier: MIT
"""Builds on nodes: how many fit, which container gets most of them done, and when a queue is empty."""

from __future__ import annotations

import pytest

from memguard.units import GIB
from memguard_cli.screens.plan import nodes_sentences
from memguard_cli.simulation.nodes import Node, Shape, best_of, fill, mix, parse_nodes, until_done_s

NODES = (Node(64 * GIB, 16),) * 4


def test_nodes_are_read_as_they_are_written() -> None:
    """A count, what pods may use of memory, and CPUs."""
    assert parse_nodes("4x64G/16") == NODES
    assert parse_nodes("2x64Gi/16, 128G/32") == (*NODES[:2], Node(128 * GIB, 32))


@pytest.mark.parametrize("text", ["", "4", "4x64G", "64G/0", "0x64G/16", "4x64Q/16", "9999x64G/16", "4x64G/16,"])
def test_what_is_no_node_is_refused(text: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(ValueError, match=r".*"):
        parse_nodes(text)


def test_the_scarcer_of_memory_and_cpus_counts() -> None:
    """On each node by itself: what two nodes have left together holds nothing."""
    assert fill(Shape("a", 4, 20 * GIB, 60), NODES).at_once == 4 * 3  # 60 of 64 GiB
    assert fill(Shape("a", 6, 4 * GIB, 60), NODES).at_once == 4 * 2  # 12 of 16 CPUs
    assert fill(Shape("a", 4, 65 * GIB, 60), NODES).at_once == 0


def test_the_best_container_is_the_one_that_gets_most_done() -> None:
    """Not the fastest, nor the one of which most fit; of equals the faster one."""
    small, knee = Shape("a", 8, 5 * GIB, 4200), Shape("a", 8, 11 * GIB, 3000)
    large = Shape("a", 16, 20 * GIB, 2000)
    rows = [fill(shape, NODES) for shape in (small, knee, large)]
    assert [row.at_once for row in rows] == [8, 8, 4]
    best = best_of(rows)
    assert best is not None
    assert best.shape == knee
    assert best.an_hour == pytest.approx(8 * 3600 / 3000)
    assert best_of([fill(Shape("a", 32, GIB, 1), NODES)]) is None


def test_a_mix_takes_one_of_each_in_turn() -> None:
    """Until the next in turn fits nowhere."""
    shapes = [Shape("a", 8, 40 * GIB, 60), Shape("b", 4, 20 * GIB, 60)]
    assert mix(shapes, NODES) == [4, 4]
    assert mix([Shape("a", 32, GIB, 60)], NODES) == [0]
    assert mix([], NODES) == []


def test_a_queue_is_done_when_its_last_build_is() -> None:
    """Eight at once, so nine take two rounds; what fits passes what does not."""
    shape = Shape("a", 8, 16 * GIB, 100)
    assert until_done_s([shape], NODES, 8) == 100
    assert until_done_s([shape], NODES, 9) == 200
    one = (Node(64 * GIB, 16),)
    wide, thin = Shape("wide", 16, 16 * GIB, 100), Shape("thin", 4, 4 * GIB, 30)
    assert until_done_s([wide, thin], one, 2) == 130
    assert until_done_s([thin, wide, thin], one, 3) == 130
    assert until_done_s([Shape("a", 32, GIB, 1)], one, 1) is None


def test_a_long_queue_is_done_in_rounds() -> None:
    """Of a hundred thousand builds, too: each is started once, not looked at whenever another ends."""
    assert until_done_s([Shape("a", 4, 16 * GIB, 10), Shape("b", 4, 16 * GIB, 10)], NODES, 100_000) == 62_500


def test_a_build_that_fits_on_no_node_is_named() -> None:
    """The mix and the queue are of all builds, so they are left out."""
    minimal = ("minimal", Shape("minimal", 8, 16 * GIB, 600))
    sentences = nodes_sentences([minimal, ("sato", None)], NODES, 10)
    assert sentences[1:] == [
        "Most builds an hour: minimal 8 CPUs and 16.0 GiB.",
        "No container for sato fits on these nodes.",
    ]
    assert nodes_sentences([("sato", None)], NODES, 10)[1:] == sentences[2:]
    assert nodes_sentences([minimal], NODES, 8)[2:] == ["8 builds: all at once, and all are done after 10:00 min."]
