# SPDX-License-Identifier: MIT
"""What the configuration of a build directory says, as far as that shows without BitBake.

Runs in: outside BitBake.
Covers: conf/bblayers.conf and the layers that it names, bitbake.conf where one of them has it, else site.conf,
auto.conf, local.conf, the machine and the distribution in the order OE-Core's bitbake.conf has them, with its defaults.
Does not cover: classes, recipes, what the command line of bitbake adds.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from memguard_cli.builds.conf_files import ConfFiles
from memguard_cli.builds.datastore import Datastore
from memguard_cli.builds.expressions import Machine
from memguard_cli.builds.job_counts import count_jobs, count_threads
from memguard_cli.builds.operators import CannotTell, Mistake
from memguard_cli.builds.plain_file import is_there

# OE-Core's bitbake.conf as far as job counts, TMPDIR and the order of files go.
_USUAL = """\
CLASSOVERRIDE ?= "class-target"
DISTROOVERRIDES ?= "${DISTRO}"
MACHINEOVERRIDES ?= "${MACHINE}"
OVERRIDES = "linux:pn-${PN}:${MACHINEOVERRIDES}:${DISTROOVERRIDES}:${CLASSOVERRIDE}:forcevariable"
include conf/site.conf
include conf/auto.conf
include conf/toolcfg.conf
include conf/local.conf
OE_FRAGMENTS_BUILTIN ?= "machine:MACHINE distro:DISTRO"
addfragments conf/fragments OE_FRAGMENTS OE_FRAGMENTS_METADATA_VARS OE_FRAGMENTS_BUILTIN
include conf/machine/${MACHINE}.conf
include conf/distro/${DISTRO}.conf
TMPDIR ?= "${TOPDIR}/tmp"
BB_NUMBER_THREADS ?= "${@oe.utils.cpu_count()}"
PARALLEL_MAKE ?= "-j ${@oe.utils.cpu_count()}"
PARALLEL_MAKEINST ??= "${PARALLEL_MAKE}"
"""
_USUAL_PATH = Path("OE-Core's bitbake.conf")
# What BitBake takes from the environment on its own account.
_PASSED_ON = ("HOME", "USER", "LOGNAME", "SHELL", "PATH", "PWD")


@dataclass(frozen=True)
class BuildConfiguration:
    """A build directory and its variables.

    faults:   what BitBake would refuse, each with file and line.
    defaults: the bitbake.conf whose values are nobody's choice.
    """

    directory: Path
    store: Datastore
    faults: tuple[str, ...] = ()
    defaults: Path = _USUAL_PATH

    @cached_property
    def inherits_memguard(self) -> bool:
        """Whether the configuration switches memguard on."""
        words = [self.expand(name) or self.written(name) for name in ("INHERIT", "USER_CLASSES")]
        return "memguard" in " ".join(words).split()

    @property
    def threads(self) -> int | None:
        """The tasks that run at once, None where that is no number that shows here."""
        return count_threads(self).count

    @property
    def jobs(self) -> int | None:
        """The jobs of a compile, None where that is no number that shows here."""
        return count_jobs(self).count

    @cached_property
    def tmpdir(self) -> Path:
        """TMPDIR, or OE-Core's default for it where it cannot be worked out."""
        return self.directory / (self.expand("TMPDIR") or "tmp")

    def written(self, name: str) -> str:
        """A variable before anything in it is expanded, "" where it is not set."""
        try:
            return self.store.written(name) or ""
        except (CannotTell, Mistake):
            return ""

    def expand(self, name: str) -> str | None:
        """The value of a variable, "" where it is not set, None where only BitBake can work it out."""
        try:
            value = self.store.get(name) or ""
        except (CannotTell, Mistake):
            return None
        return None if "${" in value else value.strip()


def find() -> BuildConfiguration | None:
    """The configuration of the build directory that $BUILDDIR names, else of this directory; None where it is none."""
    return read(Path(os.environ.get("BUILDDIR") or ".")) or read(Path())


def read(directory: Path, machine: Machine | None = None) -> BuildConfiguration | None:
    """The configuration of a build directory, None where `directory` is none (it has no conf/local.conf)."""
    if not is_there(directory / "conf" / "local.conf"):
        return None
    directory = directory.resolve()
    store = Datastore(machine or Machine.here())
    files = ConfFiles(store)
    for name in (*_PASSED_ON, *os.environ.get("BB_ENV_PASSTHROUGH_ADDITIONS", "").split()):
        if name in os.environ:
            store.assign(name, "=", os.environ[name], "the environment")
    store.assign("TOPDIR", "=", str(directory))
    store.assign("PN", "=", "defaultpkgname")
    store.assign("BBPATH", "?=", str(directory))
    files.knows_layers = _read_layers(files, directory)
    main = files.find("conf/bitbake.conf")
    if files.find("conf/multiconfig/default.conf"):  # of releases whose bitbake.conf requires it
        store.assign("BB_CURRENT_MC", "?=", "default")
    store.assign("BB_CURRENT_MC", "?=", "")
    if main is None:
        files.knows_layers = False
        files.read_text(_USUAL, _USUAL_PATH)
    else:
        files.read(main)
    store.is_complete = main is not None and files.knows_layers
    return BuildConfiguration(directory, store, tuple(files.faults), main or _USUAL_PATH)


def _read_layers(files: ConfFiles, directory: Path) -> bool:
    """Take in bblayers.conf and every layer.conf; whether all layers are at hand."""
    store, path = files.store, directory / "conf" / "bblayers.conf"
    if not files.read(path):
        return False
    try:
        layers = (store.get("BBLAYERS") or "").split()
    except (CannotTell, Mistake):
        return False
    found = []
    for layer in layers:
        store.assign("LAYERDIR", "=", layer)
        found.append(files.read(Path(layer) / "conf" / "layer.conf"))
        store.replace_everywhere("LAYERDIR", layer)
    # BitBake looks beside bblayers.conf, whatever BBPATH says.
    if str(directory) not in (store.written("BBPATH") or "").split(":"):
        store.assign("BBPATH", "=.", f"{directory}:")
    return bool(found) and all(found)
