# SPDX-License-Identifier: MIT
"""Reads the event logs that builds leave behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_events(builddir: Path) -> list[dict[str, Any]]:
    """The events of the newest build of a build directory, in order; empty when it has none."""
    logs = sorted((builddir / "memguard" / "events").glob("*.jsonl"))
    return [json.loads(line) for line in logs[-1].read_text(encoding="utf-8").splitlines()] if logs else []
