# SPDX-License-Identifier: MIT
"""Files that somebody else may have open: read without waiting for anybody, written whole or not at all.

Runs in: outside BitBake.
Covers: what is no plain file: opening a FIFO to read would wait for a writer for ever; what stands where a file is to
be written, as /dev/stdout.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor to read from. Raises OSError, also for what is no plain file."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(0, "not a plain file", str(path))
        yield file
    finally:
        os.close(file)


def is_there(path: Path) -> bool:
    """Whether `path` is a file that may be looked at."""
    try:
        return path.is_file()
    except OSError:  # a directory that may not be entered, a name that is too long
        return False


def write_whole(path: Path, parts: Iterable[str]) -> None:
    """Write `path` whole or, where writing or `parts` fail, not at all. Raises OSError.

    A file that is there keeps its mode, and a link to it stays a link.
    """
    if path.exists() and not path.is_file():  # /dev/stdout, a pipe; a directory refuses
        with open(path, "w", encoding="utf-8") as output:
            output.writelines(parts)
        return
    path = path.resolve()
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~_umask()
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}-")
    try:
        with open(descriptor, "w", encoding="utf-8") as output:
            output.writelines(parts)
        Path(draft).chmod(mode)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink()
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
