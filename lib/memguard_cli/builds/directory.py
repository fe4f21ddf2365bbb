# SPDX-License-Identifier: MIT
"""Where a build keeps what memguard writes: a directory somebody names -> its MEMGUARD_DIR.

Runs in: outside BitBake.
Covers: the build directory of the argument, of $BUILDDIR, or where one is; MEMGUARD_DIR of the environment and of
conf/local.conf; what is wrong with a directory, as one sentence.
Does not cover: what lies in it (memguard.channels.build_directory).
"""

from __future__ import annotations

import os
from pathlib import Path

from memguard.channels.build_directory import USUAL_NAME, BuildDirectory
from memguard_cli.builds import configuration
from memguard_cli.errors import UserError

_EXAMPLE = "the directory you run bitbake in, such as ~/yocto/build"


def find_directory(given: Path | None, is_awaited: bool = False) -> Path:
    """MEMGUARD_DIR of the build directory that `given` names, else of $BUILDDIR, else of the current directory.

    `given` may be a MEMGUARD_DIR itself. With `is_awaited` a build directory will do that no build has written to yet.
    Raises UserError where there is no such directory, or memguard has written nothing there.
    """
    named = os.environ.get("MEMGUARD_DIR", "").strip()
    if given is None and named:
        return _required(Path(named))
    directory = _required(given if given is not None else Path(os.environ.get("BUILDDIR") or "."))
    if BuildDirectory(directory).is_written:
        return directory
    build = configuration.read(directory)
    found = directory / (_configured(build) if build else USUAL_NAME)
    if found.is_dir() or (is_awaited and build is not None):
        return found
    if build is not None:
        raise UserError(
            f'{directory}: memguard has written nothing here (there is no {found}); is INHERIT += "memguard" in its '
            "configuration, and has a build been started?"
        )
    raise UserError(f"{directory} is not a build directory: it has neither memguard/ nor conf/local.conf", _EXAMPLE)


def build_directory_of(directory: Path) -> Path:
    """What a person calls the build in a MEMGUARD_DIR: its build directory."""
    return directory.parent if directory.name == USUAL_NAME else directory


def _required(directory: Path) -> Path:
    try:
        if directory.is_dir():
            return directory.absolute()
        fault = "is not a directory" if directory.exists() else "does not exist"
    except (OSError, ValueError) as error:  # may not be entered, a name that is too long
        fault = f"cannot be read ({getattr(error, 'strerror', None) or error})"
    raise UserError(f"{directory} {fault}", _EXAMPLE)


def _configured(build: configuration.BuildConfiguration) -> str:
    """MEMGUARD_DIR as the configuration of a build directory has it."""
    value = build.expand("MEMGUARD_DIR")
    if value is None:
        raise UserError(
            f'MEMGUARD_DIR = "{build.written("MEMGUARD_DIR")}" in {build.directory}/conf is for BitBake to work out; '
            "name that directory itself instead of the build directory"
        )
    return value or USUAL_NAME
