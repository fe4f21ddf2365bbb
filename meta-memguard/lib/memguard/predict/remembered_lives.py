# SPDX-License-Identifier: MIT
"""The lives of single jobs, remembered from one build of a task to the next by what they build.

Runs in: the sentinel, `memguard run` and every simulation; pure.
Covers: a table of lives by unit, which is what a job builds; its form as bytes; what is forgotten of it; two tables
that were learned in different places, joined.
Does not cover: which unit a process builds (sense/compilers), where the bytes are kept (record/history), what is
expected of a job whose unit is known (job_lives).

The same unit takes about the same in the next build: the same file goes through the same compiler. So a job that has
just begun is known by its unit, long before it can be known by its age and size.
"""

from __future__ import annotations

import heapq
import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from math import isfinite

from memguard.predict.job_lives import Life

# The most units that are kept of a task; of more, the largest.
# evidence: chromium has some 40,000 files
MOST_UNITS = 50_000
# Where a unit took less than before, its peak is lowered by this share of the difference: a look may miss a peak.
# evidence: chosen, not measured
FADES = 0.25
# A unit is forgotten once this many builds have not met it, of those that built at least WHOLE_SHARE of all units.
# evidence: chosen; two branches that are built in turn keep theirs
GONE_AFTER = 4
WHOLE_SHARE = 0.5

# Begins each table; the digit is the version of what follows, by unit: unit, peak, length, rise, begin, and how many
# builds have not met it since.
_MAGIC = b"lives1\n\0"
_ROW = struct.Struct(">QQfffB")


class NoTable(ValueError):
    """Bytes that are no table of lives."""


class Lives:
    """The lives of a task's jobs by unit: those of earlier builds, and those that are added in this one.

    A task of 40,000 units takes 1.5 MiB, and four times that for what is added.
    """

    def __init__(self, packed: bytes = b"") -> None:
        """`packed`: what packed() gave in an earlier build. Raises NoTable."""
        if packed and (not packed.startswith(_MAGIC) or (len(packed) - len(_MAGIC)) % _ROW.size):
            raise NoTable("not a table of lives, as packed() gives it")
        self._packed = packed or _MAGIC
        self._units = array("Q", (_ROW.unpack(row)[0] for row in self._rows()))
        if any(first >= second for first, second in zip(self._units, self._units[1:])):
            raise NoTable("a table of lives whose units come in no order")
        self._added: dict[int, bytes] = {}

    @classmethod
    def found(cls, packed: bytes) -> Lives:
        """Those in `packed`; none where it is no table."""
        try:
            return cls(packed)
        except NoTable:
            return cls()

    def __len__(self) -> int:
        """The units known from earlier builds."""
        return len(self._units)

    @property
    def has_news(self) -> bool:
        """Whether anything was added in this build."""
        return bool(self._added)

    def of(self, unit: int) -> Life | None:
        """The life of `unit` in earlier builds, None where it is not known."""
        place = self._find(unit)
        return None if place is None else _life(self._row(place))

    def sample(self, count: int) -> list[Life]:
        """At most `count` lives of earlier builds, of all kinds, the same ones each time."""
        # Units are digests: in their order, all kinds of lives are mixed.
        stride = max(1, len(self) // count)
        found = [_life(self._row(place)) for place in range(0, len(self), stride)[:count]]
        return [life for life in found if life is not None]

    def add(self, unit: int, life: Life) -> None:
        """A job of this build has ended."""
        if unit:
            self._add(unit, _ROW.pack(unit, life.peak_bytes, life.wall_s, life.rise_s, life.begun_s, 0))

    def take(self, other: Lives) -> None:
        """Add what was added to `other`."""
        for unit, row in other._added.items():
            self._add(unit, row)

    def packed(self) -> bytes:
        """All that shall be remembered, as bytes."""
        before = dict(zip(self._units, self._rows()))
        now = {unit: _faded(row, before[unit]) if unit in before else row for unit, row in self._added.items()}
        return _pack(now, before)

    def joined_to(self, older: Lives) -> bytes:
        """These and those of a table that was written before, in another place: all that shall be remembered.

        These count where both know a unit. To join the same again changes nothing.
        """
        return _pack(dict(zip(self._units, self._rows())), dict(zip(older._units, older._rows())))

    def _add(self, unit: int, row: bytes) -> None:
        # Of what is built twice, as tests of a configure script are, the largest counts; rows are in order of that.
        self._added[unit] = max(row, self._added.get(unit, row))

    def _find(self, unit: int) -> int | None:
        place = bisect_left(self._units, unit)
        return place if place < len(self._units) and self._units[place] == unit else None

    def _row(self, place: int) -> bytes:
        start = len(_MAGIC) + place * _ROW.size
        return self._packed[start : start + _ROW.size]

    def _rows(self) -> Iterator[bytes]:
        return map(self._row, range((len(self._packed) - len(_MAGIC)) // _ROW.size))


def _pack(now: dict[int, bytes], before: dict[int, bytes]) -> bytes:
    """The rows of `now`, and those of `before` for other units until they are gone, by unit, as a table."""
    is_whole = len(now) >= WHOLE_SHARE * len(before)
    rows = list(now.values())
    for unit, row in before.items():
        if unit in now:
            continue
        if not is_whole:
            rows.append(row)
        elif row[-1] < GONE_AFTER:
            rows.append(row[:-1] + bytes([row[-1] + 1]))
    if len(rows) > MOST_UNITS:
        rows = heapq.nlargest(MOST_UNITS, rows, key=_peak_bytes)
    return _MAGIC + b"".join(sorted(rows))


def _peak_bytes(row: bytes) -> int:
    return int.from_bytes(row[8:16], "big")


def _faded(row: bytes, before: bytes) -> bytes:
    """The row of a unit, with a part of what it took before where that was more."""
    less = _peak_bytes(before) - _peak_bytes(row)
    if less <= 0:
        return row
    return row[:8] + (_peak_bytes(before) - int(less * FADES)).to_bytes(8, "big") + row[16:]


def _life(row: bytes) -> Life | None:
    """The life in a row, None where there is none in it."""
    _, peak, wall_s, rise_s, begun_s, _ = _ROW.unpack(row)
    if not (isfinite(wall_s) and wall_s > 0 and 0 <= begun_s < rise_s < float("inf")):
        return None
    return Life(peak, wall_s, rise_s, begun_s)
