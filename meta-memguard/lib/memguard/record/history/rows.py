# SPDX-License-Identifier: MIT
"""Records and the lives of jobs as rows of the tables, and back.

Runs in: whoever keeps a history (the sentinel, the BitBake server, the command); standard library only.
Covers: every query that reads or inserts; the shape of a sound row; the order of builds.
Does not cover: transactions and locks (connection), deleting rows (prune), whether a record is a good one (samples).

Every function takes an open connection and works within its transaction. Those that read raise Damage.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from memguard.model import Outcome, PastRun, Record, Sample
from memguard.record.history.samples import OUTCOMES, DatedRecord, content_key
from memguard.record.history.schema import WITH_AGES, has_lives

# The columns of a record, in the order of its fields.
_COLUMNS = """builds.name, tasks.recipe, version, tasks.name, machine, jobs, peak_bytes, largest_process_bytes, wall_s,
    cpu_s, outcome, per_job_bytes, serial_bytes"""
_JOINED = "samples JOIN tasks ON tasks.id = task JOIN builds ON builds.id = build JOIN ages ON ages.id = build"
# The types in a sound row of those columns and an age; a damaged one may hold text where a number was. All that are
# possible, since to look up one tuple is faster than to check fourteen values.
_INTEGER_OR_NULL = (int, type(None))
_SHAPES = frozenset(
    itertools.product(
        *[(str,)] * 5,
        _INTEGER_OR_NULL,
        _INTEGER_OR_NULL,
        (int,),
        (float,),
        (float,),
        (str,),
        _INTEGER_OR_NULL,
        _INTEGER_OR_NULL,
        (int,),
    )
)
_MOST_VARIABLES = 500  # in one query; SQLite allows 999 before 3.32


class Damage(ValueError):
    """A row that memguard did not write as it is."""


# -- samples -----------------------------------------------------------------------------------------------------------


def insert_samples(connection: sqlite3.Connection, records: Iterable[DatedRecord]) -> int:
    """Insert records, unless they are there already; how many are new."""
    builds: dict[tuple[str, float | None], int] = {}
    tasks: dict[tuple[str, str], int] = {}
    insert = f"INSERT INTO samples VALUES ({', '.join('?' * 13)}) ON CONFLICT DO NOTHING"
    new = 0
    for record, recorded_s in records:
        build = builds.get((record.build, recorded_s))
        if build is None:
            build = builds[record.build, recorded_s] = _find_build(connection, record.build, recorded_s)
        task = tasks.get((record.recipe, record.task))
        if task is None:
            task = tasks[record.recipe, record.task] = _find_task(connection, record.recipe, record.task)
        values = (
            record.version,
            record.machine,
            record.jobs,
            record.peak_bytes,
            record.largest_process_bytes,
            float(record.wall_s),
            float(record.cpu_s),
            record.outcome.value,
            record.per_job_bytes,
            record.serial_bytes,
        )
        row = (task, build, content_key(repr(values).encode()), *values)
        new += connection.execute(insert, row).rowcount
    return new


def read_samples(connection: sqlite3.Connection, recipe: str, task: str | None = None) -> list[Sample]:
    """All samples of a recipe, or of one task of it, newest build first."""
    where, values = ("recipe = ?", [recipe]) if task is None else ("recipe = ? AND tasks.name = ?", [recipe, task])
    rows = connection.execute(
        f"{WITH_AGES} SELECT {_COLUMNS}, age FROM {_JOINED} WHERE {where} ORDER BY age, tasks.name, digest", values
    )
    return [_sample(row) for row in rows]


def read_newest(
    connection: sqlite3.Connection, recipes: list[str], limit_per_task: int
) -> dict[tuple[str, str], list[Sample]]:
    """The newest samples of each task of `recipes` by (recipe, task), newest build first."""
    found: dict[tuple[str, str], list[Sample]] = {}
    for start in range(0, len(recipes), _MOST_VARIABLES):
        some = recipes[start : start + _MOST_VARIABLES]
        rows = connection.execute(
            f"""{WITH_AGES} SELECT * FROM (
                SELECT {_COLUMNS}, age, row_number() OVER (PARTITION BY task ORDER BY age, digest) AS place
                FROM {_JOINED} WHERE recipe IN ({", ".join("?" * len(some))})
            ) WHERE place <= ? ORDER BY place""",
            [*some, limit_per_task],
        )
        for row in rows:
            sample = _sample(row[:-1])
            found.setdefault((sample.record.recipe, sample.record.task), []).append(sample)
    return found


def read_all(connection: sqlite3.Connection) -> Iterator[DatedRecord]:
    """All records and when their builds began, oldest build first, while the transaction lasts."""
    rows = connection.execute(
        f"{WITH_AGES} SELECT {_COLUMNS}, age, first_s FROM {_JOINED} ORDER BY age DESC, recipe, tasks.name, digest"
    )
    for row in rows:
        yield _sample(row[:-1]).record, row[-1]


def read_last_runs(connection: sqlite3.Connection) -> dict[tuple[str, str], PastRun]:
    """The run that ended well and was added last, of every task by (recipe, task).

    One pass over the samples in the order they lie in, since a build waits for it.
    """
    # Columns beside max() are those of the row that has it: https://www.sqlite.org/lang_select.html#bareagg.
    rows = connection.execute(
        """SELECT recipe, name, jobs, wall_s, cpu_s, peak_bytes, max(build) FROM samples JOIN tasks ON tasks.id = task
        WHERE outcome = ? GROUP BY task""",
        [Outcome.OK.value],
    )
    return {(recipe, task): _run(*values) for recipe, task, *values, _ in rows}


def _find_build(connection: sqlite3.Connection, name: str, recorded_s: float | None) -> int:
    """The build's row. A new build is the newest, also after a clock was set back, unless `recorded_s` is known."""
    connection.execute(
        """INSERT INTO builds (name, first_s)
            VALUES (?, coalesce(?, max(?, (SELECT coalesce(max(first_s), 0) FROM builds))))
            ON CONFLICT (name) DO UPDATE SET first_s = min(first_s, excluded.first_s)""",
        (name, recorded_s, time.time()),
    )
    (number,) = connection.execute("SELECT id FROM builds WHERE name = ?", (name,)).fetchone()
    return int(number)


def _find_task(connection: sqlite3.Connection, recipe: str, name: str) -> int:
    connection.execute("INSERT INTO tasks (recipe, name) VALUES (?, ?) ON CONFLICT DO NOTHING", (recipe, name))
    key = (recipe, name)
    (number,) = connection.execute("SELECT id FROM tasks WHERE recipe = ? AND name = ?", key).fetchone()
    return int(number)


def _sample(row: tuple[Any, ...]) -> Sample:
    """The sample in a row of _COLUMNS and its age."""
    if tuple(map(type, row)) not in _SHAPES or row[10] not in OUTCOMES:
        raise Damage("a row of another shape")
    *values, age_builds = row
    values[10] = Outcome(values[10])
    return Sample(Record(*values), age_builds)


def _run(jobs: Any, wall_s: Any, cpu_s: Any, peak_bytes: Any) -> PastRun:
    are_whole = type(jobs) in _INTEGER_OR_NULL and type(peak_bytes) in _INTEGER_OR_NULL
    if not are_whole or type(wall_s) is not float or type(cpu_s) is not float:
        raise Damage("a run of another shape")
    return PastRun(jobs, wall_s, cpu_s, peak_bytes)


# -- lives of jobs -----------------------------------------------------------------------------------------------------


def write_lives(connection: sqlite3.Connection, lives: Mapping[tuple[str, str], bytes]) -> bool:
    """Replace the lives of tasks, by (recipe, task); True when done."""
    for (recipe, task), packed in lives.items():
        row = (recipe, task, time.time(), packed)
        connection.execute("INSERT OR REPLACE INTO lives VALUES (?, ?, ?, ?)", row)
    return True


def read_lives(connection: sqlite3.Connection, recipe: str, task: str) -> bytes:
    """The lives of a task's jobs as they were written last; no bytes where there are none."""
    if not has_lives(connection):
        return b""
    where = "SELECT units FROM lives WHERE recipe = ? AND task = ?"
    (units,) = connection.execute(where, (recipe, task)).fetchone() or (b"",)
    if type(units) is not bytes:
        raise Damage("lives of another shape")
    return units
