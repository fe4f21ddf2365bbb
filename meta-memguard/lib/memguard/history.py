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
import json
import math
import os
import reprlib
import sqlite3
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, TypeVar

from memguard import mounts
from memguard.digest import digest
from memguard.model import Outcome, Policy, Record, Run, Sample
from memguard.units import KIB

DEFAULT_MAX_BYTES = Policy.history_max_bytes
LEAST_MAX_BYTES = 256 * KIB  # an empty history takes a tenth of it

# What the samples of one task are worth falls with their age; a prediction asks for no more.
DEFAULT_LIMIT_PER_TASK = 20

# All that one build waits for locks of others, and the longest single wait.
PATIENCE_S = 2.0
LONGEST_WAIT_S = 1.0
WORK_S = 0.1  # a statement that takes no longer has not waited, it has worked

# Pruning a full file takes seconds. So it is done when a build ends, with room left for the next one; during a build
# only where earlier ones came to no end. And it goes well below the bound, so that it is done once in many builds.
CLOSING_SHARE = 7 / 8
PRUNED_SHARE = 3 / 4

# Characters of a name.
NAME_MOST = 500

# Records that wait for a locked file; a large build has ten thousand tasks.
MOST_PENDING = 50_000

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

_AGES = "WITH ages AS (SELECT id, row_number() OVER (ORDER BY first_s DESC, id DESC) - 1 AS age FROM builds)"
# The columns of a record in its order, then the age and the time of its build.
_COLUMNS = """builds.name, tasks.recipe, version, tasks.name, machine, jobs, peak_bytes, largest_process_bytes, wall_s,
    cpu_s, outcome, per_job_bytes, serial_bytes"""
_JOINED = "samples JOIN tasks ON tasks.id = task JOIN builds ON builds.id = build JOIN ages ON ages.id = build"

# Lives of units are worth less than samples: of a file that is to shrink they may keep this share.
LIVES_SHARE = 1 / 4

# File systems that one machine alone writes to.
_LOCAL = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}
)

# A row to be written: the record, and when its build began where that is known.
_Row = tuple[Record, Optional[float]]

# Connections that a child process was born with. Closing one could delete the log that its parent still writes.
_INHERITED: list[sqlite3.Connection] = []

T = TypeVar("T")


class BadSample(ValueError):
    """A sample that is none; the one sentence says what is wrong and shows what is right."""


class UnusableHistory(ValueError):
    """A file that cannot serve as a history, in one sentence."""


class _Damage(ValueError):
    """A row that nobody wrote so."""


@dataclass(frozen=True)
class Counts:
    """What became of the samples of an import: new ones, ones that were there already, and ones that are none."""

    added: int = 0
    known: int = 0
    bad: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.added + other.added, self.known + other.known, self.bad + other.bad)


EXAMPLE: dict[str, Any] = {
    "build": "20240412132813",
    "pn": "zlib",
    "pv": "1.3.1",
    "task": "do_compile",
    "jobs": 8,
    "peak_bytes": 402653184,
    "largest_process_bytes": 104857600,
    "duration_s": 12.5,
    "cpu_s": 60.25,
    "outcome": "ok",
    "machine": "qemux86-64",
    "per_job_bytes": 41943040,
    "serial_bytes": 104857600,
    "recorded_s": 1712928495.59,
}


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
                f"{_AGES} SELECT {_COLUMNS}, age FROM {_JOINED} WHERE {where} ORDER BY age, tasks.name, digest", values
            )
            return [_sample(row) for row in rows]

        return self._read(read, []) if all(map(_is_text, values)) else []

    def newest(self, recipe: str, task: str) -> list[Sample]:
        """As many samples of a task as a prediction asks for, newest build first."""
        return self.records(recipe, task)[:DEFAULT_LIMIT_PER_TASK]

    def latest(
        self, recipes: Iterable[str], limit_per_task: int = DEFAULT_LIMIT_PER_TASK
    ) -> dict[tuple[str, str], list[Sample]]:
        """The newest samples of each task of `recipes` by (recipe, task), newest build first; all in one reading."""
        wanted = sorted(set(filter(_is_text, recipes)))

        def read(connection: sqlite3.Connection) -> dict[tuple[str, str], list[Sample]]:
            found: dict[tuple[str, str], list[Sample]] = {}
            for start in range(0, len(wanted), 500):  # SQLite allows 999 variables before 3.32
                some = wanted[start : start + 500]
                rows = connection.execute(
                    f"""{_AGES} SELECT * FROM (
                        SELECT {_COLUMNS}, age, row_number() OVER (PARTITION BY task ORDER BY age, digest) AS place
                        FROM {_JOINED} WHERE recipe IN ({", ".join("?" * len(some))})
                    ) WHERE place <= ? ORDER BY place""",
                    [*some, limit_per_task],
                )
                for row in rows:
                    sample = _sample(row[:-1])
                    found.setdefault((sample.record.recipe, sample.record.task), []).append(sample)
            return found

        return self._read(read, {})

    def last_runs(self) -> dict[tuple[str, str], Run]:
        """The run that ended well and was added last, of every task by (recipe, task).

        All in one pass over the samples in the order they lie in, since a build waits for it.
        """

        def read(connection: sqlite3.Connection) -> dict[tuple[str, str], Run]:
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
            if not _has_lives(connection):
                return b""
            where = "SELECT units FROM lives WHERE recipe = ? AND task = ?"
            (units,) = connection.execute(where, (recipe, task)).fetchone() or (b"",)
            if type(units) is not bytes:
                raise _Damage("lives of another shape")
            return units

        return self._read(read, b"") if _is_text(recipe) and _is_text(task) else b""

    def remember_lives(self, recipe: str, task: str, packed: bytes) -> None:
        """Remember the lives of a task's jobs instead of those that were remembered before.

        Where another process holds the file, they wait as records do.
        """
        self._leave_the_parents()
        if self._takes_records and _is_text(recipe) and _is_text(task):
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
                f"{_AGES} SELECT {_COLUMNS}, age, first_s FROM {_JOINED} ORDER BY age DESC, recipe, tasks.name, digest"
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
        if _is_locked(error):
            self._complain(f"{self.path} is held by another process", ": records wait in memory until it is free")
            return False
        if may_try_again and self._has_been_replaced():
            return True
        is_corrupt = _is_corrupt(error)
        if is_corrupt and may_try_again and not self._is_read_only:
            self._disconnect()
            aside = self._move_aside()
            if aside is not None:
                self._complain(
                    f"{self.path} is no sound history ({error}): moved to {aside}", ", and a new one is begun"
                )
                return True
        self._disconnect()
        self._takes_records, self._pending, self._pending_lives = False, [], {}
        if for_writing and not is_corrupt and not isinstance(error, UnusableHistory):
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
        _refuse_odd_files(self.path)
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
                version = _check_kind(connection, self.path)
                if version == 0 and not for_writing:  # an empty file
                    self._disconnect()
                    return None
                if for_writing:
                    _choose_journal(connection, "wal" if is_local(self.path) else "delete")
                    log_pages = max(8, min(1000, self._max_bytes // (64 * KIB)))
                    connection.execute(f"PRAGMA wal_autocheckpoint = {log_pages}")
                    if version < VERSION:
                        _migrate(connection)
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
                _INHERITED.append(self._connection)
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
                if not _is_locked(error):
                    raise

        if self.size_bytes() > most_bytes:
            self._try(work, None, for_writing=True)

    def _shrink(self, connection: sqlite3.Connection, most_bytes: int, target_bytes: int) -> int:
        """Bring a file of more than `most_bytes` to `target_bytes`; how many samples that cost.

        Rewriting alone gains up to a third, since rows come in no order. Only what is too much then is forgotten.
        """
        connection.execute("PRAGMA busy_timeout = 0")
        _empty_log(connection)
        before = forgotten = 0
        if _page_bytes(connection) > most_bytes:
            if _has_lives(connection):
                with self._transaction(connection, "BEGIN IMMEDIATE"):
                    _forget_lives(connection, int(target_bytes * LIVES_SHARE))
            connection.execute("PRAGMA busy_timeout = 0")
            connection.execute("VACUUM")
            while _page_bytes(connection) > target_bytes:
                (samples,) = connection.execute("SELECT count(*) FROM samples").fetchone()
                if not samples or samples == before:
                    break
                before = samples
                surplus = math.ceil(samples * (1 - target_bytes / _page_bytes(connection)))
                with self._transaction(connection, "BEGIN IMMEDIATE"):
                    forgotten += _forget(connection, surplus)
                connection.execute("PRAGMA busy_timeout = 0")
                connection.execute("VACUUM")
            _empty_log(connection)
        return forgotten


_OUTCOMES = frozenset(outcome.value for outcome in Outcome)
_ONE_OUTCOME = "one of " + ", ".join(sorted(_OUTCOMES))


def parse_sample(sample: Any) -> tuple[Record, float | None]:
    """The record in a JSON object of the form of EXAMPLE, and when its build began where the object says so.

    `machine`, `per_job_bytes`, `serial_bytes` and `recorded_s` may be missing, `jobs` and `peak_bytes` be null; other
    names are passed over. Raises BadSample for anything else.
    """
    if not isinstance(sample, dict):
        raise BadSample(f"a sample is an object, not {_show(sample)}; a good one is {json.dumps(EXAMPLE)}")
    outcome = _take(sample, "outcome", _ONE_OUTCOME, _is_outcome)
    record = Record(
        build=_take_name(sample, "build"),
        recipe=_take_name(sample, "pn"),
        version=_take(sample, "pv", "printable text", _is_text),
        task=_take_name(sample, "task"),
        machine=_take({"machine": "", **sample}, "machine", "printable text", _is_text),
        jobs=_take(
            sample, "jobs", "a whole number from 1 on, or null", lambda jobs: jobs is None or _is_count(jobs, 1)
        ),
        peak_bytes=_take_bytes_or_null(sample, "peak_bytes"),
        largest_process_bytes=_take(sample, "largest_process_bytes", "a whole number of bytes", _is_count),
        wall_s=float(_take(sample, "duration_s", "a number of seconds", _is_seconds)),
        cpu_s=float(_take(sample, "cpu_s", "a number of seconds", _is_seconds)),
        outcome=Outcome(outcome),
        per_job_bytes=_take_bytes_or_null({"per_job_bytes": None, **sample}, "per_job_bytes"),
        serial_bytes=_take_bytes_or_null({"serial_bytes": None, **sample}, "serial_bytes"),
    )
    recorded_s = sample.get("recorded_s")
    if recorded_s is not None:
        recorded_s = float(_take(sample, "recorded_s", "seconds since the epoch", _is_seconds))
    return record, recorded_s


def format_sample(record: Record, recorded_s: float | None = None) -> dict[str, Any]:
    """A record as the JSON object that parse_sample() takes."""
    sample = {
        "build": record.build,
        "pn": record.recipe,
        "pv": record.version,
        "task": record.task,
        "jobs": record.jobs,
        "peak_bytes": record.peak_bytes,
        "largest_process_bytes": record.largest_process_bytes,
        "duration_s": record.wall_s,
        "cpu_s": record.cpu_s,
        "outcome": record.outcome.value,
        "machine": record.machine,
        "per_job_bytes": record.per_job_bytes,
        "serial_bytes": record.serial_bytes,
    }
    return sample if recorded_s is None else {**sample, "recorded_s": recorded_s}


def _take(sample: dict[str, Any], key: str, wanted: str, is_good: Callable[[Any], bool]) -> Any:
    if key in sample and is_good(sample[key]):
        return sample[key]
    found = f"is {_show(sample[key])}, not {wanted}" if key in sample else "is missing"
    raise BadSample(f"{json.dumps(key)} {found}, as in {json.dumps({key: EXAMPLE[key]})}")


def _take_name(sample: dict[str, Any], key: str) -> str:
    name: str = _take(sample, key, "a name of printable characters", lambda name: bool(name) and _is_text(name))
    return name


def _take_bytes_or_null(sample: dict[str, Any], key: str) -> int | None:
    size: int | None = _take(
        sample, key, "a whole number of bytes, or null", lambda size: size is None or _is_count(size)
    )
    return size


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= NAME_MOST and value.isprintable()


def _is_count(value: Any, least: int = 0) -> bool:
    return type(value) is int and least <= value < 1 << 63


def _is_seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value < 1 << 53


def _is_outcome(value: Any) -> bool:
    return isinstance(value, str) and value in _OUTCOMES


def _show(value: Any) -> str:
    return reprlib.repr(value)


def is_local(path: Path, mountinfo: str | None = None) -> bool:
    """Whether `path` lies on a file system that this machine alone writes to, by the text of a mountinfo file."""
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return False
    mounted = mounts.over(os.path.realpath(path), mountinfo)
    return mounted is not None and mounted.kind in _LOCAL


def _refuse_odd_files(path: Path) -> None:
    """Raise UnusableHistory for what would block, or is no file; OSError where that cannot be told."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except ValueError as error:
        raise UnusableHistory(f"{str(path)!r} is no name of a file ({error})") from None
    if not stat.S_ISREG(mode):
        raise UnusableHistory(f"{path} is {'a directory' if stat.S_ISDIR(mode) else 'no plain file'}")


def _check_kind(connection: sqlite3.Connection, path: Path) -> int:
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


def _choose_journal(connection: sqlite3.Connection, wanted: str) -> None:
    if connection.execute("PRAGMA journal_mode").fetchone() != (wanted,):
        connection.execute(f"PRAGMA journal_mode = {wanted}")
    # With a write-ahead log a commit then waits for no disk; a power cut may cost the last commits, but no more.
    connection.execute("PRAGMA synchronous = NORMAL")


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring an older or empty file to this version, unless another process has just done so."""
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for step in _STEPS[version:]:
        for statement in step:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {max(version, VERSION)}")
    connection.execute("COMMIT")


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


# What a sound row looks like; a damaged one may hold text where a number was.
_NULL = type(None)
_SHAPES = frozenset(
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


def _sample(row: tuple[Any, ...]) -> Sample:
    """The sample in a row of _COLUMNS and its age."""
    if tuple(map(type, row)) not in _SHAPES or row[10] not in _OUTCOMES:
        raise _Damage("a row of another shape")
    *values, age_builds = row
    values[10] = Outcome(values[10])
    return Sample(Record(*values), age_builds)


def _run(jobs: Any, wall_s: Any, cpu_s: Any) -> Run:
    if not (jobs is None or type(jobs) is int) or type(wall_s) is not float or type(cpu_s) is not float:
        raise _Damage("a run of another shape")
    return Run(jobs, wall_s, cpu_s)


def _forget(connection: sqlite3.Connection, count: int) -> int:
    """Delete `count` samples, each the oldest of the task that has the most of them at that point."""
    before = connection.total_changes
    connection.execute(
        f"""{_AGES} DELETE FROM samples WHERE (task, build, digest) IN (
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


def _has_lives(connection: sqlite3.Connection) -> bool:
    """Whether there may be lives: not in a file of the first version, which nobody has written to since."""
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'lives'").fetchone() is not None


def _forget_lives(connection: sqlite3.Connection, most_bytes: int) -> None:
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


def _page_bytes(connection: sqlite3.Connection) -> int:
    """The size of the database without its log."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
    return int(pages * page_bytes)


def _empty_log(connection: sqlite3.Connection) -> None:
    """Move the log into the database and cut it off, if nobody reads it now."""
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _is_locked(error: Exception) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def _is_corrupt(error: Exception) -> bool:
    """Whether the content of the file is to blame. SQLite's own class for that has no name of its own in Python 3.9."""
    return (
        type(error) is sqlite3.DatabaseError
        or isinstance(error, (_Damage, UnicodeDecodeError))
        or "decode to UTF-8" in str(error)
    )
