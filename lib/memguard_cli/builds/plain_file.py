# SPDX-License-Identifier: MIT
"""Files that somebody else writes, opened without waiting for anybody.

Runs in: outside BitBake.
Covers: what is no plain file: opening a FIFO would wait for a writer for ever.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor to read from. Raises OSError, also for what is no plain file."""
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(0, "no plain file", str(path))
        yield file
    finally:
        os.close(file)
