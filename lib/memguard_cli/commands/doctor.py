# SPDX-License-Identifier: MIT
"""`memguard doctor`: what a build here would see, and what to do about each thing found.

Runs in: outside BitBake.
Covers: arguments, and where the settings come from that a build here would have.
Does not cover: finding out (advice/facts), judging (advice/container), words (screens/findings).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from memguard import settings
from memguard_cli.advice import tools
from memguard_cli.advice.container import advise
from memguard_cli.advice.facts import examine, machine_of
from memguard_cli.builds import configuration
from memguard_cli.builds.configuration import BuildConfiguration
from memguard_cli.errors import UserError
from memguard_cli.screens.findings import as_data, show

COSTS_A_BUILD = 3


@click.command(context_settings={"show_default": False})
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    default=Path("/"),
    metavar="DIR",
    help="Read DIR/proc and DIR/sys/fs/cgroup: a copy from elsewhere.",
)
@click.option("--mode", metavar="MODE", help="MEMGUARD_MODE to judge by: enforce, observe or off.")
@click.option("--limit", metavar="SIZE", help="MEMGUARD_LIMIT to judge by, for example 12G.")
@click.option("--reserve", metavar="SIZE", help="MEMGUARD_RESERVE to judge by, for example 1G or 10%.")
def doctor(as_json: bool, root: Path, mode: str | None, limit: str | None, reserve: str | None) -> int:
    """Show what a build here would see of memory and CPUs, and what to do about it.

    In a build directory it also reads the configuration: conf/*.conf and, where they can be found, that of the layers.
    What no option says is taken from the environment (MEMGUARD_MODE, MEMGUARD_LIMIT, MEMGUARD_RESERVE), then from that
    configuration.

    Exit status: 0 nothing serious was found, 3 something would cost a build its life, 2 a wrong argument.

    \b
    Examples:
      memguard doctor
      memguard doctor --json --limit 8G
    """
    root = _checked(root)
    machine = machine_of(root)
    build = configuration.read(Path(os.environ.get("BUILDDIR") or "."), machine) if root == Path("/") else None
    build = build or configuration.read(Path(), machine)
    options = {"MEMGUARD_MODE": mode, "MEMGUARD_LIMIT": limit, "MEMGUARD_RESERVE": reserve}
    options["MEMGUARD_NEIGHBOURS"] = None
    given = {name: _first(value, os.environ.get(name), _of(build, name)) for name, value in options.items()}
    try:
        findings = examine(root, given, build, tools.look_up() if root == Path("/") else ())
    except settings.SettingsError as error:
        raise UserError(str(error)) from None
    warnings = advise(findings)
    if as_json:
        print(json.dumps(as_data(findings, warnings), indent=2))
    else:
        show(findings, warnings)
    return COSTS_A_BUILD if any(warning.is_deadly for warning in warnings) else 0


def _checked(root: Path) -> Path:
    try:
        if not root.is_dir():
            raise UserError(f"--root {root}: not a directory. A good one holds proc and sys/fs/cgroup.")
        if not (root / "proc").is_dir():
            raise UserError(f"--root {root}: it holds no proc. A good one holds proc and sys/fs/cgroup.")
    except OSError as error:
        raise UserError(f"--root {root}: {error.strerror}.") from None
    return root.resolve()


def _first(*values: str | None) -> str | None:
    return next((value for value in values if value is not None), None)


def _of(build: BuildConfiguration | None, name: str) -> str | None:
    """A variable as the build directory has it; None where BitBake would have to work it out."""
    return (build.expand(name) if build else None) or None
