# SPDX-License-Identifier: MIT
"""One thing that doctor has found, and what to do about it.

Runs in: outside BitBake; pure.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Warning:
    """One thing found and what to do. is_deadly: a build here would lose its life over it."""

    code: str
    text: str
    is_deadly: bool = False
