# SPDX-License-Identifier: MIT
"""What BitBake itself makes of configuration files, to hold the command's own reading of them against.

Covers: site.conf, auto.conf, local.conf and what they include, read by bb.parse in a process of its own that believes
to have eight CPUs of a machine of twelve; OE-Core's bitbake.conf where a checkout is named, else its lines about jobs.
Does not cover: classes and recipes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from memguard.units import GIB
from memguard_cli.builds.expressions import Machine

MACHINE = Machine(cpus=8, online=12, memory_bytes=48 * GIB)
VARIABLES = ("BB_NUMBER_THREADS", "PARALLEL_MAKE")

# What the tests' own distribution has of OE-Core's bitbake.conf.
_BITBAKE_CONF = """\
PN = "defaultpkgname"
CLASSOVERRIDE ?= "class-target"
DISTROOVERRIDES ?= "${@d.getVar('DISTRO') or ''}"
MACHINEOVERRIDES ?= "${MACHINE}"
OVERRIDES = "linux:pn-${PN}:${MACHINEOVERRIDES}:${DISTROOVERRIDES}:${CLASSOVERRIDE}:forcevariable"
include conf/site.conf
include conf/auto.conf
include conf/local.conf
include conf/machine/${MACHINE}.conf
include conf/distro/${DISTRO}.conf
BB_NUMBER_THREADS ?= "${@oe.utils.cpu_count()}"
PARALLEL_MAKE ?= "-j ${@oe.utils.cpu_count()}"
"""
_OE_UTILS = """\
import os
def cpu_count(at_least=1, at_most=64):
    return max(min(len(os.sched_getaffinity(0)), at_most), at_least)
"""
_PROGRAM = """\
import json, logging, os, sys
bitbake, oe, builds, cpus, online, memory, variables = json.loads(sys.argv[1])
sys.path[:0] = [bitbake, oe]
page = os.sysconf("SC_PAGE_SIZE")
real = os.sysconf
os.cpu_count = lambda: online
os.sched_getaffinity = lambda pid: set(range(cpus))
numbers = {"SC_NPROCESSORS_ONLN": online, "SC_NPROCESSORS_CONF": online, "SC_PHYS_PAGES": memory // page}
numbers.update({os.sysconf_names[name]: number for name, number in numbers.items()})
os.sysconf = lambda name: numbers.get(name) or real(name)
import bb, bb.codeparser, bb.cookerdata, bb.fetch2, bb.parse, bb.utils, oe.utils
logging.disable(logging.CRITICAL)
found = {}
for build in builds:
    os.chdir(build)
    configuration = bb.cookerdata.CookerConfiguration()
    configuration.env = dict(os.environ)
    try:
        builder = bb.cookerdata.CookerDataBuilder(configuration)
        bb.utils._context["oe"] = oe
        data = builder.parseConfigurationFiles([], [])
    except BaseException as error:
        found[build] = {name: {"error": str(error)} for name in variables}
        continue
    found[build] = {}
    for name in variables:
        try:
            found[build][name] = {"value": data.getVar(name)}
        except BaseException as error:
            found[build][name] = {"error": str(error)}
print(json.dumps(found))
"""


def write(build: Path, files: Mapping[str, str]) -> Path:
    """A build directory with these files below conf."""
    for name, text in {"local.conf": "", **files}.items():
        path = build / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return build


def read_by_bitbake(
    tree: Path, place: Path, builds: list[Path], core: Path | None = None, **env: str
) -> dict[Path, dict[str, dict[str, str | None]]]:
    """What each variable is in each build directory: its value, or the error that BitBake stops with.

    tree: of BitBake; place: a directory to write into; core: OE-Core's meta.
    """
    conf, oe = core or place, core / "lib" if core else place
    if core is None:
        (place / "conf").mkdir(exist_ok=True)
        (place / "conf" / "bitbake.conf").write_text(_BITBAKE_CONF)
        (place / "classes").mkdir(exist_ok=True)
        (place / "classes" / "base.bbclass").write_text("")
        (place / "oe").mkdir(exist_ok=True)
        (place / "oe" / "__init__.py").write_text("")
        (place / "oe" / "utils.py").write_text(_OE_UTILS)
    words = [str(tree / "lib"), str(oe), list(map(str, builds))]
    facts = [*words, MACHINE.cpus, MACHINE.online, MACHINE.memory_bytes, VARIABLES]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, json.dumps(facts)],
        env={"PATH": os.environ["PATH"], "HOME": str(place), "LC_ALL": "C.UTF-8", "BBPATH": f".:{conf}", **env},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return {Path(build): values for build, values in json.loads(done.stdout.splitlines()[-1]).items()}
