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

from memguard.channels.fifo import Listener, Notes
from memguard.channels.notes import Orders, TaskEnd, TaskGrant, TaskHold, TaskNote, TaskWait, order_line, parse_orders
from memguard.channels.state import STATE_AGE_S, Marks, State, StateFile, TaskState
from memguard.model import Footprint, Mode, Outcome, Policy

NOTE = TaskNote(4242, 17, "mc:two:/a b/\udce9_1.0.bb:do_compile", "x", "1.0", "do_compile", "qemux86-64", 4)
WAIT = TaskWait(4242, 17, 2, False, 1, "cc1plus", "was killed", 1 << 30, 1.5, 3.25, 1 << 29)
END = TaskEnd(4242, 17, Outcome.OK, 1.5, 3.25, 1 << 30)
GRANT = TaskGrant(NOTE.tid, 3, 4, 1 << 30, 1 << 28)
HOLD = TaskHold(NOTE.tid, "x", "do_compile", "needs 4.0 GiB, 1.0 GiB fit")


TEXT = st.text(st.characters(categories=None), max_size=50)
SIZES = st.none() | st.integers(0, 1 << 62)
POLICIES = st.builds(
    Policy,
    mode=st.sampled_from(Mode),
    limit_bytes=SIZES,
    reserve_bytes=SIZES,
    reserve_share=st.none() | st.floats(0, 1),
    min_jobs=st.none() | st.integers(1, 999),
    min_jobs_share=st.floats(0, 1),
    directory=TEXT,
    history=TEXT,
    history_max_bytes=st.integers(0, 1 << 62),
    metrics=TEXT,
    pressure_command=st.just("x" * 5000) | TEXT,
)


@given(st.builds(Orders, build=TEXT, policy=POLICIES, slots=st.integers(0, 4096), log=TEXT))
def test_orders_arrive_as_they_were_given(orders: Orders) -> None:
    """All settings of a build come through the first line of its sentinel's input, long and odd ones included."""
    argument = order_line(orders)
    assert "\n" not in argument
    assert argument.isascii()
    assert parse_orders(argument) == orders


def test_orders_hold_no_secret() -> None:
    """What the sentinel has no use for, as the URL of a database, does not reach it."""
    overrides = {"llvm": {"do_compile": Footprint(1, 2, 3, "MEMGUARD_FOOTPRINT")}}
    argument = order_line(Orders("b1", Policy(fleet="postgresql://u:letmein@h/db", overrides=overrides)))
    assert "letmein" not in argument
    assert "postgresql" not in argument
    assert "llvm" not in argument
    assert parse_orders(argument) == Orders("b1", Policy())


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
    told = [GRANT, HOLD, NOTE, WAIT, END]
    assert all(notes.send(note) for note in told)
    assert listener.read() == told
    assert listener.read() == []


def test_without_a_listener_nothing_is_told_or_kept(tmp_path: Path) -> None:
    """A task whose sentinel has never been, or is gone, goes on and leaves nothing behind."""
    notes = Notes(tmp_path)
    assert not notes.send(NOTE)
    os.close(notes.listen())
    assert not notes.send(NOTE)
    notes.clear()
    assert list(tmp_path.iterdir()) == []


def test_a_listener_that_falls_behind_blocks_nobody(tmp_path: Path, fifo: int) -> None:
    """Of more notes than the FIFO holds the first ones arrive, whole, and the others are given up."""
    notes, listener = Notes(tmp_path), Listener(fifo)
    sent = sum(notes.send(TaskNote(pid, 1, "t", "r", "1", "do_compile", "", 1)) for pid in range(1, 10_001))
    assert 100 < sent < 10_000
    assert [note.pid for note in listener.read()] == list(range(1, sent + 1))
    assert notes.send(NOTE)


def test_a_note_that_others_could_tear_is_not_sent(tmp_path: Path, fifo: int) -> None:
    """A line longer than the kernel writes in one piece is given up."""
    assert not Notes(tmp_path).send(TaskNote(1, 1, "t" * 5000, "r", "1", "do_compile", "", 1))
    assert Listener(fifo).read() == []


JSON = st.recursive(
    st.none() | st.integers() | st.text(), lambda some: st.lists(some) | st.dictionaries(st.text(), some)
)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=2000) | JSON.map(lambda value: json.dumps(value).encode()[:4000]))
def test_what_is_no_note_is_passed_over(tmp_path: Path, fifo: int, content: bytes) -> None:
    """Lines of anything else are not believed, and the next note is."""
    os.write(fifo, content + b"\n")
    Notes(tmp_path).send(NOTE)
    assert Listener(fifo).read() == [NOTE]
    (tmp_path / "state.json").write_bytes(content)
    assert StateFile(tmp_path).read(1.0) is None
    assert StateFile(tmp_path).has_turn("4242-17", 1, 1.0) is None


@pytest.mark.parametrize(("name", "value"), [("pid", 0), ("pid", -1), ("jobs", True), ("start_ticks", "5")])
def test_a_note_with_an_odd_number_is_none(tmp_path: Path, fifo: int, name: str, value: object) -> None:
    """Numbers are checked before anybody looks for a process."""
    os.write(fifo, json.dumps({"note": "begin", **vars(NOTE), name: value}).encode() + b"\n")
    assert Listener(fifo).read() == []


def test_a_state_is_believed_while_it_is_fresh(tmp_path: Path) -> None:
    """Server and tasks take what was told in the last seconds, and nothing of a sentinel that has fallen silent."""
    file = StateFile(tmp_path)
    task = TaskState(**vars(NOTE), current_bytes=5, peak_bytes=7)
    state = State(
        *(100.0, 1.7e9, "b1", 7, 1 << 33, "memory.max", 1 << 32, 1 << 28, 4.0, "enforce", Marks(3, 2, 1)),
        tasks={NOTE.tid: task},
        stopped=1,
        alone="x do_compile",
        turns={"1-2": 1},
    )
    file.publish(state)
    assert file.read(100.0 + STATE_AGE_S) == state
    assert [file.has_turn(mark, attempt, 101.0) for mark, attempt in (("1-2", 1), ("1-2", 2), ("1-3", 1))] == [
        True,
        False,
        False,
    ]
    for now_s in (100.1 + STATE_AGE_S, 99.0):
        assert file.read(now_s) is None
        assert file.has_turn("1-2", 1, now_s) is None
    file.clear()
    assert file.read(100.0) is None
    assert file.left() is None


def test_a_state_of_another_version_is_none(tmp_path: Path) -> None:
    """What an older or newer memguard has left is not acted on."""
    (tmp_path / "state.json").write_text(json.dumps({"version": 3, "time_s": 1.0, "tasks": {}, "turns": []}))
    assert StateFile(tmp_path).read(1.0) is None
    assert StateFile(tmp_path).left() is None


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """Who listens or writes learns by OSError; who reads finds nothing."""
    (tmp_path / "file").touch()
    notes = Notes(tmp_path / "file")
    with pytest.raises(OSError, match="file"):
        notes.listen()
    with pytest.raises(OSError, match="file"):
        notes.send(NOTE)
    notes.clear()
    state = StateFile(tmp_path / "file")
    with pytest.raises(OSError, match="file"):
        state.publish(State(1.0, 1.0, "b1", 7, 1, "", 0, 0, 1.0, "enforce", Marks(0, 0, 0)))
    assert state.read(1.0) is None
    state.clear()


def test_a_fifo_that_is_kept_open_follows_a_new_listener(tmp_path: Path) -> None:
    """The server keeps the FIFO open; a sentinel that was started again has one of its own, and misses nothing."""
    grant = TaskGrant("t", 1, 2, 3, 4)
    told, heard = Notes(tmp_path), Notes(tmp_path)
    first = heard.listen()
    assert told.send(grant, stays_open=True)
    assert told.send(grant, stays_open=True)
    assert Listener(first).read() == [grant, grant]
    os.close(first)
    assert not Notes(tmp_path).send(grant, stays_open=True)
    second = heard.listen()
    assert told.send(grant, stays_open=True)
    assert Listener(second).read() == [grant]
    told.close()
    told.close()
    os.close(second)
