# SPDX-License-Identifier: MIT
"""The command's reading of configuration files against BitBake's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from memguard_cli.builds import configuration
from memguard_cli.builds.configuration import BuildConfiguration
from memguard_cli.builds.operators import CannotTell, Mistake
from testbed.bitbake import BitBake
from testbed.checkouts import SERIES, NotHere, clone
from testbed.configurations import MACHINE, VARIABLES, read_by_bitbake, write

# One line for both variables stands for two: N is BB_NUMBER_THREADS, P is PARALLEL_MAKE.
LINES = {
    "nothing": "",
    "plain": 'N = "4"\nP = "-j 6"',
    "weak loses to bitbake.conf": 'N ??= "3"\nP ??= "-j 3"',
    "weak after a question": 'N ?= "5"\nN ??= "3"\nN ?= "7"',
    "append alone keeps the default": 'P:append = " -l 4"',
    "plus alone replaces the default": 'P += "-l 4"\nN .= "3"',
    "all operators": 'P = "-j"\nP += "3"\nP =+ "-k"\nP .= "1"\nP =. "-s "',
    "prepend and append": 'P = "4"\nP:prepend = "-j "\nP:append = "0"',
    "remove": 'P = "-j 4 -l 9"\nP:remove = "-l 9"',
    "remove by reference": 'X = "-l"\nP = "-j 4 -l 9"\nP:remove = "${X}"',
    "forcevariable": 'N = "16"\nN:forcevariable = "4"\nP:class-native = "-j 2"',
    "append with an override": 'P = "-j 4"\nP:append:forcevariable = " -l 2"\nP:append:pn-zlib = " -l 3"',
    "append to an override": 'P = "-j 4"\nP:forcevariable:append = " -l 2"',
    "override is weak": 'N = "3"\nN:forcevariable ??= "5"',
    "immediate": 'A = "4"\nN := "${A}"\nA = "9"\nP = "-j ${A}"',
    "machine": 'MACHINE = "qemux86-64"\nN:qemux86-64 = "3"\nP:arm = "-j 1"\nMACHINEOVERRIDES = "arm:${MACHINE}"',
    "distribution": 'DISTRO = "poky"\nN:poky = "3"\nN:poky:forcevariable = "2"\nP:pn-x:poky = "-j 1"',
    "two overrides in any order": 'DISTRO = "poky"\nMACHINE = "pi"\nN:poky:pi = "3"\nN:pi:poky = "2"\nN:pi = "1"',
    "unset": 'N = "3"\nunset N\nP = "-j 3"\nP:append = " -l 2"\nunset P',
    "continued": 'N = "\\\n 7"\nP = "-j \\\n 5 \\\n -l 3"',
    "comments": '# N = "1"\nN = "2" \n',
    "single quotes": "N = '3'\nP = '-j \"4\"'",
    "export": 'export N = "3"\nexport P',
    "a flag": 'N = "3"\nN[doc] = "4"\nP[x] ?= "-j 1"',
    "cpu_count": 'N = "${@oe.utils.cpu_count()}"\nP = "-j ${@bb.utils.cpu_count()}"',
    "bounded": 'N = "${@oe.utils.cpu_count(at_most=6)}"\nP = "-j ${@oe.utils.cpu_count(at_least=20, at_most=40)}"',
    "os": 'N = "${@os.cpu_count()}"\nP = "-j${@len(os.sched_getaffinity(0))}"',
    "import": "N = \"${@__import__('multiprocessing').cpu_count() // 2}\"\n"
    "P = \"-j ${@__import__('math').ceil(os.cpu_count() * 0.7)}\"",
    "not imported": 'N = "${@multiprocessing.cpu_count()}"\nP = "-j ${@math.ceil(2.5)}"',
    "sysconf": "N = \"${@int(os.sysconf(os.sysconf_names['SC_NPROCESSORS_ONLN']) * 100/300)}\"\n"
    "P = \"-j ${@os.sysconf('SC_NPROCESSORS_ONLN')}\"",
    "memory": "N = \"${@int(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1024**3 // 4)}\"",
    "a variable by its name": 'N = "4"\nP = "-j ${@int(N) * 2}"',
    "getVar": "N = \"${@int(d.getVar('X')) + 1}\"\nX = \"4\"\nP = \"-j ${@d.getVar('N', True) or '1'}\"",
    "getVar of nothing": "N = \"${@d.getVar('NONE') or 3}\"\nP = \"-j ${@d.getVar('NONE') is None}\"",
    "a reference inside": 'N = "4"\nP = "-j ${@min(${N}, 3)}"',
    "a reference to nothing inside": 'P = "-j ${@min(${NONE}, 3)}"\nN = "${NONE}"',
    "arithmetic": 'N = "${@max(2, round(os.cpu_count() * 3 / 4) - 1)}"\nP = "-j ${@2 ** 3 % 5 + (-3 // 2) * -1}"',
    "float": 'N = "${@os.cpu_count() / 2}"\nP = "-j ${@os.cpu_count() * 1.5}"',
    "f-string": "N = \"${@f'{os.cpu_count() // 5}'}\"\nP = \"${@f'-j {bb.utils.cpu_count():d} -l {3.14159:.1f}'}\"",
    "format": "N = \"${@'{}'.format(3)}\"\nP = \"${@'-j %d' % (os.cpu_count() - 1)}\"",
    "text": "N = \"${@'4 5 6'.split()[1]}\"\nP = \"${@' '.join(['-j', str(3), '-l', '2'])}\"",
    "os.environ": "N = \"${@os.environ.get('E_N')}\"\nP = \"-j ${@os.getenv('E_NONE', '5')}\"",
    "condition": "N = \"${@'2' if os.cpu_count() < 4 else '6'}\"\nP = \"-j ${@3 if not d.getVar('NONE') else 4}\"",
    "chain": 'N = "${@1 < 2 < 3}"\nP = "-j ${@4 in (3, 4) and 7 or 8}"',
    "contains": "X = \"a b\"\nN = \"${@bb.utils.contains('X', 'a b', '3', '4', d)}\"\n"
    "P = \"-j ${@bb.utils.contains('X', 'c', 1, 2, d)}\"",
    "to_boolean": 'X = "yes"\nN = "${@3 if bb.utils.to_boolean(d.getVar(\'X\')) else 4}"',
    "division by nothing": 'N = "${@1 / 0}"',
    "no Python": 'N = "${@1 +}"',
    "text plus number": "N = \"${@'1' + 1}\"",
    "itself": 'N = "${N}"',
    "in a circle": 'N = "${X}"\nX = "${N}"',
    "shell": 'N = "$(nproc)"\nP = "-j`nproc`"',
    "alone": 'P = "-j"',
    "three quotes": 'N = "4" junk"',
    "junk": 'N = "4" junk',
    "indented": '  N = "4"',
    "no quotes": "N = 4",
    "colon as in a recipe": 'N:pn-zlib = "3"\nP:pn-zlib:append = " -l 3"\nP:pn-defaultpkgname = "-j 9"',
    "conditional include": "include ${@'conf/more.conf' if os.cpu_count() > 4 else ''}",
}
FILES: dict[str, dict[str, str]] = {
    "order": {"site.conf": 'N = "1"\nP ?= "-j 1"', "auto.conf": 'N = "2"\nP ?= "-j 2"', "local.conf": 'N ?= "3"'},
    "order, last wins": {"site.conf": 'N = "1"', "auto.conf": 'N = "2"', "local.conf": 'N = "3"\nP ?= "-j 3"'},
    "include": {"local.conf": 'include conf/more.conf\ninclude more.inc\nN ?= "8"', "more.inc": 'N = "5"'},
    "include in include": {
        "local.conf": "require a/one.conf",
        "a/one.conf": "require two.conf",
        "a/two.conf": 'N = "6"',
    },
    "by TOPDIR": {"local.conf": 'require ${TOPDIR}/conf/x.inc\nP = "-j ${N}"', "x.inc": 'N ?= "7"'},
    "several at once": {"local.conf": "include conf/a.inc conf/b.inc", "a.inc": 'N = "1"', "b.inc": 'N = "2"'},
    "missing include": {"local.conf": 'include conf/none.conf\nN = "3"'},
    "missing require": {"local.conf": 'N = "3"\nrequire conf/none.conf\n'},
    "include of itself": {"local.conf": 'N = "3"\ninclude conf/local.conf\nN += "4"'},
    "distribution's own": {"local.conf": 'DISTRO = "my"\nN ?= "3"', "distro/my.conf": 'N ?= "4"\nP ?= "-j 4"'},
    "machine's own": {"local.conf": 'MACHINE = "my"', "machine/my.conf": 'P = "-j 4"\nN:my = "2"'},
    "appended before it is set": {"site.conf": 'P:append = " -l 1"', "local.conf": 'P = "-j 2"'},
    "environment": {"local.conf": 'E_N ?= "1"\nN = "${E_N}"\nP = "-j ${E_P}"'},
}
SETS = {name: {"local.conf": text + "\n"} for name, text in LINES.items()} | FILES
ENVIRONMENT = {"BB_ENV_PASSTHROUGH_ADDITIONS": "E_N E_P E_ABSENT", "E_N": "11", "E_P": "12"}


def named(text: str) -> str:
    """The lines with the names of the variables."""
    for short, name in (("N", "BB_NUMBER_THREADS"), ("P", "PARALLEL_MAKE")):
        for mark in (" ", ":", "[", "}", ")", "'", '"'):
            for before in ("\n", " ", "(", "{", "'", '"'):
                text = text.replace(f"{before}{short}{mark}", f"{before}{name}{mark}")
    return text


def written(place: Path) -> dict[str, Path]:
    """A build directory for each set of files."""
    builds = {}
    for number, (name, files) in enumerate(SETS.items()):
        builds[name] = write(place / str(number), {path: named("\n" + text)[1:] for path, text in files.items()})
    return builds


def value_of(build: BuildConfiguration, name: str) -> dict[str, str | None]:
    """A variable in the form in which BitBake's answer comes."""
    if build.faults:
        return {"error": build.faults[0]}
    try:
        return {"value": build.store.get(name)}
    except Mistake as error:
        return {"error": str(error)}
    except CannotTell as error:
        return {"unknown": str(error)}


def differences(
    builds: dict[str, Path], truths: dict[Path, dict[str, dict[str, str | None]]]
) -> dict[tuple[str, str], tuple[object, object]]:
    """Where the command says another thing than BitBake; that something is a mistake need not be in the same words."""
    found: dict[tuple[str, str], tuple[object, object]] = {}
    assert sum("value" in truth["PARALLEL_MAKE"] for truth in truths.values()) > 0.7 * len(builds)
    for name, path in builds.items():
        build = configuration.read(path, MACHINE)
        assert build is not None
        for variable in VARIABLES:
            own, truth = value_of(build, variable), truths[path][variable]
            if own != truth and not (own.keys() == truth.keys() == {"error"}):
                found[name, variable] = own, truth
    return found


def test_values_are_those_of_bitbake(bitbake: BitBake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operator, override, file and expression gives what BitBake itself makes of it, or fails where it does."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    builds = written(tmp_path)
    (tmp_path / "core").mkdir()
    truths = read_by_bitbake(bitbake.tree, tmp_path / "core", list(builds.values()), **ENVIRONMENT)
    found = differences(builds, truths)
    # Where layers are not at hand, a required file that is missing may be in one of them.
    assert {key for key, (own, _) in found.items() if "unknown" in str(own)} <= {
        ("missing require", name) for name in VARIABLES
    }
    assert not {key: pair for key, pair in found.items() if key[0] != "missing require"}


@pytest.mark.checkout
@pytest.mark.parametrize("series", SERIES)
def test_values_are_those_of_a_release(series: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With OE-Core as a layer its own bitbake.conf, machines and distributions are read, and give the same values."""
    try:
        bitbake, core = clone(f"bitbake-{SERIES[series]}"), clone(f"openembedded-core-{series}") / "meta"
    except NotHere as missing:
        pytest.skip(str(missing))
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    builds = written(tmp_path)
    for path in builds.values():
        write(
            path,
            {
                "bblayers.conf": f'BBPATH = "${{TOPDIR}}"\nBBLAYERS = "{core}"\n',
                "local.conf": (path / "conf/local.conf").read_text(),
            },
        )
    assert not differences(builds, read_by_bitbake(bitbake, tmp_path, list(builds.values()), core, **ENVIRONMENT))
