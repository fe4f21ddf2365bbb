# SPDX-License-Identifier: MIT
"""Tables of the history.

Runs in: whoever keeps a history; standard library only.
"""

from __future__ import annotations

import itertools
import sqlite3
from pathlib import Path

from memguard.record.history.connection import UnusableHistory

APPLICATION_ID = 0x6D656D67  # "memg", in the file's header
# Step n takes a file from version n to n + 1; an empty file has version 0. A step that was released stays as it is.
# A sample is found by its task, is unique by its whole content (digest), and lies beside the others of its task.
_STEPS = (
    (
        f"PRAGMA application_id = {APPLICATION_ID}",
        "CREATE TABLE builds (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, first_s REAL NOT NULL)",
        "CREATE TABLE tasks (id INTEGER PRIMARY KEY, recipe TEXT NOT NULL, name TEXT NOT NULL, UNIQUE (recipe, name))",
        """CREATE TABLE samples (
            task INTEGER NOT NULL REFERENCES tasks (id), build INTEGER NOT NULL REFERENCES builds (id),
            digest INTEGER NOT NULL, version TEXT NOT NULL, machine TEXT NOT NULL, jobs INTEGER, peak_bytes INTEGER,
            largest_process_bytes INTEGER NOT NULL, wall_s REAL NOT NULL, cpu_s REAL NOT NULL, outcome TEXT NOT NULL,
            per_job_bytes INTEGER, serial_bytes INTEGER, PRIMARY KEY (task, build, digest)
        ) WITHOUT ROWID""",
    ),
    ("CREATE TABLE lives (recipe TEXT, task TEXT, written_s REAL, units BLOB, UNIQUE (recipe, task))",),
)
VERSION = len(_STEPS)
AGES = "WITH ages AS (SELECT id, row_number() OVER (ORDER BY first_s DESC, id DESC) - 1 AS age FROM builds)"
# The columns of a record in its order, then the age and the time of its build.
COLUMNS = """builds.name, tasks.recipe, version, tasks.name, machine, jobs, peak_bytes, largest_process_bytes, wall_s,
    cpu_s, outcome, per_job_bytes, serial_bytes"""
JOINED = "samples JOIN tasks ON tasks.id = task JOIN builds ON builds.id = build JOIN ages ON ages.id = build"


def check_kind(connection: sqlite3.Connection, path: Path) -> int:
    """The version of the file, 0 where it is empty. Raises UnusableHistory where it is not one of ours to use."""
    connection.execute("BEGIN")  # another process may just begin this very file
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    connection.execute("COMMIT")
    if version > VERSION:
        raise UnusableHistory(f"{path} has version {version} and was written by a newer memguard (this one: {VERSION})")
    if (tables or version) and application != APPLICATION_ID:
        raise UnusableHistory(f"{path} is a database of another program")
    return int(version)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring an older or empty file to this version, unless another process has just done so."""
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for step in _STEPS[version:]:
        for statement in step:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {max(version, VERSION)}")
    connection.execute("COMMIT")


# What a sound row looks like; a damaged one may hold text where a number was.
_NULL = type(None)
SHAPES = frozenset(
    itertools.product(
        *[(str,)] * 5,
        (int, _NULL),
        (int, _NULL),
        (int,),
        (float,),
        (float,),
        (str,),
        (int, _NULL),
        (int, _NULL),
        (int,),
    )
)


def has_lives(connection: sqlite3.Connection) -> bool:
    """Whether there may be lives: not in a file of the first version, which nobody has written to since."""
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'lives'").fetchone() is not None
