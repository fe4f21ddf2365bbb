# SPDX-License-Identifier: MIT
"""Medians and spread, as all benches print them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def spread(values: Sequence[float], unit: str = "", digits: int = 2) -> str:
    """Median and range of `values`: "1.02 (0.99 to 1.05)"."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f}{unit} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
