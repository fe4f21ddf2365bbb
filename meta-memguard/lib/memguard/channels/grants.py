# SPDX-License-Identifier: MIT
"""Grants on their way from the server to the children, as small files that appear whole or not at all.

Runs in: the BitBake server (put, clear) and task children (take); standard library only.
Covers: the jobs of a task that gets fewer than it wants, and whether it gives way; a file is taken once.
Does not cover: which grant a task gets (server), how it obeys (bitbake/task).

Worker and server share no channel of their own that class code could use, so they meet on disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from pathlib import Path
from typing import NamedTuple

from memguard.channels.build_directory import BuildDirectory
from memguard.channels.plain_file import read_plain, replace_plain

# A grant is two numbers, and the name of a task.
_MOST_BYTES = 1 << 20
_HIGHEST_NICE = 19


class Handed(NamedTuple):
    """What a task starts with: its jobs, and by how much its nice value is raised, 0 to 19."""

    jobs: int
    nice: int = 0


class Handover:
    """The grants of one build directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = BuildDirectory(directory).grants

    def put(self, tid: str, handed: Handed) -> None:
        """Leave this for task `tid`. Raises OSError when it cannot be written."""
        path = self._path(tid)
        draft = str(path.with_suffix(".draft"))
        # A file's name may hold bytes that are no UTF-8 (surrogates in Python): kept as they are, and one by one.
        text = json.dumps({"tid": tid, **handed._asdict()}, ensure_ascii=False)
        for is_last in (False, True):
            # A child that takes the last grant takes the directory away, perhaps just now.
            self._directory.mkdir(parents=True, exist_ok=True)
            try:
                replace_plain(str(path), draft, text.encode("utf-8", "surrogatepass"))
                break
            except FileNotFoundError:
                if is_last:
                    raise

    def take(self, tid: str) -> Handed | None:
        """What was left for task `tid`, which is then gone; None when there is nothing.

        Raises ValueError when the file is no grant, OSError when it can be seen but not read.
        """
        path = self._path(tid)
        try:
            content = read_plain(str(path), _MOST_BYTES)
        except FileNotFoundError:
            return None
        with contextlib.suppress(OSError):
            path.unlink()
            self._directory.rmdir()
        try:
            grant = json.loads(content.decode("utf-8", "surrogatepass"))
        except RecursionError:
            grant = None
        mine = grant if isinstance(grant, dict) and grant.get("tid") == tid else {}
        jobs, nice = mine.get("jobs"), mine.get("nice", 0)
        # true is an int, too
        if type(jobs) is not int or jobs < 1 or type(nice) is not int or not 0 <= nice <= _HIGHEST_NICE:
            raise ValueError(f"{path} holds no grant for {tid}")
        return Handed(jobs, nice)

    def clear(self) -> None:
        """Remove whatever was not taken."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _path(self, tid: str) -> Path:
        return self._directory / (hashlib.sha256(tid.encode("utf-8", "surrogatepass")).hexdigest()[:32] + ".json")
