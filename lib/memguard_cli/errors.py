# SPDX-License-Identifier: MIT
"""What the user can mend, as one sentence.

Runs in: outside BitBake; everybody here may raise it.
Does not cover: printing it and the exit status, which is 2 (main).
"""

from __future__ import annotations

import sys


class UserError(Exception):
    """Something is wrong that the user can mend: `what` says what, `example` shows a value that works."""

    def __init__(self, what: str, example: str = "") -> None:
        super().__init__(f"{what}; a good one is {example}" if example else what)


def lacking(who: str, packages: str) -> str:
    """What to say where an extra of the package is not installed: it works in whichever environment this runs."""
    return f"{who} needs more packages: {sys.executable} -m pip install {packages}"
