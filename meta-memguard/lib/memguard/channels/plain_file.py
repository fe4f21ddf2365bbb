# SPDX-License-Identifier: MIT
"""Small files below MEMGUARD_DIR that others could have put something else in place of.

Runs in: the BitBake server, the sentinel, task children; standard library only.
Covers: what is no plain file is neither read nor written: a FIFO would be waited for, a link leads to a foreign file.
Does not cover: what the files say (state, grants, kills); the directories in between.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

# Opening a FIFO waits for the other side without O_NONBLOCK; on a plain file it changes nothing.
_FLAGS = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def read_plain(path: str, most_bytes: int) -> bytes:
    """The beginning of a plain file. Raises OSError, also for anything else."""
    with open(open_plain(path, os.O_RDONLY), "rb") as file:
        return file.read(most_bytes)


def replace_plain(path: str, draft: str, content: bytes, mode: int | None = None) -> None:
    """Write a file whole, as `draft` until it is. Raises OSError; whatever lay at either place is gone then.

    mode: its permissions, None for what the umask says.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        file = open_plain(draft, flags)
    except FileExistsError:
        Path(draft).unlink()
        file = open_plain(draft, flags)
    with open(file, "wb") as output:
        if mode is not None:
            os.fchmod(file, mode)
        output.write(content)
    os.replace(draft, path)


def append_plain(path: str, content: bytes) -> None:
    """Add to a plain file, or begin one. Raises OSError, also for anything else."""
    with open(open_plain(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "wb") as file:
        file.write(content)


def make_private(directory: Path) -> None:
    """Make a directory that only its user may enter, unless it is there: who made it says who may. Raises OSError."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        directory.mkdir(0o700)
    except FileExistsError:
        if not directory.is_dir():
            raise


def open_plain(path: str, flags: int) -> int:
    """Open a plain file. Raises OSError, also for anything else."""
    file = os.open(path, flags | _FLAGS, 0o666)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "not a plain file", path)
    return file
