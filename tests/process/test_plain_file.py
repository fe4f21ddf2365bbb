# SPDX-License-Identifier: MIT
"""What lies in place of the small files below MEMGUARD_DIR is neither waited for nor followed."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Callable

import pytest

from memguard.channels.fifo import Notes
from memguard.channels.grants import Handed, Handover
from memguard.channels.kills import Kills
from memguard.channels.notes import TaskHold
from memguard.channels.plain_file import append_plain, make_private, read_plain, replace_plain
from memguard.channels.state import Marks, State, StateFile
from memguard.model import Kill
from memguard.record.events import Stopped
from memguard.record.metrics import write as write_metrics
from memguard.record.readings_log import Readings

STATE = State(1.0, 2.0, "b", 3, 4, "test", 5, 6, 7.0, "enforce", Marks(1, 2, 3))
SECRET = "somebody else's"
KINDS = ("fifo", "symlink", "hard link", "dangling link", "directory")


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A file of somebody else."""
    path = tmp_path / "foreign"
    path.write_text(SECRET)
    return path


def put(kind: str, path: Path, foreign: Path) -> None:
    """Put something that is not a plain file of ours at a place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "symlink":
        path.symlink_to(foreign)
    elif kind == "hard link":
        path.hardlink_to(foreign) if hasattr(path, "hardlink_to") else os.link(foreign, path)
    elif kind == "dangling link":
        path.symlink_to(foreign.with_name("nowhere"))
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_else_is_read_as_a_state(tmp_path: Path, foreign: Path, kind: str) -> None:
    """A FIFO, a link or a directory is no state, at once."""
    put(kind, tmp_path / "build" / "state.json", foreign)
    assert StateFile(tmp_path / "build").left() is None


@pytest.mark.parametrize("kind", KINDS[:-1])
@pytest.mark.parametrize("name", ["state.json", "state.json.draft"])
def test_a_state_replaces_whatever_is_there(tmp_path: Path, foreign: Path, kind: str, name: str) -> None:
    """The state is written all the same, and a foreign file stays as it was."""
    put(kind, tmp_path / "build" / name, foreign)
    file = StateFile(tmp_path / "build")
    for time_s in (1.0, 2.0):
        file.publish(replace(STATE, time_s=time_s))
        assert file.left() == replace(STATE, time_s=time_s)
    assert foreign.read_text() == SECRET
    assert not foreign.with_name("nowhere").exists()


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_a_grant_is_written_and_read_as_a_plain_file(tmp_path: Path, foreign: Path, kind: str) -> None:
    """What lies in place of its draft is replaced; what lies in its own place is not waited for."""
    handover = Handover(tmp_path / "build")
    handover.put("t", Handed(3))
    (path,) = (tmp_path / "build" / "grants").iterdir()
    put(kind, path.with_suffix(".draft"), foreign)
    handover.put("t", Handed(4))
    assert handover.take("t") == Handed(4)
    put(kind, path, foreign)
    if kind == "hard link":
        with pytest.raises(ValueError, match="value"):
            handover.take("t")
    elif kind != "dangling link":
        with pytest.raises(OSError, match=r"not a plain file|symbolic links"):
            handover.take("t")
    assert foreign.read_text() == SECRET


@pytest.mark.parametrize("kind", ["fifo", "symlink", "dangling link", "directory"])
def test_a_note_of_a_kill_is_not_written_elsewhere(tmp_path: Path, foreign: Path, kind: str) -> None:
    """Without a plain file to write to there is no note, and the sentinel goes on."""
    put(kind, tmp_path / "build" / "kills" / "m.jsonl", foreign)
    Kills(tmp_path / "build").note("m", Kill(1.0, "cc1plus", 2, 3, 4, ("a.o",)))
    assert foreign.read_text() == SECRET
    assert not foreign.with_name("nowhere").exists()


@pytest.mark.parametrize("kind", KINDS[1:])
def test_no_note_for_the_sentinel_is_written_elsewhere(tmp_path: Path, foreign: Path, kind: str) -> None:
    """Only a FIFO is heard; who begins to listen makes it anew."""
    put(kind, tmp_path / "build" / "tasks", foreign)
    notes = Notes(tmp_path / "build")
    assert not notes.is_heard()
    with contextlib.suppress(OSError):
        assert not notes.send(TaskHold("t", "r", "do_compile", "why"))
    assert foreign.read_text() == SECRET
    if kind != "directory":
        file = notes.listen()
        assert notes.is_heard()
        os.close(file)
    assert foreign.read_text() == SECRET


@pytest.mark.parametrize("kind", ["fifo", "symlink", "dangling link", "directory"])
def test_no_reading_is_written_elsewhere(tmp_path: Path, foreign: Path, kind: str) -> None:
    """Then none are kept, and nobody waits."""
    path = tmp_path / "build" / "readings" / "1.jsonl"
    put(kind, path, foreign)
    readings = Readings(str(path))
    readings.write(Stopped(1.0, "r", "do_compile", 5))
    readings.close()
    assert foreign.read_text() == SECRET
    assert not foreign.with_name("nowhere").exists()


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_metrics_are_drafted_in_a_file_of_their_own(tmp_path: Path, foreign: Path, kind: str) -> None:
    """The directory of node_exporter belongs to several: what lies in place of the draft is replaced."""
    put(kind, tmp_path / "metrics" / f"memguard.prom.{os.getpid()}.draft", foreign)
    write_metrics(str(tmp_path / "metrics" / "memguard.prom"), "a 1\n")
    assert foreign.read_text() == SECRET
    (path,) = (tmp_path / "metrics").iterdir()
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("a 1\n", 0o644)


@pytest.mark.parametrize(
    "use",
    [
        lambda path: read_plain(path, 10),
        lambda path: append_plain(path, b"x"),
        lambda path: replace_plain(f"{path}/a", f"{path}/b", b"x"),
    ],
)
def test_what_cannot_be_is_an_os_error(tmp_path: Path, use: Callable[[str], object]) -> None:
    """Each says so by the one kind of error that its callers expect."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="fifo"):
        use(str(tmp_path / "fifo"))


def test_the_directory_is_private_where_it_is_made(tmp_path: Path) -> None:
    """Nobody else enters a directory that memguard made; one that the user made stays as it is."""
    os.close(Notes(tmp_path / "build" / "memguard").listen())
    assert stat.S_IMODE((tmp_path / "build" / "memguard").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "build").stat().st_mode) & 0o055 == 0o055
    (tmp_path / "own").mkdir(0o755)
    make_private(tmp_path / "own")
    assert stat.S_IMODE((tmp_path / "own").stat().st_mode) == 0o755
