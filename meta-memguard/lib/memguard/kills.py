# SPDX-License-Identifier: MIT
"""What the sentinel has killed, left for the task that lost it: small files below MEMGUARD_DIR.

Runs in: the sentinel; standard library only.
Covers: which process it was, memory at that moment, and the files it was writing, which are half done.
Does not cover: what a task makes of them (retry.read_kills).
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from pathlib import Path

from memguard.leftovers import written_by
from memguard.model import Reading
from memguard.regulate import Job
from memguard.signals import Target, send


class Kills:
    """The kills of one build directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "kills"

    def note(self, mark: str, job: Job, reading: Reading, left_bytes: int) -> None:
        """Stop a job that is about to be killed, and leave a note of it for the task of this mark."""
        send(Target(job.pid, job.start_ticks), signal.SIGSTOP)
        line = {
            "time": time.monotonic(),
            "pid": job.pid,
            "program": job.program,
            "bytes": job.bytes,
            "used_bytes": reading.used_bytes + reading.left_bytes - left_bytes,
            "limit_bytes": reading.bound_bytes,
            "outputs": written_by(job.pid),
        }
        with contextlib.suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            with self._path(mark).open("a", encoding="utf-8", errors="surrogateescape") as file:
                file.write(json.dumps(line) + "\n")

    def forget(self, mark: str) -> None:
        """Remove the notes for a task."""
        with contextlib.suppress(OSError):
            self._path(mark).unlink()

    def clear(self) -> None:
        """Remove all notes."""
        with contextlib.suppress(OSError):
            for path in self._directory.iterdir():
                path.unlink()
            self._directory.rmdir()

    def _path(self, mark: str) -> Path:
        return self._directory / f"{mark}.jsonl"
