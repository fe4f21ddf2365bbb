# SPDX-License-Identifier: MIT
"""The table of the fleet's database that holds the lives of single jobs, by task.

Runs in: outside BitBake, before and after a build.
Covers: lives in and out, those of two places joined, and its bound.
Does not cover: connections, transactions and the other tables (database).

An older memguard, which knows nothing of lives, goes on with the other tables beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from memguard.record.history.samples import TaskLives
from memguard.record.history.schema import LONGEST_VALUE_BYTES

# What is remembered of the packed lives of a task that were written last, and of others.
Join = Callable[[bytes, bytes], bytes]
CREATE = """CREATE TABLE memguard_lives (
        recipe text NOT NULL, task text NOT NULL, written_s double precision NOT NULL, units bytea NOT NULL,
        PRIMARY KEY (recipe, task)
    )"""
# A row may be of anybody's making: no more of it is read than shows that it is too long.
_UNITS = f"substring(units FROM 1 FOR {LONGEST_VALUE_BYTES + 1})"
_OF_TASK = "memguard_lives WHERE recipe = :recipe AND task = :task"


class Mark(NamedTuple):
    """By what lives are known to have been sent: when they were written, as seconds since 1970, and their size."""

    written_s: float
    size_bytes: int


class LivesTable:
    """The table, within a transaction of its caller's."""

    def __init__(self, run: Callable[..., Any]) -> None:
        """`run` executes a statement with named values."""
        self._run = run

    def now_s(self) -> float:
        """Seconds since 1970 by the server's clock."""
        return float(self._run("SELECT extract(epoch FROM now())").scalar())

    def marks(self) -> dict[tuple[str, str], Mark]:
        """Of each task, that is recipe and name, what is there."""
        found = self._run("SELECT recipe, task, written_s, length(units) FROM memguard_lives").all()
        return {(recipe, task): Mark(*mark) for recipe, task, *mark in found}

    def send(self, new: TaskLives, join: Join) -> bool:
        """Join the lives of one task with those that are there; whether that changed anything.

        The row is held until the transaction ends. A time that is yet to come is no time: what has it gives way.
        """
        key = {"recipe": new.recipe, "task": new.task}
        values = {**key, "written_s": new.written_s, "units": join(new.packed, b"")}
        insert = "INSERT INTO memguard_lives VALUES (:recipe, :task, :written_s, :units) ON CONFLICT DO NOTHING"
        if self._run(f"{insert} RETURNING 1", **values).scalar():
            return True
        written = "CASE WHEN written_s <= extract(epoch FROM now()) THEN written_s ELSE 0 END"
        row = self._run(f"SELECT {written}, {_UNITS} FROM {_OF_TASK} FOR UPDATE", **key).first()
        if row is None:  # forgotten just now
            return False
        old = new._replace(written_s=row[0], packed=bytes(row[1]))
        joined = new.joined_to(old, join)
        if joined == old:
            return False
        self._run(
            "UPDATE memguard_lives SET written_s = :written_s, units = :units WHERE recipe = :recipe AND task = :task",
            **{**values, "written_s": joined.written_s, "units": joined.packed},
        )
        return True

    def newer_than(self, known: Iterable[TaskLives]) -> list[TaskLives]:
        """The lives of the tasks of which `known` has none, or older ones."""
        here = {(one.recipe, one.task): one.written_s for one in known}
        found = self._run("SELECT recipe, task, written_s FROM memguard_lives ORDER BY recipe, task").all()
        wanted = [row for row in found if row[2] > here.get((row[0], row[1]), -1.0)]
        return [TaskLives(recipe, task, written_s, self._units(recipe, task)) for recipe, task, written_s in wanted]

    def _units(self, recipe: str, task: str) -> bytes:
        return bytes(self._run(f"SELECT {_UNITS} FROM {_OF_TASK}", recipe=recipe, task=task).scalar() or b"")

    def forget(self, most_bytes: int) -> None:
        """Delete what was written longest ago, until the others take no more than `most_bytes`."""
        self._run(
            """DELETE FROM memguard_lives USING (
                SELECT recipe, task, sum(length(units)) OVER (ORDER BY written_s DESC, recipe, task) AS bytes
                FROM memguard_lives
            ) AS summed WHERE summed.recipe = memguard_lives.recipe AND summed.task = memguard_lives.task
                AND summed.bytes > :most_bytes""",
            most_bytes=most_bytes,
        )
