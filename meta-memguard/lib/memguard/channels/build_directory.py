# SPDX-License-Identifier: MIT
"""Every path below MEMGUARD_DIR: what a build writes, for itself and for those who look at it.

Runs in: everywhere; pure.
Covers: names only. docs/events.md says what is in the files that stay.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# MEMGUARD_DIR of a build that says nothing else, below its build directory.
USUAL_NAME = "memguard"


@dataclass(frozen=True)
class BuildDirectory:
    """The MEMGUARD_DIR of one build."""

    path: Path

    @property
    def events(self) -> Path:
        """Logs of what the server decided, one a build: STAMP.jsonl."""
        return self.path / "events"

    @property
    def readings(self) -> Path:
        """Logs of what the sentinel saw and did, by the same names."""
        return self.path / "readings"

    @property
    def state(self) -> Path:
        """What goes on now; gone when the build has ended."""
        return self.path / "state.json"

    @property
    def claim(self) -> Path:
        """The lock of the server that uses the directory, with its name."""
        return self.path / "lock"

    @property
    def notes(self) -> Path:
        """The FIFO in which notes reach the sentinel."""
        return self.path / "tasks"

    @property
    def grants(self) -> Path:
        """Jobs on their way to tasks, a file each."""
        return self.path / "grants"

    @property
    def kills(self) -> Path:
        """What was killed of each task, a file each."""
        return self.path / "kills"

    @property
    def cgroup(self) -> Path:
        """The path of the cgroup for tasks; the file is there only while that is."""
        return self.path / "cgroup"

    @property
    def pools(self) -> Path:
        """The FIFOs with the tokens of each task."""
        return self.path / "pools"

    @property
    def tools(self) -> Path:
        """Versions of build tools, asked once a build."""
        return self.path / "tools"

    @property
    def fleet_log(self) -> Path:
        """What the memguard command said about the fleet's database."""
        return self.path / "fleet.log"

    @property
    def history(self) -> Path:
        """What tasks took, where MEMGUARD_HISTORY says nothing else."""
        return self.path / "history.db"

    def fault(self, stamp: str) -> Path:
        """The traceback of a fault."""
        return self.path / f"fault-{stamp}.txt"

    def report(self, stamp: str) -> Path:
        """The page of a build."""
        return self.path / f"report-{stamp}.html"

    @property
    def is_written(self) -> bool:
        """Whether a build has written here."""
        return self.events.is_dir() or self.state.exists()
