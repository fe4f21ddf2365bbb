# SPDX-License-Identifier: MIT
"""The file of a history as one process has it open: shared with others, replaced, damaged, or not to be written.

Runs in: whoever keeps a history (the sentinel, the BitBake server, the command); standard library only.
Covers: opening late, transactions, waiting for other processes with a bounded patience, the kind of journal, a file
that was replaced, a damaged one moved aside and begun again, saying once what is wrong.
Does not cover: tables and versions (schema), rows (rows), the bound in bytes (prune), a fork (store).

Where the file system is known to be local, readers do not wait for the writer (SQLite's write-ahead log). Any other,
NFS before all, has no memory that is shared between machines, so it gets a rollback journal:
https://www.sqlite.org/wal.html.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from memguard.record.history.rows import Damage
from memguard.record.history.schema import VERSION, UnusableHistory, bound_values, check_version, migrate
from memguard.sense import mounts
from memguard.units import KIB

# All the time that one build waits for locks of others, and the longest single wait.
PATIENCE_S = 2.0
_LONGEST_WAIT_S = 1.0
_WORK_S = 0.1  # a statement that takes no longer has not waited, it has worked
# Instructions of SQLite for one piece of work, and for each byte of the file besides: to read or prune a history takes
# less than one a byte. A file whose pages name each other in turn has rows without end.
_MOST_STEPS, _STEPS_A_BYTE, _STEPS_AT_ONCE = 30_000_000, 20, 100_000
# File systems that one machine alone writes to.
_LOCAL = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}
)
# Connections that a child process was born with. Closing one could delete the log that its parent still writes.
_INHERITED: list[sqlite3.Connection] = []

T = TypeVar("T")


class Complaints:
    """What goes wrong with one file: the last of it is kept, and only the first is said.

    failure: the last thing that went wrong, None while all is well; without what it means for a build.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.failure: str | None = None
        self._warn = warn
        self._has_warned = False

    def add(self, fact: str, consequence: str = "") -> None:
        # The name of a file, and what SQLite quotes of a damaged one, may be anything.
        self.failure = "".join(character if character.isprintable() else "?" for character in fact)
        if not self._has_warned:
            self._has_warned = True
            self._warn(self.failure + consequence)


class HistoryFile:
    """One history's file, for one process and one thread. It is opened by the first call that needs it.

    No call raises for what is wrong with the file: it returns its `otherwise`, and `complaints` has the reason.

    is_usable:      whether the file can serve as a history, as far as that was tried; one that others hold can.
    takes_records:  whether it can be written, as far as that was tried.
    is_for_writing: whether it is open for more than reading.
    """

    def __init__(self, path: Path, max_bytes: int, complaints: Complaints, *, is_read_only: bool) -> None:
        """Neither opens nor creates anything.

        max_bytes:    what the file may grow to, by which its log is kept in proportion.
        is_read_only: neither write anything nor move a damaged file aside.
        """
        self.path = path
        self.is_usable = True
        self.takes_records = not is_read_only
        self.is_for_writing = False
        self._is_read_only = is_read_only
        self._log_pages = max(8, min(1000, max_bytes // (64 * KIB)))
        self._complaints = complaints
        self._connection: sqlite3.Connection | None = None
        self._opened: os.stat_result | None = None
        self._patience_s = PATIENCE_S
        self._steps_left = 0

    # -- work on the database ------------------------------------------------------------------------------------------

    def read(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """What `work` makes of the database in one transaction that only reads; `otherwise` where there is none."""

        def transact(connection: sqlite3.Connection) -> T:
            with self.transaction(connection, "BEGIN"):
                return work(connection)

        return self.attempt(transact, otherwise)

    def write(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """What `work` makes of the database in one transaction; `otherwise` where it cannot be written now."""
        if not self.takes_records:
            return otherwise

        def transact(connection: sqlite3.Connection) -> T:
            with self.transaction(connection, "BEGIN IMMEDIATE"):
                return work(connection)

        return self.attempt(transact, otherwise, for_writing=True)

    def attempt(self, work: Callable[[sqlite3.Connection], T], otherwise: T, for_writing: bool = False) -> T:
        """What `work` makes of the database; `otherwise` where there is none or it fails.

        Twice, if the first database turns out to be damaged (it is then moved aside) or to be gone from its place.
        """
        for may_try_again in (True, False):
            if not self.is_usable:
                break
            try:
                self._steps_left = _MOST_STEPS + _STEPS_A_BYTE * self.size_bytes()
                connection = self._connect(for_writing)
                return otherwise if connection is None else work(connection)
            except (sqlite3.Error, OSError, ValueError) as fault:
                error = fault if self._steps_left >= 0 else Damage("it has rows without end")
                if not self._can_go_on(error, may_try_again, for_writing):
                    break
        return otherwise

    @contextlib.contextmanager
    def transaction(self, connection: sqlite3.Connection, begin: str) -> Iterator[None]:
        """A transaction that waits for locks only while this build has patience."""
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
        wait_s = min(_LONGEST_WAIT_S, max(0.0, self._patience_s))
        connection.execute(f"PRAGMA busy_timeout = {int(wait_s * 1000)}")
        since_s = time.monotonic()
        try:
            yield
        finally:
            waited_s = time.monotonic() - since_s
            if waited_s > _WORK_S:
                self._patience_s -= waited_s

    # -- opening and closing -------------------------------------------------------------------------------------------

    def size_bytes(self) -> int:
        """What the database takes on disk, its log included."""
        size = 0
        for path in (self.path, Path(f"{self.path}-wal")):
            with contextlib.suppress(OSError):
                size += path.stat().st_size
        return size

    def close(self) -> None:
        """Close the file; the next call would open it again."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None

    def abandon(self) -> None:
        """Leave the connection alone for good: in a child process, where it is the parent's."""
        if self._connection is not None:
            _INHERITED.append(self._connection)

    def _connect(self, for_writing: bool) -> sqlite3.Connection | None:
        """The open database; None where there is none yet and nothing is to be written."""
        if self._connection is not None and not self._has_been_replaced() and self.is_for_writing >= for_writing:
            return self._connection
        self.close()
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
        self._connection, self.is_for_writing = connection, for_writing
        try:
            self._opened = self.path.stat()
            bound_values(connection)
            connection.set_progress_handler(self._has_no_end, _STEPS_AT_ONCE)
            with self._waiting(connection):
                version = check_version(connection, self.path)
                if version == 0 and not for_writing:  # an empty file
                    self.close()
                    return None
                if for_writing:
                    _choose_journal(connection, "wal" if is_local(self.path) else "delete")
                    connection.execute(f"PRAGMA wal_autocheckpoint = {self._log_pages}")
                    if version < VERSION:
                        migrate(connection)
        except BaseException:
            self.close()
            raise
        return connection

    def _has_no_end(self) -> bool:
        """Whether SQLite is to give up, after so many steps more."""
        self._steps_left -= _STEPS_AT_ONCE
        return self._steps_left < 0

    def _has_been_replaced(self) -> bool:
        """Whether the file that is open is no longer the one at its path."""
        if self._opened is None:
            return False
        try:
            return not os.path.samestat(self._opened, self.path.stat())
        except OSError:
            return True

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    def _can_go_on(self, error: Exception, may_try_again: bool, for_writing: bool) -> bool:
        """Judge a failure and complain of it; True where another attempt is worth it."""
        complain = self._complaints.add
        if is_locked(error):
            complain(f"{self.path} is held by another process", ": records wait in memory until it is free")
            return False
        if may_try_again and self._has_been_replaced():
            return True
        is_damaged = _is_damage(error)
        if is_damaged and may_try_again and not self._is_read_only:
            self.close()
            aside = _move_aside(self.path)
            if aside is not None:
                complain(f"{self.path} is not a sound history ({error}): moved to {aside}", ", and a new one is begun")
                return True
        self.close()
        self.takes_records = False
        if for_writing and not is_damaged and not isinstance(error, UnusableHistory):
            complain(f"{self.path} cannot be written ({error})", ": nothing of this build is remembered")
        else:
            self.is_usable = False
            reason = error if isinstance(error, UnusableHistory) else f"{self.path} cannot be used ({error})"
            complain(f"{reason}", ": this build has no history")
        return False


def is_local(path: Path, mountinfo: str | None = None) -> bool:
    """Whether `path` lies on a file system that this machine alone writes to, by the text of a mountinfo file."""
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return False
    mounted = mounts.over(os.path.realpath(path), mountinfo)
    return mounted is not None and mounted.kind in _LOCAL


def is_locked(error: Exception) -> bool:
    """Whether another process holds the file."""
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def _is_damage(error: Exception) -> bool:
    """Whether the content of the file is to blame. SQLite's own class for that has no name of its own in Python 3.9."""
    return (
        type(error) is sqlite3.DatabaseError
        or isinstance(error, (Damage, UnicodeDecodeError, sqlite3.DataError))  # the last of a value that is too long
        or "decode to UTF-8" in str(error)
    )


def _refuse_odd_files(path: Path) -> None:
    """Raise UnusableHistory for what would block, or is no file; OSError where that cannot be found out."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except ValueError as error:
        raise UnusableHistory(f"{str(path)!r} is not a file name ({error})") from None
    if not stat.S_ISREG(mode):
        raise UnusableHistory(f"{path} is {'a directory' if stat.S_ISDIR(mode) else 'not a plain file'}")


def _choose_journal(connection: sqlite3.Connection, wanted: str) -> None:
    if connection.execute("PRAGMA journal_mode").fetchone() != (wanted,):
        connection.execute(f"PRAGMA journal_mode = {wanted}")
    # With a write-ahead log a commit then waits for no disk; a power cut may cost the last commits, but no more.
    connection.execute("PRAGMA synchronous = NORMAL")


def _move_aside(path: Path) -> Path | None:
    """Give the file another name, which is returned; None where that cannot be done."""
    stamp = f"{path}.corrupt-{time.strftime('%Y%m%d%H%M%S')}"
    try:
        for number in itertools.count():
            aside = Path(f"{stamp}-{number}" if number else stamp)
            with contextlib.suppress(FileExistsError):
                os.close(os.open(aside, os.O_CREAT | os.O_EXCL))  # ours from here on: nothing is overwritten
                break
        # First what belongs to it: a new database beside an old log would take the log for its own.
        for ending in ("-wal", "-journal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{path}{ending}", f"{aside}{ending}")
        os.replace(path, aside)
    except OSError:
        return None
    return aside
