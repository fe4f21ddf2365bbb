# SPDX-License-Identifier: MIT
"""The limit of the cgroup for tasks, on files that stand for the kernel's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from memguard.act.task_cgroup import TaskCgroup
from memguard.model import Reading
from memguard.units import MIB

SOURCE = "/sys/fs/cgroup/memory.max"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TaskCgroup:
    """A cgroup whose tasks have 2708 MiB."""
    (tmp_path / "memory.max").touch()
    made = TaskCgroup(tmp_path)
    monkeypatch.setattr(made, "_level", SimpleNamespace(use=lambda share: SimpleNamespace(used_bytes=2708 * MIB)))
    return made


def readings(*used_mib: int, limit_mib: int | None = 4096, source: str = SOURCE) -> Callable[[], Reading]:
    """Readings in turn, by what is used."""
    limit_bytes = None if limit_mib is None else limit_mib * MIB
    turn: Iterator[Reading] = iter(
        Reading(limit_bytes, source, mib * MIB, 0, (4096 - mib) * MIB, None, None, 4.0) for mib in used_mib
    )
    return lambda: next(turn)


def limit_of(made: TaskCgroup) -> str:
    """What was written last."""
    return (made.directory / "memory.max").read_text()


@pytest.mark.parametrize("used_mib", [(3008, 3008), (4008, 3008), (3008, 4008)])
def test_what_ends_meanwhile_is_not_taken_from_the_tasks(made: TaskCgroup, used_mib: tuple[int, int]) -> None:
    """The rest has 300 MiB, whether a task of 1000 MiB ends or begins around the look: 4096 - 300 - 32."""
    made.follow(readings(*used_mib))
    assert limit_of(made) == str(3764 * MIB)


@pytest.mark.parametrize(("limit_mib", "source"), [(None, ""), (4096, "/sys/fs/cgroup/memory.high")])
def test_without_a_limit_that_kills_tasks_have_none(made: TaskCgroup, limit_mib: int | None, source: str) -> None:
    """A limit that was lifted is lifted from the tasks, too."""
    made.follow(readings(3008, 3008))
    (made.directory / "memory.max").write_text("")  # the kernel's file takes each write as a whole
    made.follow(readings(3008, 3008, limit_mib=limit_mib, source=source))
    assert limit_of(made) == "max"
