# SPDX-License-Identifier: MIT
"""How long a build is said to go on, by what earlier builds took."""

from __future__ import annotations

import pytest

from memguard.decide.order import remaining_paths
from memguard.decide.remaining import Remaining
from memguard.model import Duration

NEEDS: dict[str, list[str]] = {"a": [], "b": ["a"], "c": ["b"], "x": [], "y": [], "z": []}
SECONDS = {"a": 10.0, "b": 10.0, "c": 10.0, "x": 40.0, "y": 40.0, "z": 1.0}
KNOWN = {tid: Duration(seconds, 0.0) for tid, seconds in SECONDS.items() if tid != "z"}


def remaining() -> Remaining[str]:
    return Remaining(remaining_paths(list(SECONDS), NEEDS.__getitem__, SECONDS), SECONDS, KNOWN)


@pytest.mark.parametrize(
    ("left", "cpus", "seconds"),
    [
        ("abcxyz", 1, 110),  # all one after the other, but for what nobody knows
        ("abcxyz", 2, 55),
        ("abcxyz", 8, 40),  # the longest task
        ("bc", 8, 20),  # a chain
        ("c", 8, 10),
        ("z", 8, None),
        ("", 8, None),
    ],
)
def test_the_longer_of_chain_and_cpu_time_counts(left: str, cpus: float, seconds: float | None) -> None:
    """With few CPUs their time decides, with many the longest chain; of what is unknown nothing is said."""
    assert remaining().left_s(left, cpus) == seconds


def test_time_that_a_task_waits_for_others_is_no_cpu_time() -> None:
    """A fetch of a minute that computes a second keeps no CPU from others."""
    known = {"f": Duration(60.0, 0.0, 1.0), "g": Duration(60.0, 0.0, 1.0)}
    fetches = Remaining({"f": 60.0, "g": 60.0}, {"f": 60.0, "g": 60.0}, known)
    assert fetches.left_s("fg", 1) == 60.0
