# SPDX-License-Identifier: MIT
"""BitBake adapter: the classes that a recipe inherits, by name.

Runs in: the BitBake server, and in a task's own child process.
"""

from __future__ import annotations

from collections.abc import Iterable


def classes_in(inherited: Iterable[str] | None) -> frozenset[str]:
    """Names without .bbclass, out of the paths that BitBake keeps of a recipe."""
    return frozenset(path.rpartition("/")[2].partition(".")[0] for path in inherited or ())
