# SPDX-License-Identifier: MIT
"""What the sentinel has killed, left for the task that lost it: small files below MEMGUARD_DIR.

Runs in: the sentinel (note, forget, clear), task children (read); standard library only.
Covers: which process it was, memory at that moment, and the files it was writing, which are half done.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import time
from pathlib import Path
from typing import Any

from memguard.model import Reading
from memguard.regulate import Job
from memguard.signals import Target, send

_WRITES = os.O_WRONLY | os.O_RDWR


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

    def read(self, mark: str) -> list[dict[str, Any]]:
        """The kills that a task of this mark has suffered, the oldest first; lines that are none are passed over."""
        found = []
        with contextlib.suppress(OSError, ValueError):
            for line in self._path(mark).read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    kill = json.loads(line)
                    if isinstance(kill, dict):
                        found.append(kill)
        return found

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


def written_by(pid: int) -> list[str]:
    """The plain files that a process has open for writing; none where that cannot be seen."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                link = f"/proc/{pid}/fd/{name}"
                if not stat.S_ISREG(os.stat(link).st_mode):
                    continue
                told = Path(f"/proc/{pid}/fdinfo/{name}").read_text().split("flags:")[1].split()[0]
                if int(told, 8) & _WRITES:
                    found.append(os.readlink(link))
    return found
