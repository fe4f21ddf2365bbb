# SPDX-License-Identifier: MIT
"""The place where the words of the command are kept that talks to the fleet's database."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from memguard.channels.build_directory import BuildDirectory
from memguard.server.fleet import Fleet


@pytest.mark.parametrize("kind", ["fifo", "link"])
def test_what_lies_in_the_place_of_the_log_is_left_alone(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO is not waited for, and what a link leads to is not overwritten: one warning, and no pull."""
    command = tmp_path / "bin" / "memguard"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\nexit 0\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    foreign, log = tmp_path / "foreign", BuildDirectory(tmp_path / "memguard").fleet_log
    foreign.write_text("kept")
    log.parent.mkdir(parents=True)
    if kind == "fifo":
        os.mkfifo(log)
    else:
        log.symlink_to(foreign)
    warnings: list[str] = []
    fleet = Fleet("postgresql://nobody@localhost:1/none", "/nowhere", 1 << 20, tmp_path / "memguard", warnings.append)
    fleet.pull()
    fleet.end()
    assert [text for text in warnings if "cannot be started" in text] == warnings
    assert len(warnings) == 1
    assert foreign.read_text() == "kept"
