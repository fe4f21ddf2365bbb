# SPDX-License-Identifier: GPL-2.0-only
"""Stand-in for BitBake's hash equivalence, which the tree assembled for tests does not have."""

from __future__ import annotations

import re
from typing import Any, NoReturn

_MISSING = "This BitBake tree has no hash equivalence; leave BB_HASHSERVE unset or use a checkout."


def is_valid_unihash(value: object) -> bool:
    """Say whether a value looks like a task's hash."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def create_server(*args: Any, **kwargs: Any) -> NoReturn:
    """Refuse to serve hashes."""
    raise RuntimeError(_MISSING)


def create_client(*args: Any, **kwargs: Any) -> NoReturn:
    """Refuse to ask for hashes."""
    raise RuntimeError(_MISSING)
