# SPDX-License-Identifier: MIT
"""The claim of one BitBake server on a MEMGUARD_DIR: a directory serves one build at a time.

Runs in: the BitBake server (take, release) and task children (owner_of); standard library only.
Covers: a lock file that names its owner; a claim ends with the process that has it, however that ends.
Does not cover: what a build does that finds the directory taken (bitbake/session), whose task one is (bitbake/task).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from memguard.channels.build_directory import BuildDirectory
from memguard.channels.plain_file import open_plain, read_plain

# A name is two numbers.
_MOST_BYTES = 100


class Claim:
    """The claim of this process, until it releases it or ends.

    Forked children do not inherit it, and it is lost where its own process reads the file (fcntl(2), Record locks).
    """

    def __init__(self, path: str, file: int) -> None:
        self._path, self._file = path, file

    @classmethod
    def take(cls, directory: Path, owner: str) -> Claim | None:
        """Claim a directory for `owner`; None where another process has it. Raises OSError where it cannot be told."""
        path = str(BuildDirectory(directory).claim)
        while True:
            file = open_plain(path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(file, path):
                    os.truncate(file, 0)
                    os.write(file, owner.encode())
                    return cls(path, file)
            except BlockingIOError:
                os.close(file)
                return None
            except BaseException:
                os.close(file)
                raise
            os.close(file)  # who had it has removed it meanwhile

    def release(self) -> None:
        """Let others have it."""
        with contextlib.suppress(OSError):
            Path(self._path).unlink()
        os.close(self._file)


def owner_of(directory: Path) -> str:
    """Who has claimed a directory, or had when it was killed; "" where nobody has."""
    try:
        return read_plain(str(BuildDirectory(directory).claim), _MOST_BYTES).decode("ascii", "replace")
    except OSError:
        return ""


def _is_at(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), Path(path).lstat())
    except FileNotFoundError:
        return False
