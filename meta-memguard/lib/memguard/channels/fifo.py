# SPDX-License-Identifier: MIT
"""The FIFO in which server and tasks leave notes for the sentinel.

Runs in: task children (begin, end, wait), the BitBake server (listen, grant, hold), the sentinel (Listener); standard
library only.
Covers: a FIFO below MEMGUARD_DIR, one line of JSON for each note.
Does not cover: what a note says (notes); what the sentinel says (state, record/readings_log); grants on their way to
the tasks (grants).

Notes are lines in a FIFO rather than files, since every task of a build writes two: a line costs 20 us, making a file
may cost a hundred times as much.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
from pathlib import Path

from memguard.channels.build_directory import BuildDirectory
from memguard.channels.notes import Note, as_line, parse_note
from memguard.channels.plain_file import make_private


class Notes:
    """The notes of one build directory."""

    def __init__(self, directory: Path) -> None:
        self._fifo = str(BuildDirectory(directory).notes)
        self._open: int | None = None

    def is_heard(self) -> bool:
        """Whether somebody listens."""
        try:
            os.close(_open_fifo(self._fifo, os.O_WRONLY))
        except OSError:
            return False
        return True

    def send(self, note: Note, stays_open: bool = False) -> bool:
        """Tell; False where nobody listens, or cannot keep up. Raises OSError for a broken place.

        stays_open: the FIFO is kept open for the next note, until close().
        """
        line = as_line(note)
        # A longer line could be torn apart by those of others (PIPE_BUF in pipe(7)).
        if len(line) > select.PIPE_BUF:
            return False
        try:
            if self._open is not None:
                try:
                    os.write(self._open, line)
                    return True
                except BrokenPipeError:
                    self.close()  # whoever listened is gone; another one may have come, with a FIFO of its own
            self._open = _open_fifo(self._fifo, os.O_WRONLY)
            os.write(self._open, line)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENXIO):
                return False
            raise
        finally:
            if not stays_open:
                self.close()
        return True

    def close(self) -> None:
        """Close what send() has kept open."""
        file, self._open = self._open, None
        if file is not None:
            os.close(file)

    def listen(self) -> int:
        """Make the FIFO anew and open it for a Listener, so that no note is lost from here on. Raises OSError."""
        self.clear()
        make_private(Path(self._fifo).parent)
        os.mkfifo(self._fifo, 0o644)
        # For writing, too: a FIFO that nobody writes to at the moment has not ended.
        return _open_fifo(self._fifo, os.O_RDWR)

    def clear(self) -> None:
        """Remove the FIFO."""
        with contextlib.suppress(OSError):
            os.unlink(self._fifo)


def _open_fifo(path: str, flags: int) -> int:
    """Open a FIFO. Raises OSError, also for anything else: a link may lead to a foreign file."""
    file = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISFIFO(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(errno.EINVAL, "not a FIFO", path)
    return file


class Listener:
    """Takes the notes out of the FIFO that Notes.listen() has opened."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._rest = b""

    def read(self) -> list[Note]:
        """The notes that have come since the last call; lines that are no notes are passed over."""
        chunks = [self._rest]
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._file, 1 << 16):
                chunks.append(chunk)
        *lines, self._rest = b"".join(chunks).split(b"\n")
        return [note for line in lines if (note := parse_note(line)) is not None]
