# SPDX-License-Identifier: MIT
"""The state of a running build: what the sentinel writes, others read as the same value, or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from memguard.channels.state import (
    STATE_AGE_S,
    VERSION,
    Counts,
    HeldTask,
    Marks,
    OtherVersion,
    State,
    StateFile,
    TaskState,
    as_object,
    parse,
)
from memguard.model import BuildUse, TaskUse
from testbed.values import JSON, NUMBER, TEXT, any_of, there_and_back

TID = "mc:two:/a b/\udce9_1.0.bb:do_compile"
TASK = TaskState(42, 17, TID, "zlib", "1.0", "do_compile", "qemux86-64", 4, current_bytes=5, peak_bytes=7, tokens=2)
YOUNG = TaskState(43, 18, "t", "mesa", "2", "do_compile", "", 4, granted_bytes=1 << 30)
STATE = State(
    time_s=100.0,
    time=1.7e9,
    build="20260131120000",
    pid=41,
    limit_bytes=4 << 30,
    limit_source="/sys/fs/cgroup/memory.max",
    used_bytes=1 << 30,
    reserve_bytes=1 << 28,
    cpus=4.0,
    mode="enforce",
    marks=Marks(3 << 30, 7 << 29, 15 << 28),
    tasks={TID: TASK, "t": YOUNG},
    held=(HeldTask("llvm", "do_compile", "needs 4.0 GiB, 1.0 GiB fit", 1.7e9),),
    stopped=1,
    alone="llvm do_compile",
    turns={"42-17": 1},
    counts=Counts(granted=3, oom_kills=None),
    events=({"event": "hold", "time": 1.7e9},),
)
STATES = any_of(
    State,
    marks=any_of(Marks),
    tasks=st.dictionaries(TEXT, any_of(TaskState), max_size=2),
    held=st.lists(any_of(HeldTask), max_size=2).map(tuple),
    turns=st.dictionaries(TEXT, NUMBER, max_size=2),
    counts=any_of(Counts),
    events=st.lists(st.dictionaries(TEXT, TEXT, max_size=2), max_size=2).map(tuple),
)


def as_bytes(told: object) -> bytes:
    """A JSON value as a file holds it."""
    return json.dumps(told).encode("ascii")


@given(STATES)
def test_what_is_written_is_read(state: State) -> None:
    """Any state comes back as it was."""
    assert parse(as_bytes(as_object(state))) == state


def test_what_another_version_adds_is_passed_over() -> None:
    """Keys that are not known change nothing, in the state and in its tasks."""
    told = there_and_back(as_object(STATE))
    told["colour"] = told["tasks"][TID]["colour"] = "blue"
    assert parse(as_bytes(told)) == STATE


@pytest.mark.parametrize("version", [1, 3, 10**30])
def test_another_version_is_named(version: int) -> None:
    """Who watches a build of another memguard learns which; version 1 had no number of its own."""
    with pytest.raises(OtherVersion) as other:
        parse(as_bytes({"version": version}))
    assert other.value.version == version
    with pytest.raises(OtherVersion) as first:
        parse(b'{"time_s": 1.0}')
    assert first.value.version == 1


@pytest.mark.parametrize("version", [0, -1, True, 2.0, "2", None])
def test_what_is_no_version_is_no_other_one(version: object) -> None:
    """Such a file is damaged."""
    with pytest.raises(ValueError, match=r"^version$") as damaged:
        parse(as_bytes({**as_object(STATE), "version": version}))
    assert not isinstance(damaged.value, OtherVersion)


@given(st.binary(max_size=60) | JSON.map(as_bytes))
def test_anything_else_is_a_value_error(content: bytes) -> None:
    """Nothing but ValueError comes of a file that holds something else."""
    with pytest.raises(ValueError, match=r"."):
        parse(content)


def test_a_state_that_is_cut_is_none() -> None:
    """A file that was copied while it was written is refused wherever it ends."""
    content = as_bytes(as_object(STATE))
    for end in range(len(content)):
        with pytest.raises(ValueError, match=r"."):
            parse(content[:end])
    with pytest.raises(ValueError, match="depth"):
        parse(b"[" * 100_000)


@given(st.sampled_from(sorted(as_object(STATE))), JSON)
@example("turns", {"x": float("inf")})
@example("tasks", {"x": None})
@example("held", [[]])
@example("events", 1)
def test_a_state_with_an_odd_value_is_one_or_a_value_error(key: str, value: Any) -> None:
    """Whatever stands where something else is due, it is a state that can be written again, or a ValueError."""
    try:
        state = parse(as_bytes({**as_object(STATE), key: value}))
    except ValueError:
        return
    assert parse(as_bytes(as_object(state))) == state


@pytest.mark.parametrize(
    "key",
    sorted(
        {key for key in as_object(STATE) if not key.startswith("neighbours")}
        - {"version", "stopped", "rise_bytes", "parked_bytes", "alone", "done", "all_tasks", "left_s"}
    ),
)
def test_a_state_without_one_of_its_values_is_none(key: str) -> None:
    """The error names what is missing."""
    told = as_object(STATE)
    del told[key]
    with pytest.raises(ValueError, match=f"^{key}$"):
        parse(as_bytes(told))


def test_what_others_need_of_it() -> None:
    """The server gets sizes and busy CPUs, people names, and a task's note is what it began with."""
    assert STATE.use == BuildUse({TID: TaskUse(5, 1.0, 7), "t": TaskUse(0)}, 1, "llvm do_compile")
    assert TASK.note.pool == ""
    assert (TASK.name, STATE.held[0].name) == ("zlib do_compile", "llvm do_compile")


def test_the_heaviest_task() -> None:
    """It is the one that takes most, and among those that are too young the one that is expected to."""
    assert STATE.heaviest is TASK
    assert State(**{**vars(STATE), "tasks": {"t": YOUNG}}).heaviest is YOUNG
    assert State(**{**vars(STATE), "tasks": {}}).heaviest is None


def test_a_file_is_believed_while_it_is_fresh(tmp_path: Path) -> None:
    """Readers take what was written in the last seconds, and nothing of a sentinel that has fallen silent."""
    file = StateFile(tmp_path)
    file.publish(STATE)
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]
    assert file.read(100.0) == file.read(100.0 + STATE_AGE_S) == file.left() == STATE
    assert [file.has_turn(mark, attempt, 101.0) for mark, attempt in (("42-17", 1), ("42-17", 2), ("1-3", 1))] == [
        True,
        False,
        False,
    ]
    for now_s in (100.1 + STATE_AGE_S, 99.0):
        assert file.read(now_s) is None
        assert file.has_turn("42-17", 1, now_s) is None
    assert file.left() == STATE


def test_a_file_that_was_cleared_is_gone(tmp_path: Path) -> None:
    """With it goes a draft that was left behind; to clear what is not there is no fault."""
    file = StateFile(tmp_path)
    file.publish(STATE)
    (tmp_path / "state.json.draft").touch()
    file.clear()
    file.clear()
    assert list(tmp_path.iterdir()) == []
    assert (file.left(), file.read(100.0), file.has_turn("42-17", 1, 100.0)) == (None, None, None)


@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.binary(max_size=60) | JSON.map(as_bytes))
def test_a_damaged_file_is_none(tmp_path: Path, content: bytes) -> None:
    """Nobody acts on it, and it stands in the way of no new one."""
    (tmp_path / "state.json").write_bytes(content)
    file = StateFile(tmp_path)
    assert (file.read(100.0), file.left()) == (None, None)
    file.publish(STATE)
    assert file.left() == STATE


def test_a_file_of_another_version_is_none(tmp_path: Path) -> None:
    """What an older or newer memguard has left is not acted on."""
    (tmp_path / "state.json").write_bytes(as_bytes({**as_object(STATE), "version": VERSION + 1}))
    assert StateFile(tmp_path).left() is None


def test_a_place_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    """Who writes learns of it; who reads finds nothing."""
    (tmp_path / "file").touch()
    file = StateFile(tmp_path / "file")
    with pytest.raises(OSError, match="file"):
        file.publish(STATE)
    assert file.left() is None
    file.clear()
