# SPDX-License-Identifier: MIT
"""The history of a whole fleet: samples of many builds in one PostgreSQL database.

Runs in: outside BitBake; SQLAlchemy and a driver are imported by the first call only.
Covers: the schema and its version, samples in (push) and out (pull), a bound in samples, errors as one sentence.
Does not cover: the history that a build reads and writes, which is a file of its own (memguard.record.history).

A sample is kept as the JSON object that `memguard history export` writes, so that fields may be added without a new
schema. It is known by its content: sending it again changes nothing.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from memguard.record.history.samples import TaskLives, content_key
from memguard.record.history.store import DEFAULT_LIMIT_PER_TASK
from memguard.settings import is_database, without_secrets
from memguard_cli.errors import UserError, lacking
from memguard_cli.fleet import lives
from memguard_cli.fleet.lives import Join, LivesTable, Mark

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine import URL

T = TypeVar("T")

EXAMPLE = "postgresql://memguard@db.example/memguard"
VERSION = 1
PULLED_PER_TASK = DEFAULT_LIMIT_PER_TASK  # a prediction asks for no more
# Some 100 MB.
DEFAULT_MAX_SAMPLES = 200_000
LEAST_MAX_SAMPLES = 100
# Lives may take a quarter of what samples do, as in a file.
LIVES_BYTES_PER_SAMPLE = 125
# Forgetting goes well below the bound, so that it is done once in many builds.
PRUNED_SHARE = 7 / 8

_QUOTES = "\"'\u00ab\u00bb\u201c\u201d\u201e"
# Locks that several builds take in turn: to make the tables, and to forget samples. Any numbers of our own.
_MAKING, _FORGETTING = 0x6D656D6701, 0x6D656D6702
_CHUNK = 500

_CREATE = (
    "CREATE TABLE memguard_schema (version integer NOT NULL)",
    """CREATE TABLE memguard_builds (
        id bigserial PRIMARY KEY, name text NOT NULL UNIQUE, first_s double precision NOT NULL,
        samples bigint NOT NULL DEFAULT 0
    )""",
    """CREATE TABLE memguard_samples (
        build bigint NOT NULL REFERENCES memguard_builds (id), recipe text NOT NULL, task text NOT NULL,
        digest bigint NOT NULL, sample jsonb NOT NULL, PRIMARY KEY (build, recipe, task, digest)
    )""",
    "CREATE INDEX memguard_samples_by_task ON memguard_samples (recipe, task)",
    lives.CREATE,
)

# Reads the catalogue itself: to_regclass() does not see what another transaction made while this one waited.
_HAS_TABLE = """SELECT count(*) FROM pg_catalog.pg_tables
    WHERE tablename = :table AND schemaname = ANY (current_schemas(false))"""


@dataclass(frozen=True)
class Sent:
    """What became of the samples of a push: new ones, ones that were there already, old ones forgotten to make room."""

    added: int = 0
    known: int = 0
    forgotten: int = 0


class FleetDatabase:
    """One database. Every method raises UserError with one sentence, which never holds a password."""

    def __init__(self, url: str, alive: Callable[[], None] = lambda: None, connect_s: int = 10) -> None:
        """Connects to nothing yet.

        alive:     is called whenever the database has answered.
        connect_s: seconds to wait for a connection.
        """
        self._url = _parse(url)
        self.name = _name(self._url)
        self._alive = alive
        self._engine = self._make_engine(connect_s)

    def push(self, samples: Iterable[dict[str, Any]], max_samples: int = DEFAULT_MAX_SAMPLES) -> Sent:
        """Send samples as History.export() gives them, those of one build together."""
        return self._told(lambda: self._push(samples, max_samples))

    def pull(self, known_builds: Iterable[str], per_task: int = PULLED_PER_TASK) -> list[dict[str, Any]]:
        """The newest samples of each task, of builds that are not among `known_builds`; none of an empty database."""
        return self._told(lambda: self._pull(sorted(known_builds), per_task))

    def push_lives(self, taken: Iterable[TaskLives], join: Join, max_samples: int = DEFAULT_MAX_SAMPLES) -> int:
        """Join the lives of jobs with those that are there; of how many tasks that said anything new."""
        return self._told(lambda: self._push_lives(taken, join, max_samples))

    def pull_lives(self, known: Iterable[TaskLives]) -> list[TaskLives]:
        """The lives of the tasks of which `known` has none, or older ones."""
        return self._told(lambda: self._pull_lives(known))

    def _push(self, samples: Iterable[dict[str, Any]], max_samples: int) -> Sent:
        added = known = 0
        with self._engine.connect() as connection:
            with connection.begin():
                self._check_version(connection, may_make=True)
                sent = dict(map(tuple, self._run(connection, "SELECT name, samples FROM memguard_builds")))
            for name, group in itertools.groupby(samples, key=lambda sample: str(sample["build"])):
                rows = [_row(sample) for sample in group]
                new = 0
                # All that is known of a build was sent before.
                if sent.get(name, 0) < len(rows):
                    with connection.begin():
                        new = self._insert(connection, name, rows)
                added, known = added + new, known + len(rows) - new
            with connection.begin():
                forgotten = self._forget(connection, max(max_samples, LEAST_MAX_SAMPLES))
        return Sent(added, known, forgotten)

    def _insert(self, connection: Connection, name: str, rows: list[dict[str, Any]]) -> int:
        """Send the samples of one build; how many are new."""
        # Holds the build's row until the end of the transaction: two that send one build go one after the other, and
        # those that send different builds touch nothing of each other's.
        build = self._one(
            connection,
            """INSERT INTO memguard_builds (name, first_s) VALUES (:name, :first_s)
            ON CONFLICT (name) DO UPDATE SET first_s = least(memguard_builds.first_s, excluded.first_s) RETURNING id""",
            name=name,
            first_s=min(row.pop("first_s") for row in rows),
        )
        new = 0
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            new += self._one(
                connection,
                """WITH sent AS (
                    INSERT INTO memguard_samples
                    SELECT :build, sent.recipe, sent.task, sent.digest, sent.sample
                    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
                        AS sent (recipe text, task text, digest bigint, sample jsonb)
                    ON CONFLICT DO NOTHING RETURNING 1
                ) SELECT count(*) FROM sent""",
                build=build,
                rows=json.dumps(chunk),
            )
        self._run(
            connection,
            "UPDATE memguard_builds SET samples = greatest(samples, :count) WHERE id = :build",
            count=len(rows),
            build=build,
        )
        return new

    def _pull(self, known_builds: list[str], per_task: int) -> list[dict[str, Any]]:
        with self._engine.begin() as connection:
            if not self._check_version(connection, may_make=False):
                return []
            found = self._run(
                connection,
                """SELECT sample FROM (
                    SELECT sample, name, first_s, row_number() OVER (
                        PARTITION BY recipe, task ORDER BY first_s DESC, build DESC, digest
                    ) AS place FROM memguard_samples JOIN memguard_builds ON id = build
                ) AS placed WHERE place <= :per_task AND name <> ALL (:known) ORDER BY first_s, name""",
                per_task=per_task,
                known=known_builds,
            )
            samples = []
            for chunk in found.scalars().partitions(_CHUNK):
                self._alive()
                samples += chunk
            return samples

    def _push_lives(self, taken: Iterable[TaskLives], join: Join, max_samples: int) -> int:
        changed = 0
        with self._engine.connect() as connection:
            table = LivesTable(functools.partial(self._run, connection))
            with connection.begin():
                self._may_use_lives(connection, may_make=True)
                marks, now_s = table.marks(), table.now_s()
            for one in taken:
                # One whose clock was ahead would count as the newest for as long.
                new = one._replace(written_s=min(one.written_s, now_s))
                if marks.get((new.recipe, new.task)) != Mark(new.written_s, len(new.packed)):
                    with connection.begin():
                        changed += table.send(new, join)
            with connection.begin():
                table.forget(max(max_samples, LEAST_MAX_SAMPLES) * LIVES_BYTES_PER_SAMPLE)
        return changed

    def _pull_lives(self, known: Iterable[TaskLives]) -> list[TaskLives]:
        with self._engine.begin() as connection:
            if not self._may_use_lives(connection, may_make=False):
                return []
            return LivesTable(functools.partial(self._run, connection)).newer_than(known)

    def _forget(self, connection: Connection, max_samples: int) -> int:
        """Forget samples beyond the bound, each time the oldest of the task that has the most, as a file does.

        Where another build is at it, nothing is done here.
        """
        if not self._one(connection, "SELECT pg_try_advisory_xact_lock(:key)", key=_FORGETTING):
            return 0
        count = self._one(connection, "SELECT count(*) FROM memguard_samples")
        if count <= max_samples:
            return 0
        forgotten: int = self._one(
            connection,
            """WITH placed AS (
                SELECT build, recipe, task, digest, first_s, row_number() OVER (
                    PARTITION BY recipe, task ORDER BY first_s DESC, build DESC, digest
                ) AS place FROM memguard_samples JOIN memguard_builds ON id = build
            ), gone AS (
                SELECT build, recipe, task, digest FROM placed ORDER BY place DESC, first_s LIMIT :surplus
            ), forgotten AS (
                DELETE FROM memguard_samples USING gone
                WHERE memguard_samples.build = gone.build AND memguard_samples.recipe = gone.recipe
                    AND memguard_samples.task = gone.task AND memguard_samples.digest = gone.digest
                RETURNING 1
            ) SELECT count(*) FROM forgotten""",
            surplus=count - int(max_samples * PRUNED_SHARE),
        )
        return forgotten

    def _check_version(self, connection: Connection, may_make: bool) -> bool:
        """Whether there are tables of this version; made where there are none and they may be."""
        if not self._has_table(connection, "memguard_schema"):
            if not may_make:
                return False
            self._run(connection, "SELECT pg_advisory_xact_lock(:key)", key=_MAKING)
            if not self._has_table(connection, "memguard_schema"):
                for statement in _CREATE:
                    self._run(connection, statement)
                self._run(connection, "INSERT INTO memguard_schema VALUES (:version)", version=VERSION)
        version = self._one(connection, "SELECT max(version) FROM memguard_schema")
        if version != VERSION:
            raise UserError(
                f"{self.name} has version {version} and was written by a newer memguard (this one knows {VERSION})"
            )
        return True

    def _may_use_lives(self, connection: Connection, may_make: bool) -> bool:
        """Whether there is a table of lives; made where an older memguard made the others, if it may be."""
        if not self._check_version(connection, may_make):
            return False
        if not self._has_table(connection, "memguard_lives"):
            if not may_make:
                return False
            self._run(connection, "SELECT pg_advisory_xact_lock(:key)", key=_MAKING)
            if not self._has_table(connection, "memguard_lives"):
                self._run(connection, lives.CREATE)
        return True

    def _has_table(self, connection: Connection, table: str) -> bool:
        return bool(self._one(connection, _HAS_TABLE, table=table))

    def _one(self, connection: Connection, statement: str, **values: Any) -> Any:
        return self._run(connection, statement, **values).scalar()

    def _run(self, connection: Connection, statement: str, **values: Any) -> Any:
        from sqlalchemy import text

        self._alive()
        result = connection.execute(text(statement), values)
        self._alive()
        return result

    def _told(self, work: Callable[[], T]) -> T:
        """What `work` does, its failure as one sentence."""
        from sqlalchemy.exc import SQLAlchemyError

        try:
            return work()
        except SQLAlchemyError as error:
            raise UserError(f"{self.name} cannot be used: {self._reason(error)}") from None

    def _reason(self, error: Exception) -> str:
        """The last line of what the driver says, which is the server's own word, without user and password."""
        lines = str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__]
        reason = next((line for line in reversed(lines) if "FATAL" in line or "ERROR" in line), lines[0])
        secrets = (self._url.password, self._url.query.get("password"), self._url.query.get("sslpassword"))
        for secret in map(str, filter(None, secrets)):
            reason = reason.replace(secret, "...")
        # Servers name the user in any language; one that no URL names (PGUSER, the login) is known in English only.
        for user in map(str, filter(None, (self._url.username, self._url.query.get("user")))):
            reason = re.sub(rf"(?<=[{_QUOTES}]){re.escape(user)}(?=[{_QUOTES}])", "...", reason)
        return re.sub(r'(user|role)( name)? "[^"]*"', r'\1\2 "..."', reason).strip()

    def _make_engine(self, connect_s: int) -> Engine:
        from sqlalchemy import create_engine
        from sqlalchemy.exc import ArgumentError
        from sqlalchemy.pool import NullPool

        options = {"connect_timeout": connect_s, "application_name": "memguard", **self._url.query}
        try:
            return create_engine(self._url.set(query={}), poolclass=NullPool, connect_args=options)
        except ImportError:
            raise UserError(_LACKING) from None
        except ArgumentError as error:
            raise UserError(f"{self.name} cannot be used: {self._reason(error)}") from None


_LACKING = lacking("a history in PostgreSQL", "'psycopg[binary]' SQLAlchemy")


def _parse(text: str) -> URL:
    try:
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError
    except ImportError:
        raise UserError(_LACKING) from None
    if not is_database(text):
        raise UserError(f"{without_secrets(text)!r} is not a database that memguard knows", EXAMPLE)
    try:
        url = make_url(text.strip())
    except (ArgumentError, ValueError):
        raise UserError(f"{without_secrets(text)!r} is not a URL", EXAMPLE) from None
    if "@" in f"{url.host}{url.database}":
        raise UserError(f"an @ in the user or password of {without_secrets(text)!r} must be written as %40", EXAMPLE)
    if not url.database:
        raise UserError(f"{without_secrets(text)!r} names no database", EXAMPLE)
    return url.set(drivername="postgresql+psycopg")


def _name(url: URL) -> str:
    """The database in a few words: where it is and what it is called, and no more."""
    host = url.host or url.query.get("host") or "localhost"
    host = ",".join(host) if isinstance(host, tuple) else host
    return f"postgresql://{host}{f':{url.port}' if url.port else ''}/{url.database}"


def _row(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample as it is sent. Fields that say nothing do not count for what it is known by."""
    apart = ("build", "recorded_s", "kind")
    content = {key: value for key, value in sample.items() if value is not None and key not in apart}
    return {
        "recipe": sample["pn"],
        "task": sample["task"],
        "digest": content_key(json.dumps(content, sort_keys=True).encode()),
        "sample": sample,
        "first_s": sample.get("recorded_s", 0.0),
    }


def builds_in(samples: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The builds that samples belong to."""
    return (sample["build"] for sample in samples)
