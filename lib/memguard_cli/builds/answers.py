# SPDX-License-Identifier: MIT
"""Asks a program, and takes what it prints for its answer.

Runs in: outside BitBake.
Does not cover: what the answer means.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def answer(
    words: Sequence[str],
    patience_s: float,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """What a command prints within that time; "" where it cannot be started, is too slow, or fails."""
    try:
        done = subprocess.run(
            words,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=patience_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
