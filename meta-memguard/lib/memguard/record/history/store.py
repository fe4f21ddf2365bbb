# SPDX-License-Identifier: MIT
"""What the tasks of earlier builds took: records in an SQLite file that several builds may share.

Runs in: whoever has records (the sentinel) or predicts (the BitBake server), and the command; standard library only.
Covers: one row per run of a task, the age of each in builds, samples as JSON objects in and out, the lives of single
jobs of the last build, records that wait for a file that is held, a bound in bytes, a child process.
Does not cover: measuring a task (sentinel), what follows from the records (predict), the file itself (connection).

A history never fails a build. What is wrong with its file is said once through `warn`; for the rest of that build the
history is empty, or takes no more records. A file that is no sound database is moved aside, never deleted.
"""

from __future__ import annotations

import contextlib
import itertools
import marshal
import os
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memguard.model import PastRun, Policy, Record, Sample
from memguard.record.history.connection import Complaints, HistoryFile
from memguard.record.history.prune import keep_within, leave_room, shrink
from memguard.record.history.rows import (
    insert_samples,
    join_lives,
    read_all,
    read_all_lives,
    read_fastest_runs,
    read_lives,
    read_newest,
    read_samples,
    write_lives,
)
from memguard.record.history.samples import (
    BadSample,
    DatedRecord,
    TaskLives,
    check_record,
    format_sample,
    is_printable_text,
    parse_sample,
)
from memguard.record.history.schema import UnusableHistory
from memguard.units import KIB

DEFAULT_MAX_BYTES = Policy.history_max_bytes
LEAST_MAX_BYTES = 256 * KIB  # an empty history takes a tenth of it

# What the samples of one task are worth falls with their age; a prediction asks for no more.
DEFAULT_LIMIT_PER_TASK = 20

# Records that wait for a locked file; a large build has ten thousand tasks.
_MOST_PENDING = 50_000
# Samples of an import that are written at once: the lock is then held for milliseconds.
_CHUNK = 1000
_CHUNK_OF_LIVES = 50  # the same, of tasks with some hundred units each


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
        is_read_only: neither add anything nor move a damaged file aside.
        """
        self.path = Path(path).absolute()
        self._max_bytes = max(max_bytes, LEAST_MAX_BYTES)
        self._complaints = Complaints(warn)
        self._is_read_only = is_read_only
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._file_here = HistoryFile(self.path, self._max_bytes, self._complaints, is_read_only=self._is_read_only)
        self._pending: list[DatedRecord] = []
        self._pending_lives: dict[tuple[str, str], TaskLives] = {}

    @property
    def _file(self) -> HistoryFile:
        """The file of this process. A child begins its own, and leaves what waits to be written to its parent."""
        if self._pid != os.getpid():
            self._file_here.abandon()
            self._start()
        return self._file_here

    @property
    def failure(self) -> str | None:
        """The last thing that went wrong, None while all is well; without what it means for a build."""
        return self._complaints.failure

    @property
    def is_usable(self) -> bool:
        """Whether the file can serve as a history, as far as that was tried; one that others hold can."""
        return self._file.is_usable

    def size_bytes(self) -> int:
        """What the database takes on disk, its log included."""
        return self._file.size_bytes()

    def close(self) -> None:
        """Write what still waits, prune a file that will soon be too large, and close it.

        The next call would open it again.
        """
        self.add(())
        if self._file.is_for_writing:
            leave_room(self._file, self._max_bytes)
        self._file.close()

    # -- reading -------------------------------------------------------------------------------------------------------

    def records(self, recipe: str, task: str | None = None) -> list[Sample]:
        """All samples of a recipe, or of one task of it, newest build first."""
        return self._records(recipe, task, None)

    def newest(self, recipe: str, task: str) -> list[Sample]:
        """As many samples of a task as a prediction asks for, newest build first."""
        return self._records(recipe, task, DEFAULT_LIMIT_PER_TASK)

    def latest(
        self, recipes: Iterable[str], limit_per_task: int = DEFAULT_LIMIT_PER_TASK
    ) -> dict[tuple[str, str], list[Sample]]:
        """The newest samples of each task of `recipes` by (recipe, task), newest build first; all in one reading."""
        wanted = sorted(set(filter(is_printable_text, recipes)))
        return self._file.read(lambda connection: read_newest(connection, wanted, limit_per_task), {})

    def fastest_runs(self) -> dict[tuple[str, str], PastRun]:
        """Of every task by (recipe, task) the fastest run of those that ended well and did as much as the last."""
        return self._file.read(read_fastest_runs, {})

    def lives(self, recipe: str, task: str) -> bytes:
        """The lives of a task's jobs as remember_lives() was given them last; no bytes where there are none."""
        if not is_printable_text(recipe) or not is_printable_text(task):
            return b""
        return self._file.read(lambda connection: read_lives(connection, recipe, task), b"")

    def export(self) -> Iterator[dict[str, Any]]:
        """All samples as JSON objects, oldest build first; import_samples() takes them."""
        none: list[bytes] = []
        for packed in self._file.read(lambda connection: list(_packed(read_all(connection))), none):
            yield from marshal.loads(zlib.decompress(packed))

    def _records(self, recipe: str, task: str | None, most: int | None) -> list[Sample]:
        if not is_printable_text(recipe) or not (task is None or is_printable_text(task)):
            return []
        return self._file.read(lambda connection: read_samples(connection, recipe, task, most), [])

    def all_lives(self) -> list[TaskLives]:
        """The lives of all tasks; take_lives() takes them."""
        return self._file.read(read_all_lives, [])

    # -- writing -------------------------------------------------------------------------------------------------------

    def add(self, records: Iterable[Record], recorded_s: float | None = None) -> None:
        """Remember `records`, in one transaction.

        recorded_s: when their builds began, in seconds since the epoch; now, and after all known builds, by default.

        Where another process holds the file, they wait in memory for the next call, or for close().
        """
        file = self._file
        for record in records:
            try:
                check_record(record, recorded_s)
            except BadSample as bad:
                self._complaints.add(f"a record of {record.recipe!r} {record.task!r} is not kept: {bad}")
                continue
            if len(self._pending) < _MOST_PENDING:
                self._pending.append((record, recorded_s))
        if self._pending and (self._insert(self._pending) is not None or not file.takes_records):
            self._pending = []
        self._write_lives()

    def remember_lives(self, recipe: str, task: str, packed: bytes) -> None:
        """Remember the lives of a task's jobs instead of those that were remembered before.

        Where another process holds the file, they wait as records do.
        """
        if self._file.takes_records and is_printable_text(recipe) and is_printable_text(task):
            self._pending_lives[recipe, task] = TaskLives(recipe, task, time.time(), packed)
            self._write_lives()

    def take_lives(self, lives: Sequence[TaskLives], join: Callable[[bytes, bytes], bytes]) -> int:
        """Remember lives that were learned elsewhere; of how many tasks that said anything new.

        join: takes the packed lives of a task that were written last, and others, and says what is remembered of both.
        """
        file, now_s, changed = self._file, time.time(), 0
        for start in range(0, len(lives), _CHUNK_OF_LIVES):
            # One whose clock was ahead would count as the newest for as long.
            some = [one._replace(written_s=min(one.written_s, now_s)) for one in lives[start : start + _CHUNK_OF_LIVES]]
            changed += file.write(lambda connection, some=some: join_lives(connection, some, join), 0)  # type: ignore[misc]
        if changed:
            keep_within(file, self._max_bytes)
        return changed

    def import_samples(self, samples: Iterable[Any], on_bad: Callable[[BadSample], None] | None = None) -> Counts:
        """Remember samples that are JSON objects; one that is there already changes nothing.

        on_bad: is called for each object that is no sample, which is then passed over. Without it the first one raises
        BadSample, after the good ones before it were taken. Where the file takes no records, `failure` says why, and
        the counts are those of what it took.
        """
        counts, fault = Counts(), None
        numbered = enumerate(samples, start=1)
        while fault is None:
            chunk = list(itertools.islice(numbered, _CHUNK))
            records, bad = [], 0
            for number, sample in chunk:
                try:
                    records.append(parse_sample(sample))
                except BadSample as error:
                    fault = BadSample(f"sample {number}: {error}")
                    if on_bad is None:
                        break
                    on_bad(fault)
                    fault, bad = None, bad + 1
            new = self._insert(records)
            if new is None or not chunk:
                break
            counts += Counts(new, len(records) - new, bad)
        if fault is not None:
            raise fault
        return counts

    def merge(self, other: Path, on_bad: Callable[[BadSample], None] | None = None) -> Counts:
        """Take over all samples of another history, which stays as it is. on_bad: as of import_samples().

        Raises UnusableHistory where `other` is none.
        """
        if not other.exists():
            raise UnusableHistory(f"{other} does not exist")
        source = History(other, warn=lambda text: None, is_read_only=True)
        with contextlib.closing(source):
            counts = self.import_samples(source.export(), on_bad)
            if source.failure is not None:  # nothing was read of it then
                raise UnusableHistory(source.failure)
            return counts

    def prune(self, max_bytes: int) -> int:
        """Forget the oldest samples of the best-known tasks until the file fits; returns how many."""
        file, most = self._file, max(max_bytes, LEAST_MAX_BYTES)
        return file.attempt(lambda connection: shrink(file, connection, most, most), 0)

    def _insert(self, records: Sequence[DatedRecord]) -> int | None:
        """Write records; how many of them are new, None where they cannot be written now."""
        file = self._file
        new = file.write(lambda connection: insert_samples(connection, records), None)
        if new is not None:
            keep_within(file, self._max_bytes)
        return new

    def _write_lives(self) -> None:
        """Write the lives that wait; a file that takes nothing takes nothing later, so they are dropped."""
        file, waiting = self._file, self._pending_lives
        if not waiting:
            return
        has_written = file.write(lambda connection: write_lives(connection, waiting.values()), False)
        if has_written or not file.takes_records:
            self._pending_lives = {}
        if has_written:
            keep_within(file, self._max_bytes)


def _packed(rows: Iterable[DatedRecord]) -> Iterator[bytes]:
    """Records as JSON objects, packed by the thousand.

    So no lock lasts as long as whoever takes them, and those of a full history are a fiftieth of what they would be.
    """
    left = iter(rows)
    while chunk := [format_sample(*row) for row in itertools.islice(left, _CHUNK)]:
        yield zlib.compress(marshal.dumps(chunk), 1)
