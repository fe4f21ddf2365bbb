# SPDX-License-Identifier: MIT
"""Bytes as people write them and back, durations for people, and a short name for bytes of any length.

Runs in: everywhere; pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import blake2b
else:
    try:
        # hashlib loads OpenSSL, 3 MiB more for a process that shall stay small.
        from _blake2 import blake2b
    except ImportError:
        from hashlib import blake2b

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_FACTORS = {"": 1, "K": KIB, "M": MIB, "G": GIB, "T": 1024 * GIB}
_DECIMAL_FACTORS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?B?)", re.IGNORECASE | re.ASCII)
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%", re.ASCII)
_MOST_CHARACTERS = 40  # of a number; none that means a size is longer, and int() refuses much longer ones


def parse_bytes(text: str) -> int:
    """Bytes meant by `text`: "1536M", "1.5G", "1.5GiB" are powers of 1024, "2GB" of 1000, a bare number is bytes.

    Raises ValueError when `text` is anything else, a negative size included.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None or len(match.group(1)) > _MOST_CHARACTERS:
        raise ValueError(f"not a size: {text!r}")
    number, prefix, unit = match.group(1), match.group(2).upper(), match.group(3).upper()
    if not prefix and unit.startswith("I"):
        raise ValueError(f"not a size: {text!r}")
    factor = _DECIMAL_FACTORS[prefix] if prefix and unit == "B" else _FACTORS[prefix]
    return int(float(number) * factor) if "." in number else int(number) * factor


def parse_share(text: str) -> float | None:
    """The share meant by a percentage ("25%" -> 0.25), None when `text` is no percentage."""
    match = _SHARE.fullmatch(text.strip())
    return float(match.group(1)) / 100 if match else None


def format_bytes(size: float) -> str:
    """`size` bytes for people, in the largest unit that fits after rounding: "512 MiB", "1.5 GiB"."""
    sign, size = ("-", -size) if size < 0 else ("", size)
    if size >= GIB - MIB / 2:
        return f"{sign}{size / GIB:.1f} GiB"
    if size >= MIB - KIB / 2:
        return f"{sign}{size / MIB:.0f} MiB"
    return f"{sign}{size / KIB:.0f} KiB"


def format_duration(seconds: float) -> str:
    """Seconds for people, to within 5 %: "0.3 s", "42 s", "12:05 min", "3 h 05 min"."""
    if 0 < seconds < 9.95:
        return f"{max(0.1, seconds):.1f} s"
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    if whole < 6000:
        return f"{whole // 60}:{whole % 60:02} min"
    minutes = round(whole / 60)
    return f"{minutes // 60:,} h {minutes % 60:02} min"


def digest(content: bytes) -> bytes:
    """Eight bytes that are the same for the same content, on any machine."""
    return bytes(blake2b(content, digest_size=8).digest())


def counted(number: int, noun: str) -> str:
    """A number of things in words: "1 task", "2 tasks"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
