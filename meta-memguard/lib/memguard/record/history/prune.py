# SPDX-License-Identifier: MIT
"""What a history forgets once its file is too large, and in which order.

Runs in: whoever keeps a history (the sentinel, the command); standard library only.
Covers: when the file is cut down, and to which size; lives go first, then samples; space back to the disk.
Does not cover: what a file may take (store), waiting for other processes (connection).

Lives of jobs go first, those written longest ago, down to a quarter of the file. Then samples: again and again the
oldest of the task that has the most of them, so that a task built rarely keeps the few that it has.
"""

from __future__ import annotations

import math
import sqlite3
from collections import Counter

from memguard.record.history.connection import HistoryFile, is_locked
from memguard.record.history.schema import WITH_AGES, has_lives

# Pruning a full file takes seconds. So it is done when a build ends, with room left for the next one; during a build
# only where earlier ones never got to their end. And it goes well below the bound, so that many builds need none.
CLOSING_SHARE = 7 / 8
PRUNED_SHARE = 3 / 4
# Lives of jobs are worth less than samples: of a file that has to shrink they may keep this share.
LIVES_SHARE = 1 / 4


def keep_within(file: HistoryFile, max_bytes: int) -> None:
    """Cut down a file of more than `max_bytes` if no process holds it; if one does, a later call will."""
    _shrink_beyond(file, max_bytes, max_bytes)


def leave_room(file: HistoryFile, max_bytes: int) -> None:
    """The same for a file that the next build would take beyond `max_bytes`."""
    _shrink_beyond(file, int(max_bytes * CLOSING_SHARE), max_bytes)


def _shrink_beyond(file: HistoryFile, most_bytes: int, max_bytes: int) -> None:
    def work(connection: sqlite3.Connection) -> None:
        try:
            shrink(file, connection, most_bytes, int(max_bytes * PRUNED_SHARE))
        except sqlite3.OperationalError as error:
            if not is_locked(error):
                raise

    if file.size_bytes() > most_bytes:
        file.attempt(work, None, for_writing=True)


def shrink(file: HistoryFile, connection: sqlite3.Connection, most_bytes: int, target_bytes: int) -> int:
    """Bring a file of more than `most_bytes` to `target_bytes`; how many samples that cost.

    Rewriting alone gains up to a third, since rows come in no order. Only what is too much after it is forgotten.
    """
    connection.execute("PRAGMA busy_timeout = 0")
    _empty_log(connection)
    before = forgotten = 0
    if _page_bytes(connection) > most_bytes:
        if has_lives(connection):
            with file.transaction(connection, "BEGIN IMMEDIATE"):
                _forget_lives(connection, int(target_bytes * LIVES_SHARE))
        _rewrite(connection)
        while _page_bytes(connection) > target_bytes:
            (samples,) = connection.execute("SELECT count(*) FROM samples").fetchone()
            if not samples or samples == before:
                break
            before = samples
            surplus = math.ceil(samples * (1 - target_bytes / _page_bytes(connection)))
            with file.transaction(connection, "BEGIN IMMEDIATE"):
                forgotten += _forget_samples(connection, surplus)
            _rewrite(connection)
        _empty_log(connection)
    return forgotten


def _forget_lives(connection: sqlite3.Connection, most_bytes: int) -> None:
    """Delete the lives that were written longest ago, until the others take no more than `most_bytes`."""
    connection.execute(
        """DELETE FROM lives WHERE rowid IN (SELECT rowid FROM (
            SELECT rowid, sum(length(units)) OVER (ORDER BY written_s DESC, rowid DESC) AS bytes FROM lives
        ) WHERE bytes > ?)""",
        (most_bytes,),
    )


def _forget_samples(connection: sqlite3.Connection, count: int) -> int:
    """Delete `count` samples, each the oldest of the task that has the most of them at that point; how many went."""
    before = connection.total_changes
    connection.execute(
        f"""{WITH_AGES} DELETE FROM samples WHERE (task, build, digest) IN (
            SELECT task, build, digest FROM (
                SELECT task, build, digest, age, row_number() OVER (PARTITION BY task ORDER BY age, digest) AS place
                FROM samples JOIN ages ON ages.id = build
            ) WHERE place >= ? ORDER BY place DESC, age DESC LIMIT ?)""",
        (_first_place_to_go(connection, count), count),
    )
    deleted = connection.total_changes - before
    connection.execute("DELETE FROM tasks WHERE id NOT IN (SELECT task FROM samples)")
    connection.execute("DELETE FROM builds WHERE id NOT IN (SELECT build FROM samples)")
    return deleted


def _first_place_to_go(connection: sqlite3.Connection, count: int) -> int:
    """The last place, counted in each task from its newest sample, at or beyond which there are `count` samples.

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


def _page_bytes(connection: sqlite3.Connection) -> int:
    """The size of the database without its log."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (each_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    return int(pages * each_bytes)


def _rewrite(connection: sqlite3.Connection) -> None:
    """Write the database anew without gaps, if no other process holds it."""
    connection.execute("PRAGMA busy_timeout = 0")
    connection.execute("VACUUM")


def _empty_log(connection: sqlite3.Connection) -> None:
    """Move the log into the database and cut it off, if no process reads it now."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
