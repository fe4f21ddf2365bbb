# SPDX-License-Identifier: MIT
"""Who watches memory has the CPU first, where that is allowed; what it starts has not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from memguard.act.cpu_first import NICE, precedence

SHOW = [sys.executable, "-c", "import os; print(os.getpriority(os.PRIO_PROCESS, 0))"]


def own_nice() -> int:
    """The nice value of this process."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def test_it_is_urgent_for_as_long_as_it_lasts() -> None:
    """The nice value is lowered and comes back; a child that steps back has the one from before."""
    before = own_nice()
    with precedence() as step_back:
        if own_nice() == before:
            pytest.skip("nice values cannot be lowered here, which takes CAP_SYS_NICE")
        assert own_nice() == NICE
        assert int(subprocess.check_output(SHOW)) == NICE
        assert int(subprocess.check_output(SHOW, preexec_fn=step_back)) == before
    assert own_nice() == before


def test_who_may_not_be_urgent_goes_on_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the right to it nothing changes and nothing is raised."""

    def refuse(which: int, who: int, nice: int) -> None:
        raise PermissionError(13, "Permission denied")

    before = own_nice()
    monkeypatch.setattr(os, "setpriority", refuse)
    with precedence() as step_back:
        step_back()
        assert own_nice() == before


def test_the_command_of_memguard_run_is_as_urgent_as_its_caller(tmp_path: Path) -> None:
    """`memguard run` is no way to outrun others: what it runs keeps the nice value it was called with."""
    memguard = Path(sys.executable).with_name("memguard")
    said = subprocess.run([str(memguard), "run", "--", *SHOW], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert int(said.stdout) == own_nice()
