# SPDX-License-Identifier: MIT
"""The names of what a build writes, which other versions and people know, too."""

from __future__ import annotations

from pathlib import Path

from memguard.channels.build_directory import USUAL_NAME, BuildDirectory

TOP = Path("/build") / USUAL_NAME
NAMES = {
    "events": "events",
    "readings": "readings",
    "state": "state.json",
    "claim": "lock",
    "cgroup": "cgroup",
    "notes": "tasks",
    "grants": "grants",
    "kills": "kills",
    "pools": "pools",
    "tools": "tools",
    "fleet_log": "fleet.log",
    "history": "history.db",
}


def test_names_stay_as_they_are() -> None:
    """Each path lies in the directory, under the name that it had in earlier versions; the list has them all."""
    directory = BuildDirectory(TOP)
    paths = {
        name: getattr(directory, name) for name, value in vars(BuildDirectory).items() if isinstance(value, property)
    }
    found = {name: str(path.relative_to(TOP)) for name, path in paths.items() if name != "is_written"}
    assert found == {name: NAMES.get(name) for name in found}
    assert USUAL_NAME == "memguard"


def test_what_a_build_leaves_has_its_stamp() -> None:
    """Faults and reports of several builds lie side by side."""
    directory = BuildDirectory(TOP)
    assert directory.fault("20260131120000") == TOP / "fault-20260131120000.txt"
    assert directory.report("20260131120000") == TOP / "report-20260131120000.html"


def test_one_that_nobody_has_written_to(tmp_path: Path) -> None:
    """A directory is written once it has logs or a state; any other file does not make it one."""
    directory = BuildDirectory(tmp_path)
    assert not BuildDirectory(tmp_path / "nowhere").is_written
    (tmp_path / "history.db").touch()
    assert not directory.is_written
    directory.state.touch()
    assert directory.is_written
    directory.state.unlink()
    directory.events.mkdir()
    assert directory.is_written
