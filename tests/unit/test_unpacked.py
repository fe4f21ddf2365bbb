# SPDX-License-Identifier: MIT
"""Packed files of others: whole where they are honest, refused in a sentence where they are not."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import pytest
from bench.mutations import with_dictionary

from memguard.units import MIB
from memguard_cli.builds.unpacked import LEAST_BYTES, NotUnpacked, is_packed, unpacked

TEXT = b"".join(b"line %d of a log\n" % number for number in range(200_000))
XZ = lzma.compress(TEXT, preset=0)


def read(path: Path, packed: bytes) -> bytes:
    """What a file with these bytes unpacks to."""
    path.write_bytes(packed)
    assert is_packed(packed)
    with open(path, "rb") as file, unpacked(file) as text:
        return text.read()


@pytest.mark.parametrize(
    ("packed", "text"),
    [
        (gzip.compress(TEXT, 1), TEXT),
        (gzip.compress(TEXT, 1) * 2, TEXT * 2),
        (XZ, TEXT),
        (XZ * 2, TEXT * 2),
        (XZ + b"\0" * 70_000 + XZ, TEXT * 2),
        (XZ + b"\0\0\0\0", TEXT),
        (XZ + b"something else", TEXT),
        (lzma.compress(b""), b""),
        (lzma.compress(TEXT[:10], preset=9), TEXT[:10]),
    ],
)
def test_what_was_packed_is_read_whole(tmp_path: Path, packed: bytes, text: bytes) -> None:
    """Several parts, zeros between them, and a dictionary as large as xz -9 makes."""
    assert read(tmp_path / "packed", packed) == text


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (XZ[:-30], "too early"),
        (gzip.compress(TEXT)[:-30], "too early"),
        (XZ[:3000] + b"x" * 300 + XZ[3300:], "cannot be unpacked"),
        (gzip.compress(TEXT)[:3000] + b"x" * 300, "cannot be unpacked"),
        (gzip.compress(TEXT)[:-8] + b"x" * 8, "cannot be unpacked"),
        (gzip.compress(TEXT) + b"something else", "cannot be unpacked"),
        (with_dictionary(XZ, 1 << 29), "cannot be unpacked: Memory usage limit"),
        (gzip.compress(bytes(LEAST_BYTES + 1), 1), "100 times its size"),
        (lzma.compress(bytes(LEAST_BYTES + 1), preset=0), "100 times its size"),
    ],
)
def test_what_is_not_is_a_sentence(tmp_path: Path, packed: bytes, why: str) -> None:
    """Spoilt bytes, a dictionary that takes half a gigabyte, and a few bytes that would unpack without end."""
    with pytest.raises(NotUnpacked, match=why):
        read(tmp_path / "packed", packed)


def test_it_is_read_as_it_comes(tmp_path: Path) -> None:
    """Nobody has to hold more than a piece."""
    (tmp_path / "packed").write_bytes(lzma.compress(bytes(30 * MIB), preset=0))
    with open(tmp_path / "packed", "rb") as file, unpacked(file) as text:
        assert sum(len(piece) for piece in iter(lambda: text.read(1 << 16), b"")) == 30 * MIB
