# SPDX-License-Identifier: MIT
"""Runs a task's function again after something in it was killed for memory, with fewer jobs each time.

Runs in: task children; knows no bb and no process: what it needs of the task comes as a Scene.
Covers: the order of the steps around each run, and what a fault in one of them costs.
Does not cover: the steps (bitbake/task_again.py); whether it was a memory kill, and how many jobs come next
(decide/run_again.py); waiting for memory (turn.py); what was left half written (act/half_written.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, Protocol

from memguard.decide.run_again import Attempt, Cause, Runs


class Scene(Protocol):
    """The surroundings of one task's function."""

    def begin(self) -> None:
        """A run begins: from here on errors are held back, and what happens belongs to it."""
        ...

    def look(self, error: Exception | None) -> Cause | None:
        """The memory kill of the run that has just ended, with `error` if it failed; None where there was none."""
        ...

    def clear(self, cause: Cause, attempt: Attempt, number: int, of: int) -> bool:
        """Make ready for another run and wait until memory allows it; whether it can be. Errors are dropped then."""
        ...

    def let_through(self) -> None:
        """Show the errors that were held back, in order."""
        ...

    def explain(self, cause: Cause, runs: int) -> None:
        """Say why a task failed, or may be spoiled, after all its `runs`."""
        ...

    def excuse(self, fault: Exception) -> None:
        """Say that something here failed, which costs a task no more than its next run. Never raises."""
        ...


def run(function: Callable[[], object], attempts: Sequence[Attempt], scene: Scene) -> None:
    """Run `function`, and once more for each of `attempts` (Runs) as long as a memory kill is what ended it.

    A run that ends well although something in it was killed by the sentinel is repeated, too: whoever ignored the death
    of a compiler may have gone on without its output.

    Raises what the last run raised, with everything it had logged shown before.
    """
    left, runs = _attempt(scene, Runs, attempts), 0
    while True:
        runs += 1
        _attempt(scene, scene.begin)
        error: Exception | None = None
        try:
            function()
        except Exception as raised:
            error = raised
        except BaseException:
            # An end from outside, or an interrupt: nobody waits for another run.
            _attempt(scene, scene.let_through)
            raise
        cause = _attempt(scene, scene.look, error)
        following = _attempt(scene, _take, left, cause)
        if following and _attempt(scene, scene.clear, cause, following, runs, runs + len(left.left)):
            continue
        _attempt(scene, scene.let_through)
        if cause is not None:
            _attempt(scene, scene.explain, cause, runs)
        if error is not None:
            raise error
        return


def _take(left: Runs | None, cause: Cause | None) -> Attempt | None:
    """The attempt that follows, None where there is none."""
    return left.take(cause.is_own) if left is not None and cause is not None else None


def _attempt(scene: Scene, step: Callable[..., Any], *arguments: object) -> Any:
    """What a step answers; None where it fails, since no fault of ours may cost more than another run."""
    try:
        return step(*arguments)
    except Exception as fault:
        scene.excuse(fault)
        return None
