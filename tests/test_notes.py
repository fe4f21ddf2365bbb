# SPDX-License-Identifier: MIT
"""What tasks, sentinel and server tell each other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from memguard.model import Outcome
from memguard.notes import STATE_AGE_S, Listener, Notes, TaskEnd, TaskNote, TaskState

NOTE = TaskNote(4242, 17, "mc:two:/a b/\udce9_1.0.bb:do_compile", "x", "1.0", "do_compile", "qemux86-64", 4)
END = TaskEnd(4242, 17, Outcome.OK, 1.5, 3.25, 1 << 30)


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[int]:
    """The FIFO of a place, opened for a listener."""
    file = Notes(tmp_path).listen()
    yield file
    os.close(file)


def test_notes_arrive_as_they_were_sent(tmp_path: Path, fifo: int) -> None:
    """What tasks tell comes once and in order, odd bytes in a path included."""
    notes, listener = Notes(tmp_path), Listener(fifo)
    assert listener.read() == []
    assert notes.begin(NOTE)
    assert notes.end(END)
    assert listener.read() == [NOTE, END]
    assert listener.read() == []


def test_without_a_listener_nothing_is_told_or_kept(tmp_path: Path) -> None:
    """A task whose sentinel has never been, or is gone, goes on and leaves nothing behind."""
    notes = Notes(tmp_path)
    assert not notes.begin(NOTE)
    os.close(notes.listen())
    assert not notes.begin(NOTE)
    notes.clear()
    assert list(tmp_path.iterdir()) == []


def test_a_listener_that_falls_behind_blocks_nobody(tmp_path: Path, fifo: int) -> None:
    """Of more notes than the FIFO holds the first ones arrive, whole, and the others are given up."""
    notes, listener = Notes(tmp_path), Listener(fifo)
    sent = sum(notes.begin(TaskNote(pid, 1, "t", "r", "1", "do_compile", "", 1)) for pid in range(1, 10_001))
    assert 100 < sent < 10_000
    assert [note.pid for note in listener.read()] == list(range(1, sent + 1))
    assert notes.begin(NOTE)


def test_a_note_that_others_could_tear_is_not_sent(tmp_path: Path, fifo: int) -> None:
    """A line longer than the kernel writes in one piece is given up."""
    assert not Notes(tmp_path).begin(TaskNote(1, 1, "t" * 5000, "r", "1", "do_compile", "", 1))
    assert Listener(fifo).read() == []


JSON = st.recursive(
    st.none() | st.integers() | st.text(), lambda some: st.lists(some) | st.dictionaries(st.text(), some)
)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=2000) | JSON.map(lambda value: json.dumps(value).encode()[:4000]))
def test_what_is_no_note_is_passed_over(tmp_path: Path, fifo: int, content: bytes) -> None:
    """Lines of anything else are not believed, and the next note is."""
    os.write(fifo, content + b"\n")
    Notes(tmp_path).begin(NOTE)
    assert Listener(fifo).read() == [NOTE]
    (tmp_path / "state.json").write_bytes(content)
    assert Notes(tmp_path).read_state(1.0) == {}


@pytest.mark.parametrize(("name", "value"), [("pid", 0), ("pid", -1), ("jobs", True), ("start_ticks", "5")])
def test_a_note_with_an_odd_number_is_none(tmp_path: Path, fifo: int, name: str, value: object) -> None:
    """Numbers are checked before anybody looks for a process."""
    os.write(fifo, json.dumps({**vars(NOTE), name: value}).encode() + b"\n")
    assert Listener(fifo).read() == []


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
    """Who listens or writes learns by OSError; who reads finds nothing."""
    (tmp_path / "file").touch()
    notes = Notes(tmp_path / "file")
    with pytest.raises(OSError, match="file"):
        notes.listen()
    with pytest.raises(OSError, match="file"):
        notes.begin(NOTE)
    assert notes.read_state(1.0) == {}
    notes.clear()
