# SPDX-License-Identifier: MIT
"""What the sentinel has killed, left for the task that lost it: small files below MEMGUARD_DIR.

Runs in: the sentinel (Kills) and task children (read_kills); standard library only.
Covers: which process it was, memory at that moment, and the files it was writing, which are half done.
Does not cover: what a task makes of them (decide/run_again.py).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from memguard.channels.build_directory import BuildDirectory
from memguard.channels.plain_file import append_plain
from memguard.model import Kill


class Kills:
    """The kills of one build directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = BuildDirectory(directory).kills

    def note(self, mark: str, kill: Kill) -> None:
        """Leave a note of a kill for the task of this mark; without a disk to write to there is none."""
        with contextlib.suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            append_plain(str(self._path(mark)), (json.dumps(asdict(kill)) + "\n").encode("ascii"))

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


def read_kills(lines: Iterable[bytes], since_s: float) -> tuple[Kill, ...]:
    """What the sentinel has killed since then; other lines are passed over."""
    kills = []
    for line in lines:
        try:
            told = json.loads(line)
            limit_bytes = told["limit_bytes"]
            kill = Kill(
                float(told["time_s"]),
                str(told["program"]),
                int(told["bytes"]),
                int(told["used_bytes"]),
                None if limit_bytes is None else int(limit_bytes),
                tuple(map(str, told.get("outputs", ()))),
                int(told.get("beside_bytes", 0)),
            )
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            continue
        if kill.time_s >= since_s:
            kills.append(kill)
    return tuple(kills)
