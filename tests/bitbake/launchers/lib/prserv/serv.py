# SPDX-License-Identifier: GPL-2.0-only
"""Stand-in for the start and the end of BitBake's PR service: there is none."""

from __future__ import annotations

import logging
from typing import Any


class PRServiceConfigError(Exception):
    """The configuration asks for a PR service that cannot be had."""


def auto_start(d: Any) -> None:
    """Start nothing, and refuse a configuration that wants something started."""
    if d.getVar("PRSERV_HOST"):
        reason = "This BitBake tree has no PR service; leave PRSERV_HOST unset or use a checkout."
        logging.getLogger("BitBake").error(reason)
        raise PRServiceConfigError(reason)


def auto_shutdown() -> None:
    """Stop nothing."""
