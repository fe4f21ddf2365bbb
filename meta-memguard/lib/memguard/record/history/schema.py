# SPDX-License-Identifier: MIT
"""The tables of a history, and which files may be used as one.

Runs in: whoever keeps a history (the sentinel, the BitBake server, the command); standard library only.
Covers: the steps from one version to the next; refusing a newer version and a database of another program.
Does not cover: what stands in the rows (rows); opening, locking and replacing the file (connection).
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

from memguard.units import MIB

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
    ("ALTER TABLE tasks ADD COLUMN kind TEXT NOT NULL DEFAULT ''",),
)
VERSION = len(_STEPS)
# The longest value that a sound row has are the lives of 50,000 units, 1.4 MiB.
LONGEST_VALUE_BYTES = 2 * MIB
# Begins a query that asks for the ages of builds: 0 is the newest.
WITH_AGES = "WITH ages AS (SELECT id, row_number() OVER (ORDER BY first_s DESC, id DESC) - 1 AS age FROM builds)"


class UnusableHistory(ValueError):
    """A file that cannot serve as a history, in one sentence."""


def bound_values(connection: sqlite3.Connection) -> None:
    """Let SQLite refuse longer values than memguard writes: to put rows in order it would hold each several times.

    Before Python 3.11 a row is refused only once it is read (rows).
    """
    if sys.version_info >= (3, 11):
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_VALUE_BYTES)


def check_version(connection: sqlite3.Connection, path: Path) -> int:
    """The version of the file, 0 where it is empty. Raises UnusableHistory where it is not one of ours to use."""
    connection.execute("BEGIN")  # another process may be creating this very file
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    # A view may have rows without end, and a trigger does what its writer wants.
    (others,) = connection.execute("SELECT count(*) FROM sqlite_master WHERE type IN ('view', 'trigger')").fetchone()
    connection.execute("COMMIT")
    if version > VERSION:
        raise UnusableHistory(f"{path} has version {version} and was written by a newer memguard (this one: {VERSION})")
    if (tables or version) and application != APPLICATION_ID:
        raise UnusableHistory(f"{path} is a database of another program")
    if others:
        raise UnusableHistory(f"{path} has views or triggers, which no history has; somebody made it look like one")
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


def has_kinds(connection: sqlite3.Connection) -> bool:
    """Whether tasks have kinds: not in a file of the first two versions that nobody has written to since."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version) >= 3


def has_lives(connection: sqlite3.Connection) -> bool:
    """Whether there is a table of lives: not in a file of the first version that nobody has written to since."""
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'lives'").fetchone() is not None
