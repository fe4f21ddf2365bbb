# SPDX-License-Identifier: MIT
"""Spoils samples of foreign bytes, the same each time for the same dice.

Covers: bytes, words and numbers of any text; values and keys of JSON; packed files, those that lie about what they hold
included; SQLite files whose tables hold what no history holds.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import lzma
import random
import re
import sqlite3
import zlib
from pathlib import Path
from typing import Any, Callable

from .high_water import HIGH_WATER

# What readers have failed on, here and elsewhere.
WORDS = (
    b"",
    b"\0",
    b"-1",
    b"0",
    b"00",
    b"1e999",
    b"-1e-999",
    b"NaN",
    b"Infinity",
    b"9223372036854775808",
    b"18446744073709551616",
    b"1" * 400,
    b"9" * 5000,
    b"\xff\xfe",
    b"\xed\xa0\x80",
    "\u0663\u00b2".encode(),
    b"\x1b[2J",
    b"\r",
    b"\n",
    b"\n\n",
    b'"',
    b"\\",
    b"\\ud800",
    b"%s%n",
    b"../../..",
    b"/" * 300,
    b"(" * 3000,
    b"[" * 100_000,
    b"{" * 3000,
    b'{"a":' * 20_000,
    b"x" * 70_000,
    b"null",
    b"true",
    b"[]",
    b"{}",
    b" " * 5000,
    b"\t",
    b"\xc2\x85",
    b"*a",
    b"&a ",
    b"max",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    2**31,
    2**63,
    10**400,
    -(2**63) - 1,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "a\0b\x1b[2J\n",
    "x" * 10_000,
    "../x",
    "\u0661",
    [],
    [[]],
    {},
    {"a": {}},
    [None] * 3,
    [1, 2, 3],
)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")


@HIGH_WATER.paused()
def spoil(dice: random.Random, content: bytes, others: tuple[bytes, ...] = ()) -> bytes:
    """A text or file with one to eight things wrong with it; `others` are samples to take parts from."""
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        content = dice.choice(_SPOILERS)(dice, content, others)
    return content[: 4 << 20]


@HIGH_WATER.paused()
def spoil_json(dice: random.Random, content: bytes) -> bytes:
    """Lines of JSON of which some have other values, keys and shapes; now and then spoilt as bytes, too."""
    lines = content.splitlines(keepends=True) or [b"{}"]
    for _ in range(dice.choice((1, 1, 2, 5))):
        place = dice.randrange(len(lines))
        with contextlib.suppress(ValueError, RecursionError):
            told = json.loads(lines[place])
            lines[place] = json.dumps(_changed(dice, told), ensure_ascii=dice.random() < 0.7).encode(
                "utf-8", "surrogatepass"
            )
            lines[place] += b"\n"
    content = b"".join(lines)
    return spoil(dice, content) if dice.random() < 0.3 else content


@HIGH_WATER.paused()
def spoil_packed(dice: random.Random, content: bytes) -> bytes:
    """A text packed by gzip or xz, spoilt before or after, or one that unpacks to far more than a text does."""
    kind = dice.randrange(6)
    if kind == 0:
        return _bomb(dice, content)
    if kind < 3:
        content = spoil(dice, content)
    if dice.random() < 0.5:
        packed = gzip.compress(content, 1, mtime=0)
    else:
        # Whoever unpacks needs the dictionary that the writer wished for.
        room = dice.choice((1 << 12, 1 << 20, 1 << 26, 1 << 29, (1 << 30) + (1 << 29)))
        writer = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 16}]
        packed = bytearray(lzma.compress(content, lzma.FORMAT_XZ, check=lzma.CHECK_CRC32, filters=writer))
        packed = with_dictionary(bytes(packed), room)
    if kind > 3:
        packed = spoil(dice, packed)
    return packed * dice.choice((1, 1, 1, 2))


def _bomb(dice: random.Random, content: bytes) -> bytes:
    """A few bytes that unpack to up to 200 MiB of one piece over and over, made without holding these."""
    pieces = (
        b"\0",
        b"x",
        b"NOTE: all is well\n",
        b"\n",
        b"a\n",
        b"a\r",
        b"Killed\n",
        b"-9",
        b"1 137\n",
        content[:4096],
    )
    piece = dice.choice(pieces) or b"x"
    mib = piece * ((1 << 20) // len(piece))
    packer = dice.choice((lambda: zlib.compressobj(1, wbits=31), lambda: lzma.LZMACompressor(preset=0)))()
    return b"".join([packer.compress(mib) for _ in range(dice.choice((8, 64, 200)))]) + packer.flush()


@HIGH_WATER.paused()
def spoil_database(dice: random.Random, path: Path) -> None:
    """Change a history in ways that SQLite allows, or as a file."""
    kind = dice.random()
    if kind < 0.3:
        path.write_bytes(spoil(dice, path.read_bytes()))
        return
    if kind < 0.4:
        path.write_bytes(_twisted(dice, path.read_bytes()))
        return
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA writable_schema = ON")
        for _ in range(dice.choice((1, 1, 2, 4))):
            tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            with contextlib.suppress(sqlite3.Error, OverflowError, ValueError):
                _change_table(dice, database, dice.choice(tables))


def _twisted(dice: random.Random, content: bytes) -> bytes:
    """A database in whose trees some pages have others than their children, each one many times.

    The format of pages: https://www.sqlite.org/fileformat2.html#b_tree_pages.
    """
    found = bytearray(content)
    size = int.from_bytes(found[16:18], "big")
    inner = [begin for begin in range(size, len(found) - size + 1, size) if found[begin] in (2, 5)]
    for begin in dice.sample(inner, dice.randrange(len(inner) + 1)):
        child = dice.choice(inner) // size + 1
        cells = int.from_bytes(found[begin + 3 : begin + 5], "big")
        places = [int.from_bytes(found[at : at + 2], "big") for at in range(begin + 12, begin + 12 + 2 * cells, 2)]
        for at in (begin + 8, *(begin + place for place in places)):
            if dice.random() < 0.9:
                found[at : at + 4] = child.to_bytes(4, "big")
    return bytes(found)


def _change_table(dice: random.Random, database: sqlite3.Connection, table: str) -> None:
    columns = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
    column = dice.choice(columns or ["none"])  # an earlier change may have spoilt the table's definition
    value = dice.choice((None, "", "x", b"", b"\xff" * 300, -1, 0, 2**62, 1e308, float("inf"), "a\0b", "\x1b[2J"))
    statement = dice.choice(
        (
            f'UPDATE "{table}" SET "{column}" = ?1',
            f'UPDATE OR IGNORE "{table}" SET "{column}" = ?1 WHERE rowid % 2',
            f'DELETE FROM "{table}" WHERE ?1 IS NOT 3',
            f'DROP TABLE "{table}"',
            f'ALTER TABLE "{table}" RENAME COLUMN "{column}" TO other',
            f'ALTER TABLE "{table}" RENAME TO other',
            f"PRAGMA user_version = {dice.choice((0, 1, 2, 3, 99, -1, 2**31 - 1))}",
            f"PRAGMA application_id = {dice.choice((0, 1, 2**31 - 1))}",
            "UPDATE sqlite_master SET sql = 'CREATE TABLE x(y)' WHERE rowid % 2",
            f'CREATE TRIGGER t AFTER INSERT ON "{table}" BEGIN SELECT randomblob(1000000000); END',
            f'UPDATE "{table}" SET "{column}" = zeroblob(20000000) WHERE rowid = 1',
        )
    )
    database.execute(statement, (value,) if "?1" in statement else ())


def with_dictionary(packed: bytes, room: int) -> bytes:
    """The same xz file whose block says that it needs a dictionary of this size (The .xz File Format, 3.1, 5.3.1)."""
    header = bytearray(packed)
    size = (header[12] + 1) * 4
    at = header.index(b"\x21\x01", 12) + 2
    bits = 0
    while bits < 40 and (2 | (bits & 1)) << (bits // 2 + 11) < room:
        bits += 1
    header[at] = bits
    header[12 + size - 4 : 12 + size] = zlib.crc32(bytes(header[12 : 12 + size - 4])).to_bytes(4, "little")
    return bytes(header)


def _changed(dice: random.Random, told: Any) -> Any:
    """A value with something else somewhere in it."""
    if dice.random() < 0.25 or not isinstance(told, (dict, list)) or not told:
        return dice.choice(VALUES)
    if isinstance(told, list):
        place = dice.randrange(len(told))
        kind = dice.randrange(4)
        if kind == 0:
            return told[:place] + told[place + 1 :]
        if kind == 1:
            return told * dice.choice((2, 50))
        return [*told[:place], _changed(dice, told[place]), *told[place + 1 :]]
    key = dice.choice(sorted(told))
    kind = dice.randrange(5)
    if kind == 0:
        return {name: value for name, value in told.items() if name != key}
    if kind == 1:
        return {**told, dice.choice(("", "x", "\ud800", "time", "pid", "format")): dice.choice(VALUES)}
    return {**told, key: _changed(dice, told[key])}


def _flip(dice: random.Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    found = bytearray(content)
    for _ in range(dice.choice((1, 1, 4, 64))):
        if found:
            found[dice.randrange(len(found))] = dice.randrange(256)
    return bytes(found)


def _insert(dice: random.Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    place = dice.randrange(len(content) + 1)
    return content[:place] + dice.choice(WORDS) + content[place:]


def _replace_number(dice: random.Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    found = list(_NUMBER.finditer(content[: 1 << 16]))
    if not found:
        return _insert(dice, content, others)
    match = dice.choice(found)
    return content[: match.start()] + dice.choice(WORDS) + content[match.end() :]


def _cut(dice: random.Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    first, last = sorted((dice.randrange(len(content) + 1), dice.randrange(len(content) + 1)))
    return content[:first] + content[last:]


def _end(dice: random.Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    return content[: dice.randrange(len(content) + 1)]


def _repeat(dice: random.Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    first = dice.randrange(len(content) + 1)
    part = content[first : first + dice.choice((1, 20, 400))]
    return content[:first] + part * dice.choice((2, 100, 5000)) + content[first:]


def _mix(dice: random.Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    other = dice.choice(others) if others else content
    lines, more = content.splitlines(keepends=True), other.splitlines(keepends=True)
    if not lines or not more:
        return other
    place = dice.randrange(len(lines))
    lines[place] = dice.choice(more)
    return b"".join(lines)


def _shuffle(dice: random.Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    lines = content.splitlines(keepends=True)
    dice.shuffle(lines)
    return b"".join(lines)


_SPOILERS: tuple[Callable[[random.Random, bytes, tuple[bytes, ...]], bytes], ...] = (
    _flip,
    _insert,
    _replace_number,
    _replace_number,
    _cut,
    _end,
    _repeat,
    _mix,
    _shuffle,
)
