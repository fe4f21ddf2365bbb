# SPDX-License-Identifier: MIT
"""Versions of build tools, asked of each program once in a build.

Runs in: task children; standard library only.
Covers: finding the programs that a task's PATH calls by some names, the oldest of their versions, remembering each
version below MEMGUARD_DIR by the file that has it (device, inode, time and size), so that one that is replaced is asked
again.
Does not cover: what follows from a version (pool_form), and which names a task calls (task_pool).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

from memguard.model import Version
from memguard.sense.proc_files import read_file

# Whatever lies there already is not ours.
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Tools:
    """Versions of programs, asked for once for each file; `directory` remembers them for all tasks of a build."""

    # A program that takes longer than this counts as an unknown version, which is remembered like any other.
    PATIENCE_S = 10.0

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def oldest(self, names: Iterable[str], search: str) -> Version | None:
        """The oldest of the programs that these names call, on a PATH of `search`; see Facts.make."""
        found = {os.path.realpath(path) for name in names if (path := shutil.which(name, path=search))}
        return min((self._version(path) for path in sorted(found)), default=None)

    def _version(self, path: str) -> Version:
        status = Path(path).stat()
        kept = self._directory / f"{status.st_dev:x}-{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"
        said = read_file(str(kept))
        if said:
            return _parse(said.decode("ascii", "replace"))
        text = self._ask(path)
        version = _parse(text)
        draft = kept.with_suffix(f".{os.getpid()}")
        with contextlib.suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            with open(os.open(draft, _NEW), "wb") as file:
                file.write(f"{version[0]}.{version[1]}\n".encode("ascii"))
            os.replace(draft, kept)
        return version

    def _ask(self, path: str) -> str:
        # With a pool of its own in the environment, an old make would abort instead of answering.
        quiet = {name: value for name, value in os.environ.items() if not name.endswith(("MAKEFLAGS", "MFLAGS"))}
        try:
            asked = subprocess.run(
                [path, "--version"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**quiet, "LC_ALL": "C"},
                timeout=self.PATIENCE_S,
            )
        except (OSError, subprocess.SubprocessError):
            return ""
        return asked.stdout.decode("ascii", "replace") if asked.returncode == 0 else ""


def _parse(text: str) -> Version:
    """The first two numbers in what a program says of its version; zeros where there are none."""
    found = re.search(r"(\d{1,6})\.(\d{1,6})", text)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)
