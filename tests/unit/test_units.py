# SPDX-License-Identifier: MIT
"""Sizes and shares, as people write them and as they are told."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memguard.units import GIB, KIB, MIB, counted, format_bytes, format_duration, parse_bytes, parse_share

GOOD_SIZES = {
    "0": 0,
    "1": 1,
    "4096": 4096,
    "5B": 5,
    " 12G ": 12 * GIB,
    "12 G": 12 * GIB,
    "12g": 12 * GIB,
    "1.5G": 3 * GIB // 2,
    "1.5GiB": 3 * GIB // 2,
    "512MiB": 512 * MIB,
    "512Mi": 512 * MIB,
    "1536M": 1536 * MIB,
    "64k": 64 * KIB,
    "2T": 2048 * GIB,
    "2GB": 2 * 10**9,
    "1.5 kb": 1500,
    "9007199254740993": 9007199254740993,
}

BAD_SIZES = [
    "",
    " ",
    "G",
    "GiB",
    "12 potatoes",
    "-1G",
    "+1G",
    "1.G",
    ".5G",
    "1,5G",
    "1e3",
    "0x10",
    "1_000",
    "12P",
    "12GG",
    "12i",
    "12iB",
    "1 2G",
    "50%",
    "nan",
    "inf",
    "12\u212a",
    "1\u0662G",
    "\u00b2G",
    "9" * 400,
    "9" * 5000 + "T",
]


@pytest.mark.parametrize(("text", "size"), GOOD_SIZES.items())
def test_parses_sizes(text: str, size: int) -> None:
    """A size is read in powers of 1024, and in powers of 1000 where it says B without i."""
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", BAD_SIZES)
def test_refuses_what_is_no_size(text: str) -> None:
    """Whatever is no size is a ValueError, and nothing else."""
    with pytest.raises(ValueError, match="not a size"):
        parse_bytes(text)


@given(st.text())
def test_parses_or_refuses_any_text(text: str) -> None:
    """No text makes the parsers raise anything but ValueError."""
    assert parse_share(text) is None or parse_share(text) >= 0  # type: ignore[operator]
    with contextlib.suppress(ValueError):
        assert parse_bytes(text) >= 0


@given(st.integers(min_value=0, max_value=1 << 100))
def test_reads_every_whole_number_as_bytes(size: int) -> None:
    """A bare number is taken to the byte, however large."""
    assert parse_bytes(str(size)) == size


@given(st.integers(min_value=-(1 << 100), max_value=1 << 100))
def test_formats_every_number(size: int) -> None:
    """Every number has a form for people, with its sign."""
    text = format_bytes(size)
    assert text.startswith("-") == (size < 0)
    assert text.split()[1] in ("KiB", "MiB", "GiB")


@given(st.integers(min_value=0, max_value=1 << 50))
def test_reads_its_own_form(size: int) -> None:
    """What is told can be typed back, and is off by the rounding only."""
    assert abs(parse_bytes(format_bytes(size)) - size) <= max(MIB // 2, size // 19)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 KiB"),
        (512 * MIB, "512 MiB"),
        (3 * GIB // 2, "1.5 GiB"),
        (-200 * MIB, "-200 MiB"),
        (GIB - 1, "1.0 GiB"),
        (MIB - 1, "1 MiB"),
    ],
)
def test_formats_for_people(size: int, text: str) -> None:
    """Sizes are told in the largest unit that fits, after rounding."""
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("text", "share"),
    [("25%", 0.25), (" 12.5 % ", 0.125), ("100%", 1.0), ("0%", 0.0), ("250%", 2.5)],
)
def test_parses_shares(text: str, share: float) -> None:
    """A percentage is a share of one."""
    assert parse_share(text) == share


@pytest.mark.parametrize("text", ["", "25", "%", "-5%", "1G", "25%%", "a%", "2 5%"])
def test_knows_what_is_no_share(text: str) -> None:
    """Whatever is no percentage is None."""
    assert parse_share(text) is None


def test_counts_as_people_do() -> None:
    """One thing is singular; none and many are plural."""
    assert [counted(number, "task") for number in (0, 1, 2)] == ["0 tasks", "1 task", "2 tasks"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.02, "0.1 s"),
        (1.25, "1.2 s"),
        (9.96, "10 s"),
        (42.4, "42 s"),
        (99.4, "99 s"),
        (100, "1:40 min"),
        (725, "12:05 min"),
        (5999, "99:59 min"),
        (6000, "1 h 40 min"),
        (11_100, "3 h 05 min"),
        (-3, "0 s"),
    ],
)
def test_durations_have_one_style(seconds: float, words: str) -> None:
    """Seconds, then minutes and seconds, then hours and minutes: never further off than 5 %."""
    assert format_duration(seconds) == words
