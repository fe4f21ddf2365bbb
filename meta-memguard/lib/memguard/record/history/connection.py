# SPDX-License-Identifier: MIT
"""Opening the file, waiting for others, and starting anew where it is damaged.

Runs in: whoever keeps a history; standard library only.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from pathlib import Path

from memguard.sense import mounts

# All that one build waits for locks of others, and the longest single wait.
PATIENCE_S = 2.0
LONGEST_WAIT_S = 1.0
WORK_S = 0.1  # a statement that takes no longer has not waited, it has worked
# File systems that one machine alone writes to.
_LOCAL = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}
)
# Connections that a child process was born with. Closing one could delete the log that its parent still writes.
INHERITED: list[sqlite3.Connection] = []


class UnusableHistory(ValueError):
    """A file that cannot serve as a history, in one sentence."""


class Damage(ValueError):
    """A row that nobody wrote so."""


def is_local(path: Path, mountinfo: str | None = None) -> bool:
    """Whether `path` lies on a file system that this machine alone writes to, by the text of a mountinfo file."""
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return False
    mounted = mounts.over(os.path.realpath(path), mountinfo)
    return mounted is not None and mounted.kind in _LOCAL


def refuse_odd_files(path: Path) -> None:
    """Raise UnusableHistory for what would block, or is no file; OSError where that cannot be told."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except ValueError as error:
        raise UnusableHistory(f"{str(path)!r} is no name of a file ({error})") from None
    if not stat.S_ISREG(mode):
        raise UnusableHistory(f"{path} is {'a directory' if stat.S_ISDIR(mode) else 'no plain file'}")


def choose_journal(connection: sqlite3.Connection, wanted: str) -> None:
    if connection.execute("PRAGMA journal_mode").fetchone() != (wanted,):
        connection.execute(f"PRAGMA journal_mode = {wanted}")
    # With a write-ahead log a commit then waits for no disk; a power cut may cost the last commits, but no more.
    connection.execute("PRAGMA synchronous = NORMAL")


def is_locked(error: Exception) -> bool:
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def is_corrupt(error: Exception) -> bool:
    """Whether the content of the file is to blame. SQLite's own class for that has no name of its own in Python 3.9."""
    return (
        type(error) is sqlite3.DatabaseError
        or isinstance(error, (Damage, UnicodeDecodeError))
        or "decode to UTF-8" in str(error)
    )
