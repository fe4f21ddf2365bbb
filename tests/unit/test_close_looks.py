# SPDX-License-Identifier: MIT
"""A log of nothing but short lines, or of words of memory: no more lines are looked at closely than can be."""

from __future__ import annotations

import io

import pytest

from memguard.diagnose import scan, stems

DEATH = b"cc1plus: out of memory allocating 65536 bytes after a total of 1000000 bytes\n"


@pytest.mark.parametrize(
    ("piece", "most"), [(b"a\n", 6_010), (b"a\r", 6_010), (b"Killed\n", 9_000), (b"rror 137\r", 9_000)]
)
def test_close_looks_have_a_bound(monkeypatch: pytest.MonkeyPatch, piece: bytes, most: int) -> None:
    """What it says at its end is found all the same, with the number of its line."""
    looks = 0

    def read_line(*words: object) -> scan.Line:
        nonlocal looks
        looks += 1
        return before(*words)  # type: ignore[arg-type]

    before = scan.read_line
    monkeypatch.setattr(scan, "_CLOSE_LINES", 6000)
    monkeypatch.setattr(scan, "_CLOSE_CANDIDATES", 2000)
    monkeypatch.setattr(stems, "_MOST_CANDIDATES", 1000)
    monkeypatch.setattr(scan, "read_line", read_line)
    count = (4 << 20) // len(piece)
    found = scan.classify_stream(io.BytesIO(piece * count + b"\n" + DEATH + piece * 100))
    assert 3_000 < looks < most
    assert found.verdict == "memory"
    if piece == b"a\n":
        assert found.line == count + 2
