# SPDX-License-Identifier: MIT
"""The version of this memguard, layer and command: the one place that says it.

Runs in: everywhere; pure. pyproject.toml reads it when a wheel is built, `memguard --version` and the report print it,
and every build writes it into its first event. LAYERVERSION_memguard in conf/layer.conf is its first number.
"""

from __future__ import annotations

VERSION = "1.0.0"
