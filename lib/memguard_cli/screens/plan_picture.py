# SPDX-License-Identifier: MIT
"""Draws a plan: build time over memory, one line per number of CPUs.

Runs in: outside BitBake; the one module that needs matplotlib, and is imported only where a picture is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from memguard.units import GIB

if TYPE_CHECKING:
    from memguard_cli.simulation.plans import Plan


def draw(plans: Sequence[Plan], path: Path) -> None:
    """Write the picture in the format that the name's end says. Raises OSError."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for plan in plans:
        points = [point for point in plan.points if plan.smallest and point.limit_bytes >= plan.smallest.limit_bytes]
        if not points:
            continue
        limits = [point.limit_bytes / GIB for point in points]
        (line,) = axes.plot(
            limits, [(point.time_s or 0) / 60 for point in points], marker=".", label=f"{plan.cpus} CPUs"
        )
        low, high = [(point.least_s or 0) / 60 for point in points], [(point.most_s or 0) / 60 for point in points]
        axes.fill_between(limits, low, high, alpha=0.2, color=line.get_color(), linewidth=0)
        if plan.knee is not None and plan.knee.time_s is not None:
            axes.plot(
                plan.knee.limit_bytes / GIB,
                plan.knee.time_s / 60,
                "o",
                color=line.get_color(),
                markersize=9,
                mfc="none",
            )
    axes.set_xscale("log", base=2)
    limits = [point.limit_bytes / GIB for point in plans[0].points] if plans else []
    if limits:
        axes.set_xlim(min(limits) * 0.95, max(limits) * 1.05)
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda gib, _: f"{gib:g}"))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("memory limit, GiB (a line begins where every run finishes; a ring is the knee)")
    axes.set_ylabel("build time, minutes")
    axes.grid(visible=True, alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
