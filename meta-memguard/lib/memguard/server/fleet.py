# SPDX-License-Identifier: MIT
"""Lets the memguard command bring samples from the fleet's database at a build's start, and send them at its end.

Runs in: the BitBake server, which it delays by no more than a second; standard library only.
Covers: two processes of their own, what they say, and that the first ends with the build.
Does not cover: talking to the database (memguard_cli.fleet): that takes packages that a host need not have.

The build itself reads and writes a file, whatever becomes of the database. A push that is not done after a second goes
on by itself, for as long as the database answers.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Callable

from memguard.channels.build_directory import BuildDirectory
from memguard.channels.plain_file import open_plain, read_plain
from memguard.units import MIB

# All that a build waits for the database.
PATIENCE_S = 1.0
# The command gives up after this much silence of the database.
SILENCE_S = 10
# A sentence of the command is shorter.
_LAST_WORDS_BYTES = 1000

# Where the command lies when it is not in PATH, as under kas, which gives BitBake a PATH and a HOME of its own: where
# pip, pipx and uv install for a user or for all, and where conf/container/Containerfile does.
_PLACES = ("{home}/.local/bin", "/usr/local/bin", "/opt/memguard/bin")

_LACKING = (
    "MEMGUARD_HISTORY is a database, and the memguard command that talks to it is neither in PATH nor in ~/.local/bin, "
    "/usr/local/bin or /opt/memguard/bin: pipx install '/path/to/clone[postgresql]'; this build remembers for itself "
    "only, in {}"
)


class Fleet:
    """The exchange of one build with the database of the fleet; never raises, and warns once."""

    def __init__(self, url: str, history: str, max_bytes: int, directory: Path, warn: Callable[[str], None]) -> None:
        """Starts nothing yet.

        history:   the file that the build itself reads and writes; max_bytes is its bound.
        directory: MEMGUARD_DIR, where the command's words are kept.
        """
        self._history = history
        self._log = BuildDirectory(directory).fleet_log
        self._warn = warn
        self._has_warned = False
        self._environment = _environment(os.environ, url, max_bytes)
        self._command = find_command(self._environment.get("PATH"))
        self._pulling: subprocess.Popen[bytes] | None = None

    def pull(self) -> None:
        """Begin to bring what other builds have learned; the build goes on meanwhile."""
        if self._command is None:
            self._complain(_LACKING.format(self._history))
        else:
            self._pulling = self._start("pull")

    def push(self) -> str:
        """Send what this build has learned; a note for the log, "" where there is nothing to say."""
        due_s = time.monotonic() + PATIENCE_S
        self.end()
        if self._command is None or not Path(self._history).exists():
            return ""
        pushing = self._start("push")
        if pushing is None:
            return ""
        try:
            pushing.wait(max(0.0, due_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            return f"what was learned is still being sent to the fleet's database, see {self._log}"
        self._judge(pushing)
        return "" if pushing.returncode else "what was learned is in the fleet's database"

    def end(self) -> None:
        """End a pull that still runs, or say what went wrong with it."""
        pulling, self._pulling = self._pulling, None
        if pulling is None:
            return
        if pulling.poll() is None:
            # A short build may be over before the command has come to an end, or has given up.
            pulling.kill()
            pulling.wait()
        else:
            self._judge(pulling)

    def _start(self, what: str) -> subprocess.Popen[bytes] | None:
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with open(open_plain(str(self._log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "wb") as log:
                return subprocess.Popen(
                    [str(self._command), "history", what, "--history", self._history, "--timeout", str(SILENCE_S)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd="/",
                    env=self._environment,
                    start_new_session=True,
                )
        except OSError as error:
            self._complain(f"the memguard command cannot be started: {error}")
            return None

    def _judge(self, process: subprocess.Popen[bytes]) -> None:
        """Warn with the command's own words if it failed."""
        if process.returncode:
            self._complain(self._last_words() or f"memguard history ended with exit status {process.returncode}")

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = read_plain(str(self._log), MIB)[-_LAST_WORDS_BYTES:].decode("utf-8", "replace").strip().splitlines()
            words = lines[-1] if lines else ""
            if words.startswith("memguard: "):
                return "".join(one if one.isprintable() else "?" for one in words[len("memguard: ") :])
        return ""

    def _complain(self, text: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            self._warn(text)


def find_command(path: str | None) -> str | None:
    """The memguard command: the first one in `path`, else in the usual places; None where there is none."""
    home = "/nonexistent"
    with contextlib.suppress(KeyError):
        home = pwd.getpwuid(os.geteuid()).pw_dir
    usual = os.pathsep.join(place.format(home=home) for place in _PLACES)
    return shutil.which("memguard", path=path) or shutil.which("memguard", path=usual)


def _environment(ours: Mapping[str, str], url: str, max_bytes: int) -> dict[str, str]:
    """What the command gets to know. The URL, which may hold a password, goes where other users cannot read it."""
    kept = {name: value for name, value in ours.items() if name in ("PATH", "HOME", "USER") or name.startswith("PG")}
    return {**kept, "LC_ALL": "C.UTF-8", "MEMGUARD_HISTORY": url, "MEMGUARD_HISTORY_MAX": str(max_bytes)}
