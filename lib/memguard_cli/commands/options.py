# SPDX-License-Identifier: MIT
"""Options that several subcommands have.

Runs in: outside BitBake.
Does not cover: what is done with their values (builds/history_file).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

history_option: Callable[[Any], Any] = click.option(
    "--history",
    "file",
    metavar="FILE",
    help="The history; else MEMGUARD_HISTORY of the environment or of conf/local.conf, else memguard/history.db below "
    "the build directory.",
)
