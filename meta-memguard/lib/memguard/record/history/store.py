# SPDX-License-Identifier: MIT
"""What the tasks of earlier builds took: records in an SQLite file that several builds may share.

Runs in: whoever has records (writes) or predicts (reads), and the command; standard library only.
Covers: one row per run of a task, the age of each in builds, samples as JSON objects in and out, the lives of single
jobs of the last build, a bound in bytes.
Does not cover: measuring a task (sentinel), what follows from the records (predict).

A history never fails a build. What is wrong with its file is said once through `warn`; for the rest of that build the
history is empty, or takes no more records. A file that is no sound database is moved aside, never deleted.

Where the file system is known to be local, readers do not wait for the writer (SQLite's write-ahead log). Any other,
NFS before all, has no memory that is shared between machines, so it gets a rollback journal:
https://www.sqlite.org/wal.html.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, TypeVar

from memguard.channels.state import VERSION
from memguard.model import Outcome, PastRun, Policy, Record, Sample
from memguard.record.history.connection import (
    INHERITED,
    LONGEST_WAIT_S,
    PATIENCE_S,
    WORK_S,
    Damage,
    UnusableHistory,
    choose_journal,
    is_corrupt,
    is_local,
    is_locked,
    refuse_odd_files,
)
from memguard.record.history.prune import (
    CLOSING_SHARE,
    LIVES_SHARE,
    PRUNED_SHARE,
    empty_log,
    forget,
    forget_lives,
    page_bytes,
)
from memguard.record.history.samples import OUTCOMES, BadSample, format_sample, is_text, parse_sample
from memguard.record.history.schema import AGES, COLUMNS, JOINED, SHAPES, check_kind, has_lives, migrate
from memguard.units import KIB, digest

DEFAULT_MAX_BYTES = Policy.history_max_bytes
LEAST_MAX_BYTES = 256 * KIB  # an empty history takes a tenth of it

# What the samples of one task are worth falls with their age; a prediction asks for no more.
DEFAULT_LIMIT_PER_TASK = 20


# Records that wait for a locked file; a large build has ten thousand tasks.
MOST_PENDING = 50_000


# A row to be written: the record, and when its build began where that is known.
_Row = tuple[Record, Optional[float]]


T = TypeVar("T")


@dataclass(frozen=True)
class Counts:
    """What became of the samples of an import: new ones, ones that were there already, and ones that are none."""

    added: int = 0
    known: int = 0
    bad: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.added + other.added, self.known + other.known, self.bad + other.bad)


class History:
    """The history in one file, for one build and one thread.

    The file is opened by the first call that needs it, in the process that makes it. After a fork() the child opens it
    anew: a connection must not cross, so the child leaves its parent's alone and unused.

    failure: the last thing that went wrong, None while all is well; without what it means for a build.
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int = DEFAULT_MAX_BYTES,
        *,
        warn: Callable[[str], None],
        is_read_only: bool = False,
    ) -> None:
        """Neither opens nor creates anything.

        max_bytes: bound of the file with its log, at least LEAST_MAX_BYTES. Right after pruning, and while another
                   process reads, the log may for a moment be as large again.
        warn:      takes one sentence, at most once.
        is_read_only: neither add anything nor move a corrupt file aside.
        """
        self.path = Path(path).absolute()
        self.failure: str | None = None
        self._max_bytes = max(max_bytes, LEAST_MAX_BYTES)
        self._warn = warn
        self._is_read_only = is_read_only
        self._has_warned = False
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._connection: sqlite3.Connection | None = None
        self._is_for_writing = False
        self._file: os.stat_result | None = None
        self._is_off = False
        self._takes_records = not self._is_read_only
        self._patience_s = PATIENCE_S
        self._pending: list[_Row] = []
        self._pending_lives: dict[tuple[str, str], bytes] = {}

    @property
    def is_usable(self) -> bool:
        """Whether the file can serve as a history, as far as that was tried; one that others hold can."""
        return not self._is_off

    def add(self, records: Iterable[Record], recorded_s: float | None = None) -> None:
        """Remember `records`, in one transaction.

        recorded_s: when their builds began, in seconds since the epoch; now, and after all known builds, by default.

        Where another process holds the file, they wait in memory for the next call, or for close().
        """
        self._leave_the_parents()
        for record in records:
            try:
                row = parse_sample(format_sample(record, recorded_s))
            except BadSample as bad:
                self._complain(f"a record of {record.recipe!r} {record.task!r} is not kept: {bad}")
                continue
            if len(self._pending) < MOST_PENDING:
                self._pending.append(row)
        if self._pending and self._write(self._pending) is not None:
            self._pending = []
        if self._pending_lives:
            self._write_lives()

    def records(self, recipe: str, task: str | None = None) -> list[Sample]:
        """All samples of a recipe, or of one task of it, newest build first."""
        where, values = ("recipe = ?", [recipe]) if task is None else ("recipe = ? AND tasks.name = ?", [recipe, task])

        def read(connection: sqlite3.Connection) -> list[Sample]:
            rows = connection.execute(
                f"{AGES} SELECT {COLUMNS}, age FROM {JOINED} WHERE {where} ORDER BY age, tasks.name, digest", values
            )
            return [_sample(row) for row in rows]

        return self._read(read, []) if all(map(is_text, values)) else []

    def newest(self, recipe: str, task: str) -> list[Sample]:
        """As many samples of a task as a prediction asks for, newest build first."""
        return self.records(recipe, task)[:DEFAULT_LIMIT_PER_TASK]

    def latest(
        self, recipes: Iterable[str], limit_per_task: int = DEFAULT_LIMIT_PER_TASK
    ) -> dict[tuple[str, str], list[Sample]]:
        """The newest samples of each task of `recipes` by (recipe, task), newest build first; all in one reading."""
        wanted = sorted(set(filter(is_text, recipes)))

        def read(connection: sqlite3.Connection) -> dict[tuple[str, str], list[Sample]]:
            found: dict[tuple[str, str], list[Sample]] = {}
            for start in range(0, len(wanted), 500):  # SQLite allows 999 variables before 3.32
                some = wanted[start : start + 500]
                rows = connection.execute(
                    f"""{AGES} SELECT * FROM (
                        SELECT {COLUMNS}, age, row_number() OVER (PARTITION BY task ORDER BY age, digest) AS place
                        FROM {JOINED} WHERE recipe IN ({", ".join("?" * len(some))})
                    ) WHERE place <= ? ORDER BY place""",
                    [*some, limit_per_task],
                )
                for row in rows:
                    sample = _sample(row[:-1])
                    found.setdefault((sample.record.recipe, sample.record.task), []).append(sample)
            return found

        return self._read(read, {})

    def last_runs(self) -> dict[tuple[str, str], PastRun]:
        """The run that ended well and was added last, of every task by (recipe, task).

        All in one pass over the samples in the order they lie in, since a build waits for it.
        """

        def read(connection: sqlite3.Connection) -> dict[tuple[str, str], PastRun]:
            # Columns beside max() are those of the row that has it: https://www.sqlite.org/lang_select.html#bareagg.
            rows = connection.execute(
                """SELECT recipe, name, jobs, wall_s, cpu_s, max(build) FROM samples JOIN tasks ON tasks.id = task
                WHERE outcome = ? GROUP BY task""",
                [Outcome.OK.value],
            )
            return {(recipe, task): _run(*values) for recipe, task, *values, _ in rows}

        return self._read(read, {})

    def lives(self, recipe: str, task: str) -> bytes:
        """The lives of a task's jobs as remember_lives() was given them last; none are no bytes."""

        def read(connection: sqlite3.Connection) -> bytes:
            if not has_lives(connection):
                return b""
            where = "SELECT units FROM lives WHERE recipe = ? AND task = ?"
            (units,) = connection.execute(where, (recipe, task)).fetchone() or (b"",)
            if type(units) is not bytes:
                raise Damage("lives of another shape")
            return units

        return self._read(read, b"") if is_text(recipe) and is_text(task) else b""

    def remember_lives(self, recipe: str, task: str, packed: bytes) -> None:
        """Remember the lives of a task's jobs instead of those that were remembered before.

        Where another process holds the file, they wait as records do.
        """
        self._leave_the_parents()
        if self._takes_records and is_text(recipe) and is_text(task):
            self._pending_lives[recipe, task] = packed
            self._write_lives()

    def _write_lives(self) -> None:
        def write(connection: sqlite3.Connection) -> bool:
            with self._transaction(connection, "BEGIN IMMEDIATE"):
                for (recipe, task), packed in self._pending_lives.items():
                    row = (recipe, task, time.time(), packed)
                    connection.execute("INSERT OR REPLACE INTO lives VALUES (?, ?, ?, ?)", row)
            return True

        if self._try(write, False, for_writing=True):
            self._pending_lives = {}
            self._keep_within(self._max_bytes)

    def export(self) -> Iterator[dict[str, Any]]:
        """All samples as JSON objects, oldest build first; import_samples() takes them."""

        def read(connection: sqlite3.Connection) -> list[dict[str, Any]]:
            rows = connection.execute(
                f"{AGES} SELECT {COLUMNS}, age, first_s FROM {JOINED} ORDER BY age DESC, recipe, tasks.name, digest"
            )
            return [format_sample(_sample(row[:-1]).record, row[-1]) for row in rows]

        yield from self._read(read, list[dict[str, Any]]())

    def import_samples(self, samples: Iterable[Any], on_bad: Callable[[BadSample], None] | None = None) -> Counts:
        """Remember samples that are JSON objects; one that is there already changes nothing.

        on_bad: is called for each object that is no sample, which is then passed over. Without it the first one raises
        BadSample, after the good ones before it were taken. Where the file takes no records, `failure` says why, and
        the counts are those of what it took.
        """
        counts, fault = Counts(), None
        numbered = enumerate(samples, start=1)
        while fault is None:
            chunk = list(itertools.islice(numbered, 1000))  # so many hold the lock for milliseconds
            rows, bad = [], 0
            for number, sample in chunk:
                try:
                    rows.append(parse_sample(sample))
                except BadSample as error:
                    fault = BadSample(f"sample {number}: {error}")
                    if on_bad is None:
                        break
                    on_bad(fault)
                    fault, bad = None, bad + 1
            new = self._write(rows)
            if new is None or not chunk:
                break
            counts += Counts(new, len(rows) - new, bad)
        if fault is not None:
            raise fault
        return counts

    def merge(self, other: Path) -> Counts:
        """Take over all samples of another history, which stays as it is.

        Raises UnusableHistory where `other` is none.
        """
        if not other.exists():
            raise UnusableHistory(f"{other} does not exist")
        source = History(other, warn=lambda text: None, is_read_only=True)
        with contextlib.closing(source):
            counts = self.import_samples(source.export())
            if source.failure is not None:  # nothing was read of it then
                raise UnusableHistory(source.failure)
            return counts

    def prune(self, max_bytes: int) -> int:
        """Forget the oldest samples of the best-known tasks until the file fits; returns how many."""
        most = max(max_bytes, LEAST_MAX_BYTES)
        return self._try(lambda connection: self._shrink(connection, most, most), 0)

    def close(self) -> None:
        """Write what still waits, prune a file that will soon be too large, and close it.

        The next call would open it again.
        """
        self.add(())
        if self._is_for_writing:
            self._keep_within(int(self._max_bytes * CLOSING_SHARE))
        self._disconnect()

    # -- one transaction, with whatever may go wrong -------------------------------------------------------------------

    def _read(self, read: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        def work(connection: sqlite3.Connection) -> T:
            with self._transaction(connection, "BEGIN"):
                return read(connection)

        return self._try(work, otherwise)

    def _write(self, rows: list[_Row]) -> int | None:
        """Insert rows; how many of them are new, None where they could not be written."""
        if not self._takes_records:
            return None

        def work(connection: sqlite3.Connection) -> int:
            with self._transaction(connection, "BEGIN IMMEDIATE"):
                return _insert(connection, rows)

        new = self._try(work, None, for_writing=True)
        if new is not None:
            self._keep_within(self._max_bytes)
        return new

    def _try(self, work: Callable[[sqlite3.Connection], T], otherwise: T, for_writing: bool = False) -> T:
        """What `work` makes of the database; `otherwise` where there is none or it fails.

        Twice, if the first database turns out to be corrupt (it is then moved aside) or to be gone from its place.
        """
        self._leave_the_parents()
        for may_try_again in (True, False):
            if self._is_off:
                break
            try:
                connection = self._connect(for_writing)
                return otherwise if connection is None else work(connection)
            except (sqlite3.Error, OSError, ValueError) as error:
                if not self._can_go_on(error, may_try_again, for_writing):
                    break
        return otherwise

    def _can_go_on(self, error: Exception, may_try_again: bool, for_writing: bool) -> bool:
        """Judge a failure and say it; True where another try is worth it."""
        if is_locked(error):
            self._complain(f"{self.path} is held by another process", ": records wait in memory until it is free")
            return False
        if may_try_again and self._has_been_replaced():
            return True
        is_damaged = is_corrupt(error)
        if is_damaged and may_try_again and not self._is_read_only:
            self._disconnect()
            aside = self._move_aside()
            if aside is not None:
                self._complain(
                    f"{self.path} is no sound history ({error}): moved to {aside}", ", and a new one is begun"
                )
                return True
        self._disconnect()
        self._takes_records, self._pending, self._pending_lives = False, [], {}
        if for_writing and not is_damaged and not isinstance(error, UnusableHistory):
            self._complain(f"{self.path} cannot be written ({error})", ": nothing of this build is remembered")
        else:
            self._is_off = True
            reason = error if isinstance(error, UnusableHistory) else f"{self.path} cannot be used ({error})"
            self._complain(f"{reason}", ": this build has no history")
        return False

    def _complain(self, fact: str, sequel: str = "") -> None:
        """Keep what went wrong; say it, with what that means for the build, where nothing was said before."""
        # The name of a file, and what SQLite quotes of a damaged one, may be anything.
        fact = "".join(character if character.isprintable() else "?" for character in fact)
        self.failure = fact
        if not self._has_warned:
            self._has_warned = True
            self._warn(fact + sequel)

    @contextlib.contextmanager
    def _transaction(self, connection: sqlite3.Connection, begin: str) -> Iterator[None]:
        """A transaction that waits for locks only as long as this build has patience."""
        try:
            with self._waiting(connection):
                connection.execute(begin)
                connection.execute("SELECT 1 FROM sqlite_master").fetchone()  # a plain BEGIN takes no lock yet
            yield
            with self._waiting(connection):
                connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _waiting(self, connection: sqlite3.Connection) -> Iterator[None]:
        """Let statements wait for locks, and count the time against the build's patience."""
        wait_s = min(LONGEST_WAIT_S, max(0.0, self._patience_s))
        connection.execute(f"PRAGMA busy_timeout = {int(wait_s * 1000)}")
        since_s = time.monotonic()
        try:
            yield
        finally:
            waited_s = time.monotonic() - since_s
            if waited_s > WORK_S:
                self._patience_s -= waited_s

    # -- the file ------------------------------------------------------------------------------------------------------

    def _connect(self, for_writing: bool) -> sqlite3.Connection | None:
        """The open database; None where there is none yet and nothing is to be written."""
        if self._connection is not None and not self._has_been_replaced() and self._is_for_writing >= for_writing:
            return self._connection
        self._disconnect()
        if not for_writing and not self.path.exists():
            return None
        refuse_odd_files(self.path)
        if for_writing:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return self._open("mode=rwc", for_writing)
        try:
            return self._open("mode=rw", for_writing)  # with "ro" an empty log would be left behind
        except sqlite3.OperationalError:
            # Where nothing can be written, the log of a database may not be readable: do without.
            if os.access(self.path.parent, os.W_OK):
                raise
            return self._open("mode=ro&immutable=1", for_writing)

    def _open(self, options: str, for_writing: bool) -> sqlite3.Connection | None:
        connection = sqlite3.connect(f"{self.path.as_uri()}?{options}", uri=True, isolation_level=None)
        self._connection, self._is_for_writing = connection, for_writing
        try:
            self._file = self.path.stat()
            with self._waiting(connection):
                version = check_kind(connection, self.path)
                if version == 0 and not for_writing:  # an empty file
                    self._disconnect()
                    return None
                if for_writing:
                    choose_journal(connection, "wal" if is_local(self.path) else "delete")
                    log_pages = max(8, min(1000, self._max_bytes // (64 * KIB)))
                    connection.execute(f"PRAGMA wal_autocheckpoint = {log_pages}")
                    if version < VERSION:
                        migrate(connection)
        except BaseException:
            self._disconnect()
            raise
        return connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None

    def _leave_the_parents(self) -> None:
        """In a child process, start anew."""
        if self._pid != os.getpid():
            if self._connection is not None:
                INHERITED.append(self._connection)
            self._start()

    def _has_been_replaced(self) -> bool:
        """Whether the file that is open is no longer the one at its path."""
        if self._file is None:
            return False
        try:
            return not os.path.samestat(self._file, self.path.stat())
        except OSError:
            return True

    def _move_aside(self) -> Path | None:
        """Give the file another name, which is returned; None where that cannot be done."""
        stamp = f"{self.path}.corrupt-{time.strftime('%Y%m%d%H%M%S')}"
        try:
            for number in itertools.count():
                aside = Path(f"{stamp}-{number}" if number else stamp)
                with contextlib.suppress(FileExistsError):
                    os.close(os.open(aside, os.O_CREAT | os.O_EXCL))  # ours from here on: nothing is overwritten
                    break
            # First what belongs to it: a new database beside an old log would take the log for its own.
            for ending in ("-wal", "-journal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{self.path}{ending}", f"{aside}{ending}")
            os.replace(self.path, aside)
        except OSError:
            return None
        return aside

    # -- the bound -----------------------------------------------------------------------------------------------------

    def size_bytes(self) -> int:
        """What the database takes on disk, its log included."""
        size = 0
        for path in (self.path, Path(f"{self.path}-wal")):
            with contextlib.suppress(OSError):
                size += path.stat().st_size
        return size

    def _keep_within(self, most_bytes: int) -> None:
        """Shrink a file of more than `most_bytes` if nobody holds it; if someone does, a later call will."""

        def work(connection: sqlite3.Connection) -> None:
            try:
                self._shrink(connection, most_bytes, int(self._max_bytes * PRUNED_SHARE))
            except sqlite3.OperationalError as error:
                if not is_locked(error):
                    raise

        if self.size_bytes() > most_bytes:
            self._try(work, None, for_writing=True)

    def _shrink(self, connection: sqlite3.Connection, most_bytes: int, target_bytes: int) -> int:
        """Bring a file of more than `most_bytes` to `target_bytes`; how many samples that cost.

        Rewriting alone gains up to a third, since rows come in no order. Only what is too much then is forgotten.
        """
        connection.execute("PRAGMA busy_timeout = 0")
        empty_log(connection)
        before = forgotten = 0
        if page_bytes(connection) > most_bytes:
            if has_lives(connection):
                with self._transaction(connection, "BEGIN IMMEDIATE"):
                    forget_lives(connection, int(target_bytes * LIVES_SHARE))
            connection.execute("PRAGMA busy_timeout = 0")
            connection.execute("VACUUM")
            while page_bytes(connection) > target_bytes:
                (samples,) = connection.execute("SELECT count(*) FROM samples").fetchone()
                if not samples or samples == before:
                    break
                before = samples
                surplus = math.ceil(samples * (1 - target_bytes / page_bytes(connection)))
                with self._transaction(connection, "BEGIN IMMEDIATE"):
                    forgotten += forget(connection, surplus)
                connection.execute("PRAGMA busy_timeout = 0")
                connection.execute("VACUUM")
            empty_log(connection)
        return forgotten


def _insert(connection: sqlite3.Connection, rows: list[_Row]) -> int:
    """Insert rows, unless they are there already; how many are new."""
    builds: dict[tuple[str, float | None], int] = {}
    tasks: dict[tuple[str, str], int] = {}
    insert = f"INSERT INTO samples VALUES ({', '.join('?' * 13)}) ON CONFLICT DO NOTHING"
    new = 0
    for record, recorded_s in rows:
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
            record.wall_s,
            record.cpu_s,
            record.outcome.value,
            record.per_job_bytes,
            record.serial_bytes,
        )
        row = (task, build, int.from_bytes(digest(repr(values).encode()), "big", signed=True), *values)
        new += connection.execute(insert, row).rowcount
    return new


def _find_build(connection: sqlite3.Connection, name: str, recorded_s: float | None) -> int:
    """The build's row. A new one is the newest, also where a clock was set back, unless it is said when it began."""
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
    if tuple(map(type, row)) not in SHAPES or row[10] not in OUTCOMES:
        raise Damage("a row of another shape")
    *values, age_builds = row
    values[10] = Outcome(values[10])
    return Sample(Record(*values), age_builds)


def _run(jobs: Any, wall_s: Any, cpu_s: Any) -> PastRun:
    if not (jobs is None or type(jobs) is int) or type(wall_s) is not float or type(cpu_s) is not float:
        raise Damage("a run of another shape")
    return PastRun(jobs, wall_s, cpu_s)
