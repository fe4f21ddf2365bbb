# SPDX-License-Identifier: MIT
"""Grants travel to the tasks as files that are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from memguard.channels.grants import Handed, Handover

TID = "/layers/foo/foo_1.0.bb:do_compile"


def only_file(directory: Path) -> Path:
    """The one grant that lies in the directory."""
    (path,) = (directory / "grants").iterdir()
    return path


def test_a_grant_is_taken_once(tmp_path: Path) -> None:
    """What was put is there for the task, and gone when it was taken."""
    Handover(tmp_path).put(TID, Handed(3))
    assert Handover(tmp_path).take(TID) == Handed(3)
    assert Handover(tmp_path).take(TID) is None
    assert not (tmp_path / "grants").exists()


def test_no_grant_is_none(tmp_path: Path) -> None:
    """A task without a grant, also in a directory that does not exist, gets None."""
    assert Handover(tmp_path / "none").take(TID) is None
    Handover(tmp_path).put(TID, Handed(3))
    assert Handover(tmp_path).take(TID + "x") is None


def test_the_later_grant_counts(tmp_path: Path) -> None:
    """A grant that is put again replaces the earlier one."""
    Handover(tmp_path).put(TID, Handed(3))
    Handover(tmp_path).put(TID, Handed(2))
    assert Handover(tmp_path).take(TID) == Handed(2)


@pytest.mark.parametrize(
    "tid",
    [
        "",
        "a\nb",
        "mc:arm:virtual:native:/x y/\u00fc\u4e2d\U0001f600.bb:do_compile",
        "/name-of-bytes-\udcff\udc80.bb:do_compile",
        "\ud800",
        "\ud83d\ude00",
        "../../etc/passwd",
        "\0",
        "x" * 100_000,
    ],
)
def test_any_tid_has_a_file_of_its_own(tmp_path: Path, tid: str) -> None:
    """No name is too odd for a grant, and none leaves the directory."""
    handover = Handover(tmp_path)
    handover.put(tid, Handed(5))
    assert only_file(tmp_path).parent == tmp_path / "grants"
    assert handover.take(tid) == Handed(5)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.dictionaries(st.text(st.characters(categories=None)), st.integers(1, 1000), max_size=5))
def test_grants_are_not_mixed_up(tmp_path: Path, grants: dict[str, int]) -> None:
    """Each task gets its own grant, whatever the names."""
    handover = Handover(tmp_path)
    for tid, jobs in grants.items():
        handover.put(tid, Handed(jobs))
    assert {tid: handover.take(tid) for tid in grants} == {tid: Handed(jobs) for tid, jobs in grants.items()}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\x00\xff\xfe",
        b"3",
        b"[]",
        b"null",
        b'{"jobs": 3}',
        b'{"tid": "another", "jobs": 3}',
        b'{"tid": "%s"}' % TID.encode(),
        b'{"tid": "%s", "jobs": 0}' % TID.encode(),
        b'{"tid": "%s", "jobs": -1}' % TID.encode(),
        b'{"tid": "%s", "jobs": 2.5}' % TID.encode(),
        b'{"tid": "%s", "jobs": true}' % TID.encode(),
        b'{"tid": "%s", "jobs": "3"}' % TID.encode(),
        b'{"tid": "%s", "jobs": 3, "nice": -5}' % TID.encode(),
        b'{"tid": "%s", "jobs": 3, "nice": 20}' % TID.encode(),
        b'{"tid": "%s", "jobs": 3, "nice": null}' % TID.encode(),
        b"[" * 100_000,
    ],
)
def test_what_is_no_grant_is_a_valueerror(tmp_path: Path, content: bytes) -> None:
    """A file that was damaged is an error once, not a job count and not for ever."""
    handover = Handover(tmp_path)
    handover.put(TID, Handed(3))
    only_file(tmp_path).write_bytes(content)
    with pytest.raises(ValueError, match=r"\S"):
        handover.take(TID)
    assert handover.take(TID) is None


def test_clear_removes_what_was_not_taken(tmp_path: Path) -> None:
    """After the build nothing is left, and clearing again is no error."""
    handover = Handover(tmp_path)
    handover.put(TID, Handed(3))
    handover.clear()
    assert list(tmp_path.iterdir()) == []
    handover.clear()
    handover.put(TID, Handed(2))
    assert handover.take(TID) == Handed(2)


def test_a_place_that_cannot_be_written_is_an_oserror(tmp_path: Path) -> None:
    """The server learns that the grant will not arrive."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Handover(tmp_path / "file").put(TID, Handed(3))
