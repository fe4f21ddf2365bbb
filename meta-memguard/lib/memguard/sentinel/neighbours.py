# SPDX-License-Identifier: MIT
"""Other builds under the same limit: finds them on the limit's board, and says there what this one's tasks do.

Runs in: the sentinel; standard library only.
Covers: who is counted, and who is gone. Where anything goes wrong the build goes on by itself.
Does not cover: what is on the board (channels/neighbours), and what follows from it (others, decide/).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from memguard.channels.neighbours import Board, Entry, Found, as_bytes, parse
from memguard.model import Reading
from memguard.sense.container import Sensor
from memguard.sense.limit_id import limit_id
from memguard.sense.proc_files import ProcessId, find_process, read_stat
from memguard.sentinel.others import NOBODY, Others, others_of, unheard

# Who has written nothing for this long hangs, or is stopped: nobody may count on what it would do, and its tasks only
# count as memory. By our own clock, since whatever else says when a file was written may be wrong.
# evidence: as STATE_AGE_S of channels/state; a sentinel writes at every look, three times a second
BEAT_AGE_S = 3.0
# Where no other build was seen, it is said this often only that we are here.
# evidence: chosen; a newcomer counts us from its first look on, and we it within a second
ALONE_BEAT_S = 1.0


@dataclass
class _Known:
    """An entry as it was last read. changed_s: when it was seen to be new."""

    signature: tuple[int, int, int]
    changed_s: float
    entry: Entry | None


class Neighbours:
    """The builds beside one. Says once by `warn` what is wrong, and never raises; with "off" there is nobody."""

    def __init__(self, setting: str, sensor: Sensor, warn: Callable[[str], None]) -> None:
        """setting: MEMGUARD_NEIGHBOURS."""
        self._sensor, self._warn = sensor, warn
        self._board: Board | None = None
        self._key = ""
        self._others = NOBODY
        self._said_s = float("-inf")
        self._known: dict[ProcessId, _Known] = {}
        me = find_process(os.getpid())
        if setting == "off" or me is None:
            return
        self._self = me
        try:
            self._board = Board(setting)
            # What killed sentinels have left, under other limits, too. Who lives behind another pid namespace says all
            # anew with its next beat.
            for name in self._board.names():
                if not lives(ProcessId(name.pid, name.start_ticks)):
                    self._board.remove(*name)
        except OSError as error:
            # Nobody has asked for a board; doctor says that there is none.
            if setting != "auto":
                warn(f"other builds under the same limit are not seen: {setting}: {error.strerror}")

    def look(self, now_s: float, reading: Reading | None) -> Others:
        """What the other builds do now; `now_s` is the monotonic clock."""
        if self._board is not None and reading is not None:
            try:
                self._others = self._look(self._board, now_s, reading)
            except Exception as error:  # a build must not suffer from its neighbours
                self._give_up(error)
        return self._others

    def say(self, now_s: float, entry: Entry) -> None:
        """Let the other builds know what this one does."""
        pause_s = 0.0 if self._others.builds else ALONE_BEAT_S
        if self._board is None or not self._key or now_s - self._said_s < pause_s:
            return
        self._said_s = now_s
        try:
            self._board.write(self._key, *self._self, as_bytes(entry))
        except OSError:
            pass  # a full disk may have room again
        except Exception as error:
            self._give_up(error)

    def close(self) -> None:
        """Be gone."""
        board, self._board, self._others = self._board, None, NOBODY
        if board is not None:
            if self._key:
                board.remove(self._key, *self._self)
            board.close()

    def _give_up(self, error: Exception) -> None:
        self.close()
        self._warn(f"other builds under the same limit are not seen any more: {error!r}")

    def _look(self, board: Board, now_s: float, reading: Reading) -> Others:
        key = limit_id(self._sensor, reading) or ""
        if key != self._key:  # moved to another cgroup, or the limit has
            if self._key:
                board.remove(self._key, *self._self)
            self._key, self._known, self._said_s = key, {}, float("-inf")
        if not key:
            return NOBODY
        entries = dict(self._entries(board, now_s))
        self._known = {sentinel: self._known[sentinel] for sentinel in entries}
        return others_of({sentinel: entry for sentinel, entry in entries.items() if entry is not None})

    def _entries(self, board: Board, now_s: float) -> Iterator[tuple[ProcessId, Entry | None]]:
        """All on the board but ourselves, by their sentinels; None of who has said nothing that can be read."""
        for found in board.read(self._key):
            sentinel = ProcessId(found.name.pid, found.name.start_ticks)
            if sentinel == self._self:
                continue
            if not lives(sentinel):
                board.remove(self._key, *sentinel)
                continue
            known = self._known.get(sentinel)
            if known is None or known.signature != found.signature:
                known = self._known[sentinel] = _Known(found.signature, now_s, _entry(found))
            entry = known.entry
            if entry is not None and now_s - known.changed_s > BEAT_AGE_S:
                entry = unheard(entry, lives)
            yield sentinel, entry


def lives(process: ProcessId) -> bool:
    """Whether a process lives; of one that is hidden (hidepid), whether any has its pid."""
    stat = read_stat(process.pid)
    if stat is not None:
        return stat.start_ticks == process.start_ticks and stat.state not in (b"Z", b"X")
    try:
        os.kill(process.pid, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _entry(found: Found) -> Entry | None:
    try:
        return parse(found.content)
    except ValueError:
        return None
