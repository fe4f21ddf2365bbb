# SPDX-License-Identifier: MIT
"""Forgetting what is too much.

Runs in: whoever keeps a history; standard library only.
"""

from __future__ import annotations

import sqlite3
from collections import Counter

from memguard.record.history.schema import AGES

# Pruning a full file takes seconds. So it is done when a build ends, with room left for the next one; during a build
# only where earlier ones came to no end. And it goes well below the bound, so that it is done once in many builds.
CLOSING_SHARE = 7 / 8
PRUNED_SHARE = 3 / 4
# Lives of units are worth less than samples: of a file that is to shrink they may keep this share.
LIVES_SHARE = 1 / 4


def forget(connection: sqlite3.Connection, count: int) -> int:
    """Delete `count` samples, each the oldest of the task that has the most of them at that point."""
    before = connection.total_changes
    connection.execute(
        f"""{AGES} DELETE FROM samples WHERE (task, build, digest) IN (
            SELECT task, build, digest FROM (
                SELECT task, build, digest, age, row_number() OVER (PARTITION BY task ORDER BY age, digest) AS place
                FROM samples JOIN ages ON ages.id = build
            ) WHERE place >= ? ORDER BY place DESC, age DESC LIMIT ?)""",
        (_level(connection, count), count),
    )
    deleted = connection.total_changes - before
    connection.execute("DELETE FROM tasks WHERE id NOT IN (SELECT task FROM samples)")
    connection.execute("DELETE FROM builds WHERE id NOT IN (SELECT build FROM samples)")
    return deleted


def forget_lives(connection: sqlite3.Connection, most_bytes: int) -> None:
    """Delete the lives that were written longest ago, until the others take no more than `most_bytes`."""
    connection.execute(
        """DELETE FROM lives WHERE rowid IN (SELECT rowid FROM (
            SELECT rowid, sum(length(units)) OVER (ORDER BY written_s DESC, rowid DESC) AS bytes FROM lives
        ) WHERE bytes > ?)""",
        (most_bytes,),
    )


def _level(connection: sqlite3.Connection, count: int) -> int:
    """The place, counted in each task from its newest sample, from which on there are at least `count` samples.

    Known beforehand, it spares sorting all samples to find the few that go.
    """
    places: Counter[int] = Counter()
    for (samples,) in connection.execute("SELECT count(*) FROM samples GROUP BY task"):
        places[samples] += 1
    tasks = beyond = 0
    for place in range(max(places, default=0), 0, -1):
        tasks += places[place]
        beyond += tasks
        if beyond >= count:
            return place
    return 1


def page_bytes(connection: sqlite3.Connection) -> int:
    """The size of the database without its log."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (each_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    return int(pages * each_bytes)


def empty_log(connection: sqlite3.Connection) -> None:
    """Move the log into the database and cut it off, if nobody reads it now."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
