# SPDX-License-Identifier: MIT
"""Job counts as a configuration sets them, for all recipes and for single ones.

Runs in: the BitBake server.
Does not cover: what a recipe itself sets, which the server does not see.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from memguard.act.job_variables import jobs_in


def own_values(mcdata: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Job counts by multiconfig and variable, as the configuration sets them for all recipes and for single ones."""
    variables = ("PARALLEL_MAKE", "PARALLEL_MAKEINST", "BB_NUMBER_THREADS")
    cpus = len(os.sched_getaffinity(0))
    found: dict[str, dict[str, int]] = {}
    for mc, d in mcdata.items():
        names = [name for name in d if name.partition(":pn-")[0] in variables]
        values = {name: d.getVar(name) for name in names}
        found[mc] = {
            name: jobs_in(value) or (cpus if value.strip() else 1)
            for name, value in values.items()
            if value is not None
        }
    return found
