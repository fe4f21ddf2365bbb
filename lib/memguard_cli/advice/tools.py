# SPDX-License-Identifier: MIT
"""The build tools of this machine, and what live feedback of memory their versions allow.

Runs in: outside BitBake.
Does not cover: tools that recipes bring along (ninja-native, cargo-native), which a build uses instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from memguard_cli.builds.answers import answer

_ANSWER_S = 10


@dataclass(frozen=True)
class Tool:
    """One program; version None where it is not installed or does not say."""

    name: str
    version: str | None
    feedback: str


def look_up() -> tuple[Tool, ...]:
    """make, ninja and cargo as the PATH has them."""
    return tuple(Tool(name, version, feedback(name, version)) for name, version in _versions())


def feedback(name: str, version: str | None) -> str:
    """What live feedback a version allows.

    GNU make 4.4 knows the jobserver as a FIFO (NEWS, 4.4), ninja is its client since 1.13 (its release notes), cargo
    has always been (crate jobserver).
    """
    if version is None:
        return "not here"
    number = tuple(int(part) for part in version.split(".")[:2])
    if name == "make":
        return "jobserver by FIFO" if number >= (4, 4) else "jobserver by inherited descriptors only"
    if name == "ninja":
        return "jobserver by FIFO" if number >= (1, 13) else "none: a fixed -j (a jobserver client from 1.13 on)"
    return "jobserver"


def _versions() -> list[tuple[str, str | None]]:
    return [(name, _version(name)) for name in ("make", "ninja", "cargo")]


def _version(name: str) -> str | None:
    found = re.search(r"\b[0-9]+\.[0-9]+(?:\.[0-9]+)*", answer([name, "--version"], _ANSWER_S))
    return found[0] if found else None
