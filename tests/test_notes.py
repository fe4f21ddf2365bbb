# SPDX-License-Identifier: MIT
"""Small files between tasks, sentinel and server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from memguard.model import Outcome
from memguard.notes import STATE_AGE_S, Notes, TaskEnd, TaskNote, TaskState, end_name

NOTE = TaskNote(4242, 17, "mc:two:/a b/\udce9_1.0.bb:do_compile", "x", "1.0", "do_compile", "qemux86-64", 4)
END = TaskEnd(Outcome.OK, 1.5, 3.25, 1 << 30)
NAME = "4242-17"


def test_a_note_and_its_end_arrive_as_they_were_sent(tmp_path: Path) -> None:
    """What a task tells is read once, under names that belong together, odd bytes in a path included."""
    notes = Notes(tmp_path)
    notes.begin(NOTE)
    assert notes.read({}) == {NAME: NOTE}
    assert notes.read({NAME: NOTE}) == {}
    notes.end(4242, 17, END)
    assert notes.read({NAME: NOTE}) == {end_name(NAME): END}
    notes.forget(NAME)
    notes.forget(end_name(NAME))
    assert notes.read({}) == {}


def test_an_end_without_a_beginning_is_not_told(tmp_path: Path) -> None:
    """A task whose note nobody keeps any more leaves no file behind."""
    Notes(tmp_path).end(4242, 17, END)
    assert list(tmp_path.iterdir()) == []


def test_notes_of_ten_thousand_tasks(tmp_path: Path) -> None:
    """As many tasks as a large build has at once, and more."""
    notes = Notes(tmp_path)
    for pid in range(1, 10_001):
        notes.begin(TaskNote(pid, 1, f"/r_{pid}.bb:do_compile", "r", "1", "do_compile", "", 1))
    assert len(notes.read({})) == 10_000
    notes.clear()
    assert list(tmp_path.iterdir()) == []


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary()
    | st.recursive(st.none() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s))
)
def test_what_is_no_note_is_removed(tmp_path: Path, content: object) -> None:
    """A file of anything else is neither believed nor read again."""
    notes = Notes(tmp_path)
    (tmp_path / "running").mkdir(exist_ok=True)
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    for name in ("1-1", "1-1.end"):
        (tmp_path / "running" / name).write_bytes(raw)
    assert notes.read({}) == {}
    assert list((tmp_path / "running").iterdir()) == []
    (tmp_path / "state.json").write_bytes(raw)
    assert notes.read_state(1.0) == {}


def test_a_state_is_believed_while_it_is_fresh(tmp_path: Path) -> None:
    """The server takes what was told in the last seconds, and nothing of a sentinel that has fallen silent."""
    notes = Notes(tmp_path)
    state = {NOTE.tid: TaskState(5, 7)}
    notes.publish(state, 100.0)
    assert notes.read_state(100.0 + STATE_AGE_S) == state
    assert notes.read_state(100.1 + STATE_AGE_S) == {}
    assert notes.read_state(99.0) == {}
    notes.clear()
    assert notes.read_state(100.0) == {}


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """Who writes learns by OSError; who reads finds nothing."""
    (tmp_path / "file").touch()
    notes = Notes(tmp_path / "file")
    with pytest.raises(OSError, match="file"):
        notes.begin(NOTE)
    assert notes.read({}) == {}
    assert notes.read_state(1.0) == {}
    notes.clear()
