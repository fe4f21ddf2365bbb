# SPDX-License-Identifier: MIT
"""Records and the lives of jobs as rows of the tables, and back.

Runs in: whoever keeps a history (the sentinel, the BitBake server, the command); standard library only.
Covers: every query that reads or inserts; the shape of a sound row; the order of builds.
Does not cover: transactions and locks (connection), deleting rows (prune), whether a record is a good one (samples).

Every function takes an open connection and works within its transaction, and may raise Damage.
"""

from __future__ import annotations

import itertools
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from math import inf
from typing import Any

from memguard.model import Outcome, PastRun, Record, Sample
from memguard.record.history.samples import NAME_MOST, OUTCOMES, DatedRecord, TaskLives, content_key
from memguard.record.history.schema import LONGEST_VALUE_BYTES, WITH_AGES, has_kinds, has_lives

# The columns of a record, in the order of its fields.
_COLUMNS = """builds.name, tasks.recipe, version, tasks.name, machine, jobs, peak_bytes, largest_process_bytes, wall_s,
    cpu_s, outcome, per_job_bytes, serial_bytes, {kind}"""
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
        (str,),
        (int,),
    )
)
# A run did as much as another one if its CPU seconds are within so many times, and seconds, of the other's. The same
# build takes up to a fifth more at one time than at another, and a short task's are counted in hundredths.
_LIKE_TIMES, _LIKE_S = 1.5, 0.5
_MOST_VARIABLES = 500  # in one query; SQLite allows 999 before 3.32


class Damage(ValueError):
    """A row that memguard did not write as it is."""


# -- samples -----------------------------------------------------------------------------------------------------------


def insert_samples(connection: sqlite3.Connection, records: Iterable[DatedRecord]) -> int:
    """Insert records, unless they are there already; how many are new."""
    builds: dict[tuple[str, float | None], int] = {}
    tasks: dict[tuple[str, str, str], int] = {}
    insert = f"INSERT INTO samples VALUES ({', '.join('?' * 13)}) ON CONFLICT DO NOTHING"
    new = 0
    for record, recorded_s in records:
        build = builds.get((record.build, recorded_s))
        if build is None:
            build = builds[record.build, recorded_s] = _find_build(connection, record.build, recorded_s)
        name = record.recipe, record.task, record.kind
        task = tasks.get(name)
        if task is None:
            task = tasks[name] = _find_task(connection, *name)
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


def read_samples(
    connection: sqlite3.Connection, recipe: str, task: str | None = None, most: int | None = None
) -> list[Sample]:
    """The samples of a recipe, or of one task of it, newest build first; all, or the first `most`."""
    where, values = ("recipe = ?", [recipe]) if task is None else ("recipe = ? AND tasks.name = ?", [recipe, task])
    rows = connection.execute(
        f"""{WITH_AGES} SELECT {_columns(connection)}, age FROM {_JOINED} WHERE {where}
        ORDER BY age, tasks.name, digest LIMIT ?""",
        [*values, -1 if most is None else most],
    )
    return [_sample(row) for row in rows]


def read_newest(
    connection: sqlite3.Connection, recipes: list[str], limit_per_task: int
) -> dict[tuple[str, str], list[Sample]]:
    """The newest samples of each task of `recipes` by (recipe, task), newest build first."""
    found: dict[tuple[str, str], list[Sample]] = {}
    columns = _columns(connection)
    for start in range(0, len(recipes), _MOST_VARIABLES):
        some = recipes[start : start + _MOST_VARIABLES]
        rows = connection.execute(
            f"""{WITH_AGES} SELECT * FROM (
                SELECT {columns}, age, row_number() OVER (PARTITION BY task ORDER BY age, digest) AS place
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
        f"""{WITH_AGES} SELECT {_columns(connection)}, age, first_s FROM {_JOINED}
        ORDER BY age DESC, recipe, tasks.name, digest"""
    )
    for *row, first_s in rows:
        if type(first_s) is not float:
            raise Damage("a build without a time")
        yield _sample(tuple(row)).record, first_s


def read_fastest_runs(connection: sqlite3.Connection) -> dict[tuple[str, str], PastRun]:
    """Of every task by (recipe, task) the fastest of the runs that ended well and are like the last of these.

    Like it is what had as many jobs and did as much, by CPU seconds. What takes longer has waited for CPUs: perhaps it
    gave way to a chain that was thought to be longer, and must not be thought the longest one for that. Two passes over
    the samples in the order they lie in, since a build waits for it.
    """
    # Columns beside max() and min() are those of the row that has it: https://www.sqlite.org/lang_select.html#bareagg.
    rows = connection.execute(
        f"""WITH last AS (
            SELECT task AS of, jobs AS with_jobs, cpu_s AS about_s, max(build)
            FROM samples WHERE outcome = ? GROUP BY task
        )
        SELECT recipe, name, jobs, min(wall_s), cpu_s, peak_bytes, {_kind(connection)}
        FROM samples JOIN last ON of = task JOIN tasks ON tasks.id = task
        WHERE outcome = ? AND jobs IS with_jobs AND cpu_s BETWEEN about_s / ? - ? AND about_s * ? + ? GROUP BY task""",
        [Outcome.OK.value, Outcome.OK.value, *(_LIKE_TIMES, _LIKE_S) * 2],
    )
    return {_names(recipe, task): _run(*values) for recipe, task, *values in rows}


def _find_build(connection: sqlite3.Connection, name: str, recorded_s: float | None) -> int:
    """The build's row. A new build is the newest, also after a clock was set back, unless `recorded_s` is known."""
    connection.execute(
        """INSERT INTO builds (name, first_s)
            VALUES (?, coalesce(?, max(?, (SELECT coalesce(max(first_s), 0) FROM builds))))
            ON CONFLICT (name) DO UPDATE SET first_s = min(first_s, excluded.first_s)""",
        (name, recorded_s, time.time()),
    )
    return _number(connection.execute("SELECT id FROM builds WHERE name = ?", (name,)).fetchone())


def _kind(connection: sqlite3.Connection) -> str:
    """The column of a task's kind, which a file that is only read may lack."""
    return "tasks.kind" if has_kinds(connection) else "''"


def _columns(connection: sqlite3.Connection) -> str:
    return _COLUMNS.format(kind=_kind(connection))


def _find_task(connection: sqlite3.Connection, recipe: str, name: str, kind: str) -> int:
    """The task's row, which has the kind that was said last."""
    connection.execute(
        """INSERT INTO tasks (recipe, name, kind) VALUES (?, ?, ?) ON CONFLICT (recipe, name)
            DO UPDATE SET kind = excluded.kind WHERE excluded.kind NOT IN ('', kind)""",
        (recipe, name, kind),
    )
    key = (recipe, name)
    return _number(connection.execute("SELECT id FROM tasks WHERE recipe = ? AND name = ?", key).fetchone())


def _number(row: tuple[Any, ...] | None) -> int:
    """The id of a row that was just inserted, or was there."""
    if row is None or type(row[0]) is not int:
        raise Damage("a row without a number")
    return row[0]


def _sample(row: tuple[Any, ...]) -> Sample:
    """The sample in a row of _COLUMNS and its age."""
    if tuple(map(type, row)) not in _SHAPES or row[10] not in OUTCOMES:
        raise Damage("a row of another shape")
    if max(map(len, (*row[:5], row[13]))) > NAME_MOST:
        raise Damage("a name without end")
    if not (0 <= row[8] < inf and 0 <= row[9] < inf):
        raise Damage("a run with a time that is none")
    *values, age_builds = row
    values[10] = Outcome(values[10])
    return Sample(Record(*values), age_builds)


def _names(recipe: Any, task: Any) -> tuple[str, str]:
    if type(recipe) is not str or type(task) is not str or max(len(recipe), len(task)) > NAME_MOST:
        raise Damage("a name that is none")
    return recipe, task


def _run(jobs: Any, wall_s: Any, cpu_s: Any, peak_bytes: Any, kind: Any) -> PastRun:
    are_whole = type(jobs) in _INTEGER_OR_NULL and type(peak_bytes) in _INTEGER_OR_NULL
    if not are_whole or type(wall_s) is not float or type(cpu_s) is not float:
        raise Damage("a run of another shape")
    if not (0 <= wall_s < inf and 0 <= cpu_s < inf):
        raise Damage("a run with a time that is none")
    if type(kind) is not str or len(kind) > NAME_MOST:
        raise Damage("a kind without a name")
    return PastRun(jobs, wall_s, cpu_s, peak_bytes, kind)


# -- lives of jobs -----------------------------------------------------------------------------------------------------


def write_lives(connection: sqlite3.Connection, lives: Iterable[TaskLives]) -> bool:
    """Replace the lives of tasks; True when done."""
    connection.executemany("INSERT OR REPLACE INTO lives VALUES (?, ?, ?, ?)", lives)
    return True


def read_lives(connection: sqlite3.Connection, recipe: str, task: str) -> bytes:
    """The lives of a task's jobs as they were written last; no bytes where there are none."""
    if not has_lives(connection):
        return b""
    where = "SELECT units FROM lives WHERE recipe = ? AND task = ?"
    (units,) = connection.execute(where, (recipe, task)).fetchone() or (b"",)
    if type(units) is not bytes or len(units) > LONGEST_VALUE_BYTES:
        raise Damage("lives of another shape")
    return units


def read_all_lives(connection: sqlite3.Connection) -> list[TaskLives]:
    """The lives of all tasks, by recipe and task."""
    if not has_lives(connection):
        return []
    rows = connection.execute("SELECT recipe, task, written_s, units FROM lives ORDER BY recipe, task")
    return [_lives(row) for row in rows]


def join_lives(
    connection: sqlite3.Connection, lives: Iterable[TaskLives], join: Callable[[bytes, bytes], bytes]
) -> int:
    """Write what `join` makes of the newer and the older lives of each task; of how many that changed anything.

    Lives of a task that had none are joined with no bytes, so that they keep to the same bounds.
    """
    changed = []
    for new in lives:
        where = "SELECT recipe, task, written_s, units FROM lives WHERE recipe = ? AND task = ?"
        row = connection.execute(where, (new.recipe, new.task)).fetchone()
        if row is None:
            changed.append(new._replace(packed=join(new.packed, b"")))
            continue
        old = _lives(row)
        if old.packed == new.packed:
            continue
        joined = new.joined_to(old, join)
        if joined != old:
            changed.append(joined)
    write_lives(connection, changed)
    return len(changed)


def _lives(row: tuple[Any, ...]) -> TaskLives:
    recipe, task, written_s, units = row
    if type(written_s) is not float or type(units) is not bytes or len(units) > LONGEST_VALUE_BYTES:
        raise Damage("lives of another shape")
    return TaskLives(*_names(recipe, task), written_s, units)
