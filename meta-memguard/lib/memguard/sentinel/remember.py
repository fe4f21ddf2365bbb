# SPDX-License-Identifier: MIT
"""What the sentinel writes to the history.

Runs in: the sentinel; standard library only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memguard.channels.notes import Orders
from memguard.channels.state import TaskState
from memguard.model import Outcome, Record


def open_history(orders: Orders, warnings: list[str]) -> Any:
    """Where records go; None where none are kept, or a Python without SQLite runs this."""
    if not orders.policy.history:
        return None
    try:
        from memguard.record.history.store import History
    except ImportError as error:
        warnings.append(f"nothing is remembered of this build: {error}")
        return None
    return History(Path(orders.policy.history), orders.policy.history_max_bytes, warn=warnings.append)


def lost_record(task: TaskState, build: str) -> Record:
    """What is remembered of the heaviest task of a build that was killed as a whole."""
    return Record(
        build=build,
        recipe=task.recipe,
        version=task.version,
        task=task.task,
        machine=task.machine,
        jobs=task.jobs,
        peak_bytes=task.peak_bytes,
        largest_process_bytes=0,
        wall_s=0.0,
        cpu_s=0.0,
        outcome=Outcome.MEMORY_KILL,
    )
