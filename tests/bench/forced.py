# SPDX-License-Identifier: MIT
"""By how much predictions move after `bitbake -c compile -f` of recipes that are built, which finds nothing to do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from testbed.command import memguard
from testbed.oe_bed import Bed, Built, Setting

# Predictions may move by less than this share of themselves.
MOST = 0.05


@dataclass(frozen=True)
class Move:
    """The likely peak of a task with so many jobs, before and after."""

    recipe: str
    task: str
    jobs: int
    before_bytes: int
    after_bytes: int

    @property
    def share(self) -> float:
        """How far it went, as a share of what it was."""
        return abs(self.after_bytes - self.before_bytes) / self.before_bytes


def measure(made: Bed, setting: Setting) -> tuple[Built, list[Move]]:
    """Have the tools of all recipes run once more in what the last build has left; every prediction, before and after.

    Beside powers of two, job counts that were recorded are predicted, too; only those that were so before are compared.

    Raises NoContainer.
    """
    before = dict(_peaks(made))
    built = made.compile_again("forced", setting)
    after = dict(_peaks(made))
    return built, [Move(*key, peak_bytes, after[key]) for key, peak_bytes in before.items() if key in after]


def line(built: Built, moves: list[Move]) -> str:
    """What came of it: the furthest move, and how many went too far."""
    furthest = max(moves, key=lambda move: move.share)
    far = sum(move.share >= MOST for move in moves)
    outcome = "built" if built.is_built else f"NOT BUILT ({built.log})"
    return (
        f"-c compile -f of all: {outcome}, {built.wall_s} s; {far} of {len(moves)} predictions moved by {MOST:.0%} or "
        f"more; the furthest is {furthest.recipe} {furthest.task} with {furthest.jobs} jobs: {furthest.share:.1%}"
    )


def _peaks(made: Bed) -> Iterator[tuple[tuple[str, str, int], int]]:
    """What memguard predicts of every task in the history: recipe, task and jobs, and its bytes."""
    history = made.memguard.path / "history.db"
    for recipe in made.kind.recipes:
        words = ("predict", recipe, "--all-tasks", "--json", "--history", str(history))
        told = memguard(*words, cwd=Path("/"))
        if told.returncode:
            raise RuntimeError(f"memguard {' '.join(words)}: {told.stderr}")
        for task in json.loads(told.stdout):
            for jobs, peak_bytes in task["peaks_bytes"].items():
                yield (recipe, task["task"], int(jobs)), peak_bytes
